"""The logs that a configuration names: `custom_logs[]` (RFC 6962) and `static_logs[]` (static-ct-api)."""

from __future__ import annotations

import binascii
import hashlib
from base64 import b64decode
from typing import Annotated, Any, Literal, TypeAlias
from urllib.parse import urlsplit

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ec import SECP256R1, EllipticCurvePublicKey
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey
from cryptography.hazmat.primitives.asymmetric.types import PublicKeyTypes
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat, load_der_public_key
from pydantic import AfterValidator, BeforeValidator, ValidationInfo, field_validator

from certstream.config.option import Section, option
from certstream.ct.types import LogInfo, LogKind
from certstream.ct.urls import is_log_url

Start: TypeAlias = Literal["head", "beginning"] | int
Verification: TypeAlias = Literal["off", "warn", "enforce"]

_URL = "an http:// or https:// URL without user name, query and fragment"
_KEY = "base64 of a DER SubjectPublicKeyInfo with a P-256 key, or an RSA key of at least 2048 bits"
_LOG_ID = "base64 of 32 bytes, the SHA-256 of the log's key"
_START = "head, beginning or an index from 0"


def off_is_text(value: Any) -> Any:
    """YAML 1.1 reads a bare `off` as false."""
    return "off" if value is False else value


def base64_bytes(text: str) -> bytes:
    """Decode standard base64; ValueError for anything that is not exactly that."""
    try:
        return b64decode(text.encode("ascii"), validate=True)
    except (UnicodeEncodeError, binascii.Error) as exc:
        raise ValueError("is not base64") from exc


def _checked_url(url: str) -> str:
    if not is_log_url(url):
        raise ValueError(f"must be {_URL}")
    return url


def _checked_key(text: str) -> str:
    try:
        der = base64_bytes(text)
        key = load_der_public_key(der)
    except (ValueError, UnsupportedAlgorithm) as exc:
        raise ValueError(f"must be {_KEY}") from exc
    # The log id is the hash of these bytes (RFC 6962 §3.2): another encoding of the same key is another id
    if not _is_log_key(key) or key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo) != der:
        raise ValueError(f"must be {_KEY}")
    return text


def _is_log_key(key: PublicKeyTypes) -> bool:
    """Whether logs may have such a key: P-256, or RSA of at least 2048 bits (RFC 6962 §2.1.4)."""
    if isinstance(key, EllipticCurvePublicKey):
        return isinstance(key.curve, SECP256R1)
    return isinstance(key, RSAPublicKey) and key.key_size >= 2048


def _log_id_bytes(text: str) -> bytes:
    try:
        log_id = base64_bytes(text)
    except ValueError as exc:
        raise ValueError(f"must be {_LOG_ID}") from exc
    if len(log_id) != hashlib.sha256().digest_size:
        raise ValueError(f"must be {_LOG_ID}")
    return log_id


def _checked_start(value: Any) -> Any:
    index = isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 1 << 63
    if not index and value not in ("head", "beginning"):
        raise ValueError(f"must be {_START}")
    return value


def _checked_name(name: str) -> str:
    if not name.strip() or len(name) > 200 or not name.isprintable():
        raise ValueError("must be 1 to 200 printable characters")
    return name


class LogConfig(Section):
    """What the configuration says of one log, either protocol."""

    name: Annotated[str, AfterValidator(_checked_name)] = option(
        ..., "The log's name, as messages and metrics show it.", allowed="1 to 200 printable characters"
    )
    url: Annotated[str, AfterValidator(_checked_url)] = option(..., "Where the log is read.", allowed=_URL)
    key: Annotated[str, AfterValidator(_checked_key)] | None = option(
        None,
        "The log's public key, from which its id follows. Where it is not set, a log list is asked for it, by "
        "expected_log_id or by the URL.",
        allowed=_KEY,
    )
    expected_log_id: str | None = option(
        None, "The log's id; it must be that of `key` where both are set.", allowed=_LOG_ID
    )
    start: Annotated[Start, BeforeValidator(_checked_start)] = option(
        "head", "Where the first start begins; later starts resume from the state file.", allowed=_START
    )
    operator: Annotated[str, AfterValidator(_checked_name)] | None = option(
        None,
        "Whose pace requests count against; null takes the URL's host.",
        allowed="1 to 200 printable characters",
    )
    verification: Annotated[Verification, BeforeValidator(off_is_text)] | None = option(
        None, "What is verified of this log; null takes ct_log.verification.", allowed="off, warn or enforce"
    )
    batch_size: int | None = option(
        None, "Entries asked for in one request; null takes ct_log.batch_size.", unit="entries", ge=1, le=10_000
    )
    poll_interval_ms: int | None = option(
        None, "Wait between looks at a log's head; null takes ct_log.poll_interval_ms.", unit="ms", ge=10, le=3_600_000
    )

    @field_validator("expected_log_id")
    @classmethod
    def _log_id_fits_key(cls, text: str | None, info: ValidationInfo) -> str | None:
        if text is None:
            return None
        log_id = _log_id_bytes(text)
        key = info.data.get("key")
        if key is not None and log_id != hashlib.sha256(base64_bytes(key)).digest():
            raise ValueError("must be the SHA-256 of the configured key")
        return text

    def _info(self, kind: LogKind, origin: str | None) -> LogInfo:
        key = None if self.key is None else base64_bytes(self.key)
        log_id = None if key is None else hashlib.sha256(key).digest()
        if self.expected_log_id is not None:
            log_id = base64_bytes(self.expected_log_id)
        operator = self.operator or urlsplit(self.url).hostname or self.url
        return LogInfo(self.name, self.url, kind, operator, key=key, log_id=log_id, origin=origin)


class CustomLogConfig(LogConfig):
    """An RFC 6962 log; `url` is its submission prefix, without `ct/v1/`."""

    @property
    def info(self) -> LogInfo:
        """The log as the rest of the program knows it."""
        return self._info("rfc6962", None)


class StaticLogConfig(LogConfig):
    """A static-ct-api log; `url` is its monitoring prefix."""

    log_origin: Annotated[str, AfterValidator(_checked_name)] | None = option(
        None,
        "First line of the log's checkpoint, where it is to be checked.",
        allowed="1 to 200 printable characters",
    )

    @property
    def info(self) -> LogInfo:
        """The log as the rest of the program knows it."""
        return self._info("static", self.log_origin)
