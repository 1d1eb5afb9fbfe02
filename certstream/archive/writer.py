"""Rows of many logs, each log's mostly in order, into as few files as that allows, which a commit makes visible."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Final

import numpy as np
import pyarrow as pa

from certstream.archive.commit import Committed, Committer
from certstream.archive.datafile import DataFile, FileWriter, key_groups
from certstream.archive.schema import KEY, PARTITION

_RUN_ROWS: Final = 4096  # shorter runs are not worth a file
_YOUNG_BYTES: Final = 16 << 20  # of runs that may still become that long
_LOOSE_BYTES: Final = 8 << 20  # of rows of short runs


@dataclass(slots=True)
class _Young:
    """The newest run of a log while it is short: what follows decides which file it goes into."""

    date: str
    next_index: int
    parts: list[pa.RecordBatch] = field(default_factory=list)
    rows: int = 0
    size_bytes: int = 0

    def add(self, rows: pa.RecordBatch) -> None:
        self.parts.append(rows)
        self.rows += len(rows)
        self.size_bytes += rows.nbytes
        self.next_index = _last(rows) + 1


class DenseWriter:
    """Writes rows into files: a dense one for each long run of consecutive indices of a log, one for all short runs.

    The rows of short runs are in order group by group. A short run has a dense file of its own only where it is all
    that a log has given since the last commit. Nothing is visible before `commit`. Beside the rows of one `write`, it
    holds about 30 MB at most; belongs to one thread at a time.
    """

    def __init__(self, committer: Committer) -> None:
        self._committer = committer
        self._open: dict[str, FileWriter] = {}  # long runs, by log
        self._young: dict[str, _Young] = {}  # likewise; a log has one or the other
        self._loose: defaultdict[str, _Loose] = defaultdict(_Loose)  # by partition
        self._scattered: set[str] = set()  # logs with short runs in them
        self._closed: list[DataFile] = []

    def write(self, rows: pa.RecordBatch) -> None:
        """Append rows of one log and day, their indices ascending, each once. Raises StorageError."""
        if not len(rows):
            return
        url, indices = rows.column(KEY[0])[0].as_py(), rows.column(KEY[1]).to_numpy()
        breaks = np.flatnonzero(np.diff(indices) != 1) + 1
        if not len(breaks):
            self._add_run(url, rows)
            return
        borders = np.concatenate([[0], breaks, [len(rows)]])
        own = np.diff(borders) >= _RUN_ROWS
        own[[0, -1]] = True  # these may continue what was before, or be continued
        self._add_loose(url, [rows.filter(pa.array(np.repeat(~own, np.diff(borders))))])
        for first, last in zip(borders[:-1][own].tolist(), borders[1:][own].tolist(), strict=True):
            self._add_run(url, _copied(rows, first, last))

    def _add_run(self, url: str, rows: pa.RecordBatch) -> None:
        """Consecutive rows of a log: the next ones of its newest run, or the first ones of a run."""
        first, date = rows.column(KEY[1])[0].as_py(), rows.column(PARTITION)[0].as_py()
        newest = self._open.get(url) or self._young.get(url)
        if newest is not None and (newest.next_index != first or newest.date != date):
            self._end_run(url)
        if url in self._open:
            self._open[url].write(pa.Table.from_batches([rows]))
            return
        self._young.setdefault(url, _Young(date, first)).add(rows)
        if self._young[url].rows >= _RUN_ROWS:
            self._grow_up(url)
        while sum(young.size_bytes for young in self._young.values()) > _YOUNG_BYTES:
            self._grow_up(max(self._young, key=lambda each: self._young[each].size_bytes))

    def _grow_up(self, url: str) -> None:
        """Give the newest run of a log a dense file."""
        young = self._young.pop(url)
        writer = self._open[url] = self._begin(young.date, dense=True)
        for part in young.parts:
            writer.write(pa.Table.from_batches([part]))

    def _end_run(self, url: str) -> None:
        """The newest run of a log does not go on."""
        if url in self._open:
            self._closed.append(self._open.pop(url).close())
        else:
            self._add_loose(url, self._young.pop(url).parts)

    def _add_loose(self, url: str, parts: Iterable[pa.RecordBatch]) -> None:
        for part in parts:
            if len(part):
                self._scattered.add(url)
                self._loose[part.column(PARTITION)[0].as_py()].add(url, part)
        for date, loose in self._loose.items():
            if loose.rows >= self._committer.settings.row_group_rows or loose.size_bytes >= _LOOSE_BYTES:
                self._write_loose(date)

    def _write_loose(self, date: str, *, whole: bool = False) -> None:
        """Write the rows of short runs that wait; `whole` where no more will come."""
        loose = self._loose[date]
        rows = loose.taken()
        if loose.writer is None:
            loose.writer = self._begin(date, dense=whole and _is_run(rows))
        loose.writer.write(rows)

    def _begin(self, date: str, *, dense: bool) -> FileWriter:
        committer = self._committer
        return FileWriter(committer.root, committer.form(), date, committer.settings, dense=dense)

    def commit(self) -> Committed:
        """Make everything written visible, but for what the table holds already.

        Raises StorageError; then nothing of it is visible, and what was written is gone.
        """
        try:
            self._close()
        except BaseException:
            self.abandon()
            raise
        files, self._closed = self._closed, []
        return self._committer.add(files)

    def _close(self) -> None:
        """Complete all files."""
        for url in list(self._young):
            if url in self._scattered:
                self._end_run(url)
            else:
                self._grow_up(url)
        while self._open:
            self._closed.append(self._open.popitem()[1].close())
        for date, loose in self._loose.items():
            if loose.rows:
                self._write_loose(date, whole=True)
            if loose.writer is not None:
                writer, loose.writer = loose.writer, None
                self._closed.append(writer.close())
        self._forget()

    def abandon(self) -> None:
        """Remove what was written and not committed."""
        while self._open:
            self._open.popitem()[1].abandon()
        for loose in self._loose.values():
            if loose.writer is not None:
                loose.writer.abandon()
        self._forget()
        files, self._closed = self._closed, []
        self._committer.discard(files)

    def _forget(self) -> None:
        self._young.clear()
        self._loose.clear()
        self._scattered.clear()


class _Loose:
    """Rows of short runs of one partition, until there are enough of them to write; and the file that they go into."""

    def __init__(self) -> None:
        self.writer: FileWriter | None = None
        self.rows = 0
        self.size_bytes = 0
        self._parts: dict[str, list[pa.RecordBatch]] = defaultdict(list)  # by log

    def add(self, url: str, rows: pa.RecordBatch) -> None:
        """Take rows of one log."""
        self._parts[url].append(rows)
        self.rows += len(rows)
        self.size_bytes += rows.nbytes

    def taken(self) -> pa.Table:
        """All of them by log and index; none stays."""
        logs = [_ordered(parts) for _, parts in sorted(self._parts.items())]
        self._parts.clear()
        self.rows = self.size_bytes = 0
        return pa.concat_tables(logs)


def _ordered(parts: list[pa.RecordBatch]) -> pa.Table:
    """Rows of one log by index."""
    parts = sorted(parts, key=lambda part: part.column(KEY[1])[0].as_py())
    rows = pa.Table.from_batches(parts)
    order = np.argsort(rows.column(KEY[1]).to_numpy(), kind="stable")
    return rows if (np.diff(order) == 1).all() else rows.combine_chunks().take(pa.array(order))


def _is_run(rows: pa.Table) -> bool:
    """Whether they are consecutive rows of one log."""
    indices, *others = key_groups(rows).values()
    return not others and bool((np.diff(indices) == 1).all())


def _copied(rows: pa.RecordBatch, first: int, last: int) -> pa.RecordBatch:
    """Rows [first, last) that keep no others in memory."""
    return rows.take(pa.array(np.arange(first, last)))


def _last(rows: pa.RecordBatch) -> int:
    return int(rows.column(KEY[1])[len(rows) - 1].as_py())
