"""Every error this program raises on purpose, by who must act on it."""

from __future__ import annotations

from collections.abc import Sequence


class CertstreamError(Exception):
    """Base of all errors below; never raised itself."""


class ConfigError(CertstreamError):
    """The operator must change the configuration, the environment or a flag.

    `mistakes` holds one line per mistake, each complete in itself.
    """

    def __init__(self, mistakes: Sequence[str] | str) -> None:
        self.mistakes: tuple[str, ...] = (mistakes,) if isinstance(mistakes, str) else tuple(mistakes)
        super().__init__("\n".join(self.mistakes))


class StateError(CertstreamError):
    """The state file cannot be read, written or locked; the operator must look at it."""


class FetchError(CertstreamError):
    """A log did not give a usable answer; nothing moved, try again later.

    `status` is the HTTP status as a string, or a short word for what failed instead
    (`timeout`, `connection`, `body`, `too_large`): a bounded set, fit for a metric's label.
    """

    def __init__(self, message: str, *, status: str = "error") -> None:
        super().__init__(message)
        self.status = status


class RateLimitedError(FetchError):
    """429: pacing, never a failure. `retry_after_s` is what the log asked for, None if it did not say."""

    def __init__(self, message: str, *, retry_after_s: float | None) -> None:
        super().__init__(message, status="429")
        self.retry_after_s = retry_after_s


class LogMisbehaviourError(CertstreamError):
    """The log said something that contradicts its protocol or its own earlier word."""


class MalformedError(LogMisbehaviourError):
    """Bytes of a log do not follow the layout their specification gives."""


class InvalidSignatureError(LogMisbehaviourError):
    """A signature does not verify against the key it was checked with."""


class InvalidProofError(LogMisbehaviourError):
    """A Merkle proof does not lead to the root it was checked against."""


class StorageError(CertstreamError):
    """The disk or the store failed; keep the data and try again.

    `kind` is a word of a bounded set, fit for a metric's label: `disk_full`, `conflict` (other writers were faster
    each time), `schema` (what is there is not ours to write) or `storage` for all else.
    """

    def __init__(self, message: str, *, kind: str = "storage") -> None:
        super().__init__(message)
        self.kind = kind


class TableError(StorageError):
    """A table's columns, layout or place are not what this program may write to; the operator must look at it."""

    def __init__(self, message: str) -> None:
        super().__init__(message, kind="schema")


class StreamError(CertstreamError):
    """The stream of a server ended, or could not be had; connect again later.

    `code` is the one of the WebSocket close frame where there was one (RFC 6455 §7.4), `retry_after_s` what the server
    asked for, None if it did not say.
    """

    def __init__(self, message: str, *, code: int | None = None, retry_after_s: float | None = None) -> None:
        super().__init__(message)
        self.code = code
        self.retry_after_s = retry_after_s


class StreamRefusedError(StreamError):
    """The server will not stream to who asks this way; whoever chose address, token or trust must act.

    `status` is that of the HTTP answer, None where it did not come to one.
    """

    def __init__(self, message: str, *, status: int | None = None) -> None:
        super().__init__(message)
        self.status = status
