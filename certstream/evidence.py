"""What a log said that does not fit together: one file for each distinct case, kept until an operator removes it.

A case is JSON: the log with its key, its signed heads as they came, and what did not fit, so that anybody can check it
without this program. The same case is written once, however often it is met. As long as a file about it lies in the
directory, a log is suspect; but not for a precertificate that is not its leaf's, which marks that entry alone.
"""

from __future__ import annotations

import base64
import hashlib
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, Literal, TypeAlias, get_args

import orjson
import structlog

from certstream.ct.types import LogInfo, TreeHead
from certstream.durable import remove_left, write_file
from certstream.permissions import reason

CaseKind: TypeAlias = Literal["wrong_leaf", "wrong_root", "two_roots", "inconsistent", "signature", "altered_precert"]
CASE_KINDS: Final[tuple[CaseKind, ...]] = get_args(CaseKind)
MARKS_AN_ENTRY: Final[frozenset[CaseKind]] = frozenset({"altered_precert"})  # and not its log

MOST_OF_A_KIND: Final = 20  # files about a log: what it does again and again leaves room for what else it does
_MOST: Final = 1_000  # of all logs, and as many about entries, which make no log suspect
_MOST_BYTES: Final = 256 << 10  # of one file; what is longer is cut and said so
_NAME: Final = re.compile(r"(?P<log>[0-9a-f]{16})-(?P<kind>[a-z_]+)-(?P<case>[0-9a-f]{16})\.json")
_VERSION: Final = 1

logger: structlog.stdlib.BoundLogger = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Case:
    """One thing that does not fit, and what shows it."""

    kind: CaseKind
    log: LogInfo
    error: str  # what was checked, and how it failed
    heads: Sequence[TreeHead] = ()  # as the log signed them, the one believed before first
    start: int | None = None  # indices [start, stop) that it is about
    stop: int | None = None
    hashes: dict[str, bytes] = field(default_factory=dict)  # by what they are: `expected_root`, `leaf`, …
    bodies: dict[str, bytes] = field(default_factory=dict)  # what the log sent, by its path

    def key(self) -> str:
        """The same for the same case: hexadecimal. Time and wording do not count, nor what else the log sent.

        Of a head that is not consistent only that head counts, whatever it was held against.
        """
        digest = hashlib.sha256()
        of_head = self.kind == "inconsistent"
        heads = (part for head in self.heads[-1 if of_head else 0 :] for part in (head.tree_size, head.root_hash.hex()))
        hashes = (part for name in sorted(self.hashes) for part in (name, self.hashes[name].hex()))
        for part in (self.kind, self.log.base_url, *heads, *(() if of_head else (self.start, self.stop, *hashes))):
            digest.update(f"{part}\0".encode())
        return digest.hexdigest()[:16]


def inconsistent(log: LogInfo, heads: Sequence[TreeHead], size: int, root: bytes, cause: Exception) -> Case:
    """The case of a head, the last of `heads`, that is not of the tree whose first `size` entries have that root."""
    head = heads[-1]
    what = f"a head of {head.tree_size} entries is not consistent with the first {size}"
    start, stop = sorted((size, head.tree_size))
    hashes = {"root_proven_before": root}
    return Case("inconsistent", log, f"{log.name}: {what}: {cause}", heads, start, stop, hashes)


