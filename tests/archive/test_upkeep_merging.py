"""Which small dense files upkeep merges, how large they become, and that rows in disorder end in order."""

from __future__ import annotations

import random
import threading
from itertools import pairwise
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from certstream.archive.commit import Committer
from certstream.archive.datafile import WriteSettings
from certstream.archive.upkeep import compaction, compaction_files
from certstream.archive.upkeep.compaction_plan import FAN_IN, SPARSE_RUNS, TIER, Batch, Rules, is_day, plan
from certstream.archive.upkeep.upkeep import Upkeep, UpkeepResult, UpkeepSettings
from certstream.intervals import Intervals
from tests.archive.archive_support import held, many_rows, rows, url
from tests.archive.upkeep_support import (
    CLOSED,
    OPEN,
    A,
    B,
    append_foreign,
    contents,
    fill,
    fill_mixed,
    names,
    settle,
    spans,
    upkeep,
    written,
)


def fill_steps(root: Path, files: int, rows_each: int, *, date: str = OPEN) -> None:
    """Dense files that continue each other."""
    fill(root, *(range(at * rows_each, (at + 1) * rows_each) for at in range(files)), date=date)


def fill_heavy(root: Path, files: int, rows_each: int) -> None:
    """The same of a day that is over, of rows that hardly compress."""
    committer, source = Committer(root), random.Random(7)
    tables = [rows(A, range(at * rows_each, (at + 1) * rows_each), date=CLOSED) for at in range(files)]
    place = tables[0].column_names.index("as_der")
    ders = [pa.array([source.randbytes(500) for _ in range(rows_each)]) for _ in tables]
    heavy = [table.set_column(place, "as_der", column) for table, column in zip(tables, ders, strict=True)]
    committer.add([written(committer, table) for table in heavy])


def file_bytes(root: Path) -> list[int]:
    """Of each file, by its first index."""
    files = sorted(Committer(root).look().files(), key=lambda file: int(file.stats["min.cert_index"]))
    return [file.size_bytes for file in files]


def row_groups(root: Path) -> list[list[int]]:
    """The rows of the row groups of each file."""
    files = [pq.ParquetFile(root / path).metadata for path in names(root)]
    return [[file.row_group(number).num_rows for number in range(file.num_row_groups)] for file in files]


def planned(root: Path, target_file_bytes: int = 1 << 27) -> list[Batch]:
    committer = Committer(root)
    return plan(committer.look(), committer.coverage, Rules(4e9, 0, target_file_bytes))


def test_few_small_neighbours_wait_for_more_of_them(tmp_path: Path) -> None:
    fill_steps(tmp_path, TIER - 1, 10)
    assert upkeep(tmp_path) == UpkeepResult()
    fill(tmp_path, range(70, 80))
    assert upkeep(tmp_path) == UpkeepResult(files_rewritten=8, files_written=1, rows=80)
    assert spans(tmp_path) == {A: [(0, 80)]}


def test_small_neighbours_wait_no_longer_once_their_day_is_over(tmp_path: Path) -> None:
    fill_steps(tmp_path, 3, 10, date=CLOSED)
    assert upkeep(tmp_path) == UpkeepResult(files_rewritten=3, files_written=1, rows=30)
    assert upkeep(tmp_path) == UpkeepResult()


def test_a_day_is_over_when_it_was_quiet_after_it(tmp_path: Path) -> None:
    rules = Rules(now_s=86_400 + 3_599, quiet_s=3_600, target_file_bytes=1)
    assert not rules.is_closed("1970-01-01")
    assert Rules(86_400 + 3_600, 3_600, 1).is_closed("1970-01-01")


def test_a_few_files_with_gaps_between_them_are_not_merged(tmp_path: Path) -> None:
    fill(tmp_path, *(range(at * 10, at * 10 + 9) for at in range(SPARSE_RUNS)), date=CLOSED)
    assert upkeep(tmp_path) == UpkeepResult()
    assert len(names(tmp_path)) == SPARSE_RUNS


