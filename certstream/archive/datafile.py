"""One Parquet file of a table: how it is written, and what is known of it afterwards.

A file is *dense* when it holds one log's consecutive indices in order, each once. Its name says so (`dense-…`), and
then its statistics alone say what it covers.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

import numpy as np
import orjson
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from certstream.archive import storage
from certstream.archive.schema import PARTITION, TableFormat
from certstream.ct.types import Int64Array
from certstream.durable import sync_directory, sync_file
from certstream.errors import StorageError
from certstream.intervals import Intervals

DENSE: Final = "dense"
MIXED: Final = "mixed"

_READ_BYTES: Final = 1 << 16  # of a column at a time
_PAGE_BYTES: Final = 4 << 20  # what is compressed together; 1 MiB takes 3 % more CPU and 4 % more room
_STATISTICS: Final = ("cert_index", "source_url", "seen", "not_before", "not_after")
_REPEATING: Final = (
    "update_type", "seen", "source_name", "source_url", "cert_link", "not_before", "not_after", "is_ca",
    "signature_algorithm", "issuer_aggregated", "chain.list.element",
)  # fmt: skip
_HEAVY: Final = ("fingerprint", "sha256", "sha1", "as_der", "chain.list.element")


@dataclass(frozen=True, slots=True)
class WriteSettings:
    """How rows are compressed."""

    compression_level: int = 3  # zstd, 1 to 22
    heavy_column_compression_level: int = 1  # of certificates, chains and hashes, which are most of the bytes
    row_group_rows: int = 10_240


@dataclass(frozen=True, slots=True)
class DataFile:
    """A complete, durable file below a table; whether the table names it is another matter."""

    path: str  # below the table, `/` between its parts
    date: str  # the partition, YYYY-MM-DD
    size_bytes: int
    rows: int
    covers: Mapping[str, Intervals]  # indices by source_url
    stats: str  # the JSON of an add action (Delta protocol, "Per-file Statistics")
    form: TableFormat  # the columns it was written with

    @property
    def is_dense(self) -> bool:
        """Whether the name says so."""
        return is_dense(self.path)


def is_dense(path: str) -> bool:
    """Whether a file's name says that it is dense."""
    return path.rpartition("/")[2].startswith(f"{DENSE}-")


def new_path(date: str, *, dense: bool) -> str:
    """A path below the table for a new file of that partition."""
    return f"{PARTITION}={date}/{storage.new_name(DENSE if dense else MIXED)}"


class FileWriter:
    """Writes one new file of a table, part by part; then `close` or `abandon`.

    With `dense`, parts must continue each other: ValueError where they do not. Nothing is visible before a commit.
    """

    def __init__(self, root: Path, form: TableFormat, date: str, settings: WriteSettings, *, dense: bool) -> None:
        """Begin a file. Raises StorageError."""
        self.path = new_path(date, dense=dense)
        self.date = date
        self.rows = 0
        self.next_index: int | None = None  # of a dense file
        self._file = root / self.path
        self._form = form
        self._settings = settings
        self._dense = dense
        self._covers: dict[str, list[Intervals]] = {}
        self._statistics = Statistics()
        storage.make_directory(self._file.parent)
        try:
            self._writer = _parquet_writer(self._file, form, settings)
        except OSError as exc:
            storage.remove(self._file)
            raise storage.storage_error(self._file, exc) from exc

    @property
    def written_bytes(self) -> int:
        """Bytes on the disk by now."""
        return self._file.stat().st_size

    def write(self, rows: pa.Table) -> None:
        """Append rows, sorted by (source_url, cert_index). Raises StorageError; the file is then gone."""
        keys = key_groups(rows)
        if self._dense:
            self._check_continues(keys)
        for url, indices in keys.items():
            self._covers.setdefault(url, []).append(Intervals.from_indices(indices))
        conformed = self._form.conform_to_write(rows)
        self._statistics.add(conformed)  # of what stands in the file: readers skip by nulls that are counted
        self.rows += len(rows)
        try:
            self._writer.write_table(conformed, row_group_size=self._settings.row_group_rows)
        except OSError as exc:
            self.abandon()
            raise storage.storage_error(self._file, exc) from exc

    def _check_continues(self, keys: Mapping[str, Int64Array]) -> None:
        known = [*self._covers]
        if len(keys) != 1 or (known and known != [*keys]):
            raise ValueError("a dense file holds one log")
        (indices,) = keys.values()
        expected = int(indices[0]) if self.next_index is None else self.next_index
        if int(indices[0]) != expected or (np.diff(indices) != 1).any():
            raise ValueError("a dense file holds consecutive indices")
        self.next_index = int(indices[-1]) + 1

    def close(self) -> DataFile:
        """Complete the file and bring it to the disk. Raises StorageError; the file is then gone."""
        try:
            self._writer.close()
            sync_file(self._file)
            sync_directory(self._file.parent)
            size = self._file.stat().st_size
        except OSError as exc:
            self.abandon()
            raise storage.storage_error(self._file, exc) from exc
        covers = {url: Intervals.union_of(parts) for url, parts in self._covers.items()}
        return DataFile(self.path, self.date, size, self.rows, covers, self._statistics.json(), self._form)

    def abandon(self) -> None:
        """Remove what was written."""
        try:
            self._writer.close()
        except OSError:
            pass  # what cannot be completed is removed all the same
        storage.remove(self._file)