class EvidenceStore:
    """The directory of cases; it is made when there is the first. Belongs to one thread at a time.

    At most MOST_OF_A_KIND files of a kind about a log, and _MOST of all; further cases are counted, not written. A
    failure to write is logged once, and tried again when a case is met again: evidence never stops a log.
    """

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._full: set[tuple[str, str]] = set()  # of what it was said that there is much already
        self._failed: str | None = None  # why nothing can be written; said once

    def record(self, case: Case, noted_s: float) -> Path | None:
        """Write a case that is not there yet; `noted_s` is Unix time. Its file, None where none could be written."""
        name = f"{_log_key(case.log.base_url)}-{case.kind}-{case.key()}.json"
        path = self._directory / name
        try:
            there = self._names()
            if name in there:
                return path
            if self._is_full(case, there):
                return None
            self._write(path, _document(case, noted_s))
        except OSError as exc:
            if exc.strerror != self._failed:
                error = reason(exc, path)
                logger.warning("evidence cannot be written", log=case.log.name, file=str(path), error=error)
            self._failed = exc.strerror
            return None
        self._failed = None
        logger.warning(
            "evidence about a log is kept", log=case.log.name, case=case.kind, file=str(path), error=case.error
        )
        return path

    def _is_full(self, case: Case, there: set[str]) -> bool:
        """Whether no more of that kind is kept; said once for each log and kind, until there is room."""
        marks_entry = case.kind in MARKS_AN_ENTRY
        names = [each for name in there if (each := _NAME.fullmatch(name)) and _marks_entry(each) == marks_entry]
        place = _log_key(case.log.base_url), case.kind
        if sum((each["log"], each["kind"]) == place for each in names) < MOST_OF_A_KIND and len(names) < _MOST:
            self._full.discard(place)
            return False
        if place not in self._full:
            logger.warning(
                "there is much evidence already, further cases are not kept",
                log=case.log.name,
                case=case.kind,
                error=case.error,
            )
        self._full.add(place)
        return True

    def suspects(self, logs: Sequence[LogInfo]) -> dict[str, int]:
        """How many cases that make it suspect lie there about each of the logs, by base_url; others are not in it.

        Raises OSError where the directory cannot be read.
        """
        found = (_NAME.fullmatch(name) for name in self._names())
        counts = Counter(each["log"] for each in found if each is not None and not _marks_entry(each))
        by_url = {log.base_url: counts[_log_key(log.base_url)] for log in logs}
        return {url: count for url, count in by_url.items() if count}

    def _names(self) -> set[str]:
        try:
            return {path.name for path in self._directory.iterdir() if _NAME.fullmatch(path.name)}
        except FileNotFoundError:
            return set()

    def _write(self, path: Path, document: bytes) -> None:
        self._directory.mkdir(parents=True, exist_ok=True)
        remove_left(self._directory, rf"{_NAME.pattern}\.tmp-[0-9]+")  # of any case: the same one may never come again
        write_file(path, document)


def _marks_entry(name: re.Match[str]) -> bool:
    return name["kind"] in MARKS_AN_ENTRY


def _log_key(base_url: str) -> str:
    return hashlib.sha256(base_url.encode()).hexdigest()[:16]


def _document(case: Case, noted_s: float) -> bytes:
    log = case.log
    document: dict[str, Any] = {
        "version": _VERSION,
        "kind": case.kind,
        "noted": noted_s,
        "log": {
            "name": log.name,
            "url": log.url,
            "protocol": log.kind,
            "log_id": _base64(log.log_id),
            "key": _base64(log.key),
        },
        "error": case.error,
        "range": None if case.start is None else [case.start, case.stop],
        "heads": [_head(head) for head in case.heads],
        "hashes": {name: _base64(value) for name, value in case.hashes.items()},
        "bodies": {},
    }
    room = _MOST_BYTES - len(orjson.dumps(document))
    for path, body in case.bodies.items():
        kept = body[: max(0, room) * 3 // 4]  # base64 makes four bytes of three
        document["bodies"][path] = {"size": len(body), "content": _base64(kept)}
        room -= len(kept) * 4 // 3 + len(path) + 64
    return orjson.dumps(document, option=orjson.OPT_INDENT_2)


def _head(head: TreeHead) -> dict[str, Any]:
    return {
        "tree_size": head.tree_size,
        "timestamp": head.timestamp_ms,
        "root_hash": _base64(head.root_hash),
        "signature": _base64(head.signature),
        "note": head.note.decode("utf-8", "replace"),
    }


def _base64(data: bytes | None) -> str | None:
    return None if data is None else base64.b64encode(data).decode()
