"""Lists of logs as Google and Apple publish them: bytes → values, and the signature over them.

Layout: https://www.gstatic.com/ct/log_list/v3/log_list_schema.json, which Apple's list follows in all that is read
here. One bad log does not spoil a list: it is left out, with the reason.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from itertools import islice
from typing import Any, Final, Literal, TypeAlias

import orjson
import pybase64
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric import padding, rsa
from cryptography.hazmat.primitives.hashes import SHA256

from certstream.ct.signatures import load_key, log_id
from certstream.ct.types import HASH_BYTES, MAX_TREE_SIZE, LogInfo, LogKind
from certstream.ct.urls import is_log_url, url_identity
from certstream.errors import ConfigError, InvalidSignatureError, MalformedError

LogState: TypeAlias = Literal["pending", "qualified", "usable", "readonly", "retired", "rejected"]

MAX_LIST_BYTES: Final = 4 << 20  # real ones have up to 0.15 MB
MAX_LISTED_LOGS: Final = 4_096  # real ones have up to 170

# The key of Google's lists, https://www.gstatic.com/ct/log_list/v3/log_list_pubkey.pem: RSA of 4096 bits. SHA-256
# f1d8b68e50210d8e73d9a3e97f571773c52d7f28c0b1a71beee81d8562e6fd85.
GOOGLE_LIST_KEY: Final = pybase64.b64decode(
    "MIICIjANBgkqhkiG9w0BAQEFAAOCAg8AMIICCgKCAgEAsu0BHGnQ++W2CTdyZyxvHHRALOZPlnu/VMVgo2m+JZ8MNbAOH2cgXb8mvOj8flsX/qPM"
    "uKIaauO+PwROMjiqfUpcFm80Kl7i97ZQyBDYKm3MkEYYpGN+skAR2OebX9G2DfDqFY8+jUpOOWtBNr3LrmVcwx+FcFdMjGDlrZ5JRmoJ/SeGKiOR"
    "kbbu9eY1Wd0uVhz/xI5bQb0OgII7hEj+i/IPbJqOHgB8xQ5zWAJJ0DmG+FM6o7gk403v6W3S8qRYiR84c50KppGwe4YqSMkFbLDleGQWLoaDSpEW"
    "tESisb4JiLaY4H+Kk0EyAhPSb+49JfUozYl+lf7iFN3qRq/SIXXTh6z0S7Qa8EYDhKGCrpI03/+qprwy+my6fpWHi6aUIk4holUCmWvFxZDfixox"
    "K0RlqbFDl2JXMBquwlQpm8u5wrsic1ksIv9z8x9zh4PJqNpCah0ciemI3YGRQqSe/mRRXBiSn9YQBUPcaeqCYan+snGADFwHuXCd9xIAdFBolw9R"
    "9HTedHGUfVXPJDiF4VusfX6BRR/qaadB+bqEArF/TzuDUr6FvOR4o8lUUxgLuZ/7HO+bHnaPFKYHHSm++z1lVDhhYuSZ8ax3T0C3FZpb7HMjZtpE"
    "orSV5ElKJEJwrhrBCMOD8L01EoSPrGlS1w22i9uGHMn/uGQKo28u7AsCAwEAAQ=="
)

_STATES: Final[dict[str, LogState]] = {
    "pending": "pending",
    "qualified": "qualified",
    "usable": "usable",
    "readonly": "readonly",
    "retired": "retired",
    "rejected": "rejected",
}
PROD: Final = "prod"  # log_type of the schema where a list names none
_MAX_TEXT: Final = 200
_MAX_URL: Final = 1_000
_MAX_MMD_S: Final = 10**9
_TIME = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}:[0-9]{2}(\.[0-9]{1,9})?(Z|[+-][0-9]{2}:[0-9]{2})")
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_END = datetime(9999, 1, 1, tzinfo=UTC)  # all before it can be shown in any time zone
_MILLISECOND = timedelta(milliseconds=1)


@dataclass(frozen=True, slots=True)
class FinalTreeHead:
    """The tree of a log that takes no more entries."""

    tree_size: int  # leaves, >= 0
    root_hash: bytes  # 32 bytes


@dataclass(frozen=True, slots=True)
class TemporalInterval:
    """The certificates that a log takes: those that end (notAfter) in [start_ms, stop_ms), Unix ms."""

    start_ms: int
    stop_ms: int


@dataclass(frozen=True, slots=True)
class ListedLog:
    """One log as a list has it. `log_id` is the SHA-256 of `key`."""

    name: str  # its description, else its URL without scheme
    url: str  # where it is read: for a static log its monitoring prefix
    kind: LogKind
    operator: str
    key: bytes  # DER SubjectPublicKeyInfo, P-256 or RSA of at least 2048 bits
    log_id: bytes  # 32 raw bytes
    mmd_s: int  # maximum merge delay
    state: LogState | None = None
    log_type: str = PROD  # "prod", "test", "monitoring_only", or what a later schema names
    final_tree_head: FinalTreeHead | None = None  # of a readonly log, and only there
    interval: TemporalInterval | None = None
    submission_url: str | None = None  # static logs only

    @property
    def origin(self) -> str | None:
        """First line of a static log's checkpoints: its submission prefix (static-ct-api, "Checkpoints")."""
        return None if self.submission_url is None else bare_url(self.submission_url)

    @property
    def info(self) -> LogInfo:
        """The log as the rest of the program knows it."""
        return LogInfo(self.name, self.url, self.kind, self.operator, self.key, self.log_id, self.origin)