@pytest.mark.parametrize("date", [OPEN, CLOSED])
def test_many_small_files_with_gaps_between_them_become_one(tmp_path: Path, date: str) -> None:
    fill(tmp_path, *([index] for index in range(0, 200, 2)), range(200, 203), range(203, 205), date=date)
    fill(tmp_path, *(range(at, at + 3) for at in range(0, 60, 4)), log_url=B, date=date)  # too few
    before = contents(tmp_path)
    assert upkeep(tmp_path) == UpkeepResult(files_rewritten=102, files_written=1, rows=105)
    assert contents(tmp_path) == before
    assert upkeep(tmp_path) == UpkeepResult()
    for path in names(tmp_path):
        (tmp_path / path).unlink()  # what it covers is remembered
    committer = Committer(tmp_path)
    committer.look()
    assert committer.coverage.of(A) == Intervals.of(*((at, at + 1) for at in range(0, 200, 2)), (200, 205))
    assert committer.coverage.of(B).count == 45


def test_files_with_gaps_are_not_divided_so_that_another_pass_would_take_them_apart(tmp_path: Path) -> None:
    fill(tmp_path, *(range(at, at + 40) for at in range(0, 600, 50)), range(600, 1060, 2), date=CLOSED)
    before = contents(tmp_path)
    settle(tmp_path, target_file_bytes=sum(file_bytes(tmp_path)) // 3)
    assert contents(tmp_path) == before
    assert len(names(tmp_path)) < 13


def test_what_comes_into_the_gaps_of_many_small_files_makes_them_dense(tmp_path: Path) -> None:
    fill(tmp_path, *([index] for index in range(0, 100, 2)))
    upkeep(tmp_path)
    fill(tmp_path, *([index] for index in range(1, 100, 2)))
    settle(tmp_path)
    assert spans(tmp_path) == {A: [(0, 100)]}


def test_one_row_at_a_time_with_gaps_between_them_ends_in_few_files(tmp_path: Path) -> None:
    rewritten = 0
    for number in range(5):
        fill(tmp_path, *([index] for index in range(number * 40, number * 40 + 40, 2)))
        rewritten += upkeep(tmp_path).rows
    assert len(names(tmp_path)) == 1
    assert held(tmp_path) == {A: list(range(0, 200, 2))}
    assert rewritten == 20 + 40 + 60 + 80 + 100


def test_large_runs_are_not_merged_into_a_file_with_gaps(tmp_path: Path) -> None:
    fill(tmp_path, *([index] for index in range(0, 40, 2)))
    committer = Committer(tmp_path)
    committer.add([written(committer, many_rows(A, range(start, start + 25_000))) for start in (41, 26_000)])
    committer.add(
        [written(committer, rows(A, range(start, stop))) for start, stop in ((60_000, 60_001), (60_002, 60_003))]
    )
    dense = {path for path, (_, start, stop) in committer.look().dense_spans().items() if stop - start == 25_000}
    settle(tmp_path)
    assert dense < names(tmp_path)
    assert len(names(tmp_path)) == 1 + 2 + 2


def test_a_file_with_gaps_and_a_large_one_that_continues_it_do_not_become_a_file_for_each_run(tmp_path: Path) -> None:
    committer = Committer(tmp_path)
    committer.add([written(committer, rows(A, range(0, 42, 2))), written(committer, many_rows(A, range(41, 25_000)))])
    assert planned(tmp_path) == []


def test_neighbours_that_reach_the_target_together_are_merged_at_once(tmp_path: Path) -> None:
    fill_steps(tmp_path, 3, 200)
    target = sum(file_bytes(tmp_path))
    assert upkeep(tmp_path, target_file_bytes=target + 1) == UpkeepResult()
    assert upkeep(tmp_path, target_file_bytes=target) == UpkeepResult(files_rewritten=3, files_written=1, rows=600)


def test_large_files_are_left_alone_and_their_small_neighbours_too(tmp_path: Path) -> None:
    fill(tmp_path, range(20), range(20, 2020), range(2020, 2040), date=CLOSED)
    small, large, _ = file_bytes(tmp_path)
    assert upkeep(tmp_path, target_file_bytes=large + small) == UpkeepResult()
    assert len(names(tmp_path)) == 3


def test_files_become_about_as_large_as_the_target(tmp_path: Path) -> None:
    fill_heavy(tmp_path, 20, 100)
    target = sum(file_bytes(tmp_path)) * 10 // 34
    settle(tmp_path, target_file_bytes=target)
    assert held(tmp_path) == {A: list(range(2000))}
    assert all(0.6 * target < size < 1.5 * target for size in file_bytes(tmp_path))
    assert [start for start, _ in spans(tmp_path)[A][1:]] == [stop for _, stop in spans(tmp_path)[A][:-1]]


def test_a_row_is_rewritten_a_few_times_only_however_many_flushes_come(tmp_path: Path) -> None:
    rewritten = 0
    for number in range(3 * TIER):
        fill(tmp_path, range(number * 5, number * 5 + 5))
        rewritten += upkeep(tmp_path).rows
    assert held(tmp_path) == {A: list(range(15 * TIER))}
    assert rewritten <= 3 * 15 * TIER


def test_commits_are_bounded(tmp_path: Path) -> None:
    fill_heavy(tmp_path, 40, 50)
    target = max(file_bytes(tmp_path)) * 2 + 2
    batches = planned(tmp_path, target)
    assert [sum(len(job.inputs) for job in batch) for batch in batches] == [17, 17, 6]
    settle(tmp_path, target_file_bytes=target)
    assert held(tmp_path) == {A: list(range(2000))}


@pytest.mark.parametrize("date", ["", "2026", "2026-13-01", "2026-11-23 ", "20261123", "-026-11-23", "2026-W48-1"])
def test_what_is_no_day_is_no_partition_of_ours(date: str) -> None:
    assert not is_day(date)
    assert is_day("2026-11-23")


def test_rows_in_disorder_end_in_few_files_and_then_dense(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compaction, "_CHUNK_BYTES", 1 << 14)  # about 40 rows at once
    monkeypatch.setattr(compaction, "_PART_BYTES", 1 << 14)
    monkeypatch.setattr(compaction, "_PART_ROWS", range(8, 33))
    order = list(range(1200))
    random.Random(7).shuffle(order)
    Committer(tmp_path).look()
    append_foreign(tmp_path, rows(A, order, date=OPEN))
    before = contents(tmp_path)
    first = upkeep(tmp_path)
    assert first.files_written < 60
    assert contents(tmp_path) == before
    settle(tmp_path)
    assert contents(tmp_path) == before
    assert spans(tmp_path) == {A: [(0, 1200)]}


def test_blocks_in_disorder_become_dense_files_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compaction, "_CHUNK_BYTES", 1 << 14)
    monkeypatch.setattr(compaction, "_PART_ROWS", range(8, 33))
    blocks = [list(range(at, at + 100)) for at in range(0, 1000, 100)]
    random.Random(7).shuffle(blocks)
    Committer(tmp_path).look()
    append_foreign(tmp_path, rows(A, [index for block in blocks for index in block], date=OPEN))
    upkeep(tmp_path)
    assert all(start == stop for (_, stop), (start, _) in pairwise(spans(tmp_path)[A]))
    settle(tmp_path)
    assert spans(tmp_path)[A][0][0] == 0
    assert held(tmp_path) == {A: list(range(1000))}


