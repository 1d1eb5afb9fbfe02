"""What a staging table holds at one moment, and its files as rows for another table.

Whoever wrote the table, its files are read as the table declares them: what a file lacks is null, what it holds in a
type of its own is cast.
"""

from __future__ import annotations

import os
import re
import stat
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from certstream.archive import storage
from certstream.archive.coverage import Coverage, Covers, FileCover
from certstream.archive.datafile import is_dense
from certstream.archive.schema import KEY, PARTITION, TableFormat
from certstream.archive.table import Snapshot, Table, TableFile
from certstream.errors import StorageError, TableError

_DATE: Final = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}")
_PART_ROWS: Final = range(64, 2049)  # read at a time
_READ_BYTES: Final = 1 << 16  # of a column
_PART_BYTES: Final = 16 << 20  # about, likewise
# What lies in a directory that is nothing but a table
_OF_A_TABLE: Final = re.compile(
    rf"{storage.DELTA_LOG}|{storage.SIDE}|{PARTITION}=.*|.*\.parquet|.*\.crc|_SUCCESS|_change_data"
)


@dataclass(frozen=True, slots=True)
class StagedFile:
    """One data file of a staging table."""

    path: Path
    table_file: TableFile
    cover: FileCover
    form: TableFormat  # of the table

    @property
    def date(self) -> str:
        """The partition."""
        return self.table_file.date

    @property
    def is_dense(self) -> bool:
        """Whether it holds one log's consecutive indices, in order."""
        runs = [len(intervals) for intervals in self.cover.covers.values()]
        return is_dense(self.table_file.path) and runs == [1] and self.cover.is_distinct

    def suits(self, form: TableFormat) -> bool:
        """Whether the file, as it is, could be one of a table of that format. Raises StorageError."""
        with self._opened() as parquet:
            fields = {field.name: field for field in parquet.schema_arrow}
            regular = stat.S_ISREG(os.lstat(self.path).st_mode)  # a second name of a symbolic link leads elsewhere
        return (
            regular
            and self.form == form
            and fields.keys() == set(form.file_schema.names)
            and all(_fits(fields[column.name], column) for column in form.file_schema)
        )

    def group_rows(self) -> list[int]:
        """The rows of each row group. Raises StorageError."""
        with self._opened() as parquet:
            return [parquet.metadata.row_group(number).num_rows for number in range(parquet.num_row_groups)]

    def parts(self, groups: Sequence[int] | None, keys: Covers) -> Iterator[pa.Table]:
        """The rows of those row groups (None: of all), in bounded parts, without the partition's column.

        Row groups that have none of `keys` may be left out. Raises StorageError.
        """
        with self._opened() as parquet:
            known = parquet.metadata
        with self._opened(metadata=known, read_dictionary=_chain_leaves(known)) as parquet:
            for number in range(known.num_row_groups) if groups is None else groups:
                group = known.row_group(number)
                if _may_hold(group, keys):
                    for batch in parquet.iter_batches(_part_rows(group), row_groups=[number], use_threads=False):
                        yield self._declared(batch)

    @contextmanager
    def _opened(self, **options: Any) -> Iterator[pq.ParquetFile]:
        try:
            with pq.ParquetFile(self.path, pre_buffer=False, buffer_size=_READ_BYTES, **options) as parquet:
                self._check(parquet.metadata)
                yield parquet
        except FileNotFoundError as exc:
            raise StorageError(f"{self.path}: is gone, though the table names it") from exc
        except (OSError, pa.ArrowException) as exc:
            raise StorageError(f"{self.path}: cannot be read: {exc}") from exc

    def _check(self, known: pq.FileMetaData) -> None:
        """Raise StorageError where the file is not what its table says, as far as its footer tells."""
        if known.num_rows != self.cover.rows:
            raise StorageError(f"{self.path}: has {known.num_rows} rows, the table says {self.cover.rows}")
        if self.is_dense:
            ((lowest, stop),) = next(iter(self.cover.covers.values()))
            bounds = [_bounds(known.row_group(number)) for number in (0, known.num_row_groups - 1)]
            if (bounds[0] or (lowest,))[0] != lowest or (bounds[1] or (stop - 1,))[-1] != stop - 1:
                raise StorageError(f"{self.path}: holds other indices than the table says")

    def _declared(self, batch: pa.RecordBatch) -> pa.Table:
        """The rows in the types of the table; certificates of chains may be a dictionary."""
        columns = []
        for field in self.form.file_schema:
            place = batch.schema.get_field_index(field.name)
            column = pa.nulls(len(batch), field.type) if place < 0 else batch.column(place)
            known = column.type in (field.type, self.form.write_schema.field(field.name).type)
            columns.append(column if known else column.cast(field.type))
        rows = pa.Table.from_arrays(columns, names=self.form.file_schema.names)
        if self.is_dense and (np.diff(rows.column(KEY[1]).to_numpy()) != 1).any():
            raise StorageError(f"{self.path}: its rows are not consecutive, though its name says so")
        return rows