@dataclass(frozen=True, slots=True)
class UnusableLog:
    """An entry of a list that cannot be used; name, URL and operator as far as they can be told, else empty."""

    name: str
    url: str
    operator: str
    reason: str


@dataclass(frozen=True, slots=True)
class LogList:
    """What one list says. No two of its logs share a log id or a URL."""

    version: str  # as its publisher counts, may be empty
    published_ms: int | None  # Unix ms, where the list says it
    logs: tuple[ListedLog, ...]
    unusable: tuple[UnusableLog, ...] = ()


def load_list_key(spki: bytes) -> rsa.RSAPublicKey:
    """Read the key that signs a list, a DER SubjectPublicKeyInfo. Raises ConfigError unless it is RSA, of 2048 bits."""
    key = load_key(spki)
    if not isinstance(key, rsa.RSAPublicKey):
        raise ConfigError("a log list is signed with an RSA key of 2048 bits and more")
    return key


def verify_log_list(body: bytes, signature: bytes, spki: bytes) -> None:
    """Check a list's signature (RSA PKCS#1 v1.5, SHA-256, over the list's raw bytes) against its signer's key.

    Raises InvalidSignatureError, ConfigError where `spki` is no such key.
    """
    try:
        load_list_key(spki).verify(signature, body, padding.PKCS1v15(), SHA256())
    except InvalidSignature as exc:
        raise InvalidSignatureError("signature of the log list does not verify") from exc


def parse_log_list(body: bytes) -> LogList:
    """Read a list. Raises MalformedError for what is none, is too large, or has no log that can be used.

    Of entries with the same log id or the same URL the first stands.
    """
    if len(body) > MAX_LIST_BYTES:
        raise MalformedError(f"log list of {len(body)} bytes, {MAX_LIST_BYTES} are allowed")
    try:
        document = orjson.loads(body)
    except ValueError as exc:
        raise MalformedError(f"log list is not JSON: {exc}") from exc
    operators = document.get("operators") if isinstance(document, dict) else None
    if not isinstance(operators, list):
        raise MalformedError("not a log list: no array `operators`")
    entries = list(islice(_entries(operators), MAX_LISTED_LOGS + 1))
    if len(entries) > MAX_LISTED_LOGS:
        raise MalformedError(f"log list of more than {MAX_LISTED_LOGS} logs")
    logs, unusable = _sorted_out(entries)
    if not logs:
        raise MalformedError(f"none of the log list's {len(entries)} logs can be used")
    return LogList(_version(document), _published_ms(document), tuple(logs), tuple(unusable))


def bare_url(url: str) -> str:
    """The URL without scheme and trailing slashes."""
    return url.partition("://")[2].rstrip("/")


@dataclass(frozen=True, slots=True)
class _Entry:
    operator: Any
    kind: LogKind
    raw: Any


def _entries(operators: list[Any]) -> Iterator[_Entry]:
    """Every entry; what should hold some and does not is one itself, which will not parse."""
    kinds: tuple[tuple[str, LogKind], ...] = (("logs", "rfc6962"), ("tiled_logs", "static"))
    for operator in operators:
        if not isinstance(operator, dict):
            yield _Entry(None, "rfc6962", None)
            continue
        for member, kind in kinds:
            logs = operator.get(member, [])
            for raw in logs if isinstance(logs, list) else (None,):
                yield _Entry(operator.get("name"), kind, raw)


def _sorted_out(entries: list[_Entry]) -> tuple[list[ListedLog], list[UnusableLog]]:
    logs: list[ListedLog] = []
    unusable: list[UnusableLog] = []
    ids: dict[bytes, str] = {}
    urls: dict[str | None, str] = {}
    for entry in entries:
        try:
            log = _parse_log(entry)
            if other := ids.get(log.log_id):
                raise MalformedError(f"has the log id of {other}, which stands before it")
            if other := urls.get(url_identity(log.url)):
                raise MalformedError(f"has the URL of {other}, which stands before it")
        except MalformedError as exc:
            unusable.append(_unusable(entry, str(exc)))
        else:
            logs.append(log)
            ids[log.log_id] = urls[url_identity(log.url)] = log.name
    return logs, unusable


