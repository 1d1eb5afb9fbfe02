"""What is proven of each log's entries, and what is not: durable, in one file that several processes write.

    {"version": 1, "crc32": n, "logs": {"<url>": {"verified": [[start, stop], …], "tainted": […], "altered": […]}}}

`crc32` is that of `logs` as orjson writes it. Who writes it sees to it that `verified` is never ahead of the rows that
are archived. Beside the file lie `.lock` (who writes at this moment) and, of a file that could not be read,
`.unreadable-<time>`.
"""

from __future__ import annotations

import threading
import time
import zlib
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

import numpy as np
import orjson
import structlog

from certstream.durable import make_directory, write_file
from certstream.errors import StorageError
from certstream.intervals import Intervals
from certstream.locks import FileLock
from certstream.permissions import reason

MOST_INTERVALS: Final = 100_000  # of all logs together: 3 MB
FILE_NAME: Final = "trust.json"

_VERSION: Final = 1
_KINDS: Final = ("verified", "tainted", "altered")
_LOCK_WAIT_S: Final = 10.0  # for other processes, each of which writes for some milliseconds
_ENDING_WAIT_S: Final = 1.0  # likewise, of who is to end
_LOCK_STEP_S: Final = 0.005

logger: structlog.stdlib.BoundLogger = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Trust:
    """What is known of one log's indices; what stands in none of them is not verified, and nothing is known against it.

    `verified` and `tainted` have nothing in common.
    """

    verified: Intervals = field(default_factory=Intervals)  # proven to stand in a tree that the log has signed
    tainted: Intervals = field(default_factory=Intervals)  # it was tried, and cannot be proven
    altered: Intervals = field(default_factory=Intervals)  # precertificates whose certificate is not that of the leaf

    def __bool__(self) -> bool:
        """Whether anything is known."""
        return bool(len(self.verified) or len(self.tainted) or len(self.altered))

    def and_then(self, later: Trust) -> Trust:
        """What is known once `later` was found as well: it goes before what was known."""
        return Trust(
            (self.verified - later.tainted) | (later.verified - later.tainted),
            (self.tainted - later.verified) | later.tainted,
            self.altered | later.altered,
        )

    def within(self, indices: Intervals) -> Trust:
        """What of it is about these indices."""
        return Trust(self.verified & indices, self.tainted & indices, self.altered & indices)

    def without(self, indices: Intervals) -> Trust:
        """What of it is about other indices."""
        return Trust(self.verified - indices, self.tainted - indices, self.altered - indices)


def ledger_beside(table_root: Path) -> Path:
    """Where the ledger of a table lies: it moves and goes with the table."""
    return table_root / "_certstream" / FILE_NAME