def test_a_log_with_a_gap_at_every_second_index_is_one_file_until_the_gaps_are_filled(tmp_path: Path) -> None:
    Committer(tmp_path).look()
    append_foreign(tmp_path, rows(A, range(0, 200, 2), date=CLOSED), rows(B, range(5), date=CLOSED))
    fill(tmp_path, range(200, 400, 2), date=CLOSED)
    settle(tmp_path)
    assert len(names(tmp_path)) == 2
    assert upkeep(tmp_path) == UpkeepResult()
    fill(tmp_path, range(1, 400, 2), date=CLOSED)
    settle(tmp_path)
    assert spans(tmp_path) == {A: [(0, 400)], B: [(0, 5)]}
    assert held(tmp_path)[A] == list(range(400))


def test_interleaving_files_that_fill_each_others_gaps_do_not_wait(tmp_path: Path) -> None:
    fill(tmp_path, range(0, 200, 2), range(1, 200, 2))
    assert upkeep(tmp_path) == UpkeepResult(files_rewritten=2, files_written=1, rows=200)
    assert spans(tmp_path) == {A: [(0, 200)]}


def test_where_too_many_rows_wait_row_groups_become_smaller(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compaction, "_CHUNK_BYTES", 1)
    fill_mixed(tmp_path, files=6, logs=2, rows_each=10)
    before = contents(tmp_path)
    committer = Committer(tmp_path, settings=WriteSettings(row_group_rows=25))
    Upkeep(committer, UpkeepSettings(quiet_s=0)).run(threading.Event())
    assert row_groups(tmp_path) == [[25, 25, 10]] * 2
    fill_mixed(tmp_path, files=6, logs=2, rows_each=10, date=CLOSED, start=100)
    monkeypatch.setattr(compaction_files, "_WAITING_BYTES", 1)
    Upkeep(committer, UpkeepSettings(quiet_s=0)).run(threading.Event())
    assert sorted(row_groups(tmp_path)) == [[10] * 6] * 2 + [[25, 25, 10]] * 2
    assert contents(tmp_path)[:60] == before[:60]


