"""Which indices of which logs a table holds, as sorted intervals per log.

Dense files of our own are read by their statistics, all others by their two key columns, batch by batch. What a file
covers never changes: it is kept in memory and, for the files whose keys were read, in `_certstream/` beside the table.
"""

from __future__ import annotations

import threading
import zlib
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Final, TypeAlias

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import structlog

from certstream.archive import storage
from certstream.archive.datafile import DataFile
from certstream.archive.schema import KEY
from certstream.archive.table import Snapshot, TableFile
from certstream.ct.types import Int64Array
from certstream.errors import CertstreamError, StorageError
from certstream.intervals import Intervals

Covers: TypeAlias = Mapping[str, Intervals]

_NOTHING: Final = Intervals()
_READ_ROWS: Final = 1 << 18  # of the key columns at a time: 4 MiB
_READERS: Final = 2

log = structlog.get_logger(__name__)


class LookCancelledError(CertstreamError):
    """Looking at a table was told to stop; nothing changed."""


@dataclass(frozen=True, slots=True)
class FileCover:
    """What one file holds."""

    covers: Covers
    rows: int  # with repeated keys counted each time

    @property
    def is_distinct(self) -> bool:
        """Whether no key stands in it twice."""
        return self.rows == sum(intervals.count for intervals in self.covers.values())


@dataclass(frozen=True, slots=True)
class _Folded:
    """A FileCover in little memory: a service holds one for each flush that upkeep has not rewritten."""

    urls: tuple[str, ...]
    borders: Int64Array  # (3, n): log, as a place in `urls`; start; stop
    rows: int

    @classmethod
    def of(cls, cover: FileCover, known: dict[tuple[str, ...], tuple[str, ...]]) -> _Folded:
        """Fold; equal `urls` are one object by way of `known`."""
        urls = tuple(cover.covers)
        sets = list(cover.covers.values())
        logs = np.repeat(np.arange(len(sets)), [len(intervals) for intervals in sets])
        starts = np.concatenate([_NOTHING.start, *(intervals.start for intervals in sets)])
        stops = np.concatenate([_NOTHING.stop, *(intervals.stop for intervals in sets)])
        return cls(known.setdefault(urls, urls), np.stack([logs, starts, stops]), cover.rows)

    def unfolded(self) -> FileCover:
        logs, starts, stops = self.borders
        at = np.searchsorted(logs, np.arange(len(self.urls) + 1))
        covers = {
            url: Intervals(starts[at[log] : at[log + 1]], stops[at[log] : at[log + 1]])
            for log, url in enumerate(self.urls)
        }
        return FileCover(covers, self.rows)