class Ledger:
    """The ledger at one path, which any number of processes may read and write; safe for several threads.

    At most MOST_INTERVALS are kept. Past that the logs with the most of a kind get less exact, never too good: of
    `verified` the shortest intervals are forgotten, of `tainted` what lies between the nearest ones counts as tainted,
    of `altered` the lowest are forgotten.
    """

    def __init__(
        self,
        path: Path,
        *,
        sleep: Callable[[float], object] = time.sleep,
        lock_wait_s: float = _LOCK_WAIT_S,
        ending: Callable[[], bool] = lambda: False,
    ) -> None:
        """Once `ending` says so, from whatever thread, another process that writes is waited for a second at most."""
        self.path = path
        self._ending = ending
        self._sleep = sleep
        self._lock_wait_s = lock_wait_s
        self._caching = threading.Lock()
        self._seen: tuple[int, int, int] | None = None  # what tells the file that was read from any other
        self._logs: dict[str, Trust] = {}
        self._said: str | None = None  # of what failed last: said once

    def hurry(self) -> None:
        """The process is to end, as if `ending` said so."""
        self._ending = lambda: True

    def read(self) -> dict[str, Trust]:
        """What is known, by base_url; nothing where there is no file. Cheap where the file has not changed.

        Of one that cannot be read nothing is known: that is logged, and it is kept aside where that is possible.
        """
        try:
            logs = self._read()
        except OSError as exc:
            self._say(reason(exc, self.path))
        except ValueError as exc:
            try:
                with self._locked():
                    return self._read_or_put_aside()
            except (OSError, StorageError):
                self._say(str(exc))
        else:
            self._said = None
            return logs
        return {}

    def note(self, trusts: Mapping[str, Trust], *, fresh: Mapping[str, Intervals] | None = None) -> None:
        """Add what was found, by base_url; durable when it returns.

        What is verified now is not tainted any more, and the other way round. What was known at the indices of `fresh`
        is forgotten: their rows were inserted since the last call, so that it is of rows that are gone, or all of it
        was found anew. Raises StorageError: then what was known before is known still.
        """
        inserted = fresh or {}
        known = self._before() if inserted else {}
        stale = {url for url, rows in inserted.items() if url in known and known[url].within(rows)}
        found = {url: trust for url, trust in trusts.items() if trust}

        def change(logs: dict[str, Trust]) -> dict[str, Trust]:
            for url in found.keys() | stale:
                before = logs.get(url, Trust()).without(inserted.get(url, Intervals()))
                logs[url] = before.and_then(found.get(url, Trust()))
            return logs

        if found or stale:
            self._change(change)

    def _before(self) -> dict[str, Trust]:
        """What is known; nothing where the file is no ledger. Raises StorageError where it cannot be read."""
        try:
            return self._read()
        except ValueError:
            return {}
        except OSError as exc:
            raise StorageError(f"{self.path}: {reason(exc, self.path)}") from exc

    def forget(self, covers: Mapping[str, Intervals]) -> None:
        """Forget all about these indices, by base_url, whose rows are gone. Raises StorageError."""
        if self._before():
            gone = covers.items()
            self._change(lambda logs: logs | {url: logs[url].without(them) for url, them in gone if url in logs})

    def _change(self, change: Callable[[dict[str, Trust]], dict[str, Trust]]) -> None:
        try:
            make_directory(self.path.parent)
            with self._locked():
                known = self._read_or_put_aside()
                logs = bounded(change(dict(known)), MOST_INTERVALS)
                if logs != known:
                    for left in self.path.parent.glob(f"{self.path.name}.tmp-*"):
                        left.unlink(missing_ok=True)  # of one that was killed while it wrote
                    write_file(self.path, _document(logs))
        except OSError as exc:
            raise StorageError(f"{self.path}: {reason(exc, self.path)}") from exc

    @contextmanager
    def _locked(self) -> Iterator[None]:
        """Hold the lock, for which others that write are waited for. Raises StorageError."""
        lock = FileLock(self.path.with_name(f"{self.path.name}.lock"), subject=self.path, error=StorageError)
        waited_s = 0.0
        while True:
            try:
                lock.take()
                break
            except StorageError as exc:
                # Only what another process holds may come free
                patience_s = min(_ENDING_WAIT_S, self._lock_wait_s) if self._ending() else self._lock_wait_s
                if not isinstance(exc.__cause__, BlockingIOError) or waited_s >= patience_s:
                    raise
            self._sleep(_LOCK_STEP_S)
            waited_s += _LOCK_STEP_S
        try:
            yield
        finally:
            lock.release()

    def _read(self) -> dict[str, Trust]:
        """Raises OSError, and ValueError for a file that is not a ledger."""
        with self._caching:
            try:
                stat = self.path.stat()
                seen = stat.st_ino, stat.st_mtime_ns, stat.st_size
                if seen != self._seen:
                    self._logs = _parsed(self.path.read_bytes())
                    self._seen = seen
            except FileNotFoundError:
                self._logs, self._seen = {}, None
            return dict(self._logs)

    def _read_or_put_aside(self) -> dict[str, Trust]:
        """The same, with the lock held: what is not a ledger makes room for one. Raises OSError."""
        try:
            return self._read()
        except ValueError as exc:
            stamp = datetime.now(UTC).strftime("%Y%m%dT%H%M%S.%fZ")
            kept = self.path.with_name(f"{self.path.name}.unreadable-{stamp}")
            self.path.rename(kept)
            self._say(str(exc), kept=str(kept))
            return {}

    def _say(self, error: str, *, kept: str | None = None) -> None:
        if kept is not None or error != self._said:
            logger.warning(
                "what is verified cannot be read, so nothing counts as verified",
                file=str(self.path),
                error=error,
                kept=kept,
            )
        self._said = None if kept is not None else error


