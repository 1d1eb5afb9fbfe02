"""Rows without not_before are found without reading files that have none."""

from __future__ import annotations

import threading
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from deltalake import DeltaTable, write_deltalake

from certstream.archive import unparseable
from certstream.archive.coverage import LookCancelledError
from certstream.archive.datafile import WriteSettings, write_file
from certstream.archive.table import Snapshot, Table
from certstream.archive.unparseable import Unparseable
from certstream.errors import StorageError
from certstream.intervals import Intervals
from tests.archive.archive_support import DATE, make_reference_table, rows
from tests.archive.merge_support import A, B, fill, fill_indices


def opened(root: Path) -> Snapshot:
    snapshot = Table(root).open()
    assert snapshot is not None
    return snapshot


def looked(root: Path) -> Unparseable:
    found = Unparseable(root)
    found.refresh(opened(root))
    return found


@pytest.fixture
def reads(monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """The files that are opened."""
    opened_files: list[Path] = []
    read = pq.ParquetFile

    def noting(file: Path, **options: object) -> pq.ParquetFile:
        opened_files.append(file)
        return read(file, **options)

    monkeypatch.setattr(pq, "ParquetFile", noting)
    return opened_files


def test_the_rows_without_not_before_are_found(tmp_path: Path) -> None:
    fill_indices(tmp_path, range(30), [45, 49, 59])  # every tenth did not parse
    fill_indices(tmp_path, range(19, 21), log_url=B)
    fill(tmp_path, pa.concat_tables([rows(A, range(60, 71)), rows(B, range(30, 40))]))
    found = looked(tmp_path)
    assert found.of(A) == Intervals.of((9, 10), (19, 20), (29, 30), (49, 50), (59, 60), (69, 70))
    assert found.of(B) == Intervals.of((19, 20), (39, 40))
    assert found.of("https://unknown.example") == Intervals()


def test_a_file_without_such_rows_is_not_opened(tmp_path: Path, reads: list[Path]) -> None:
    fill_indices(tmp_path, range(9), range(10, 19), range(20, 30))
    assert looked(tmp_path).of(A) == Intervals.of((29, 30))
    assert len(reads) == 1


def test_of_a_file_only_the_row_groups_that_may_have_such_rows_are_read(tmp_path: Path) -> None:
    settings = WriteSettings(row_group_rows=10)
    fill(tmp_path, rows(A, [*range(9), *range(30, 39), *range(58, 62)]), settings=settings)
    (path,) = opened(tmp_path).paths
    with pq.ParquetFile(tmp_path / path) as parquet:
        groups = [parquet.metadata.row_group(number) for number in range(parquet.num_row_groups)]
    assert [unparseable._may_have(group, takes_null=True) for group in groups] == [False, True, False]
    assert looked(tmp_path).of(A) == Intervals.of((59, 60))


def test_what_was_read_is_not_read_again(tmp_path: Path, reads: list[Path]) -> None:
    fill_indices(tmp_path, range(10), range(10, 20))
    first = looked(tmp_path)
    first.refresh(opened(tmp_path))
    assert len(reads) == 2
    first.save()
    fill_indices(tmp_path, range(20, 30))
    assert looked(tmp_path).of(A) == Intervals.of((9, 10), (19, 20), (29, 30))
    assert len(reads) == 3


def test_a_file_without_statistics_is_read_once_also_where_it_has_none(tmp_path: Path, reads: list[Path]) -> None:
    fill_indices(tmp_path, range(10))
    table = rows(A, range(20, 25))
    write_deltalake(tmp_path, table, mode="append", configuration={"delta.dataSkippingStatsColumns": "cert_index"})
    first = looked(tmp_path)
    assert first.of(A) == Intervals.of((9, 10))
    count = len(reads)
    first.save()
    assert looked(tmp_path).of(A) == Intervals.of((9, 10))
    assert len(reads) == count


def test_rows_that_are_gone_are_found_no_more(tmp_path: Path) -> None:
    fill_indices(tmp_path, range(10), range(10, 20))
    found = looked(tmp_path)
    DeltaTable(tmp_path).delete("cert_index < 10")
    found.refresh(opened(tmp_path))
    assert found.of(A) == Intervals.of((19, 20))


def test_in_a_table_that_takes_no_nulls_zero_is_what_is_missing(tmp_path: Path, reads: list[Path]) -> None:
    make_reference_table(tmp_path)
    snapshot = opened(tmp_path)
    files = [
        write_file(tmp_path, snapshot.form, DATE, rows(A, part), WriteSettings()) for part in (range(10), [20, 21])
    ]
    snapshot.commit(files, {})
    assert looked(tmp_path).of(A) == Intervals.of((9, 10))
    assert len(reads) == 1


def test_a_look_that_is_cancelled_changes_nothing(tmp_path: Path) -> None:
    fill_indices(tmp_path, range(10))
    cancelled = threading.Event()
    cancelled.set()
    found = Unparseable(tmp_path, cancelled)
    with pytest.raises(LookCancelledError):
        found.refresh(opened(tmp_path))
    assert found.of(A) == Intervals()
    cancelled.clear()
    found.refresh(opened(tmp_path))
    assert found.of(A) == Intervals.of((9, 10))


def test_a_file_that_cannot_be_read_is_a_storage_error(tmp_path: Path) -> None:
    fill_indices(tmp_path, range(10))
    snapshot = opened(tmp_path)
    (path,) = snapshot.paths
    (tmp_path / path).unlink()
    with pytest.raises(StorageError, match="is gone"):
        Unparseable(tmp_path).refresh(snapshot)
    (tmp_path / path).write_bytes(b"no Parquet")
    with pytest.raises(StorageError, match="cannot be read"):
        Unparseable(tmp_path).refresh(snapshot)
