"""Rows become as few files as their order allows, which appear together."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path
from unittest.mock import patch

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from deltalake import DeltaTable
from hypothesis import given, settings
from hypothesis import strategies as st

from certstream.archive.commit import Committed, Committer
from certstream.archive.datafile import WriteSettings
from certstream.archive.writer import DenseWriter
from certstream.certs.batch import decode
from certstream.ct.rfc6962 import frame_entries
from certstream.simulator.log import SimulatedLog
from tests.archive.archive_support import committed_files, data_files, held, make_reference_table, many_rows, rows, url

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


def test_a_gap_and_a_new_day_begin_a_new_file_where_a_run_is_long(tmp_path: Path) -> None:
    writer = DenseWriter(Committer(tmp_path))
    writer.write(some(A, range(5_000)))
    writer.write(some(A, range(5_000, 5_002)))
    writer.write(some(A, range(5_003, 10_000)))
    writer.write(batch(A, 10_000, 10_003, date="2026-11-24"))
    writer.write(pa.RecordBatch.from_pylist([], schema=batch(A, 0, 1).schema))
    assert writer.commit() == Committed(10_002, 0)
    spans = Committer(tmp_path).look().dense_spans()
    assert sorted((path.split("/")[0], *span[1:]) for path, span in spans.items()) == [
        ("seen_date=2026-11-23", 0, 5_002),
        ("seen_date=2026-11-23", 5_003, 10_000),
        ("seen_date=2026-11-24", 10_000, 10_003),
    ]


def some(log_url: str, indices: Sequence[int]) -> pa.RecordBatch:
    (one,) = many_rows(log_url, indices).to_batches()
    return one


def in_file(root: Path, path: str) -> list[tuple[str, int]]:
    """The keys of a file, in its order."""
    table = pq.read_table(root / path, columns=["source_url", "cert_index"], partitioning=None)
    return list(zip(*(table.column(name).to_pylist() for name in ("source_url", "cert_index")), strict=True))


def test_short_runs_of_all_logs_share_a_file_in_order_and_long_ones_have_their_own(tmp_path: Path) -> None:
    writer = DenseWriter(Committer(tmp_path))
    writer.write(some(B, range(0, 3_000, 2)))
    writer.write(batch(A, 9_000, 9_001))
    writer.write(some(A, [*range(10), *range(20, 5_020), *range(6_000, 6_010), *range(7_000, 7_001)]))
    writer.write(some(A, [*range(7_001, 7_005), *range(7_006, 8_000, 7)]))
    writer.write(batch(B, 1, 2))
    assert writer.commit() == Committed(1_500 + 1 + 5_021 + 4 + 142 + 1, 0)
    assert held(tmp_path) == {
        A: sorted([9_000, *range(10), *range(20, 5_020), *range(6_000, 6_010), *range(7_000, 7_005),
                   *range(7_006, 8_000, 7)]),
        B: [0, 1, *range(2, 3_000, 2)],
    }  # fmt: skip
    assert list(Committer(tmp_path).look().dense_spans().values()) == [(A, 20, 5_020)]
    (mixed,) = (path for path in committed_files(tmp_path) if "/mixed-" in path)
    keys = in_file(tmp_path, mixed)
    assert keys == sorted(keys)
    assert data_files(tmp_path) == committed_files(tmp_path)


def test_many_small_batches_with_holes_are_one_file_per_commit_and_day(tmp_path: Path) -> None:
    writer = DenseWriter(Committer(tmp_path, settings=WriteSettings(row_group_rows=100)))
    for index in range(0, 900, 2):
        writer.write(batch(A, index, index + 1))
        writer.write(batch(B, index, index + 1, date="2026-11-24" if index >= 450 else "2026-11-23"))
    assert writer.commit() == Committed(900, 0)
    assert held(tmp_path) == {A: list(range(0, 900, 2)), B: list(range(0, 900, 2))}
    assert sorted(path.split("/")[0] for path in data_files(tmp_path)) == [
        "seen_date=2026-11-23",
        "seen_date=2026-11-24",
    ]
    writer.write(batch(A, 1, 2))
    assert writer.commit() == Committed(1, 0), "a commit does not remember the one before it"
    assert list(Committer(tmp_path).look().dense_spans().values()) == [(A, 1, 2)]


def test_chains_of_short_runs_are_kept(tmp_path: Path) -> None:
    writer = DenseWriter(Committer(tmp_path))
    expected: dict[tuple[str, int], list[str]] = {}
    for name, first in (("b", 40), ("a", 30), ("b", 0), ("b", 20)):
        log = SimulatedLog(name, seed=3, initial=60)
        log.base_url = "https://ct.example"
        entries = [log.entry(index) for index in range(first, first + 10)]
        framed = frame_entries(
            log.info("rfc6962"), first, [part for e in entries for part in (e.leaf_input, e.extra_data)]
        )
        rows = decode(framed, 1_800_000_000).to_arrow(shared_chains=True).filter(pa.array([True, False] * 5))
        writer.write(rows)
        expected |= {(row["source_url"], row["cert_index"]): row["chain"] for row in rows.to_pylist()}
    assert writer.commit() == Committed(20, 0)
    assert all(expected.values())
    (path,) = committed_files(tmp_path)
    table = pq.read_table(tmp_path / path, partitioning=None)
    assert {(row["source_url"], row["cert_index"]): row["chain"] for row in table.to_pylist()} == expected
    assert in_file(tmp_path, path) == sorted(expected)


def test_short_runs_in_large_rows_are_written_before_there_are_many(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("certstream.archive.writer._YOUNG_BYTES", 30_000)
    monkeypatch.setattr("certstream.archive.writer._LOOSE_BYTES", 10_000)
    writer = DenseWriter(Committer(tmp_path))
    for log in range(4):
        writer.write(large(url(log), 0, 10))
    assert len(data_files(tmp_path)) == 2, "two of four runs are written, the other two wait"
    for index in range(20, 40, 2):
        writer.write(large(A, index, index + 1))
    assert len(data_files(tmp_path)) == 3, "and the file of the short ones"
    assert writer.commit() == Committed(50, 0)
    assert held(tmp_path)[A] == [*range(10), *range(20, 40, 2)]
    assert data_files(tmp_path) == committed_files(tmp_path)


def large(log_url: str, start: int, stop: int) -> pa.RecordBatch:
    (one,) = rows(log_url, range(start, stop), der=bytes(1_000)).to_batches()
    return one


@given(
    st.lists(st.tuples(st.integers(0, 2), st.sets(st.integers(0, 40), min_size=1)), max_size=8),
    st.sets(st.integers(0, 7)),
)
@settings(max_examples=25, deadline=None)
def test_every_row_is_there_once_whatever_the_order(
    tmp_path_factory: pytest.TempPathFactory, given_rows: list[tuple[int, set[int]]], commits: set[int]
) -> None:
    root = tmp_path_factory.mktemp("table")
    writer = DenseWriter(Committer(root))
    there: dict[str, set[int]] = {}
    with patch("certstream.archive.writer._RUN_ROWS", 5):
        for number, (log, indices) in enumerate(given_rows):
            new = sorted(indices - there.get(url(log), set()))
            if new:
                there.setdefault(url(log), set())
                writer.write(some(url(log), new))
                there[url(log)] |= indices
            if number in commits:
                writer.commit()
        writer.commit()
    assert held_or_nothing(root) == {log: sorted(indices) for log, indices in there.items()}
    for path, (log_url, start, stop) in Committer(root).look().dense_spans().items():
        assert in_file(root, path) == [(log_url, index) for index in range(start, stop)]
    assert data_files(root) == committed_files(root)


def held_or_nothing(root: Path) -> dict[str, list[int]]:
    return held(root) if (root / "_delta_log").exists() else {}


def test_what_is_abandoned_leaves_nothing(tmp_path: Path) -> None:
    writer = DenseWriter(Committer(tmp_path))
    writer.write(batch(A, 0, 5))
    writer.commit()
    writer.write(some(A, range(5, 6_000)))
    writer.write(batch(A, 20_000, 20_005))
    writer.write(batch(A, 30_000, 30_001))
    writer.write(some(B, range(0, 30_000, 2)))
    assert len(data_files(tmp_path)) == 3
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
