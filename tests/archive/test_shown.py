"""What the archive shows of single entries, whatever files they lie in."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pytest
from deltalake import write_deltalake

from certstream.archive.shown import shown_entries
from certstream.errors import StorageError
from tests.archive.archive_support import data_files, make_reference_table, rows, url
from tests.archive.merge_support import fill, fill_indices

A, B = url(0), url(1)


def shown(*indices: int) -> dict[int, tuple[str, str]]:
    return {index: ("X509LogEntry", f"{index:064X}") for index in indices}


def test_it_is_what_the_rows_of_that_log_and_range_have(tmp_path: Path) -> None:
    fill_indices(tmp_path, range(100), log_url=A)
    fill(tmp_path, pa.concat_tables([rows(B, range(50, 60)), rows(A, range(150, 200))]))
    assert shown_entries(tmp_path, A, 90, 152) == shown(*range(90, 100), 150, 151)
    assert shown_entries(tmp_path, B, 0, 1_000) == shown(*range(50, 60))
    assert shown_entries(tmp_path, A, 100, 150) == {}
    assert shown_entries(tmp_path, url(2), 0, 1_000) == {}


def test_without_a_table_nothing_is_shown(tmp_path: Path) -> None:
    assert shown_entries(tmp_path / "none", A, 0, 10) == {}


def test_files_beside_the_range_are_not_opened_and_one_that_cannot_be_read_is_said(tmp_path: Path) -> None:
    fill_indices(tmp_path, range(100))
    first = data_files(tmp_path)
    fill_indices(tmp_path, range(100, 200))
    for path in first:
        (tmp_path / path).write_bytes(b"broken")
    assert set(shown_entries(tmp_path, A, 100, 300)) == set(range(100, 200))
    with pytest.raises(StorageError, match="cannot be read"):
        shown_entries(tmp_path, A, 0, 300)
    for path in first:
        (tmp_path / path).unlink()
    with pytest.raises(StorageError, match="is gone"):
        shown_entries(tmp_path, A, 0, 300)


def test_a_table_of_others_is_read_by_its_columns(tmp_path: Path) -> None:
    """Digits in lower case, and a file without statistics."""
    make_reference_table(tmp_path)
    table = rows(A, range(9))
    lower = pa.array([f"{index:064x}" for index in range(9)])
    texts = table.column("as_der").to_pylist()
    table = table.set_column(table.column_names.index("sha256"), "sha256", lower)
    table = table.set_column(table.column_names.index("as_der"), "as_der", pa.array([str(each) for each in texts]))
    write_deltalake(tmp_path, table, mode="append", configuration={"delta.dataSkippingStatsColumns": "not_before"})
    assert shown_entries(tmp_path, A, 5, 7) == shown(5, 6)
