"""TLS: the certificate that is served, and how a new one takes its place."""

from __future__ import annotations

import math
import ssl
import threading
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final, TypeAlias

import structlog

from certstream.errors import ConfigError

POLL_S: Final = 5.0  # between looks at the files; a change is taken up at the second look that sees it

_State: TypeAlias = tuple[tuple[int, int, int, int] | None, ...]

log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class TlsFiles:
    """Certificate chain and private key, both as PEM."""

    certificate: Path
    key: Path


class TlsCertificate:
    """Serves the pair that the files hold. A new one counts for the connections that come after it.

    The thread that looks at the files is a daemon: a file system that hangs holds nothing else up. `close` ends it.
    """

    def __init__(self, files: TlsFiles, poll_s: float = POLL_S) -> None:
        """Load the pair. Raises ConfigError where it cannot be used."""
        self._files = files
        self._poll_s = poll_s
        self._loaded = self._seen = _state(files)
        self._current = _load(files)
        self.expires_s = _expiry_s(files.certificate)  # of the certificate that is served, Unix time
        self._listening = _load(files)
        self._listening.sni_callback = self._choose
        self._closed = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="tls", daemon=True)

    @property
    def context(self) -> ssl.SSLContext:
        """What to listen with; its handshakes use the newest pair."""
        return self._listening

    def watch(self) -> None:
        """Look at the files from now on."""
        self._thread.start()

    def close(self) -> None:
        """Look no more."""
        self._closed.set()

    def check(self) -> None:
        """Look once. Two looks that see the same change take it up, so that both files may be replaced in turn."""
        state = _state(self._files)
        settled, self._seen = state == self._seen, state
        if state == self._loaded or not settled:
            return
        self._loaded = state  # also where it cannot be used: one change is told once
        try:
            self._current = _load(self._files)
        except ConfigError as exc:
            log.warning("the new TLS certificate cannot be used, the old one stays", reason=str(exc))
        else:
            self.expires_s = _expiry_s(self._files.certificate)
            log.info("TLS certificate read again", file=str(self._files.certificate))

    def _choose(self, connection: ssl.SSLObject, _name: str | None, _context: ssl.SSLContext) -> None:
        connection.context = self._current

    def _watch(self) -> None:
        while not self._closed.wait(self._poll_s):
            self.check()


def _state(files: TlsFiles) -> _State:
    return tuple(_identity(path) for path in (files.certificate, files.key))


def _identity(path: Path) -> tuple[int, int, int, int] | None:
    try:
        status = path.stat()
    except OSError:
        return None
    return (status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns)


def _load(files: TlsFiles) -> ssl.SSLContext:
    _check_readable("tls_cert", files.certificate)
    _check_readable("tls_key", files.key)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    asked: list[bool] = []
    try:
        context.load_cert_chain(files.certificate, files.key, password=_no_password(asked))
    except (OSError, ValueError) as exc:  # SSLError is an OSError
        if asked:
            raise ConfigError(f"tls_key: {files.key}: is encrypted; it must not be") from exc
        raise ConfigError(_reason(files, exc)) from exc
    return context


def _expiry_s(path: Path) -> float:
    """When the first certificate of a file expires, Unix time; NaN where that cannot be read."""
    from cryptography import x509  # which nothing else of the service needs

    try:
        return x509.load_pem_x509_certificate(path.read_bytes()).not_valid_after_utc.timestamp()
    except (OSError, ValueError, x509.InvalidVersion):  # OpenSSL serves what this library does not read
        return math.nan


def _no_password(asked: list[bool]) -> Callable[[], bytes]:
    """Without it, OpenSSL would ask on the terminal and wait."""

    def password() -> bytes:
        asked.append(True)
        return b""

    return password


def _check_readable(option: str, path: Path) -> None:
    try:
        with path.open("rb"):
            pass
    except OSError as exc:
        raise ConfigError(f"{option}: {path}: cannot be read: {exc.strerror or exc}") from exc


def _reason(files: TlsFiles, exc: Exception) -> str:
    if isinstance(exc, ssl.SSLError) and exc.reason == "KEY_VALUES_MISMATCH":
        return f"tls_key: {files.key}: is not the key of the certificate in {files.certificate}"
    why = (exc.reason if isinstance(exc, ssl.SSLError) else None) or "no certificate and key as PEM"
    return f"tls_cert: {files.certificate}, tls_key: {files.key}: cannot be used: {why}"
