"""Rows as the table holds them, beside what they should be."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Final

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset as ds
from numpy.typing import NDArray

from certstream.archive.coverage import Coverage
from certstream.archive.schema import KEY
from certstream.archive.table import Snapshot, Table
from certstream.errors import StorageError
from certstream.intervals import Intervals

# What a row is, whoever decoded it; its other columns are made of these
COMPARED: Final = ("update_type", "fingerprint", "sha256", "as_der")

_READS: Final = 3  # of the same rows, while upkeep replaces files


class ArchivedRows:
    """The rows of a table by log and index, as they are committed when they are asked for.

    A file that is gone by then was rewritten: the newest snapshot tells where its rows are. Belongs to one thread at a
    time; memory grows with the files, by about 0.3 KB each.
    """

    def __init__(self, root: Path, cancelled: threading.Event | None = None) -> None:
        """Rows of the table at `root`, which is there."""
        self._table = Table(root)
        self._root = root
        self._coverage = Coverage(root, cancelled)
        self._snapshot: Snapshot | None = None
        self._files: dict[str, tuple[NDArray[np.int64], NDArray[np.int64], list[str]]] = {}

    def covered(self) -> Coverage:
        """Which indices the newest snapshot has. Raises StorageError, LookCancelledError."""
        self._look()
        return self._coverage

    def refreshed(self) -> Coverage:
        """The same; the table is looked at only where something was committed since the last look."""
        if self._snapshot is None or not self._snapshot.is_newest():
            self._look()
        return self._coverage

    def _look(self) -> Snapshot:
        snapshot = self._table.open()
        if snapshot is None:
            raise StorageError(f"{self._root}: is no table any more")
        try:
            self._coverage.refresh(snapshot)
        finally:
            self._coverage.save()
        self._files, self._snapshot = {}, snapshot
        return snapshot

    def like(self, rows: pa.RecordBatch) -> tuple[Intervals, Intervals]:
        """Which of these rows of one log the table has as they are here, and which it has otherwise; ascending rows.

        What it does not have stands in neither. Raises StorageError.
        """
        url = rows.column(KEY[0])[0].as_py()
        wanted = rows.column(KEY[1]).to_numpy()
        for left in reversed(range(_READS)):
            try:
                there = self._read(url, int(wanted[0]), int(wanted[-1]) + 1)
                break
            except FileNotFoundError as exc:
                if not left:
                    raise StorageError(f"{self._root}: {exc}") from exc
                self._look()
            except (OSError, pa.ArrowException) as exc:
                raise StorageError(f"{self._root}: cannot be read: {exc}") from exc
        indices = there.column(KEY[1]).to_numpy()
        at = np.minimum(np.searchsorted(wanted, indices), len(wanted) - 1)
        asked = wanted[at] == indices
        there, indices, at = there.filter(pa.array(asked)), indices[asked], at[asked]
        assert self._snapshot is not None
        expected = self._snapshot.form.conform_some(pa.Table.from_batches([rows]), COMPARED).take(pa.array(at))
        same = _equal(there, expected)
        otherwise = Intervals.from_indices(indices[~same])
        return Intervals.from_indices(indices[same]) - otherwise, otherwise

    def _read(self, url: str, start: int, stop: int) -> pa.Table:
        snapshot = self._snapshot or self._look()
        files = [str(self._root / path) for path in self._files_with(snapshot, url, start, stop)]
        columns = [KEY[1], *COMPARED]
        if not files:
            schema = snapshot.form.file_schema
            return pa.schema([schema.field(name) for name in columns]).empty_table()
        index = ds.field(KEY[1])
        chosen = (ds.field(KEY[0]) == url) & (index >= start) & (index < stop)
        dataset = ds.dataset(files, schema=snapshot.form.file_schema, format="parquet")
        return dataset.to_table(columns=columns, filter=chosen, use_threads=False)

    def _files_with(self, snapshot: Snapshot, url: str, start: int, stop: int) -> list[str]:
        """The files that have rows of a log between these indices, or may."""
        if url not in self._files:
            covers = ((path, self._coverage.file(path).covers.get(url)) for path in snapshot.paths)
            spans = [(path, int(has.start[0]), int(has.stop[-1])) for path, has in covers if has is not None]
            low, high = (np.array([span[side] for span in spans], np.int64) for side in (1, 2))
            self._files[url] = low, high, [path for path, _, _ in spans]
        low, high, paths = self._files[url]
        return [paths[at] for at in np.flatnonzero((low < stop) & (high > start)).tolist()]


def _equal(one: pa.Table, other: pa.Table) -> NDArray[np.bool_]:
    """Which rows are the same in all columns of `other`."""
    same = np.ones(len(one), np.bool_)
    for name in other.column_names:
        left, right = one.column(name), other.column(name)
        equal = pc.fill_null(pc.equal(left, right), False)
        same &= pc.or_(equal, pc.and_(pc.is_null(left), pc.is_null(right))).to_numpy()
    return same