def _fits(field: pa.Field, column: pa.Field) -> bool:
    """Whether a file's field can stand in a table's column; what elements of a list are called is no difference."""
    kind, wanted = field.type, column.type
    if pa.types.is_list(kind) and pa.types.is_list(wanted):
        same = kind.value_type == wanted.value_type and kind.value_field.nullable <= wanted.value_field.nullable
    else:
        same = kind == wanted
    return bool(same and field.nullable <= column.nullable)


def _chain_leaves(known: pq.FileMetaData) -> list[str]:
    """The column of the chains' certificates, by which it is read as a dictionary: each once, and not once per row."""
    paths = (known.schema.column(number).path for number in range(known.num_columns))
    return [path for path in paths if path.startswith("chain.")]


def _part_rows(group: pq.RowGroupMetaData) -> int:
    row_bytes = max(group.total_byte_size / max(group.num_rows, 1), 1)
    return int(min(max(_PART_BYTES / row_bytes, _PART_ROWS.start), _PART_ROWS.stop - 1))


def _bounds(group: pq.RowGroupMetaData) -> tuple[int, int] | None:
    """The least and the greatest index of a row group by its statistics, None where it has none."""
    for number in range(group.num_columns):
        column = group.column(number)
        if column.path_in_schema == KEY[1]:
            known = column.statistics
            return None if known is None or not known.has_min_max else (known.min, known.max)
    return None


def _may_hold(group: pq.RowGroupMetaData, keys: Covers) -> bool:
    """Whether a row group may hold any of these keys."""
    bounds = _bounds(group)
    return bounds is None or any(len(indices.within(bounds[0], bounds[1] + 1)) for indices in keys.values())


class Staged:
    """A staging table as it was when it was opened; belongs to one thread, its files to any."""

    def __init__(self, root: Path, cancelled: threading.Event | None = None) -> None:
        """Read what is there: columns, files, keys.

        Raises TableError or StorageError, naming what is wrong, and LookCancelledError once `cancelled` is set.
        """
        self.root = root
        self._present = frozenset(storage.data_files(root))  # before the table is opened: what comes later shows
        self._snapshot = _opened(root)
        found = list(self._snapshot.files())
        for file in found:
            _check(root, file)
        self.form = self._snapshot.form
        self.coverage = Coverage(root, cancelled)
        self.coverage.refresh(self._snapshot)
        covered = (StagedFile(root / f.path, f, self.coverage.file(f.path), self.form) for f in found)
        self.files = sorted(covered, key=_place)

    @property
    def rows(self) -> int:
        """All rows, each as often as it stands there."""
        return sum(file.cover.rows for file in self.files)

    def delete(self) -> None:
        """Remove the table, which must be as it was when it was opened: renamed aside in one step, then removed.

        The caller holds its lock. Raises StorageError where it changed, where other things lie in its directory, or
        where it cannot be removed; in the first two cases it stays whole.
        """
        now = _opened(self.root)
        fresh = frozenset(storage.data_files(self.root)) - self._present
        if (now.version, now.paths) != (self._snapshot.version, self._snapshot.paths) or fresh - now.paths:
            raise StorageError(f"{self.root}: was written to since it was read")
        try:
            others = sorted(path.name for path in self.root.iterdir() if not _OF_A_TABLE.fullmatch(path.name))
        except OSError as exc:
            raise storage.storage_error(self.root, exc) from exc
        if others:
            raise StorageError(f"{self.root}: holds more than a table: {', '.join(others[:5])}")
        storage.delete_table(self.root)


def _opened(root: Path) -> Snapshot:
    snapshot = Table(root).open()
    if snapshot is None:
        raise StorageError(f"{root}: there is no Delta table")
    return snapshot


def _check(root: Path, file: TableFile) -> None:
    """Raise where a file is not there as the table says, or its partition is not what it must be."""
    if not _DATE.fullmatch(file.date):
        raise TableError(f"{root}: {PARTITION} of {file.path} is {file.date!r}, must be a date")
    path = root / file.path
    try:
        size_bytes = path.stat().st_size
    except FileNotFoundError as exc:
        raise StorageError(f"{path}: is gone, though the table names it") from exc
    except OSError as exc:
        raise storage.storage_error(path, exc) from exc
    if size_bytes != file.size_bytes:
        raise StorageError(f"{path}: has {size_bytes} bytes, the table says {file.size_bytes}")


def _place(file: StagedFile) -> tuple[str, str, int]:
    """By which files are taken: partition by partition, log by log, in the order of the indices."""
    if not file.cover.covers:
        return file.date, "", 0
    url = min(file.cover.covers)
    return file.date, url, file.cover.covers[url].lowest or 0
