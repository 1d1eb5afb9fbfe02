"""Upkeep turns many small files into few dense ones, and nothing else about a table changes."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from deltalake import DeltaTable, write_deltalake

from certstream.archive.commit import Committer
from certstream.archive.datafile import is_dense
from certstream.archive.upkeep.upkeep import UpkeepResult
from certstream.intervals import Intervals
from tests.archive.archive_support import (
    committed_files,
    data_files,
    held,
    make_reference_table,
    reference_schema,
    rows,
    url,
)
from tests.archive.upkeep_support import (
    CLOSED,
    OPEN,
    A,
    B,
    append_foreign,
    contents,
    fill,
    fill_mixed,
    flush,
    names,
    settle,
    spans,
    upkeep,
)


def make_empty(root: Path) -> None:
    Committer(root).look()


def rows_of(root: Path, table: pa.Table) -> pa.Table:
    """Rows in the types of a table."""
    conformed = Committer(root).form().conform(table)
    return conformed.append_column("seen_date", table.column("seen_date")).select(
        [field.name for field in DeltaTable(root).schema().fields]
    )


def test_mixed_files_become_dense_ones_with_the_same_rows(tmp_path: Path) -> None:
    fill_mixed(tmp_path, files=6, logs=5, rows_each=20)
    before = contents(tmp_path)
    done = upkeep(tmp_path)
    assert done == UpkeepResult(files_rewritten=6, files_written=5, rows=600)
    assert contents(tmp_path) == before
    assert spans(tmp_path) == {url(log): [(0, 120)] for log in range(5)}


def test_statistics_alone_tell_the_coverage_afterwards(tmp_path: Path) -> None:
    fill_mixed(tmp_path, files=3, logs=3, rows_each=10)
    upkeep(tmp_path)
    for path in committed_files(tmp_path):
        (tmp_path / path).unlink()  # nobody reads them for that
    coverage = Committer(tmp_path)
    coverage.look()
    assert [coverage.coverage.of(url(log)) for log in range(3)] == [Intervals.of((0, 30))] * 3


def test_a_second_pass_does_nothing(tmp_path: Path) -> None:
    fill_mixed(tmp_path, files=4, logs=3, rows_each=10)
    upkeep(tmp_path)
    version, files, on_disk = DeltaTable(tmp_path).version(), names(tmp_path), data_files(tmp_path)
    assert upkeep(tmp_path) == UpkeepResult()
    assert (DeltaTable(tmp_path).version(), names(tmp_path), data_files(tmp_path)) == (version, files, on_disk)


def test_what_was_replaced_stays_on_disk_for_readers(tmp_path: Path) -> None:
    fill_mixed(tmp_path, files=2, logs=2, rows_each=10)
    old, version = names(tmp_path), DeltaTable(tmp_path).version()
    upkeep(tmp_path)
    assert not old & names(tmp_path)
    assert old < data_files(tmp_path)
    assert len(DeltaTable(tmp_path, version=version).to_pyarrow_table()) == 40


def test_files_younger_than_the_quiet_time_are_left_alone(tmp_path: Path) -> None:
    fill_mixed(tmp_path, files=2, logs=2, rows_each=10)
    before = names(tmp_path)
    assert upkeep(tmp_path, quiet_s=3600, later_s=3590) == UpkeepResult()
    assert names(tmp_path) == before
    assert upkeep(tmp_path, quiet_s=3600, later_s=3601).files_rewritten == 2


def test_no_table_is_no_work_and_none_is_made(tmp_path: Path) -> None:
    assert upkeep(tmp_path / "table") == UpkeepResult()
    assert not (tmp_path / "table").exists()


def test_an_empty_table_stays_empty(tmp_path: Path) -> None:
    Committer(tmp_path).look()
    assert upkeep(tmp_path) == UpkeepResult()
    version = DeltaTable(tmp_path).version()
    assert version <= 1  # how long it remembers removed files
    assert upkeep(tmp_path) == UpkeepResult()
    assert DeltaTable(tmp_path).version() == version
    assert data_files(tmp_path) == set()


def test_partitions_are_rewritten_each_for_itself(tmp_path: Path) -> None:
    for date, start in ((CLOSED, 0), (OPEN, 10)):
        flush(tmp_path, *(rows(log, range(start, start + 10), date=date) for log in (A, B)))
    before = contents(tmp_path)
    assert upkeep(tmp_path) == UpkeepResult(files_rewritten=2, files_written=4, rows=40)
    assert contents(tmp_path) == before
    assert {path.partition("/")[0] for path in names(tmp_path)} == {f"seen_date={CLOSED}", f"seen_date={OPEN}"}


def test_a_partition_that_is_no_day_is_left_alone(tmp_path: Path) -> None:
    append_foreign(
        tmp_path, *(rows(log, range(5)).set_column(3, "seen_date", pa.array(["lately"] * 5)) for log in "ab")
    )
    before = names(tmp_path)
    assert upkeep(tmp_path, keep_days=1) == UpkeepResult()
    assert names(tmp_path) == before


def test_gaps_of_a_log_lie_between_files(tmp_path: Path) -> None:
    flush(tmp_path, rows(A, [*range(10), *range(15, 20)], date=OPEN), rows(B, range(5), date=OPEN))
    upkeep(tmp_path)
    assert spans(tmp_path) == {A: [(0, 10), (15, 20)], B: [(0, 5)]}


def test_a_file_of_one_log_with_gaps_is_rewritten_even_alone(tmp_path: Path) -> None:
    fill(tmp_path, [1, 2, 3, 7, 8])
    assert not any(is_dense(path) for path in names(tmp_path))
    assert [done.files_written for done in settle(tmp_path)] == [2]
    assert spans(tmp_path) == {A: [(1, 4), (7, 9)]}


def test_row_groups_are_as_large_as_the_settings_say(tmp_path: Path) -> None:
    fill_mixed(tmp_path, files=30, logs=2, rows_each=700)
    upkeep(tmp_path)
    groups = {}
    for path in names(tmp_path):
        metadata = pq.ParquetFile(tmp_path / path).metadata
        groups[path] = [metadata.row_group(number).num_rows for number in range(metadata.num_row_groups)]
    assert list(groups.values()) == [[10_240, 10_240, 520]] * 2


def test_a_table_in_the_types_of_the_reference_server_keeps_them(tmp_path: Path) -> None:
    make_reference_table(tmp_path)
    for span in (range(10), range(10, 25)):
        flush(tmp_path, rows(A, span, date=OPEN), rows(B, span, date=OPEN))
    before = contents(tmp_path)
    upkeep(tmp_path)
    assert contents(tmp_path) == before
    assert spans(tmp_path) == {A: [(0, 25)], B: [(0, 25)]}
    assert pa.schema(DeltaTable(tmp_path).schema().to_arrow()).equals(reference_schema())


def test_files_of_others_are_rewritten_whatever_their_order(tmp_path: Path) -> None:
    Committer(tmp_path).look()
    append_foreign(tmp_path, rows(A, [7, 3, 5, 4, 6], date=OPEN), rows(B, [2], date=OPEN), rows(A, [1, 2], date=OPEN))
    before = contents(tmp_path)
    upkeep(tmp_path)
    assert contents(tmp_path) == before
    assert spans(tmp_path) == {A: [(1, 8)], B: [(2, 3)]}


@pytest.mark.parametrize("make", [make_empty, make_reference_table], ids=["native", "reference"])
def test_files_that_a_foreign_delete_wrote_are_rewritten(tmp_path: Path, make: Callable[[Path], None]) -> None:
    make(tmp_path)
    fill_mixed(tmp_path, files=2, logs=2, rows_each=20)
    append_foreign(tmp_path, rows_of(tmp_path, rows(A, range(15, 45), date=OPEN)))  # some of them once more
    DeltaTable(tmp_path).delete("cert_index = 3 or cert_index = 41")
    fields = {pq.read_schema(tmp_path / path).field("as_der").type for path in names(tmp_path)}
    assert fields & {pa.binary_view(), pa.string_view()}  # else there is nothing to be seen here
    wanted = {row["cert_index"]: row for row in contents(tmp_path) if row["source_url"] == A}
    upkeep(tmp_path)
    assert spans(tmp_path) == {A: [(0, 3), (4, 41), (42, 45)], B: [(0, 3), (4, 40)]}
    assert {row["cert_index"]: row for row in contents(tmp_path) if row["source_url"] == A} == wanted


def test_a_file_that_is_older_than_a_column_has_nulls_there(tmp_path: Path) -> None:
    table = rows(A, range(20), date=OPEN).drop_columns(["issuer_aggregated"])
    write_deltalake(tmp_path, table, partition_by=["seen_date"])
    append = rows(B, range(3), date=OPEN)
    write_deltalake(tmp_path, append, mode="append", schema_mode="merge")
    upkeep(tmp_path)
    assert spans(tmp_path) == {A: [(0, 20)], B: [(0, 3)]}
    assert {row["issuer_aggregated"] for row in contents(tmp_path) if row["source_url"] == A} == {None}


@pytest.mark.parametrize(("date", "files_of_a_log"), [(OPEN, 3), (CLOSED, 1)])
def test_a_pass_after_each_flush_ends_with_few_dense_files(tmp_path: Path, date: str, files_of_a_log: int) -> None:
    for number in range(10):
        flush(tmp_path, *(rows(url(log), range(number * 8, number * 8 + 8), date=date) for log in range(2)))
        upkeep(tmp_path)
    settle(tmp_path)
    assert held(tmp_path) == {url(log): list(range(80)) for log in range(2)}
    assert [len(files) for files in spans(tmp_path).values()] == [files_of_a_log] * 2


def test_transactions_survive_a_pass_with_checkpoint_and_vacuum(tmp_path: Path) -> None:
    committer = Committer(tmp_path)
    committer.add(starts={A: 0, B: 5})
    fill_mixed(tmp_path, files=2, logs=2, rows_each=10)
    committer.add(limits={A: 20, B: 20})
    for number in range(20):
        fill(tmp_path, range(20 + number, 21 + number))
    before = committer.look()
    assert upkeep(tmp_path, retention_hours=0).files_vacuumed
    after = committer.look()
    assert (tmp_path / "_delta_log" / f"{after.version:020}.checkpoint.parquet").exists()
    assert [committer.position(after, log) for log in (A, B)] == [20, 20]
    fence = "certstream.commit"
    assert (after.transaction(fence) or 0) > (before.transaction(fence) or 0) > 20
    committer.add(limits={A: 40})
    assert committer.position(committer.look(), A) == 40
