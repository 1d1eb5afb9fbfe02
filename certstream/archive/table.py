"""A Delta table as one snapshot after the other, and the one call that adds a commit to it.

`create_write_transaction` with `max_commit_retries=0` commits as the next version after the snapshot or not at all:
whatever another writer did meanwhile is seen, because the caller must look again.
"""

from __future__ import annotations

import re
import time
from collections.abc import Iterator, Mapping, Sequence
from collections.abc import Set as AbstractSet
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property
from math import ceil
from pathlib import Path
from typing import Any, Final

import orjson
import pyarrow as pa
import pyarrow.compute as pc
from deltalake import CommitProperties, DeltaTable
from deltalake.exceptions import CommitFailedError, TableNotFoundError
from deltalake.transaction import AddAction, RemoveAction, Transaction

from certstream.archive import storage
from certstream.archive.datafile import DataFile, is_dense
from certstream.archive.deltalake_errors import storage_errors
from certstream.archive.schema import NATIVE, PARTITION, TableFormat
from certstream.durable import sync_directory, sync_file
from certstream.errors import StorageError, TableError
from certstream.intervals import Intervals
from certstream.ledger import ledger_beside

_CONFIGURATION: Final = {"delta.dataSkippingStatsColumns": "cert_index,source_url,seen,not_before,not_after"}
_RETENTION: Final = "delta.deletedFileRetentionDuration"
_UNIT_S: Final = {"second": 1, "minute": 60, "hour": 3600, "day": 86_400, "week": 604_800}
_LAST_CHECKPOINT: Final = "_last_checkpoint"
_FILES_AT_A_TIME: Final = 1024  # as objects: some KB each
# Readers that know nothing of these would show rows that are gone, or none of a column
_REFUSED_FEATURES: Final = frozenset({"deletionVectors", "columnMapping"})


class ConflictError(Exception):
    """Another writer committed since the snapshot; nothing was committed. Look again."""


@dataclass(frozen=True, slots=True)
class TableFile:
    """One file of a snapshot."""

    path: str
    date: str
    size_bytes: int
    modified_ms: int  # Unix ms, when it was written
    rows: int | None  # None where the table does not say
    stats: Mapping[str, Any]  # flattened: `min.cert_index`, `max.source_url`, `null_count.seen` …