def _parse_log(entry: _Entry) -> ListedLog:
    raw = entry.raw
    if not isinstance(raw, dict):
        raise MalformedError("is not an object")
    operator = _printable(entry.operator)
    if operator is None:
        raise MalformedError("has an operator without a name")
    static = entry.kind == "static"
    url = _url(raw, "monitoring_url" if static else "url")
    key = _bytes(raw, "key")
    _check_key(key, _bytes(raw, "log_id"))
    state, final_tree_head = _state(raw.get("state"))
    return ListedLog(
        name=_printable(raw.get("description")) or bare_url(url)[:_MAX_TEXT],
        url=url,
        kind=entry.kind,
        operator=operator,
        key=key,
        log_id=log_id(key),
        mmd_s=_number(raw, "mmd", _MAX_MMD_S),
        state=state,
        log_type=_log_type(raw.get("log_type")),
        final_tree_head=final_tree_head,
        interval=_interval(raw.get("temporal_interval")),
        submission_url=_url(raw, "submission_url") if static else None,
    )


def _check_key(key: bytes, listed_id: bytes) -> None:
    try:
        load_key(key)
    except ConfigError as exc:
        raise MalformedError(f"key: {exc}") from exc
    if log_id(key) != listed_id:
        raise MalformedError("log_id is not the SHA-256 of key")


def _state(state: Any) -> tuple[LogState | None, FinalTreeHead | None]:
    if state is None:
        return None, None
    if not isinstance(state, dict) or len(state) != 1:
        raise MalformedError("state is not exactly one")
    name, detail = next(iter(state.items()))
    if name not in _STATES or not isinstance(detail, dict):
        raise MalformedError(f"state {_shown(name)} is not known")
    if name != "readonly":
        return _STATES[name], None
    head = detail.get("final_tree_head")
    if not isinstance(head, dict):
        raise MalformedError("is readonly without final_tree_head")
    root_hash = _bytes(head, "sha256_root_hash")
    if len(root_hash) != HASH_BYTES:
        raise MalformedError(f"final_tree_head has a root hash of {len(root_hash)} bytes, not {HASH_BYTES}")
    return "readonly", FinalTreeHead(_number(head, "tree_size", MAX_TREE_SIZE), root_hash)


def _interval(interval: Any) -> TemporalInterval | None:
    if interval is None:
        return None
    if not isinstance(interval, dict):
        raise MalformedError("temporal_interval is not an object")
    start_ms, stop_ms = (_time_ms(interval.get(name)) for name in ("start_inclusive", "end_exclusive"))
    if start_ms is None or stop_ms is None or start_ms >= stop_ms:
        raise MalformedError("temporal_interval is not a time and a later one")
    return TemporalInterval(start_ms, stop_ms)


def _log_type(text: Any) -> str:
    if text is None:
        return PROD
    log_type = _printable(text)
    if log_type is None:
        raise MalformedError("log_type is not a text")
    return log_type


def _url(raw: dict[str, Any], name: str) -> str:
    url = raw.get(name)
    if not isinstance(url, str) or len(url) > _MAX_URL or not is_log_url(url):
        raise MalformedError(f"{name} is {_shown(url)}, not an http:// or https:// URL of a log")
    return url


def _bytes(raw: dict[str, Any], name: str) -> bytes:
    text = raw.get(name)
    try:
        return pybase64.b64decode(text if isinstance(text, str) else "?", validate=True)
    except ValueError as exc:
        raise MalformedError(f"{name} is {_shown(text)}, not base64") from exc


def _number(raw: dict[str, Any], name: str, most: int) -> int:
    number = raw.get(name)
    if not isinstance(number, int) or isinstance(number, bool) or not 0 <= number <= most:
        raise MalformedError(f"{name} is {_shown(number)}, not a whole number from 0 to {most}")
    return number


def _time_ms(text: Any) -> int | None:
    """Unix ms of an RFC 3339 time from 1970 to 9998, None for everything else."""
    if not isinstance(text, str) or not _TIME.fullmatch(text):
        return None
    try:
        when = datetime.fromisoformat(text)
    except ValueError:
        return None
    return (when - _EPOCH) // _MILLISECOND if _EPOCH <= when < _END else None


def _printable(text: Any) -> str | None:
    """A text of 1 to 200 printable characters, None for everything else."""
    if not isinstance(text, str) or not text.strip() or len(text) > _MAX_TEXT or not text.isprintable():
        return None
    return text.strip()


def _shown(value: Any) -> str:
    """The value, or what it is where showing it could take long or nest deeply."""
    if isinstance(value, str):
        return ascii(value[:80])
    return f"an {'object' if isinstance(value, dict) else 'array'}" if isinstance(value, (dict, list)) else str(value)


def _unusable(entry: _Entry, reason: str) -> UnusableLog:
    raw = entry.raw if isinstance(entry.raw, dict) else {}
    url = raw.get("monitoring_url" if entry.kind == "static" else "url")
    return UnusableLog(
        name=_printable(raw.get("description")) or "",
        url=_printable(url) or "",
        operator=_printable(entry.operator) or "",
        reason=reason,
    )


def _version(document: dict[str, Any]) -> str:
    return _printable(document.get("version")) or ""


def _published_ms(document: dict[str, Any]) -> int | None:
    return _time_ms(document.get("log_list_timestamp"))
