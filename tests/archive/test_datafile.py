"""Files of a table: dense ones are what they say, broken ones are gone."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from certstream.archive.datafile import FileWriter, WriteSettings, key_groups, read_parts, write_file
from certstream.archive.schema import NATIVE, TableFormat
from certstream.errors import StorageError
from certstream.intervals import Intervals
from tests.archive.archive_support import DATE, data_files, reference_schema, rows, url

A, B = url(0), url(1)


def writer(root: Path, *, dense: bool = True) -> FileWriter:
    return FileWriter(root, NATIVE, DATE, WriteSettings(), dense=dense)


def test_a_dense_file_is_written_part_by_part(tmp_path: Path) -> None:
    dense = writer(tmp_path)
    dense.write(rows(A, range(5, 8)))
    assert dense.next_index == 8
    dense.write(rows(A, range(8, 10)))
    file = dense.close()
    assert (file.is_dense, file.rows, file.date) == (True, 5, DATE)
    assert file.covers == {A: Intervals.of((5, 10))}
    assert file.size_bytes == (tmp_path / file.path).stat().st_size
    assert file.path.startswith(f"seen_date={DATE}/dense-")
    assert pq.read_metadata(tmp_path / file.path).num_row_groups == 2


@pytest.mark.parametrize("indices", [[8, 10], [9], [7], [9, 8]])
def test_rows_that_do_not_continue_are_refused_in_a_dense_file(tmp_path: Path, indices: list[int]) -> None:
    dense = writer(tmp_path)
    dense.write(rows(A, range(5, 8)))
    with pytest.raises(ValueError, match="consecutive"):
        dense.write(rows(A, indices))
    assert dense.close().rows == 3


@pytest.mark.parametrize("more", [rows(B, [8]), pa.concat_tables([rows(A, [8]), rows(B, [9])])])
def test_rows_of_another_log_are_refused_in_a_dense_file(tmp_path: Path, more: pa.Table) -> None:
    dense = writer(tmp_path)
    dense.write(rows(A, range(5, 8)))
    with pytest.raises(ValueError, match="one log"):
        dense.write(more)
    assert dense.close().covers == {A: Intervals.of((5, 8))}


def test_an_abandoned_file_is_gone(tmp_path: Path) -> None:
    dense = writer(tmp_path)
    dense.write(rows(A, range(5)))
    assert len(data_files(tmp_path)) == 1
    dense.abandon()
    assert data_files(tmp_path) == set()


@pytest.mark.parametrize(
    ("table", "dense"),
    [
        (rows(A, range(3)), True),
        (rows(A, [0, 2]), False),
        (rows(A, [0, 0]), False),
        (pa.concat_tables([rows(A, [0]), rows(B, [1])]), False),
    ],
)
def test_a_file_is_called_dense_only_where_it_is(tmp_path: Path, table: pa.Table, dense: bool) -> None:
    assert write_file(tmp_path, NATIVE, DATE, table, WriteSettings()).is_dense is dense


def test_statistics_hold_keys_times_and_nulls(tmp_path: Path) -> None:
    table = pa.concat_tables([rows(A, range(8, 11)), rows(B, [3])])
    seen = datetime(2026, 11, 23, 1, 2, 3, 456_789, UTC)
    table = table.set_column(2, "seen", pa.array([seen] * 4, pa.timestamp("us", tz="UTC")))
    stats = json.loads(write_file(tmp_path, NATIVE, DATE, table, WriteSettings()).stats)
    assert stats["numRecords"] == 4
    low, high = stats["minValues"], stats["maxValues"]
    assert (low["cert_index"], high["cert_index"], low["source_url"], high["source_url"]) == (3, 10, A, B)
    assert (low["seen"], high["seen"]) == ("2026-11-23T01:02:03.456Z", "2026-11-23T01:02:03.457Z")
    assert (low["not_before"], high["not_after"]) == (1_700_000_003, 1_800_000_010)
    assert stats["nullCount"]["not_before"] == 1
    assert stats["nullCount"]["cert_index"] == 0


def test_statistics_of_a_column_without_values_say_so(tmp_path: Path) -> None:
    stats = json.loads(write_file(tmp_path, NATIVE, DATE, rows(A, [9]), WriteSettings()).stats)
    assert "not_before" not in stats["minValues"]
    assert stats["nullCount"]["not_before"] == 1


def test_statistics_say_what_stands_in_the_file_where_a_column_takes_no_nulls(tmp_path: Path) -> None:
    form = TableFormat(reference_schema())
    file = write_file(tmp_path, form, DATE, rows(A, [9]), WriteSettings())
    stats = json.loads(file.stats)
    assert stats["nullCount"]["not_before"] == 0
    assert stats["minValues"]["not_before"] == stats["maxValues"]["not_before"] == 0


def test_a_file_of_rows_that_do_not_fit_is_gone(tmp_path: Path) -> None:
    table = rows(A, [0, 1])
    place = table.column_names.index("not_after")
    with pytest.raises(pa.ArrowInvalid):
        write_file(
            tmp_path, NATIVE, DATE, table.set_column(place, "not_after", pa.array(["no", "number"])), WriteSettings()
        )
    assert data_files(tmp_path) == set()


def test_rows_come_back_as_they_were_in_bounded_parts(tmp_path: Path) -> None:
    table = rows(A, range(50), der=b"\x00\x01")
    file = write_file(tmp_path, NATIVE, DATE, table, WriteSettings(row_group_rows=20))
    parts = list(read_parts(tmp_path / file.path, DATE, rows_at_a_time=8))
    assert max(map(len, parts)) == 8
    assert pa.concat_tables(parts).select(table.column_names).to_pylist() == table.to_pylist()


@pytest.mark.parametrize(("damage", "message"), [(b"PAR1", "cannot be read"), (None, "is gone")])
def test_a_file_that_cannot_be_read_is_named(tmp_path: Path, damage: bytes | None, message: str) -> None:
    path = tmp_path / "file.parquet"
    if damage is not None:
        path.write_bytes(damage)
    with pytest.raises(StorageError, match=f"{path}: {message}"):
        list(read_parts(path, DATE))


def test_levels_of_compression_are_those_asked_for(tmp_path: Path) -> None:
    table = pa.concat_tables([rows(A, range(start, start + 500)) for start in range(0, 5000, 500)])
    sizes = [
        write_file(
            tmp_path, NATIVE, DATE, table, WriteSettings(compression_level=level, heavy_column_compression_level=heavy)
        )
        for level, heavy in ((1, 1), (1, 19), (19, 19))
    ]
    assert sizes[0].size_bytes > sizes[1].size_bytes > sizes[2].size_bytes


def test_groups_are_the_indices_of_each_log_in_their_order() -> None:
    table = pa.concat_tables([rows(B, [5]), rows(A, [3, 1]), rows(B, [4])])
    assert {log: indices.tolist() for log, indices in key_groups(table).items()} == {B: [5, 4], A: [3, 1]}


def test_rows_with_shared_chains_and_without_become_the_same_file(tmp_path: Path) -> None:
    table = rows(A, range(40))
    chains = pa.array([[], ["a", "b"], ["b"], ["c", "a"]] * 10, pa.list_(pa.string()))
    table = table.set_column(table.schema.get_field_index("chain"), "chain", chains)
    shared = pa.ListArray.from_arrays(chains.offsets, chains.values.dictionary_encode())
    encoded = table.set_column(table.schema.get_field_index("chain"), "chain", shared)
    mixed = writer(tmp_path)
    for part in (
        table.slice(0, 9),
        encoded.slice(9, 11),
        pa.concat_tables([encoded.slice(20, 5), encoded.slice(25, 15)]),
    ):
        mixed.write(part)
    file = mixed.close()
    assert pq.read_schema(tmp_path / file.path).field("chain").type == pa.list_(pa.field("element", pa.string()))
    read = pa.concat_tables(read_parts(tmp_path / file.path, DATE))
    assert read.select(table.column_names).to_pylist() == table.to_pylist()


def test_null_chains_stay_null(tmp_path: Path) -> None:
    table = rows(A, range(3))
    chains = pa.array([["a"], None, []], pa.list_(pa.string()))
    table = table.set_column(table.schema.get_field_index("chain"), "chain", chains)
    file = write_file(tmp_path, NATIVE, DATE, table, WriteSettings())
    (read,) = read_parts(tmp_path / file.path, DATE)
    assert read.column("chain").to_pylist() == [["a"], None, []]