class Coverage:
    """The archived indices of one table, brought up to date by `refresh`; belongs to one thread at a time.

    Memory grows with the files and their intervals, never with rows: about 0.3 KB for a dense file, 1.5 KB for one
    with a run of each of forty logs.
    """

    def __init__(self, root: Path, cancelled: threading.Event | None = None) -> None:
        """Cover the table at `root`; once `cancelled` is set, a look that has files to read ends soon."""
        self._cache = CoverageCache(root)
        self._root = root
        self.cancelled = cancelled or threading.Event()  # looked at by `refresh`
        self._spare: dict[str, _Folded] = {}  # read by a look that did not come to its end
        self._dense: dict[str, tuple[str, int, int]] = {}  # path → source_url, start, stop
        self._read: dict[str, _Folded] = {}  # path → what its keys say
        self._url_sets: dict[tuple[str, ...], tuple[str, ...]] = {}
        self._logs: dict[str, Intervals] = {}
        self._unsaved = 0

    def of(self, url: str) -> Intervals:
        """What is archived of a log, `url` as in `source_url`."""
        return self._logs.get(url, _NOTHING)

    def logs(self) -> Sequence[str]:
        """The logs with at least one row."""
        return sorted(self._logs)

    def file(self, path: str) -> FileCover:
        """What a file of the snapshot holds."""
        if path in self._dense:
            url, start, stop = self._dense[path]
            return FileCover({url: Intervals.of((start, stop))}, stop - start)
        return self._read[path].unfolded()

    def add(self, files: Iterable[DataFile]) -> None:
        """Count in files that were just committed: what they hold is known without reading them."""
        files = list(files)
        for file in files:
            if file.is_dense:
                ((url, intervals),) = file.covers.items()
                self._dense[file.path] = (url, int(intervals.start[0]), int(intervals.stop[-1]))
            else:
                self._keep(file.path, FileCover(file.covers, file.rows))
                self._unsaved += 1
        self._merge(grouped(file.covers for file in files))

    def refresh(self, snapshot: Snapshot) -> None:
        """Bring it up to date, reading only files not seen before.

        Raises StorageError, or LookCancelledError: it is then as it was, and what was read is not read again.
        """
        known = self._dense.keys() | self._read.keys()
        gone = known - snapshot.paths
        dense = snapshot.dense_spans(known)
        read = self._covers_of(list(snapshot.files(known | dense.keys())))
        # From here on nothing fails: what is known of a file is counted, or the file is not known
        self._dense.update(dense)
        self._read.update(read)
        if gone:
            for path in gone:
                self._dense.pop(path, None)
                self._read.pop(path, None)
            self._logs = {}
            dense, read = self._dense, self._read
        self._merge(_spans_by_log(dense.values()))
        self._merge(grouped(cover.unfolded().covers for cover in read.values()))

    def _keep(self, path: str, cover: FileCover) -> None:
        self._read[path] = _Folded.of(cover, self._url_sets)

    def _merge(self, more: Mapping[str, Intervals]) -> None:
        for url, intervals in more.items():
            self._logs[url] = self.of(url) | intervals

    def _covers_of(self, files: Sequence[TableFile]) -> dict[str, _Folded]:
        """What these files hold: remembered, or by their keys."""
        if files and not self._read:
            remembered = self._cache.load()
            wanted = [file.path for file in files if file.path in remembered]
            self._spare.update({path: _Folded.of(remembered[path], self._url_sets) for path in wanted})
        self._read_spare([file.path for file in files if file.path not in self._spare])
        return {file.path: self._spare.pop(file.path) for file in files}

    def _read_spare(self, paths: Sequence[str]) -> None:
        readers = ThreadPoolExecutor(_READERS, thread_name_prefix="coverage")
        try:
            covers = readers.map(lambda path: read_cover(self._root / path, self.cancelled), paths)
            for path, cover in zip(paths, covers, strict=True):
                self._spare[path] = _Folded.of(cover, self._url_sets)
                self._unsaved += 1
        finally:
            readers.shutdown(cancel_futures=True)

    def save(self) -> None:
        """Remember what was read; where that is impossible, it will be read again."""
        if self._unsaved:
            covers = {**self._spare, **self._read}
            self._cache.save({path: cover.unfolded() for path, cover in covers.items()})
            self._unsaved = 0


def _spans_by_log(spans: Iterable[tuple[str, int, int]]) -> dict[str, Intervals]:
    borders: dict[str, list[tuple[int, int]]] = defaultdict(list)
    for url, start, stop in spans:
        borders[url].append((start, stop))
    return {url: Intervals.of(*pairs) for url, pairs in borders.items()}


def grouped(covers: Iterable[Covers]) -> dict[str, Intervals]:
    """What several hold together."""
    parts: dict[str, list[Intervals]] = defaultdict(list)
    for cover in covers:
        for url, intervals in cover.items():
            parts[url].append(intervals)
    return {url: Intervals.union_of(sets) for url, sets in parts.items()}


def read_cover(file: Path, cancelled: threading.Event | None = None) -> FileCover:
    """What a data file holds, by its key columns. Raises StorageError, LookCancelledError once `cancelled` is set."""
    parts: dict[str, list[Intervals]] = defaultdict(list)
    rows = 0
    try:
        with pq.ParquetFile(file, read_dictionary=[KEY[0]]) as parquet:
            for batch in parquet.iter_batches(_READ_ROWS, columns=list(KEY), use_threads=False):
                if cancelled is not None and cancelled.is_set():
                    raise LookCancelledError(f"{file}: not read to its end")
                rows += len(batch)
                for url, intervals in _runs(batch):
                    parts[url].append(intervals)
    except FileNotFoundError as exc:
        raise StorageError(f"{file}: is gone, though the table names it") from exc
    except (OSError, pa.ArrowException) as exc:
        raise StorageError(f"{file}: cannot be read: {exc}") from exc
    return FileCover({url: Intervals.union_of(sets) for url, sets in parts.items()}, rows)


def _runs(batch: pa.RecordBatch) -> Iterator[tuple[str, Intervals]]:
    """What each log has. Raises ArrowInvalid for a key that is null."""
    urls, indices = batch.column(KEY[0]), batch.column(KEY[1])
    if urls.null_count or indices.null_count:
        raise pa.ArrowInvalid(f"a row without {' or '.join(KEY)}")
    if not len(batch):
        return
    codes, values = urls.indices.to_numpy(), indices.to_numpy()
    if (codes[1:] < codes[:-1]).any():
        order = np.argsort(codes, kind="stable")
        codes, values = codes[order], values[order]
    breaks = np.flatnonzero((codes[1:] != codes[:-1]) | (values[1:] != values[:-1] + 1)) + 1
    first, last = np.append(0, breaks), np.append(breaks, len(values)) - 1
    start, stop = values[first], values[last] + 1
    names = urls.dictionary.to_pylist()
    at = np.searchsorted(codes[first], np.arange(len(names) + 1)).tolist()
    for name, (one, end) in zip(names, pairwise(at), strict=True):
        if end - one == 1:
            yield name, Intervals(start[one:end], stop[one:end])
        elif end > one:
            yield name, Intervals.from_spans(start[one:end], stop[one:end])


