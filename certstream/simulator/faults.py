"""Scripted faults: what a log does wrong, to which requests, and how often."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, fields
from email.utils import formatdate
from enum import StrEnum
from fnmatch import fnmatchcase
from random import Random

HEADS = frozenset({"get-sth", "checkpoint"})
ENTRIES = frozenset({"get-entries", "get-entry-and-proof", "data-tile"})
PROOFS = frozenset({"get-sth-consistency", "get-proof-by-hash", "get-entry-and-proof", "hash-tile"})
PAGES = frozenset({"get-entries", "data-tile"})


class FaultKind(StrEnum):
    """What goes wrong; the value is its name on the command line."""

    RATE_LIMITED = "rate-limited"  # 429, with Retry-After where `retry_after_s` is set
    UNAVAILABLE = "unavailable"  # 503, likewise
    SERVER_ERROR = "server-error"  # 500
    STATUS = "status"  # any other: `status`
    RESET = "reset"  # the connection, without an answer
    STALL = "stall"  # no answer for `seconds`, then the true one
    TRUNCATED = "truncated"  # the connection ends in the middle of the body
    CUT = "cut"  # a whole answer around the first half of the body
    HTML = "html"  # an error page with status 200
    EMPTY = "empty"  # status 200 and no body
    GARBAGE = "garbage"  # status 200 and noise
    REDIRECT = "redirect"  # 302 to a page that is not the log's
    DRIP = "drip"  # the body byte by byte, each after `seconds`, by default a tenth
    WRONG_LENGTH = "wrong-length"  # Content-Length is half the body's, all of which is sent
    HUGE = "huge"  # a body without end; 1 GiB to who waits for it
    FALSE_GZIP = "false-gzip"  # the true body, said to be compressed
    GZIP_BOMB = "gzip-bomb"  # a body of 1 MiB that inflates to 1 GiB
    SHORT_PAGE = "short-page"  # at most `entries` entries
    MORE_ENTRIES = "more-entries"  # `entries` more than were asked for
    SHIFTED = "shifted"  # the entries that follow those asked for by one
    NO_ENTRIES = "no-entries"  # an empty page or data tile
    LAGGING = "lagging"  # entries and proofs of a frontend that is `entries` behind the head
    SMALLER_TREE = "smaller-tree"  # a signed head that is `entries` entries behind
    OTHER_ROOT = "other-root"  # a signed head of the same size over another tree
    FORK = "fork"  # another tree in heads, entries and proofs alike: the leaf `index`, by default 0, is another
    FUTURE_HEAD = "future-head"  # a head signed `seconds` from now, by default a day
    OLD_HEAD = "old-head"  # a head signed so long ago
    WRONG_LEAF = "wrong-leaf"  # an entry that is not the one in the tree
    UNKNOWN_TYPE = "unknown-type"  # an entry of a type that no specification names; breaks a data tile
    WRONG_HASH = "wrong-hash"  # a proof or a hash tile whose last hash is another
    WRONG_SIGNATURE = "wrong-signature"  # a head whose signature does not verify
    MISSING_PARTIAL = "missing-partial"  # 404 for a partial tile
    MISSING_ISSUER = "missing-issuer"  # 404 for an issuer


_APPLIES: dict[FaultKind, frozenset[str]] = {
    FaultKind.SHORT_PAGE: frozenset({"get-entries"}),
    FaultKind.MORE_ENTRIES: PAGES,
    FaultKind.SHIFTED: PAGES,
    FaultKind.NO_ENTRIES: PAGES,
    FaultKind.LAGGING: ENTRIES | PROOFS,
    FaultKind.SMALLER_TREE: HEADS,
    FaultKind.OTHER_ROOT: HEADS,
    FaultKind.FORK: HEADS | ENTRIES | PROOFS,
    FaultKind.FUTURE_HEAD: HEADS,
    FaultKind.OLD_HEAD: HEADS,
    FaultKind.WRONG_LEAF: ENTRIES,
    FaultKind.UNKNOWN_TYPE: ENTRIES,
    FaultKind.WRONG_HASH: PROOFS,
    FaultKind.WRONG_SIGNATURE: HEADS,
    FaultKind.MISSING_PARTIAL: frozenset({"partial-tile"}),
    FaultKind.MISSING_ISSUER: frozenset({"issuer"}),
}  # all others apply to every request


@dataclass(frozen=True, slots=True, eq=False)
class Fault:
    """One thing that goes wrong, at each request to which all its conditions apply.

    `index` asks for requests that cover this entry; for a head: that the tree has it. `nth` counts from
    1 the requests that meet the conditions before it, `times` those where the fault struck.
    For a fork `index` is no condition, but where it begins.
    """

    kind: FaultKind
    probability: float = 1.0  # 0 to 1
    on: str = "*"  # glob over the endpoint's name (`get-entries`, `data-tile`) or the path below the prefix
    index: int | None = None
    nth: int | None = None
    times: int | None = None
    status: int = 400
    retry_after_s: float | None = None
    retry_after_date: bool = False  # Retry-After as an HTTP date instead of seconds
    seconds: float | None = None  # None of a stall: until the fault is removed, or the client gives up
    entries: int = 1
    issuer: str = ""  # hex SHA-256; empty: every issuer

    def __post_init__(self) -> None:
        if not 0 <= self.probability <= 1:
            raise ValueError(f"probability is 0 to 1, not {self.probability}")
        if min(count for count in (self.entries, self.nth, self.times) if count is not None) < 1:
            raise ValueError("entries, nth and times count from 1")
        if not 400 <= self.status <= 599:
            raise ValueError(f"status is 400 to 599, not {self.status}")

    def retry_after(self, now_s: float) -> str | None:
        """The Retry-After header, None for none. A date has whole seconds, rounded up."""
        if self.retry_after_s is None:
            return None
        if self.retry_after_date:
            return formatdate(-(-(now_s + self.retry_after_s) // 1), usegmt=True)
        return f"{self.retry_after_s:.0f}"


@dataclass(frozen=True, slots=True)
class Request:
    """A request as faults and handlers see it."""

    endpoint: str
    path: str  # below the log's prefix, with the query
    covers: range = range(0)  # indices of the entries it is about
    numbers: tuple[int, ...] = ()
    hash: bytes = b""
    gzip: bool = False  # accepted by the client

    @property
    def partial(self) -> bool:
        """Whether a partial tile is asked for."""
        return ".p/" in self.path


class Faults:
    """The faults of one log. Chance is drawn from the log's seed, so a run can be repeated."""

    def __init__(self, seed: int, changed: Callable[[], None] = lambda: None) -> None:
        self.random = Random(seed)
        self._changed = changed
        self.struck: Counter[Fault] = Counter()  # how often each struck
        self._active: list[Fault] = []
        self._met: Counter[Fault] = Counter()  # requests that met the conditions before `nth`

    def add(self, fault: Fault) -> Fault:
        """Let it happen from now on."""
        self._active.append(fault)
        return fault

    def remove(self, fault: Fault) -> None:
        """End a fault; stalled requests go on at once."""
        self._active.remove(fault)
        self._changed()

    def clear(self) -> None:
        """End all faults."""
        self._active.clear()
        self._changed()

    def __contains__(self, fault: Fault) -> bool:
        return fault in self._active

    def striking(self, request: Request) -> list[Fault]:
        """The faults that strike this request, in the order they were added; counts them."""
        struck = [fault for fault in self._active if self._strikes(fault, request)]
        self.struck.update(struck)
        return struck

    def _strikes(self, fault: Fault, request: Request) -> bool:
        if not _applies(fault, request):
            return False
        self._met[fault] += 1
        if fault.nth is not None and self._met[fault] != fault.nth:
            return False
        if fault.times is not None and self.struck[fault] >= fault.times:
            return False
        return fault.probability >= 1 or self.random.random() < fault.probability