def _parquet_writer(file: Path, form: TableFormat, settings: WriteSettings) -> pq.ParquetWriter:
    levels = dict.fromkeys(_leaves(form), settings.compression_level)
    levels.update(dict.fromkeys(_HEAVY, settings.heavy_column_compression_level))
    return pq.ParquetWriter(
        file,
        form.write_schema,
        version="2.6",
        compression="zstd",
        compression_level=levels,
        use_dictionary=[name for name in _REPEATING if name in levels],
        write_statistics=list(_STATISTICS),
        column_encoding={"cert_index": "DELTA_BINARY_PACKED"},
        data_page_size=_PAGE_BYTES,
        store_schema=False,
    )


def _leaves(form: TableFormat) -> list[str]:
    """The columns as Parquet calls them."""
    return [f"{f.name}.list.element" if pa.types.is_list(f.type) else f.name for f in form.file_schema]


def write_file(root: Path, form: TableFormat, date: str, rows: pa.Table, settings: WriteSettings) -> DataFile:
    """Write rows of one partition, sorted by (source_url, cert_index), into one file. Raises StorageError."""
    groups = key_groups(rows)
    dense = len(groups) == 1 and all((np.diff(indices) == 1).all() for indices in groups.values())
    writer = FileWriter(root, form, date, settings, dense=dense)
    try:
        writer.write(rows)
    except BaseException:
        writer.abandon()
        raise
    return writer.close()


def log_codes(rows: pa.Table) -> tuple[NDArray[np.int32], list[str]]:
    """The log of each row as a number, and the `source_url` that each number stands for."""
    urls = rows.column("source_url").unify_dictionaries().combine_chunks()
    if not pa.types.is_dictionary(urls.type):
        urls = urls.dictionary_encode()
    return urls.indices.to_numpy(), urls.dictionary.to_pylist()


def key_groups(rows: pa.Table) -> dict[str, Int64Array]:
    """The indices of each log, in the order in which they stand."""
    codes, names = log_codes(rows)
    indices: Int64Array = rows.column("cert_index").to_numpy()
    groups = {name: indices if len(names) == 1 else indices[codes == code] for code, name in enumerate(names)}
    return {name: group for name, group in groups.items() if len(group)}


def read_parts(file: Path, date: str, *, rows_at_a_time: int = 8192) -> Iterator[pa.Table]:
    """All rows of a data file in its order, in bounded parts, with the column that its path says.

    Raises StorageError.
    """
    try:
        # Without these the column chunks of a whole row group are in memory: of a foreign file, all of it
        with pq.ParquetFile(file, pre_buffer=False, buffer_size=_READ_BYTES) as parquet:
            for batch in parquet.iter_batches(rows_at_a_time, use_threads=False):
                rows = pa.Table.from_batches([batch])
                yield rows.append_column(PARTITION, pa.repeat(pa.scalar(date, pa.string()), len(rows)))
    except FileNotFoundError as exc:
        raise StorageError(f"{file}: is gone, though the table names it") from exc
    except (OSError, pa.ArrowException) as exc:
        raise StorageError(f"{file}: cannot be read: {exc}") from exc


class Statistics:
    """Least and greatest value and nulls of the columns that queries filter by."""

    def __init__(self) -> None:
        self._rows = 0
        self._low: dict[str, Any] = {}
        self._high: dict[str, Any] = {}
        self._nulls = dict.fromkeys(_STATISTICS, 0)

    def add(self, rows: pa.Table) -> None:
        """Count rows in."""
        self._rows += len(rows)
        for name in _STATISTICS:
            column = rows.column(name)
            self._nulls[name] += column.null_count
            low, high = pc.min_max(column).as_py().values()
            if low is not None:
                self._low[name] = min(low, self._low.get(name, low))
                self._high[name] = max(high, self._high.get(name, high))

    def json(self) -> str:
        """The statistics as an add action holds them; times there have milliseconds."""
        low = {name: _instant(value, math.floor) for name, value in self._low.items()}
        high = {name: _instant(value, math.ceil) for name, value in self._high.items()}
        return orjson.dumps(
            {"numRecords": self._rows, "minValues": low, "maxValues": high, "nullCount": self._nulls}
        ).decode()


def _instant(value: Any, rounded: Any) -> Any:
    if not isinstance(value, datetime):
        return value
    at = value.astimezone(UTC)
    millis = rounded(at.microsecond / 1000)
    at = datetime.fromtimestamp(at.replace(microsecond=0).timestamp() + millis / 1000, UTC)
    return at.isoformat(timespec="milliseconds").replace("+00:00", "Z")