class CoverageCache:
    """What key columns said, in `_certstream/<name>`: one row per file, log and interval.

    Only a help: it is never read for a file that the table does not name, and made anew where it is missing or broken.
    """

    def __init__(self, root: Path, name: str = "coverage.arrow") -> None:
        self._path = root / storage.SIDE / name

    def load(self) -> dict[str, FileCover]:
        """What is remembered, by path; nothing where that cannot be read."""
        try:
            content = self._path.read_bytes()
            check, body = content[:4], content[4:]
            if zlib.crc32(body).to_bytes(4) != check:
                raise pa.ArrowInvalid("its checksum is wrong")
            return _from_table(pa.ipc.open_file(pa.py_buffer(body)).read_all())
        except FileNotFoundError:
            return {}
        except (OSError, pa.ArrowException, KeyError) as exc:
            log.warning(
                "coverage is read anew, what was remembered is unreadable", file=str(self._path), error=str(exc)
            )
            return {}

    def save(self, files: Mapping[str, FileCover]) -> None:
        """Remember these files and no others. A failure is logged: what is forgotten is read again."""
        sink = pa.BufferOutputStream()
        with pa.ipc.new_file(sink, _CACHE_SCHEMA, options=pa.ipc.IpcWriteOptions(compression="zstd")) as writer:
            writer.write_table(_to_table(files))
        body = sink.getvalue().to_pybytes()
        try:
            storage.make_directory(self._path.parent)
            storage.replace_file(self._path, zlib.crc32(body).to_bytes(4) + body)
        except StorageError as exc:
            log.warning("coverage cannot be remembered, it will be read again", error=str(exc))


_CACHE_SCHEMA: Final = pa.schema(
    [
        ("path", pa.dictionary(pa.int32(), pa.string())),
        ("rows", pa.int64()),  # of the file
        ("source_url", pa.dictionary(pa.int32(), pa.string())),
        ("start", pa.int64()),
        ("stop", pa.int64()),
    ]
)


def _to_table(files: Mapping[str, FileCover]) -> pa.Table:
    paths, urls = list(files), sorted({url for file in files.values() for url in file.covers})
    place = {url: code for code, url in enumerate(urls)}
    runs = [
        (number, file.rows, place[url], intervals)
        for number, file in enumerate(files.values())
        for url, intervals in file.covers.items()
    ]
    lengths = [len(run[3]) for run in runs]

    def column(part: int) -> Int64Array:
        return np.repeat(np.array([run[part] for run in runs], np.int64), lengths)

    starts = np.concatenate([_NOTHING.start, *(run[3].start for run in runs)])
    stops = np.concatenate([_NOTHING.stop, *(run[3].stop for run in runs)])
    arrays = [
        pa.DictionaryArray.from_arrays(column(0).astype(np.int32), pa.array(paths, pa.string())),
        pa.array(column(1)),
        pa.DictionaryArray.from_arrays(column(2).astype(np.int32), pa.array(urls, pa.string())),
        pa.array(starts),
        pa.array(stops),
    ]
    return pa.Table.from_arrays(arrays, schema=_CACHE_SCHEMA)


def _from_table(table: pa.Table) -> dict[str, FileCover]:
    table = table.combine_chunks()
    if not len(table):
        return {}
    paths, urls = (table.column(name).chunk(0) for name in ("path", "source_url"))
    path_names, url_names = paths.dictionary.to_pylist(), urls.dictionary.to_pylist()
    path_codes, url_codes = paths.indices.to_numpy(), urls.indices.to_numpy()
    starts, stops = table.column("start").to_numpy(), table.column("stop").to_numpy()
    rows = table.column("rows").to_numpy()
    changes = np.flatnonzero((np.diff(path_codes) != 0) | (np.diff(url_codes) != 0)) + 1
    covers: dict[str, dict[str, Intervals]] = defaultdict(dict)
    counts: dict[str, int] = {}
    for first, last in pairwise([0, *changes.tolist(), len(table)]):
        path = path_names[path_codes[first]]
        covers[path][url_names[url_codes[first]]] = Intervals(starts[first:last], stops[first:last])
        counts[path] = int(rows[first])
    return {path: FileCover(cover, counts[path]) for path, cover in covers.items()}
