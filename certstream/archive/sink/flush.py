"""One commit of the live sink: packed rows into files, each key once, and the positions that move with them."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Final, TypeAlias

import pyarrow as pa
import structlog

from certstream.archive import storage
from certstream.archive.commit import Committer
from certstream.archive.coverage import Covers
from certstream.archive.datafile import DataFile, write_file
from certstream.archive.schema import PARTITION
from certstream.archive.sink.buffer import PackedRows
from certstream.errors import StorageError
from certstream.intervals import Intervals

_JOINED: Final = 256

# Told in the sink's thread after each commit: which rows it inserted, and which it did not, as the table had them
OnCommitted: TypeAlias = Callable[[Covers, Covers], object]

logger: structlog.stdlib.BoundLogger = structlog.get_logger(__name__)


def nobody_told(_inserted: Covers, _skipped: Covers) -> None:
    """Nobody wants to know which rows were committed."""


class CrashError(StorageError):
    """What failed is this program, by an error that it does not know."""


@dataclass(frozen=True, slots=True)
class Flush:
    """What to commit."""

    parts: Sequence[PackedRows]
    starts: Mapping[str, int]  # of logs: where the archive of those without a position begins
    limits: Mapping[str, int]  # of the same logs: where they were streamed up to; the position moves at most to there


@dataclass(frozen=True, slots=True)
class Flushed:
    """What was committed, and how those logs stand."""

    inserted: int  # rows
    positions: Mapping[str, int]
    settled: Mapping[str, Intervals]  # from the start or the position on: archived, or dropped on purpose


class Flusher:
    """Commits for the sink; belongs to the sink's thread."""

    def __init__(self, committer: Committer, on_committed: OnCommitted = nobody_told) -> None:
        self._committer = committer
        self._on_committed = on_committed

    def open(self) -> None:
        """See that the table can be continued, or make it. Raises TableError where it cannot, StorageError."""
        with _named():
            if self._committer.table.open() is None:
                self._committer.look()

    def flush(self, flush: Flush) -> Flushed:
        """Commit all of it at once; without anything to commit, look at the table. Raises StorageError."""
        with _named():
            return self._flush(flush)

    def _flush(self, flush: Flush) -> Flushed:
        committer = self._committer
        done = committer.add(self._written(flush.parts), starts=flush.starts, limits=flush.limits)
        settled = {
            url: (committer.coverage.of(url) | committer.dropped.of(url)).within(
                min(position, flush.starts[url]), max(position, flush.limits[url])
            )
            for url, position in done.positions.items()
        }
        self._on_committed(done.covers, _others(flush.parts, done.covers))
        return Flushed(done.inserted, done.positions, settled)

    def _written(self, parts: Sequence[PackedRows]) -> list[DataFile]:
        """A file per day, its rows sorted; without what is known to be archived."""
        if not parts:
            return []
        committer = self._committer
        form = committer.look().form  # now, not as it was: the table may be another one since the last commit
        files: list[DataFile] = []
        try:
            for date, rows in self._by_date(parts).items():
                files.append(write_file(committer.root, form, date, rows, committer.settings))
        except BaseException:
            committer.discard(files)
            raise
        return files

    def _by_date(self, parts: Sequence[PackedRows]) -> dict[str, pa.Table]:
        """The rows of each day, sorted; without what is known to be archived."""
        by_log: dict[str, list[PackedRows]] = defaultdict(list)
        for part in parts:
            by_log[part.url].append(part)
        days: dict[str, _Rows] = defaultdict(_Rows)
        for url, of_log in sorted(by_log.items()):
            for batch in distinct_rows(of_log, self._committer.coverage.of(url)):
                days[batch.column(PARTITION)[0].as_py()].append(batch)
        return {date: rows.table() for date, rows in days.items()}

    def free_bytes(self) -> int | None:
        """Free bytes of the disk, None where it cannot be asked."""
        try:
            with _named():
                return storage.free_bytes(self._committer.root)
        except StorageError:
            return None

    def save_coverage(self) -> None:
        """Remember what the files hold, for the next start; where that fails, it is read again then."""
        try:
            with _named():
                self._committer.coverage.save()
        except StorageError as exc:
            logger.warning("coverage cannot be remembered, it will be read again", error=str(exc))


@contextmanager
def _named() -> Iterator[None]:
    """Let no error out but StorageError: whatever it is, the rows are kept."""
    try:
        yield
    except StorageError:
        raise
    except BaseException as exc:  # deltalake's panics are no Exceptions
        raise CrashError(f"{type(exc).__name__}: {exc}") from exc


def _others(parts: Sequence[PackedRows], inserted: Covers) -> Covers:
    """What of the parts is not among what was inserted."""
    spans: dict[str, list[tuple[int, int]]] = defaultdict(list)
    for part in parts:
        spans[part.url].append((part.start, part.stop))
    others = {url: Intervals.of(*of_log) - inserted.get(url, Intervals()) for url, of_log in spans.items()}
    return {url: intervals for url, intervals in others.items() if len(intervals)}


class _Rows:
    """Rows, put together from many small batches: a file is written slowly from those.

    They are joined some hundred at a time: making a table of thousands, and letting go of them, would hold the
    interpreter, and with it the event loop, for tens of milliseconds.
    """

    def __init__(self) -> None:
        self._small: list[pa.RecordBatch] = []
        self._joined: list[pa.Table] = []

    def append(self, batch: pa.RecordBatch) -> None:
        self._small.append(batch)
        if len(self._small) == _JOINED:
            self._join()

    def _join(self) -> None:
        small, self._small = self._small, []
        self._joined.append(pa.Table.from_batches(small).combine_chunks())

    def table(self) -> pa.Table:
        """All of them; there are some."""
        if self._small:
            self._join()
        return pa.concat_tables(self._joined)


def distinct_rows(parts: Sequence[PackedRows], held: Intervals) -> Iterator[pa.RecordBatch]:
    """The rows of one log whose indices are not held, ascending, each once."""
    ordered = sorted(parts, key=lambda part: part.start)
    spans = Intervals.of(*((part.start, part.stop) for part in ordered))
    if spans.count == sum(map(len, ordered)) and not len(spans & held):
        yield from (part.unpacked() for part in ordered)
        return
    for part in ordered:
        span, rows = Intervals.of((part.start, part.stop)), part.unpacked()
        for start, stop in span - held:
            yield rows.slice(start - part.start, stop - start)
        held |= span
