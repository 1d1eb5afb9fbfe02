"""Which rows of a table are entries that no parser could read: those without `not_before`.

Most files have none, and their statistics say so. Of the others those row groups are read whose own statistics do not
rule it out. What was found of a file is remembered as its coverage is, for it never changes.

In a table that takes no nulls, 0 stands for what is missing.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Final

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from certstream.archive.coverage import CoverageCache, Covers, FileCover, LookCancelledError, grouped
from certstream.archive.datafile import key_groups
from certstream.archive.schema import KEY
from certstream.archive.table import Snapshot
from certstream.errors import StorageError
from certstream.intervals import Intervals

_COLUMN: Final = "not_before"
_READ_ROWS: Final = 1 << 17
_READERS: Final = 2
_SAVE_AFTER: Final = 100  # files read: by then it is dear to read them again
# Stands for a log in what is remembered of a file that has none: else it would be as if it were never read
_NONE_FOUND: Final = {"": Intervals.of((0, 1))}


class Unparseable:
    """The rows without `not_before` of one table, brought up to date by `refresh`; belongs to one thread at a time."""

    def __init__(self, root: Path, cancelled: threading.Event | None = None) -> None:
        """Look at the table at `root`; once `cancelled` is set, a look that has files to read ends soon."""
        self._root = root
        self._cache = CoverageCache(root, "unparseable.arrow")
        self._cancelled = cancelled or threading.Event()
        self._files: dict[str, Covers] | None = None  # what was read, by path; None: nothing is remembered yet
        self._unsaved = 0
        self._logs: dict[str, Intervals] = {}

    def of(self, url: str) -> Intervals:
        """The indices of a log, `url` as in `source_url`."""
        return self._logs.get(url, Intervals())

    def refresh(self, snapshot: Snapshot) -> None:
        """Bring it up to date, reading only files not seen before.

        Raises StorageError, or LookCancelledError: what was read until then is not read again.
        """
        takes_null = snapshot.form.schema.field(_COLUMN).nullable
        suspects = _suspects(snapshot, takes_null=takes_null)
        if suspects and self._files is None:
            self._files = {path: cover.covers for path, cover in self._cache.load().items()}
        known = self._files or {}
        self._files = known
        try:
            self._read([path for path in suspects if path not in known], takes_null=takes_null)
        finally:
            if gone := known.keys() - snapshot.paths:
                for path in gone:
                    del known[path]
            self._save()
        found = grouped(known[path] for path in suspects)
        found.pop("", None)
        self._logs = found

    def _read(self, paths: list[str], *, takes_null: bool) -> None:
        known = self._files
        assert known is not None

        def read(path: str) -> Covers:
            return read_unparseable(self._root / path, takes_null=takes_null, cancelled=self._cancelled)

        readers = ThreadPoolExecutor(_READERS, thread_name_prefix="unparseable")
        try:
            for path, covers in zip(paths, readers.map(read, paths), strict=True):
                known[path] = covers or _NONE_FOUND
                self._unsaved += 1
        finally:
            readers.shutdown(cancel_futures=True)

    def _save(self) -> None:
        if self._unsaved >= _SAVE_AFTER:
            self.save()

    def save(self) -> None:
        """Remember what was read; where that is impossible, it will be read again."""
        if self._unsaved and self._files is not None:
            self._cache.save({path: FileCover(covers, 0) for path, covers in self._files.items()})
            self._unsaved = 0


def _suspects(snapshot: Snapshot, *, takes_null: bool) -> list[str]:
    """The files that may have such a row, by the table's statistics."""
    if takes_null:
        nulls = snapshot.statistics(f"null_count.{_COLUMN}")
        return [path for path, count in nulls if count is None or count > 0]
    lows = snapshot.statistics(f"min.{_COLUMN}")
    return [path for path, low in lows if low is None or low <= 0]


def read_unparseable(
    file: Path, *, takes_null: bool = True, cancelled: threading.Event | None = None
) -> Mapping[str, Intervals]:
    """The indices of such rows in a data file, by log. Raises StorageError, LookCancelledError once `cancelled` is set.

    With `takes_null` False, 0 stands for what is missing.
    """
    parts: list[Covers] = []
    try:
        with pq.ParquetFile(file, read_dictionary=[KEY[0]]) as parquet:
            groups = [n for n in range(parquet.num_row_groups) if _may_have(parquet.metadata.row_group(n), takes_null)]
            for rows in _rows(parquet, groups):
                if cancelled is not None and cancelled.is_set():
                    raise LookCancelledError(f"{file}: not read to its end")
                dates = rows.column(_COLUMN)
                chosen = rows.filter(pc.is_null(dates) if takes_null else pc.equal(pc.fill_null(dates, 0), 0))
                if len(chosen):
                    parts.append({url: Intervals.from_indices(indices) for url, indices in key_groups(chosen).items()})
    except FileNotFoundError as exc:
        raise StorageError(f"{file}: is gone, though the table names it") from exc
    except (OSError, pa.ArrowException) as exc:
        raise StorageError(f"{file}: cannot be read: {exc}") from exc
    return grouped(parts)


def _rows(parquet: pq.ParquetFile, groups: list[int]) -> Iterator[pa.Table]:
    if _COLUMN not in parquet.schema_arrow.names:  # older than the column, as every row of it then is
        for batch in parquet.iter_batches(_READ_ROWS, row_groups=groups, columns=list(KEY), use_threads=False):
            rows = pa.Table.from_batches([batch])
            yield rows.append_column(_COLUMN, pa.nulls(len(rows), pa.int64()))
        return
    for batch in parquet.iter_batches(_READ_ROWS, row_groups=groups, columns=[*KEY, _COLUMN], use_threads=False):
        yield pa.Table.from_batches([batch])


def _may_have(group: pq.RowGroupMetaData, takes_null: bool) -> bool:
    for number in range(group.num_columns):
        column = group.column(number)
        if column.path_in_schema == _COLUMN:
            known = column.statistics
            if known is None:
                return True
            if takes_null:
                return not known.has_null_count or known.null_count > 0
            return not known.has_min_max or known.min <= 0 or not known.has_null_count or known.null_count > 0
    return True
