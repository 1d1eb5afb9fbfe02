"""The new files of one batch of upkeep: rows of many logs, each log's on their way into files of its own."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import pairwise
from math import ceil
from pathlib import Path
from typing import Final

import numpy as np
import pyarrow as pa

from certstream.archive.coverage import Covers
from certstream.archive.datafile import DataFile, FileWriter, WriteSettings
from certstream.archive.schema import KEY, TableFormat
from certstream.archive.upkeep.compaction_plan import is_sparse
from certstream.ct.types import Int64Array
from certstream.errors import StorageError
from certstream.intervals import Intervals

_BREAKS: Final = 4  # in rows that come together, beside the gaps of the log: others of a part of it come later
_BEYOND: Final = (1 << 63) - 1  # every index
_WAITING_BYTES: Final = 80 << 20  # of rows whose row group is not full yet


@dataclass(frozen=True, slots=True)
class Target:
    """Where new files come to lie, and how large they become."""

    root: Path
    form: TableFormat
    settings: WriteSettings
    file_bytes: int


class BatchFiles:
    """Writes the rows of one job after the other; each log's rows should come in order.

    At most 80 MiB of rows wait for their row group to be full: past that, the log with most of them writes a smaller
    one. Nothing is visible before a commit.
    """

    def __init__(self, target: Target) -> None:
        self.done: list[DataFile] = []
        self._target = target
        self._logs: dict[str, _LogFiles] = {}

    def begin(self, date: str, keys: Covers, row_bytes: float) -> None:
        """Take the rows of these keys next, of which one has about `row_bytes` in a file."""
        target = self._target
        file_rows = max(1, round(target.file_bytes / max(row_bytes, 1)))

        def new_file(dense: bool) -> FileWriter:
            return FileWriter(target.root, target.form, date, target.settings, dense=dense)

        group_rows = target.settings.row_group_rows
        self._logs = {
            url: _LogFiles(new_file, intervals, file_rows, group_rows, self.done) for url, intervals in keys.items()
        }

    def append(self, url: str, rows: pa.Table) -> None:
        """Append rows of a log, sorted by index. Raises StorageError; `abandon` then."""
        if url not in self._logs:
            raise StorageError(f"{self._target.root}: a file holds rows of {url}, though nothing said so")
        self._logs[url].append(self._target.form.conform_to_write(rows))  # a tenth to a half of the bytes
        while sum(files.waiting_bytes for files in self._logs.values()) > _WAITING_BYTES:
            max(self._logs.values(), key=lambda files: files.waiting_bytes).write_group()

    def finish(self) -> None:
        """Complete the files of the job. Raises StorageError; `abandon` then."""
        for files in self._logs.values():
            files.finish()
        self._logs = {}

    def abandon(self) -> None:
        """Remove the files that are not complete; those of `done` stay."""
        for files in self._logs.values():
            files.abandon()
        self._logs = {}


class _LogFiles:
    """Rows of one log and partition on their way into files: one after the other, a new one after `file_rows`.

    A new one also begins where an index does not continue the last one. Of a sparse log, and of rows that come in
    such disorder that most runs would get files of their own, files have gaps: a new one begins where an index is not
    above the last one.
    """

    def __init__(
        self,
        new_file: Callable[[bool], FileWriter],
        keys: Intervals,
        file_rows: int,
        group_rows: int,
        done: list[DataFile],
    ) -> None:
        self.waiting_bytes = 0
        self._new_file = new_file
        self._keys = keys
        self._is_sparse = is_sparse(keys)
        self._is_dense = not self._is_sparse  # the file begun
        self._file_rows = file_rows
        self._group_rows = group_rows
        self._done = done
        self._waiting: list[pa.Table] = []
        self._waiting_rows = 0
        self._writer: FileWriter | None = None
        self._left = 0  # rows that the file begun takes yet
        self._next = 0  # the least index that it takes

    def append(self, rows: pa.Table) -> None:
        """Append rows sorted by index."""
        indices: Int64Array = rows.column(KEY[1]).to_numpy()
        breaks = np.flatnonzero(np.diff(indices) != 1) + 1
        gaps = len(self._keys.within(int(indices[0]), int(indices[-1]) + 1)) - 1
        is_dense = not self._is_sparse and len(breaks) <= gaps + _BREAKS
        if is_dense != self._is_dense:
            self.finish()
            self._is_dense = is_dense
        for first, last in pairwise([0, *(breaks if is_dense else ()), len(rows)]):
            self._append_run(rows.slice(first, last - first), indices[first:last])

    def _append_run(self, rows: pa.Table, indices: Int64Array) -> None:
        start = int(indices[0])
        if start != self._next if self._is_dense else start < self._next:
            self.finish()
        while len(rows):
            if not self._left:
                self._left = self._rows_of_file_from(int(rows.column(KEY[1])[0].as_py()))
            part = rows.slice(0, self._left)
            rows = rows.slice(len(part))
            self._wait(part)
            if not self._left:
                self.finish()
        self._next = int(indices[-1]) + 1

    def _rows_of_file_from(self, index: int) -> int:
        """How many rows a file takes that begins there, so that the files of the rest become equally large."""
        rest = self._keys.within(index, _BEYOND)
        rows = rest.count if not self._is_dense or not len(rest) else int(rest.stop[0]) - index
        return max(1, ceil(rows / max(1, round(rows / self._file_rows))))

    def _wait(self, rows: pa.Table) -> None:
        self._waiting.append(rows)
        self._waiting_rows += len(rows)
        self.waiting_bytes += rows.nbytes
        self._left -= len(rows)
        if self._waiting_rows >= self._group_rows:
            self.write_group()

    def write_group(self) -> None:
        """Write what waits: whole row groups if there is one, else all of it."""
        rows = pa.concat_tables(self._waiting)
        ready = len(rows) // self._group_rows * self._group_rows or len(rows)
        if self._writer is None:
            self._writer = self._new_file(self._is_dense)
        self._writer.write(rows.slice(0, ready))
        rest = rows.slice(ready)
        self._waiting = [rest] if len(rest) else []  # of no rows, a dictionary still has bytes
        self._waiting_rows, self.waiting_bytes = len(rest), rest.nbytes if len(rest) else 0

    def finish(self) -> None:
        """Complete the file begun, if one is."""
        while self._waiting:
            self.write_group()
        if self._writer is not None:
            writer, self._writer = self._writer, None
            self._done.append(writer.close())
        self._left = 0

    def abandon(self) -> None:
        """Remove the file begun."""
        if self._writer is not None:
            self._writer.abandon()
            self._writer = None
        self._waiting, self._waiting_rows, self.waiting_bytes = [], 0, 0


class LogRows:
    """Rows of one file, all of one log and in order, part by part."""

    def __init__(self, start: int, parts: Iterator[pa.Table]) -> None:
        """`start` is the least index."""
        self.start = start
        self._parts = parts
        self._rows: pa.Table | None = None

    @property
    def last(self) -> int:
        """The last index of the part at hand."""
        assert self._rows is not None
        return int(self._rows.column(KEY[1])[len(self._rows) - 1].as_py())

    def load(self) -> bool:
        """See to it that a part is at hand; False at the end."""
        while self._rows is None or not len(self._rows):
            self._rows = next(self._parts, None)
            if self._rows is None:
                return False
            self._rows = in_order(self._rows)
        return True

    def take(self, last: int) -> pa.Table:
        """The rows of the part at hand up to that index."""
        assert self._rows is not None
        count = int(np.searchsorted(self._rows.column(KEY[1]).to_numpy(), last, side="right"))
        taken, self._rows = self._rows.slice(0, count), self._rows.slice(count)
        return taken


def merged(files: list[LogRows]) -> Iterator[pa.Table]:
    """The rows of files of one log, all in order; of files that do not interleave, one is open at a time."""
    closed = sorted(files, key=lambda rows: rows.start, reverse=True)
    opened: list[LogRows] = []
    while closed or opened:
        if not opened:
            opened = [closed.pop()]
        opened = [rows for rows in opened if rows.load()]
        while opened and closed and closed[-1].start <= min(rows.last for rows in opened):
            rows = closed.pop()
            if rows.load():
                opened.append(rows)
        if opened:
            last = min(rows.last for rows in opened)
            taken = [rows.take(last) for rows in opened]
            yield in_order(pa.concat_tables([rows for rows in taken if len(rows)]))


def in_order(rows: pa.Table) -> pa.Table:
    """The rows of one log sorted by index."""
    indices = rows.column(KEY[1]).to_numpy()
    if (indices[1:] >= indices[:-1]).all():
        return rows
    return rows.take(pa.array(np.argsort(indices, kind="stable")))
