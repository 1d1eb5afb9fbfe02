"""Staging that others wrote: in the reference server's columns, by other libraries, with what they do differently."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pybase64
import pytest
from deltalake import DeltaTable, write_deltalake

from certstream.archive.merge.merge import MergeResult
from certstream.archive.schema import NATIVE, PARTITION, TableFormat
from certstream.archive.table import Table
from certstream.errors import StorageError, TableError
from tests.archive.archive_support import (
    committed_files,
    data_files,
    held,
    make_reference_table,
    reference_schema,
    rows,
)
from tests.archive.merge_support import A, B, fill_indices, merge, picture

REFERENCE = TableFormat(reference_schema())


def read(root: Path) -> dict[int, dict[str, Any]]:
    """The rows of a table of one log, by index."""
    return {row["cert_index"]: row for row in DeltaTable(root).to_pyarrow_table().to_pylist()}


def reference_rows(indices: range) -> pa.Table:
    """Rows as the reference server has them."""
    table = rows(A, indices)
    conformed = REFERENCE.conform(table).append_column(
        reference_schema().field(PARTITION), table.column(PARTITION).cast(pa.string())
    )
    return conformed.select(reference_schema().names)


def replace_file(root: Path, table: pa.Table) -> None:
    """Put other content in the place of the one file of a table, as another writer of it might have."""
    (path,) = committed_files(root)
    pq.write_table(table, root / path)
    log = root / "_delta_log" / f"{1:020}.json"
    old = next(file.size_bytes for file in opened_files(root))
    size = (root / path).stat().st_size
    text = log.read_text()
    assert text.count(f'"size":{old}') == 1
    log.write_text(text.replace(f'"size":{old}', f'"size":{size}'))


def opened_files(root: Path) -> list[Any]:
    return list(Table(root).open_or_create().files())


def foreign(root: Path, table: pa.Table) -> None:
    """A table with one file, written by deltalake itself."""
    Table(root).open_or_create()
    write_deltalake(root, table, mode="append")


def test_a_table_of_the_reference_server_is_merged_into_ours(tmp_path: Path) -> None:
    main, staging = tmp_path / "main", tmp_path / "staging"
    fill_indices(main, range(15, 30))
    make_reference_table(staging)
    write_deltalake(staging, reference_rows(range(20)), mode="append")
    assert merge(main, staging) == MergeResult(inserted=15, skipped=5, staging_rows=20)
    assert Table(main).open_or_create().form == NATIVE
    found = read(main)
    assert found.keys() == set(range(30))
    assert found[3] == rows(A, [3]).to_pylist()[0]
    assert found[3]["as_der"] == b"der3"
    assert found[9]["serial_number"] == ""


def test_our_table_is_merged_into_one_of_the_reference_server(tmp_path: Path) -> None:
    main, staging = tmp_path / "main", tmp_path / "staging"
    make_reference_table(main)
    write_deltalake(main, reference_rows(range(5)), mode="append")
    fill_indices(staging, range(3, 20))
    assert merge(main, staging) == MergeResult(inserted=15, skipped=2, staging_rows=17)
    assert Table(main).open_or_create().form == REFERENCE
    found = read(main)
    assert found.keys() == set(range(20))
    assert pybase64.b64decode(found[12]["as_der"]) == b"der12"
    assert found[19] == {**found[19], "serial_number": "", "not_before": 0, "is_ca": False, "all_domains": []}
    assert min(file.stats["min.not_before"] for file in opened_files(main)) == 0
    assert max(file.stats["null_count.not_before"] for file in opened_files(main)) == 0


def test_reference_staging_makes_a_reference_main_and_keeps_its_files(tmp_path: Path) -> None:
    main, staging = tmp_path / "main", tmp_path / "staging"
    make_reference_table(staging)
    write_deltalake(staging, reference_rows(range(20)), mode="append")
    (file,) = committed_files(staging)
    inode, before = (staging / file).stat().st_ino, read(staging)
    merge(main, staging)
    assert Table(main).open_or_create().form == REFERENCE
    assert read(main) == before
    assert [(main / path).stat().st_ino for path in committed_files(main)] == [inode]
    fill_indices(staging, range(15, 22))
    assert merge(main, staging) == MergeResult(inserted=2, skipped=5, staging_rows=7)
    assert held(main) == {A: [*range(22)]}


def test_nulls_in_a_file_of_a_table_that_takes_none_are_filled(tmp_path: Path) -> None:
    main, staging = tmp_path / "main", tmp_path / "staging"
    make_reference_table(main)
    make_reference_table(staging)
    write_deltalake(staging, reference_rows(range(20)), mode="append")
    loose = reference_rows(range(20)).drop_columns([PARTITION])
    place = loose.column_names.index("is_ca")
    replace_file(staging, loose.set_column(place, "is_ca", pa.array([None] * 20, pa.bool_())))
    assert merge(main, staging).inserted == 20
    assert {row["is_ca"] for row in read(main).values()} == {False}


def test_small_files_of_another_format_become_one(tmp_path: Path) -> None:
    main, staging = tmp_path / "main", tmp_path / "staging"
    make_reference_table(main)
    fill_indices(staging, *(range(start, start + 5) for start in range(0, 50, 5)))
    assert merge(main, staging).inserted == 50
    (path,) = committed_files(main)
    assert "dense" in path
    assert held(main) == {A: [*range(50)]}


def test_text_that_is_not_base64_is_an_error_that_names_the_file(tmp_path: Path) -> None:
    main, staging = tmp_path / "main", tmp_path / "staging"
    fill_indices(main, [100])
    make_reference_table(staging)
    bad = reference_rows(range(3))
    bad = bad.set_column(bad.column_names.index("as_der"), "as_der", pa.array(["AAAA", "!!!!AAAA", "AAAA"]))
    write_deltalake(staging, bad, mode="append")
    before, (path,) = picture(staging), committed_files(staging)
    with pytest.raises(TableError, match=f"{path}: as_der of a row is not base64"):
        merge(main, staging)
    assert held(main) == {A: [100]}
    assert data_files(main) == committed_files(main)
    assert picture(staging) == before


def test_a_file_of_other_types_than_its_table_is_rewritten(tmp_path: Path) -> None:
    main, staging = tmp_path / "main", tmp_path / "staging"
    foreign(staging, rows(A, range(20)))
    wide = rows(A, range(20)).drop_columns([PARTITION])
    kinds = {
        "source_url": pa.large_string(),
        "as_der": pa.large_binary(),
        "seen": pa.timestamp("ns", "UTC"),
        "chain": pa.list_(pa.large_string()),
        "all_domains": pa.large_list(pa.string()),
    }
    schema = pa.schema([pa.field(field.name, kinds.get(field.name, field.type)) for field in wide.schema])
    replace_file(staging, wide.cast(schema))
    assert merge(main, staging) == MergeResult(inserted=20, skipped=0, staging_rows=20)
    assert read(main) == {row["cert_index"]: row for row in rows(A, range(20)).to_pylist()}
    (written,) = committed_files(main)
    with pq.ParquetFile(main / written) as parquet:
        assert parquet.schema_arrow.field("seen").type == pa.timestamp("us", "UTC")


def test_a_column_that_a_file_lacks_is_null(tmp_path: Path) -> None:
    main, staging = tmp_path / "main", tmp_path / "staging"
    foreign(staging, rows(A, range(20)))
    replace_file(staging, rows(A, range(20)).drop_columns([PARTITION, "is_ca", "chain"]))
    assert merge(main, staging).inserted == 20
    found = read(main)
    assert {(row["is_ca"], row["chain"]) for row in found.values()} == {(None, None)}
    assert found[7]["as_der"] == b"der7"


def test_a_column_too_many_in_a_file_is_left_out(tmp_path: Path) -> None:
    main, staging = tmp_path / "main", tmp_path / "staging"
    foreign(staging, rows(A, range(4)))
    more = rows(A, range(4)).drop_columns([PARTITION]).append_column("more", pa.array(["x"] * 4))
    replace_file(staging, more)
    merge(main, staging)
    (written,) = committed_files(main)
    with pq.ParquetFile(main / written) as parquet:
        assert parquet.schema_arrow.names == NATIVE.file_schema.names


def test_a_data_file_that_is_a_symbolic_link_is_copied(tmp_path: Path) -> None:
    main, staging, attic = tmp_path / "main", tmp_path / "staging", tmp_path / "attic"
    fill_indices(staging, range(10))
    (path,) = committed_files(staging)
    attic.mkdir()
    shutil.move(staging / path, attic / "file")
    (staging / path).symlink_to("../../attic/file")
    assert merge(main, staging).inserted == 10
    assert held(main) == {A: [*range(10)]}
    assert not any((main / path).is_symlink() for path in data_files(main))
    assert (attic / "file").exists()


def test_a_file_that_was_compacted_out_of_many_logs_is_merged(tmp_path: Path) -> None:
    main, staging = tmp_path / "main", tmp_path / "staging"
    fill_indices(main, range(0, 60, 7))
    for number in range(4):
        foreign(staging, pa.concat_tables([rows(A, range(number * 20, number * 20 + 15)), rows(B, [number * 2])]))
    DeltaTable(staging).optimize.compact()
    assert len(committed_files(staging)) == 1
    wanted = {i for number in range(4) for i in range(number * 20, number * 20 + 15)} | {*range(0, 60, 7)}
    result = merge(main, staging)
    assert (result.staging_rows, result.inserted) == (64, len(wanted) + 4 - len(range(0, 60, 7)))
    assert held(main) == {A: sorted(wanted), B: [0, 2, 4, 6]}


@pytest.mark.parametrize("date", ["../../escape", "", "2026-13"])
def test_a_partition_that_is_no_date_is_refused(tmp_path: Path, date: str) -> None:
    main, staging = tmp_path / "main", tmp_path / "staging"
    foreign(staging, rows(A, range(3)).set_column(3, PARTITION, pa.array([date] * 3)))
    before = picture(tmp_path)
    with pytest.raises(TableError, match="must be a date"):
        merge(main, staging)
    assert picture(tmp_path) == before


def test_a_table_of_other_columns_is_refused_by_their_names(tmp_path: Path) -> None:
    main, staging = tmp_path / "main", tmp_path / "staging"
    other = rows(A, range(3)).drop_columns(["as_der"]).append_column("colour", pa.array(["red"] * 3))
    write_deltalake(staging, other, partition_by=[PARTITION])
    before = picture(tmp_path)
    with pytest.raises(TableError, match=r"as_der is missing; colour is unknown"):
        merge(main, staging)
    assert picture(tmp_path) == before


def test_an_unreadable_log_is_an_error_that_changes_nothing(tmp_path: Path) -> None:
    main, staging = tmp_path / "main", tmp_path / "staging"
    fill_indices(staging, range(5))
    (staging / "_delta_log" / f"{0:020}.json").write_text("{broken")
    before = picture(tmp_path)
    with pytest.raises(StorageError, match="_delta_log"):
        merge(main, staging)
    assert picture(tmp_path) == before


def test_a_main_table_of_other_columns_is_not_touched(tmp_path: Path) -> None:
    main, staging = tmp_path / "main", tmp_path / "staging"
    write_deltalake(main, rows(A, range(3)).drop_columns(["as_der"]), partition_by=[PARTITION])
    fill_indices(staging, range(5))
    before = picture(tmp_path)
    with pytest.raises(TableError, match="main: columns are not those of an archive: as_der is missing"):
        merge(main, staging)
    assert picture(tmp_path) == before