def test_more_files_that_interleave_than_are_open_at_once_are_merged_in_steps(tmp_path: Path) -> None:
    fill(tmp_path, *(range(at, 2000, 20) for at in range(20)), date=CLOSED)
    assert len(names(tmp_path)) == 20
    assert {len(job.inputs) for batch in planned(tmp_path) for job in batch} == {FAN_IN, 20 - 2 * FAN_IN}
    before = contents(tmp_path)
    settle(tmp_path)
    assert contents(tmp_path) == before
    assert spans(tmp_path) == {A: [(0, 2000)]}


KEYS = st.lists(st.tuples(st.integers(0, 1), st.integers(0, 60)), min_size=1, max_size=60)


@settings(max_examples=10, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    files=st.lists(st.tuples(st.booleans(), st.sampled_from([OPEN, CLOSED]), KEYS), min_size=1, max_size=6),
    target=st.sampled_from([1, 6000, 1 << 27]),
)
def test_whatever_the_files_passes_end_with_every_key_once_and_dense(
    tmp_path_factory: pytest.TempPathFactory, files: list[tuple[bool, str, list[tuple[int, int]]]], target: int
) -> None:
    root = tmp_path_factory.mktemp("table")
    Committer(root).look()
    for foreign, date, keys in files:
        by_log = {log: [index for number, index in keys if number == log] for log in (0, 1)}
        tables = [rows(url(log), indices, date=date) for log, indices in by_log.items() if indices]
        if foreign:
            append_foreign(root, *tables)  # doubled keys and all
        else:
            for log, indices in by_log.items():
                if indices:
                    fill(root, sorted(set(indices)), log_url=url(log), date=date)
    wanted = {url(log): sorted({i for _, _, keys in files for number, i in keys if number == log}) for log in (0, 1)}
    settle(root, target_file_bytes=target)
    assert held(root) == {log: indices for log, indices in wanted.items() if indices}
    assert sum(len(found) for found in planned(root, target)) == 0
    committer = Committer(root)
    snapshot = committer.look()
    for path in snapshot.paths - snapshot.dense_spans().keys():
        (kept,) = committer.coverage.file(path).covers.values()
        assert len(kept) > SPARSE_RUNS