class Snapshot:
    """One version of a table: its files, its columns, its application transactions."""

    def __init__(self, root: Path, delta: DeltaTable, form: TableFormat) -> None:
        self.root = root
        self.form = form
        self.version = delta.version()
        self._delta = delta
        self._mark = _mark(root, self.version)

    def is_newest(self) -> bool:
        """Whether nothing was committed since, nor the table replaced; False also where that is not known. Cheap."""
        try:
            _commit_file(self.root, self.version + 1).stat()
        except FileNotFoundError:
            return self._mark is not None and self._mark == _mark(self.root, self.version)
        except OSError:
            pass
        return False

    @cached_property
    def _actions(self) -> pa.Table:
        with storage_errors(self.root):
            return pa.table(self._delta.get_add_actions(flatten=True))

    @cached_property
    def paths(self) -> frozenset[str]:
        """The files of this version."""
        return frozenset(self._actions.column("path").to_pylist())

    def files(self, but: AbstractSet[str] = frozenset()) -> Iterator[TableFile]:
        """The files of this version without those named."""
        for batch in self._without(but).to_batches(max_chunksize=_FILES_AT_A_TIME):
            for row in batch.to_pylist():
                yield TableFile(
                    row["path"],
                    row.get(f"partition.{PARTITION}") or "",
                    row["size_bytes"],
                    row["modification_time"],
                    row.get("num_records"),
                    row,
                )

    def _without(self, but: AbstractSet[str]) -> pa.Table:
        wanted = self.paths.difference(but)
        if len(wanted) == len(self.paths):
            return self._actions
        paths = self._actions.column("path")
        return self._actions.filter(pc.is_in(paths, value_set=pa.array(wanted, paths.type)))

    def statistics(self, *names: str, but: AbstractSet[str] = frozenset()) -> Iterator[tuple[Any, ...]]:
        """The path of each file without those named, and these of its flattened statistics, None where it has none."""
        rows = self._without(but)
        present = frozenset(rows.column_names)
        nothing = [None] * len(rows)
        columns = [rows.column(name).to_pylist() if name in present else nothing for name in ("path", *names)]
        return zip(*columns, strict=True)

    def dense_spans(self, but: AbstractSet[str] = frozenset()) -> dict[str, tuple[str, int, int]]:
        """Log and indices [start, stop) by path, of the files marked dense whose statistics agree with that."""
        names = ("num_records", "min.source_url", "max.source_url", "min.cert_index", "max.cert_index")
        return {
            path: (url, low, high + 1)
            for path, count, url, last_url, low, high in self.statistics(*names, but=but)
            if url is not None and url == last_url and low is not None and high is not None
            if count == high - low + 1 and is_dense(path)
        }

    @cached_property
    def rows(self) -> int | None:
        """Rows by the files' statistics, None where one has none."""
        counts = self._actions.column("num_records") if "num_records" in self._actions.column_names else None
        if counts is None or counts.null_count:
            return None if self.paths else 0
        return int(sum(counts.to_pylist()))

    @cached_property
    def size_bytes(self) -> int:
        """Bytes of all files."""
        return int(sum(self._actions.column("size_bytes").to_pylist()))

    def transaction(self, app_id: str) -> int | None:
        """The version of an application transaction, None where there is none. Raises StorageError."""
        with storage_errors(self.root):
            version: int | None = self._delta.transaction_version(app_id)
        return version

    def commit(
        self,
        added: Sequence[DataFile],
        transactions: Mapping[str, int],
        *,
        removed: Sequence[TableFile] = (),
        data_change: bool = True,
    ) -> int:
        """Commit as the version after this one; that version. The files of `added` must be durable.

        Raises ConflictError where another writer was faster, TableError where a file has other columns, StorageError
        for anything else; after a StorageError it is open whether the commit took place. With `data_change` False,
        `added` holds the rows of `removed`.
        """
        self._check_there(added)
        now_ms = time.time_ns() // 1_000_000
        actions: list[AddAction | RemoveAction] = [
            RemoveAction(file.path, data_change, now_ms, file.size_bytes, {PARTITION: file.date}) for file in removed
        ]
        actions.extend(
            AddAction(file.path, file.size_bytes, {PARTITION: file.date}, now_ms, data_change, file.stats)
            for file in added
        )
        properties = CommitProperties(
            max_commit_retries=0,
            app_transactions=[Transaction(app_id, version, now_ms) for app_id, version in transactions.items()],
        )
        try:
            with storage_errors(self.root, CommitFailedError):
                self._delta.create_write_transaction(
                    actions, "append", self._delta.schema(), partition_by=[PARTITION], commit_properties=properties
                )
        except CommitFailedError as exc:
            raise ConflictError(str(exc)) from exc
        self._sync(self.version + 1)
        return self.version + 1

    def _check_there(self, files: Sequence[DataFile]) -> None:
        # deltalake does not look: a table that was removed and made anew meanwhile would name files that are gone
        for file in files:
            if file.form != self.form:
                raise TableError(f"{self.root / file.path}: has other columns than the table")
            try:
                size_bytes = (self.root / file.path).stat().st_size
            except OSError as exc:
                raise storage.storage_error(self.root / file.path, exc) from exc
            if size_bytes != file.size_bytes:
                raise StorageError(f"{self.root / file.path}: has {size_bytes} bytes, {file.size_bytes} were written")

    def _sync(self, version: int) -> None:
        """Bring a commit to the disk, and the checkpoint that deltalake wrote with it, if it did.

        Not left to the kernel: a checkpoint that a power failure cuts off makes the table unreadable.
        """
        directory = self.root / storage.DELTA_LOG
        checkpoint = directory / f"{version:020}.checkpoint.parquet"
        try:
            with suppress(FileNotFoundError):  # a checkpoint made it superfluous, and it was cleaned up
                sync_file(_commit_file(self.root, version))
            if checkpoint.exists():
                sync_file(checkpoint)
                sync_file(directory / _LAST_CHECKPOINT)
            sync_directory(directory)
        except OSError as exc:
            raise storage.storage_error(directory, exc) from exc

    def checkpoint(self, commits: int) -> bool:
        """Write a checkpoint of this version if so many commits came since the last one; whether it did.

        Raises StorageError.
        """
        directory = self.root / storage.DELTA_LOG
        if self.version - _checkpointed(directory) < commits:
            return False
        with storage_errors(directory):
            self._delta.create_checkpoint()
        self._sync(self.version)
        return True

    def clean_log(self) -> None:
        """Remove what of the log is older than the table wants it (30 days) and a checkpoint replaces.

        Raises StorageError.
        """
        with storage_errors(self.root / storage.DELTA_LOG):
            self._delta.cleanup_metadata()

    def remembers_hours(self) -> int | None:
        """How long the log knows removed files, None where the table does not say: a week then. Raises StorageError."""
        with storage_errors(self.root):
            interval = (self._delta.metadata().configuration or {}).get(_RETENTION)
        return None if interval is None else _hours(interval)

    def remember_removed(self, hours: int, transactions: Mapping[str, int]) -> None:
        """Let the log know removed files for so long, by a commit that has these application transactions as well.

        Raises StorageError.
        """
        with storage_errors(self.root):
            self._delta.alter.set_table_properties(
                {_RETENTION: f"interval {hours} hours"},
                commit_properties=CommitProperties(
                    app_transactions=[Transaction(app_id, version) for app_id, version in transactions.items()]
                ),
            )
            version = self._delta.version()
        self._sync(version)

    def removed_files(self, retention_hours: int) -> frozenset[str]:
        """Files that commits removed longer ago than that, whether they are still there or not. Raises StorageError."""
        return self._unused(retention_hours, full=False)

    def unknown_files(self, retention_hours: int) -> frozenset[str]:
        """Files not modified for so long that neither this version nor a younger commit that removed them names.

        Looks at all files below the table; `remember_removed` goes before it. Raises StorageError.
        """
        return self._unused(retention_hours, full=True) - self._unused(retention_hours, full=False)

    def _unused(self, retention_hours: int, *, full: bool) -> frozenset[str]:
        with storage_errors(self.root):
            # Only asked for: deltalake's own vacuum makes two commits and cannot run on a full disk
            unused = self._delta.vacuum(retention_hours, dry_run=True, enforce_retention_duration=False, full=full)
        return frozenset(unused) - self.paths