def _document(logs: Mapping[str, Trust]) -> bytes:
    spans = {
        url: {kind: np.stack([known.start, known.stop], axis=1).tolist() for kind, known in _sets(trust).items()}
        for url, trust in sorted(logs.items())
        if trust
    }
    return orjson.dumps({"version": _VERSION, "crc32": zlib.crc32(orjson.dumps(spans)), "logs": spans})


def _sets(trust: Trust) -> dict[str, Intervals]:
    return {kind: getattr(trust, kind) for kind in _KINDS if len(getattr(trust, kind))}


def _parsed(content: bytes) -> dict[str, Trust]:
    """Raises ValueError, saying what is wrong."""
    document = orjson.loads(content)
    try:
        if document["version"] != _VERSION:
            raise ValueError(f"has version {document['version']!r}, {_VERSION} is known here")
        if zlib.crc32(orjson.dumps(document["logs"])) != document["crc32"]:
            raise ValueError("its checksum is wrong")
        return {
            url: Trust(**{kind: _intervals(of[kind]) for kind in _KINDS if kind in of})
            for url, of in document["logs"].items()
        }
    except (KeyError, TypeError, AttributeError) as exc:
        raise ValueError(f"is not a record of what is verified: {exc!r}") from exc


def _intervals(spans: Any) -> Intervals:
    pairs = np.array(spans)
    if pairs.dtype != np.int64 or pairs.ndim != 2 or pairs.shape[1] != 2 or (pairs < 0).any():
        raise ValueError("holds what are no intervals")
    return Intervals.from_spans(pairs[:, 0], pairs[:, 1])


def bounded(logs: Mapping[str, Trust], most: int) -> dict[str, Trust]:
    """The same in at most so many intervals, or two of each log and kind; logged where that is not all of it.

    Where they are more, a quarter is left free, so that this does not happen with each one that is added.
    """
    counts = {(url, kind): len(known) for url, trust in logs.items() for kind, known in _sets(trust).items()}
    if sum(counts.values()) <= most:
        return dict(logs)
    share = _share(sorted(counts.values()), most - most // 4)
    cut = {url for (url, _), count in counts.items() if count > share}
    logger.warning(
        "more ranges are to be remembered than there is room for, some of what is verified is forgotten",
        logs=len(cut),
        ranges=sum(counts.values()),
        kept=most,
    )
    return {url: _cut(trust, share) if url in cut else trust for url, trust in logs.items()}


def _share(counts: list[int], most: int) -> int:
    """How many each may have, so that together they have at most `most`; `counts` ascending."""
    left = most
    for number, count in enumerate(counts):
        share = left // (len(counts) - number)
        if count > share:
            return max(share, 2)
        left -= count
    return counts[-1]


def _cut(trust: Trust, most: int) -> Trust:
    tainted = _nearest_joined(trust.tainted, most)
    return Trust(_longest(trust.verified, most) - tainted, tainted, _highest(trust.altered, most))


def _longest(known: Intervals, most: int) -> Intervals:
    kept = np.sort(np.argsort(known.start - known.stop, kind="stable")[:most])
    return Intervals(known.start[kept], known.stop[kept])


def _highest(known: Intervals, most: int) -> Intervals:
    return Intervals(known.start[-most:], known.stop[-most:])


def _nearest_joined(known: Intervals, most: int) -> Intervals:
    if len(known) <= most:
        return known
    widest = np.sort(np.argsort(known.stop[:-1] - known.start[1:], kind="stable")[: most - 1])
    return Intervals(known.start[np.append(0, widest + 1)], known.stop[np.append(widest, len(known) - 1)])
