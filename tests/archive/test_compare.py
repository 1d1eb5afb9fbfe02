"""Rows are compared with those of the table, whatever files they lie in and in whatever types."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pytest
from deltalake import DeltaTable, write_deltalake

from certstream.archive.compare import COMPARED, ArchivedRows
from certstream.archive.schema import TableFormat
from certstream.errors import StorageError
from certstream.intervals import Intervals
from tests.archive.archive_support import make_reference_table, reference_schema, rows
from tests.e2e.command_support import fill

URL, OTHER = "https://log.example", "https://other.example"


def expected(start: int, stop: int, **other: object) -> pa.RecordBatch:
    """The rows as a log has them; `other` replaces a column."""
    table = rows(URL, range(start, stop)).combine_chunks()
    for name, value in other.items():
        at = table.schema.get_field_index(name)
        table = table.set_column(
            at, table.schema.field(at), pa.array([value] * len(table), table.schema.field(at).type)
        )
    (batch,) = table.to_batches()
    return batch


def test_rows_that_are_the_same_and_those_that_are_not_there(tmp_path: Path) -> None:
    fill(tmp_path, URL, [*range(10, 50), *range(60, 100)])
    fill(tmp_path, OTHER, range(200))
    archived = ArchivedRows(tmp_path)
    assert archived.covered().of(URL) == Intervals.of((10, 50), (60, 100))
    same, otherwise = archived.like(expected(0, 70))
    assert (same, otherwise) == (Intervals.of((10, 50), (60, 70)), Intervals())
    assert archived.like(expected(50, 60)) == (Intervals(), Intervals())
    assert archived.like(expected(300, 310)) == (Intervals(), Intervals())


@pytest.mark.parametrize("column", COMPARED)
def test_a_difference_in_any_column_that_is_compared_is_found(tmp_path: Path, column: str) -> None:
    fill(tmp_path, URL, range(100))
    value = b"another" if column == "as_der" else "another"
    same, otherwise = ArchivedRows(tmp_path).like(expected(20, 30, **{column: value}))
    assert (same, otherwise) == (Intervals(), Intervals.of((20, 30)))
    same, otherwise = ArchivedRows(tmp_path).like(expected(20, 30, **{column: None}))
    assert (same, otherwise) == (Intervals(), Intervals.of((20, 30)))


def test_when_and_from_where_a_row_came_is_no_difference(tmp_path: Path) -> None:
    fill(tmp_path, URL, range(100))
    same, _ = ArchivedRows(tmp_path).like(expected(20, 30, source_name="renamed"))
    assert same == Intervals.of((20, 30))


def test_files_that_are_rewritten_meanwhile_are_found_again(tmp_path: Path) -> None:
    fill(tmp_path, URL, range(100))
    fill(tmp_path, URL, range(100, 200))
    archived = ArchivedRows(tmp_path)
    assert archived.like(expected(0, 10))[0].count == 10
    table = DeltaTable(tmp_path)
    table.optimize.compact()
    table.vacuum(retention_hours=0, enforce_retention_duration=False, dry_run=False)
    assert archived.like(expected(90, 110)) == (Intervals.of((90, 110)), Intervals())


def test_a_row_that_is_there_twice_must_be_right_twice(tmp_path: Path) -> None:
    fill(tmp_path, URL, range(100))
    table = DeltaTable(tmp_path).to_pyarrow_table().slice(0, 1)
    index = table.column("cert_index")[0].as_py()
    at = table.schema.get_field_index("sha256")
    write_deltalake(tmp_path, table.set_column(at, table.schema.field(at), pa.array(["00:11"])), mode="append")
    same, otherwise = ArchivedRows(tmp_path).like(expected(0, 100))
    assert otherwise == Intervals.of((index, index + 1))
    assert same == Intervals.of((0, 100)) - otherwise


def test_a_table_that_cannot_be_read_is_a_storage_error(tmp_path: Path) -> None:
    fill(tmp_path, URL, range(100))
    archived = ArchivedRows(tmp_path)
    archived.covered()
    for file in tmp_path.rglob("*.parquet"):
        file.write_bytes(b"no Parquet file")
    with pytest.raises(StorageError, match="cannot be read"):
        archived.like(expected(0, 10))
    for file in tmp_path.rglob("*.parquet"):
        file.unlink()
    with pytest.raises(StorageError):
        archived.like(expected(0, 10))


def test_rows_of_a_table_without_nulls_that_has_der_as_base64_are_compared_in_its_form(tmp_path: Path) -> None:
    make_reference_table(tmp_path)
    table = TableFormat(reference_schema()).conform(pa.Table.from_batches([expected(0, 100)]))
    date = pa.array(["2026-08-01"] * 100)
    write_deltalake(tmp_path, table.append_column("seen_date", date), mode="append")
    assert ArchivedRows(tmp_path).like(expected(0, 110)) == (Intervals.of((0, 100)), Intervals())
    other = expected(20, 30, as_der=b"another")
    assert ArchivedRows(tmp_path).like(other) == (Intervals(), Intervals.of((20, 30)))
