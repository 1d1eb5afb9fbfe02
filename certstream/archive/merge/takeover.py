"""Staged files become files of the main table: as they are where that is possible, else row by row.

What is wanted of them is written as dense files where it is a long run of one log, all the rest of a task into one
mixed file.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Final

import numpy as np
import pyarrow as pa

from certstream.archive import storage
from certstream.archive.commit import chosen_rows
from certstream.archive.coverage import Covers
from certstream.archive.datafile import DataFile, FileWriter, WriteSettings, log_codes, new_path
from certstream.archive.merge.staged import StagedFile
from certstream.archive.schema import KEY, TableFormat
from certstream.archive.table import rebuilt_stats
from certstream.errors import TableError
from certstream.intervals import Intervals

_RUN_ROWS: Final = 4096  # shorter runs are not worth a file
_GROUP_BYTES: Final = 48 << 20  # of rows that wait for a whole row group

Check = Callable[[], None]  # raises where work shall end


@dataclass(frozen=True, slots=True)
class Piece:
    """Some row groups of a staged file, and the keys that are wanted of the file."""

    file: StagedFile
    wanted: Covers
    groups: tuple[int, ...] | None  # None: all


@dataclass(frozen=True, slots=True)
class Task:
    """Pieces of one partition that are taken together, in their order."""

    pieces: tuple[Piece, ...]
    rows: int  # staged rows that are settled by it
    whole: bool = False  # one file, of which every row is wanted, and which holds none twice

    @property
    def date(self) -> str:
        """The partition."""
        return self.pieces[0].file.date


class Takeover:
    """Makes files of the main table; any number of threads may call it at once."""

    def __init__(self, root: Path, form: TableFormat, settings: WriteSettings, check: Check) -> None:
        self._root = root
        self._form = form
        self._settings = settings
        self._check = check

    def take(self, task: Task) -> list[DataFile]:
        """The complete, durable, uncommitted files that hold what is wanted. Raises what `check` raises, StorageError.

        Nothing is left of it then.
        """
        self._check()
        file = task.pieces[0].file
        if task.whole and file.suits(self._form):
            return [self._linked(file)]
        output = _Output(self._root, self._form, task.date, self._settings)
        try:
            self._copy_rows(task, output)
            return output.close()
        except BaseException:
            output.abandon()
            raise

    def _linked(self, file: StagedFile) -> DataFile:
        covers, known = file.cover.covers, file.table_file
        path = new_path(file.date, dense=file.is_dense)
        target = self._root / path
        storage.make_directory(target.parent)
        storage.link_or_copy(file.path, target, self._check)
        stats = rebuilt_stats(known, covers)
        return DataFile(path, file.date, known.size_bytes, file.cover.rows, covers, stats, self._form)

    def _copy_rows(self, task: Task, output: _Output) -> None:
        runs = _runs(task.pieces)
        for piece in task.pieces:
            if piece.file.is_dense:
                ((url, wanted),) = piece.wanted.items()
                long = wanted & runs[url]
                for rows in self._parts(piece):
                    for run in _slices(rows, long):
                        output.add_run(url, self._conformed(run, piece))
                    for some in chosen_once([rows], {url: wanted - long}):
                        output.add(self._conformed(some, piece))
            else:
                choose = chosen_once if piece.file.cover.is_distinct else chosen_rows
                for some in choose(self._parts(piece), piece.wanted):
                    output.add(self._conformed(some, piece))

    def _parts(self, piece: Piece) -> Iterator[pa.Table]:
        for rows in piece.file.parts(piece.groups, piece.wanted):
            self._check()
            yield rows

    def _conformed(self, rows: pa.Table, piece: Piece) -> pa.Table:
        try:
            return self._form.conform_to_write(rows)
        except TableError as exc:
            raise TableError(f"{piece.file.path}: {exc}") from exc


def _runs(pieces: tuple[Piece, ...]) -> dict[str, Intervals]:
    """Of each log what is worth dense files: its long runs in dense files, or a run that is all there is."""
    parts: dict[str, list[Intervals]] = defaultdict(list)
    for piece in pieces:
        if piece.file.is_dense:
            for url, wanted in piece.wanted.items():
                parts[url].append(wanted)
    together = {url: Intervals.union_of(sets) for url, sets in parts.items()}
    if sum(map(len, together.values())) == 1 and all(piece.file.is_dense for piece in pieces):
        return together
    return {url: _long(intervals) for url, intervals in together.items()}


def _long(intervals: Intervals) -> Intervals:
    long = intervals.stop - intervals.start >= _RUN_ROWS
    return Intervals(intervals.start[long], intervals.stop[long])


def _slices(rows: pa.Table, runs: Intervals) -> Iterator[pa.Table]:
    """Of consecutive rows of one log those of each run."""
    first = rows.column(KEY[1])[0].as_py()
    for start, stop in runs.within(first, first + len(rows)):
        yield rows.slice(start - first, stop - start)


def chosen_once(parts: Iterable[pa.Table], wanted: Covers) -> Iterator[pa.Table]:
    """As commit.chosen_rows, for rows of which no key stands there twice."""
    for part in parts:
        codes, names = log_codes(part)
        indices = part.column(KEY[1]).to_numpy()
        keep = np.zeros(len(part), np.bool_)
        for code, url in enumerate(names):
            if url in wanted:
                mine = wanted[url].contains(indices)
                keep |= mine if len(names) == 1 else mine & (codes == code)
        if keep.all():
            yield part
        elif keep.any():
            yield part.filter(pa.array(keep))


class _Output:
    """The files of one task while they are written."""

    def __init__(self, root: Path, form: TableFormat, date: str, settings: WriteSettings) -> None:
        self._begin = partial(_Growing, root, form, date, settings)
        self._root = root
        self._run: _Growing | None = None
        self._run_end: tuple[str, int] | None = None  # log and index that would continue it
        self._rest: _Growing | None = None
        self._done: list[DataFile] = []

    def add_run(self, url: str, rows: pa.Table) -> None:
        """Consecutive rows of a log; into one dense file with those before them where they continue these."""
        first = rows.column(KEY[1])[0].as_py()
        if self._run is not None and self._run_end != (url, first):
            self._end_run()
        if self._run is None:
            self._run = self._begin(dense=True)
        self._run.add(rows)
        self._run_end = url, first + len(rows)

    def add(self, rows: pa.Table) -> None:
        """Any rows."""
        if self._rest is None:
            self._rest = self._begin(dense=False)
        self._rest.add(rows)

    def _end_run(self) -> None:
        if self._run is not None:
            self._done.append(self._run.close())
            self._run = None

    def close(self) -> list[DataFile]:
        """Complete all files. Raises StorageError."""
        self._end_run()
        if self._rest is not None:
            self._done.append(self._rest.close())
            self._rest = None
        return self._done

    def abandon(self) -> None:
        """Remove all files."""
        for growing in (self._run, self._rest):
            if growing is not None:
                growing.abandon()
        for file in self._done:
            storage.remove(self._root / file.path)


class _Growing:
    """One file; its rows wait until they are a whole row group, and are written in order."""

    def __init__(self, root: Path, form: TableFormat, date: str, settings: WriteSettings, *, dense: bool) -> None:
        self._writer = FileWriter(root, form, date, settings, dense=dense)
        self._group_rows = settings.row_group_rows
        self._waiting: list[pa.Table] = []
        self._rows = self._bytes = 0

    def add(self, rows: pa.Table) -> None:
        """Append rows. Raises StorageError."""
        self._waiting.append(rows)
        self._rows += len(rows)
        self._bytes += rows.nbytes
        if self._rows >= self._group_rows or self._bytes >= _GROUP_BYTES:
            whole = self._rows // self._group_rows * self._group_rows
            self._write(whole or self._rows)

    def _write(self, count: int) -> None:
        rows = pa.concat_tables(self._waiting)
        left = rows.slice(count)
        self._waiting, self._rows, self._bytes = [left], len(left), left.nbytes
        self._writer.write(_ordered(rows.slice(0, count)))

    def close(self) -> DataFile:
        """Complete the file. Raises StorageError; it is gone then."""
        if self._rows:
            self._write(self._rows)
        return self._writer.close()

    def abandon(self) -> None:
        """Remove the file."""
        self._writer.abandon()


def _ordered(rows: pa.Table) -> pa.Table:
    """The rows by log and index."""
    codes, names = log_codes(rows)
    rank = np.empty(len(names), np.int64)
    rank[sorted(range(len(names)), key=names.__getitem__)] = np.arange(len(names))
    order = np.lexsort((rows.column(KEY[1]).to_numpy(), rank[codes]))
    return rows if (np.diff(order) == 1).all() else rows.take(pa.array(order))
