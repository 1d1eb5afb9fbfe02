"""What a table covers: read once per file, remembered, never trusted over the table's log."""

from __future__ import annotations

import threading
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from deltalake import DeltaTable, write_deltalake
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from certstream.archive.commit import Committer
from certstream.archive.coverage import Coverage, CoverageCache, LookCancelledError, read_cover
from certstream.archive.datafile import WriteSettings, write_file
from certstream.archive.table import Table
from certstream.errors import StorageError
from certstream.intervals import Intervals
from tests.archive.archive_support import DATE, committed_files, rows, url

A, B = url(0), url(1)
LONG = "https://a-rather-long-name-of-a-log.example.org/" + "2026h2/" * 20
KEYS = st.lists(st.tuples(st.integers(0, 2), st.integers(0, 25)), min_size=1, max_size=25)


def looked(root: Path) -> Coverage:
    snapshot = Table(root).open()
    assert snapshot is not None
    coverage = Coverage(root)
    coverage.refresh(snapshot)
    return coverage


def foreign(root: Path, *tables: pa.Table) -> None:
    """Rows written by deltalake itself, one commit each."""
    Table(root).open_or_create()
    for table in tables:
        write_deltalake(root, table, mode="append")


def forget_files(root: Path) -> None:
    """Make every data file unreadable, so that only what is known without them can be known."""
    for path in committed_files(root):
        (root / path).write_bytes(b"")


@settings(max_examples=20, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(KEYS, min_size=1, max_size=4))
def test_foreign_files_in_any_order_with_keys_doubled_cover_what_they_hold(
    tmp_path_factory: pytest.TempPathFactory, commits: list[list[tuple[int, int]]]
) -> None:
    root = tmp_path_factory.mktemp("table")
    foreign(root, *(pa.concat_tables([rows(url(log), [index]) for log, index in keys]) for keys in commits))
    coverage = looked(root)
    for log in range(3):
        wanted = {index for keys in commits for number, index in keys if number == log}
        assert coverage.of(url(log)) == Intervals.from_indices(np.array(sorted(wanted), np.int64))


def test_statistics_of_a_foreign_file_prove_nothing(tmp_path: Path) -> None:
    """Three rows with least 1 and greatest 3, which are not the indices 1, 2, 3."""
    foreign(tmp_path, rows(A, [1, 1, 3]))
    assert looked(tmp_path).of(A) == Intervals.of((1, 2), (3, 4))


def test_dense_files_are_known_without_being_read(tmp_path: Path) -> None:
    committer = Committer(tmp_path)
    for start in (0, 100):
        committer.add(
            [write_file(tmp_path, committer.form(), DATE, rows(LONG, range(start, start + 9)), WriteSettings())]
        )
    forget_files(tmp_path)
    assert looked(tmp_path).of(LONG) == Intervals.of((0, 9), (100, 109))


def test_a_checkpoint_keeps_what_dense_files_say(tmp_path: Path) -> None:
    committer = Committer(tmp_path)
    committer.add([write_file(tmp_path, committer.form(), DATE, rows(LONG, range(7, 9)), WriteSettings())])
    DeltaTable(tmp_path).create_checkpoint()
    (tmp_path / "_delta_log" / f"{0:020}.json").unlink()
    forget_files(tmp_path)
    assert looked(tmp_path).of(LONG) == Intervals.of((7, 9))


def test_a_file_that_only_claims_to_be_dense_is_read(tmp_path: Path) -> None:
    committer = Committer(tmp_path)
    file = write_file(tmp_path, committer.form(), DATE, rows(A, range(5)), WriteSettings())
    pq.write_table(committer.form().conform(rows(A, [0, 2, 2, 4])), tmp_path / file.path)
    size = (tmp_path / file.path).stat().st_size
    lying = replace(file, size_bytes=size, rows=4, stats=file.stats.replace('"numRecords":5', '"numRecords":4'))
    committer.look().commit([lying], {})
    assert looked(tmp_path).of(A) == Intervals.of((0, 1), (2, 3), (4, 5))


def test_what_was_read_is_remembered_and_only_new_files_are_read(tmp_path: Path) -> None:
    foreign(tmp_path, rows(A, [1, 2]), rows(B, [5]))
    looked(tmp_path).save()
    forget_files(tmp_path)
    foreign(tmp_path, rows(A, [7]))
    coverage = looked(tmp_path)
    assert (coverage.of(A), coverage.of(B)) == (Intervals.of((1, 3), (7, 8)), Intervals.of((5, 6)))


def test_a_file_read_once_is_not_read_again_by_the_same_writer(tmp_path: Path) -> None:
    foreign(tmp_path, rows(A, [1, 2]))
    coverage = looked(tmp_path)
    forget_files(tmp_path)
    foreign(tmp_path, rows(A, [7]))
    snapshot = Table(tmp_path).open()
    assert snapshot is not None
    coverage.refresh(snapshot)
    assert coverage.of(A) == Intervals.of((1, 3), (7, 8))


@pytest.mark.parametrize("damage", [b"", b"nonsense", None])
def test_a_memory_that_is_broken_is_made_anew(tmp_path: Path, damage: bytes | None) -> None:
    foreign(tmp_path, rows(A, [1, 2]))
    looked(tmp_path).save()
    memory = tmp_path / "_certstream" / "coverage.arrow"
    content = memory.read_bytes()
    memory.write_bytes(content[:-9] + b"\x00" + content[-8:] if damage is None else damage)
    coverage = looked(tmp_path)
    assert coverage.of(A) == Intervals.of((1, 3))
    coverage.save()
    assert set(CoverageCache(tmp_path).load()) == committed_files(tmp_path)


