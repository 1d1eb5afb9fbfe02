"""Rows in the order of their logs become dense files that appear together."""

from __future__ import annotations

import shutil
from pathlib import Path

import pyarrow as pa
from deltalake import DeltaTable

from certstream.archive.commit import Committed, Committer
from certstream.archive.writer import DenseWriter
from tests.archive.archive_support import committed_files, data_files, held, make_reference_table, rows, url

A, B = url(0), url(1)


def batch(log_url: str, start: int, stop: int, **more: str) -> pa.RecordBatch:
    (one,) = rows(log_url, range(start, stop), **more).to_batches()  # type: ignore[arg-type]
    return one


def test_logs_that_take_turns_get_one_file_each(tmp_path: Path) -> None:
    writer = DenseWriter(Committer(tmp_path))
    for start in range(0, 30, 10):
        writer.write(batch(A, start, start + 10))
        writer.write(batch(B, 100 + start, 110 + start))
    assert committed_files_or_none(tmp_path) == set()
    assert writer.commit() == Committed(60, 0)
    assert held(tmp_path) == {A: list(range(30)), B: list(range(100, 130))}
    assert sorted(Committer(tmp_path).look().dense_spans().values()) == [(A, 0, 30), (B, 100, 130)]


def committed_files_or_none(root: Path) -> set[str]:
    return committed_files(root) if (root / "_delta_log").exists() else set()


def test_a_gap_and_a_new_day_begin_a_new_file(tmp_path: Path) -> None:
    writer = DenseWriter(Committer(tmp_path))
    writer.write(batch(A, 0, 5))
    writer.write(batch(A, 7, 9))
    writer.write(batch(A, 9, 12, date="2026-11-24"))
    writer.write(pa.RecordBatch.from_pylist([], schema=batch(A, 0, 1).schema))
    assert writer.commit() == Committed(10, 0)
    spans = Committer(tmp_path).look().dense_spans()
    assert sorted((path.split("/")[0], *span[1:]) for path, span in spans.items()) == [
        ("seen_date=2026-11-23", 0, 5), ("seen_date=2026-11-23", 7, 9), ("seen_date=2026-11-24", 9, 12),
    ]  # fmt: skip


def test_what_is_abandoned_leaves_nothing(tmp_path: Path) -> None:
    writer = DenseWriter(Committer(tmp_path))
    writer.write(batch(A, 0, 5))
    writer.commit()
    writer.write(batch(A, 5, 9))
    writer.write(batch(A, 20, 25))
    writer.abandon()
    assert held(tmp_path) == {A: list(range(5))}
    assert data_files(tmp_path) == committed_files(tmp_path)
    assert writer.commit() == Committed(0, 0)


def test_a_table_replaced_meanwhile_gets_rows_of_its_own_types(tmp_path: Path) -> None:
    writer = DenseWriter(Committer(tmp_path))
    writer.write(batch(A, 0, 5))
    writer.commit()
    shutil.rmtree(tmp_path)
    make_reference_table(tmp_path)
    writer.write(batch(A, 5, 8))
    assert writer.commit() == Committed(3, 0)
    read = pa.table(DeltaTable(tmp_path).to_pyarrow_table(columns=["as_der", "cert_index"])).to_pylist()
    assert [(row["cert_index"], row["as_der"]) for row in read] == [(5, "ZGVyNQ=="), (6, "ZGVyNg=="), (7, "ZGVyNw==")]


def test_rows_that_came_by_another_way_meanwhile_are_skipped(tmp_path: Path) -> None:
    writer, other = DenseWriter(Committer(tmp_path)), DenseWriter(Committer(tmp_path))
    writer.write(batch(A, 0, 10))
    other.write(batch(A, 5, 15))
    assert other.commit() == Committed(10, 0)
    assert writer.commit() == Committed(5, 5)
    assert held(tmp_path) == {A: list(range(15))}