def _commit_file(root: Path, version: int) -> Path:
    return root / storage.DELTA_LOG / f"{version:020}.json"


def _mark(root: Path, version: int) -> tuple[int, int, int] | None:
    """What tells a commit from one of that version in another table; None where a checkpoint replaced it."""
    try:
        stat = _commit_file(root, version).stat()
    except OSError:
        return None
    return stat.st_ino, stat.st_mtime_ns, stat.st_ctime_ns


def _checkpointed(directory: Path) -> int:
    """The version of the last checkpoint, -1 where none is known."""
    try:
        return int(orjson.loads((directory / _LAST_CHECKPOINT).read_bytes())["version"])
    except (OSError, ValueError, TypeError, KeyError):
        return -1


def _hours(interval: str) -> int:
    """A table's retention: `interval 1 week`, `interval 168 hours`; 0 where it is in no such form."""
    match = re.fullmatch(r"(?:interval )?([0-9]{1,12}) ([a-z]+?)s?", interval.strip().lower())
    return ceil(int(match[1]) * _UNIT_S.get(match[2], 0) / 3600) if match else 0


class Table:
    """A table by its place; `open` looks at it anew each time."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def open(self) -> Snapshot | None:
        """The newest version, None where there is no table.

        Raises TableError where its columns or features are not ours to write, StorageError where it cannot be read.
        """
        delta = self._load()
        if delta is None and storage.has_log(self.root):
            delta = self._load()  # it may have been made between the two looks
            if delta is None:
                raise StorageError(f"{self.root / storage.DELTA_LOG}: is not complete, the table cannot be read")
        return None if delta is None else Snapshot(self.root, delta, self._form(delta))

    def _load(self) -> DeltaTable | None:
        try:
            with storage_errors(self.root / storage.DELTA_LOG, TableNotFoundError):
                return DeltaTable(self.root)
        except TableNotFoundError:
            return None

    def _form(self, delta: DeltaTable) -> TableFormat:
        with storage_errors(self.root):
            protocol, metadata, schema = delta.protocol(), delta.metadata(), pa.schema(delta.schema().to_arrow())
        features = {str(name) for name in protocol.reader_features or ()} & _REFUSED_FEATURES
        if features or (metadata.configuration or {}).get("delta.columnMapping.mode", "none") != "none":
            names = ", ".join(sorted(features)) or "columnMapping"
            raise TableError(f"{self.root}: uses {names}, which this program does not write")
        try:
            return TableFormat(schema, metadata.partition_columns)
        except TableError as exc:
            raise TableError(f"{self.root}: {exc}") from exc

    def open_or_create(self, form: TableFormat = NATIVE) -> Snapshot:
        """The newest version of the table, made with the columns of `form` where there is none.

        Raises as `open`, and TableError where something else lies in its place.
        """
        snapshot = self.open()
        if snapshot is None:
            self._create(form)
            snapshot = self.open()
        if snapshot is None:
            raise StorageError(f"{self.root}: was removed while it was made")
        return snapshot

    def _create(self, form: TableFormat) -> None:
        if not storage.is_vacant(self.root):
            raise TableError(f"{self.root}: is a directory with other things in it and no Delta table")
        storage.make_directory(self.root)
        storage.remove(ledger_beside(self.root))  # of a table that was here before
        try:
            with storage_errors(self.root, CommitFailedError):
                DeltaTable.create(
                    self.root, form.schema, mode="ignore", partition_by=[PARTITION], configuration=dict(_CONFIGURATION)
                )
            sync_file(_commit_file(self.root, 0))
            sync_directory(self.root / storage.DELTA_LOG)
            sync_directory(self.root)
        except CommitFailedError:
            return  # another one made it at the same time
        except OSError as exc:
            raise storage.storage_error(self.root, exc) from exc


def rebuilt_stats(file: TableFile, covers: Mapping[str, Intervals]) -> str:
    """The statistics of a file for an add action of another table.

    What a foreign writer says of the key columns is replaced by what was read: strings may have been cut there.
    """
    groups: dict[str, dict[str, Any]] = {"min": {}, "max": {}, "null_count": {}}
    for name, value in file.stats.items():
        group, _, column = name.partition(".")
        if group in groups and value is not None and column in ("seen", "not_before", "not_after"):
            groups[group][column] = value
    rows = sum(intervals.count for intervals in covers.values())
    lows = [intervals.lowest for intervals in covers.values() if intervals.lowest is not None]
    ends = [intervals.end for intervals in covers.values() if intervals.end is not None]
    groups["min"].update(cert_index=min(lows), source_url=min(covers))
    groups["max"].update(cert_index=max(ends) - 1, source_url=max(covers))
    groups["null_count"].update(cert_index=0, source_url=0)
    stats = {
        "numRecords": rows,
        "minValues": groups["min"],
        "maxValues": groups["max"],
        "nullCount": groups["null_count"],
    }
    return orjson.dumps(stats, option=orjson.OPT_UTC_Z).decode()