def test_a_memory_of_files_that_are_gone_covers_nothing(tmp_path: Path) -> None:
    """As where a table was removed and another one made in its place."""
    foreign(tmp_path / "old", rows(A, [1, 2]))
    looked(tmp_path / "old").save()
    foreign(tmp_path / "new", rows(A, [7]))
    (tmp_path / "old" / "_certstream").rename(tmp_path / "new" / "_certstream")
    coverage = looked(tmp_path / "new")
    assert coverage.of(A) == Intervals.of((7, 8))
    coverage.save()
    assert set(CoverageCache(tmp_path / "new").load()) == committed_files(tmp_path / "new")


def test_a_memory_that_cannot_be_written_costs_only_time(tmp_path: Path) -> None:
    foreign(tmp_path, rows(A, [1]))
    (tmp_path / "_certstream").write_text("in the way")
    looked(tmp_path).save()
    assert looked(tmp_path).of(A) == Intervals.of((1, 2))


def test_rows_that_were_removed_are_covered_no_longer(tmp_path: Path) -> None:
    foreign(tmp_path, rows(A, range(5)), rows(A, range(20, 25)))
    coverage = looked(tmp_path)
    DeltaTable(tmp_path).delete("cert_index >= 22")
    snapshot = Table(tmp_path).open()
    assert snapshot is not None
    coverage.refresh(snapshot)
    assert coverage.of(A) == Intervals.of((0, 5), (20, 22))
    DeltaTable(tmp_path).delete()
    emptied = Table(tmp_path).open()
    assert emptied is not None
    coverage.refresh(emptied)
    assert (coverage.of(A), coverage.logs()) == (Intervals(), [])


def test_a_missing_data_file_is_named(tmp_path: Path) -> None:
    foreign(tmp_path, rows(A, [1]))
    (path,) = committed_files(tmp_path)
    (tmp_path / path).unlink()
    with pytest.raises(StorageError, match=f"{path}: is gone, though the table names it"):
        looked(tmp_path)


def test_a_broken_data_file_is_named(tmp_path: Path) -> None:
    foreign(tmp_path, rows(A, [1]))
    (path,) = committed_files(tmp_path)
    (tmp_path / path).write_bytes(b"PAR1")
    with pytest.raises(StorageError, match=f"{path}: cannot be read"):
        looked(tmp_path)


def test_a_row_without_key_is_an_error_and_no_row_of_some_log(tmp_path: Path) -> None:
    table = rows(A, [1, 2]).set_column(0, "cert_index", pa.array([1, None], pa.int64()))
    pq.write_table(table, tmp_path / "file.parquet")
    with pytest.raises(StorageError, match="without source_url or cert_index"):
        read_cover(tmp_path / "file.parquet")


def test_a_file_with_a_key_twice_is_not_distinct(tmp_path: Path) -> None:
    pq.write_table(pa.concat_tables([rows(A, [1, 2]), rows(B, [1])]), tmp_path / "once.parquet")
    pq.write_table(pa.concat_tables([rows(A, [1, 2]), rows(A, [1])]), tmp_path / "twice.parquet")
    assert read_cover(tmp_path / "once.parquet").is_distinct
    assert not read_cover(tmp_path / "twice.parquet").is_distinct


def test_a_look_that_fails_leaves_nothing_half_known(tmp_path: Path) -> None:
    """One file is away for a moment: the others must be counted by the next look, or rows would double."""
    coverage = Coverage(tmp_path)
    committer = Committer(tmp_path)
    dense = write_file(tmp_path, committer.form(), DATE, rows(A, range(100)), WriteSettings())
    mixed = write_file(tmp_path, committer.form(), DATE, rows(A, [200, 202]), WriteSettings())
    committer.add([dense, mixed])
    foreign(tmp_path, rows(B, [5]))
    snapshot = Table(tmp_path).open()
    assert snapshot is not None
    (tmp_path / mixed.path).rename(tmp_path / "away")
    with pytest.raises(StorageError):
        coverage.refresh(snapshot)
    assert coverage.of(A) == Intervals()
    (tmp_path / "away").rename(tmp_path / mixed.path)
    coverage.refresh(snapshot)
    assert coverage.of(A) == Intervals.of((0, 100), (200, 201), (202, 203))
    assert coverage.of(B) == Intervals.of((5, 6))


def test_a_look_ends_soon_when_it_is_told_to_and_forgets_nothing_it_read(tmp_path: Path) -> None:
    foreign(tmp_path, rows(A, [1, 2]), rows(B, [5]))
    cancelled = threading.Event()
    coverage = Coverage(tmp_path, cancelled)
    snapshot = Table(tmp_path).open()
    assert snapshot is not None
    cancelled.set()
    with pytest.raises(LookCancelledError):
        coverage.refresh(snapshot)
    assert coverage.of(A) == Intervals()
    cancelled.clear()
    coverage.refresh(snapshot)
    assert (coverage.of(A), coverage.of(B)) == (Intervals.of((1, 3)), Intervals.of((5, 6)))