def _applies(fault: Fault, request: Request) -> bool:
    endpoints = _APPLIES.get(fault.kind)
    if endpoints and request.endpoint not in endpoints and not (request.partial and "partial-tile" in endpoints):
        return False
    if fault.on != "*" and not (fnmatchcase(request.endpoint, fault.on) or fnmatchcase(request.path, fault.on)):
        return False
    if fault.index is not None and fault.kind != FaultKind.FORK and fault.index not in request.covers:
        return False
    return not fault.issuer or request.path == f"issuer/{fault.issuer}"


def parse_fault(text: str) -> Fault:
    """A fault as on the command line: `kind[,field=value]…`. Raises ValueError that says what is wrong."""
    kind, *settings = text.split(",")
    if kind not in set(FaultKind):
        raise ValueError(f"unknown fault {kind!r}; known are {', '.join(FaultKind)}")
    known = {field.name: field.type for field in fields(Fault) if field.name != "kind"}
    values: dict[str, object] = {}
    for setting in settings:
        key, equals, value = setting.partition("=")
        if key not in known or not equals:
            raise ValueError(f"fault {kind}: {setting!r} is not one of {', '.join(f'{name}=' for name in known)}")
        values[key] = _value(key, str(known[key]), value)
    return Fault(FaultKind(kind), **values)  # type: ignore[arg-type]


def _value(key: str, kind: str, text: str) -> object:
    try:
        if kind.startswith("int"):
            return int(text)
        if kind.startswith("float"):
            return float(text)
    except ValueError:
        raise ValueError(f"{key}={text!r} is not a number") from None
    if kind == "bool":
        if text not in ("true", "false"):
            raise ValueError(f"{key}={text!r} is neither true nor false")
        return text == "true"
    return text
