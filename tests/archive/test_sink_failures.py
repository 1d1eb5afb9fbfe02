"""A table that cannot be written stops nothing: rows are kept, let go of at the bound, read again, and there once."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from pathlib import Path

import pyarrow as pa
from structlog.testing import capture_logs

from certstream.archive import storage
from certstream.archive.commit import Committer
from certstream.archive.sink.buffer import PackedRows
from certstream.archive.sink.sink import Sink
from certstream.archive.sink.standing import SinkSettings
from certstream.ct.types import LogInfo
from certstream.intervals import Intervals
from certstream.metrics import Metrics
from tests.archive.archive_support import committed_files, data_files, held, log_info, packed, url
from tests.archive.sink_support import MANUAL, SETTINGS, Blocked, positions, running, sink, until

A, B = log_info(0), log_info(1)
ROWS_BYTES = packed(A, 0, 50).size_bytes


async def failing(own: Sink) -> None:
    await until(own, lambda: own.is_failing)


async def working(own: Sink) -> None:
    await until(own, lambda: not own.is_failing and not own.status().buffered_rows)


async def test_rows_are_kept_while_the_table_cannot_be_written_and_committed_when_it_can(tmp_path: Path) -> None:
    metrics = Metrics()
    sample = metrics.registry.get_sample_value
    with capture_logs() as lines:
        async with running(sink(tmp_path, SETTINGS, metrics.archive)) as own:
            await own.begin(A, 0)
            with Blocked(tmp_path):
                own.take(packed(A, 0, 20))
                await failing(own)
                assert sample("certstream_delta_available") == 0
                own.take(packed(A, 20, 30))
                await own.attempted()
                status = await own.attempted()
                assert (status.state, status.buffered_rows, len(own.missing(url(0)))) == ("failing", 30, 0)
                assert status.last_error is not None
                assert "seen_date=2026-11-23" in status.last_error
                assert held(tmp_path) == {}
            await working(own)
            assert own.archived(url(0)) == 30
            assert own.status().last_error == status.last_error
    assert held(tmp_path) == {url(0): list(range(30))}
    assert data_files(tmp_path) == committed_files(tmp_path)
    assert (sample("certstream_delta_errors_total", {"kind": "storage"}) or 0) >= 3
    assert sample("certstream_delta_available") == 1
    assert sample("certstream_delta_entries_let_go_total") == 0
    # said once when it begins and once when it is over, however often it was tried
    assert [line["event"] for line in lines if line["event"].startswith("archive ")] == [
        "archive cannot be written, rows are kept and tried again", "archive works again",
    ]  # fmt: skip


async def test_a_full_buffer_is_let_go_of_and_read_again_later(tmp_path: Path) -> None:
    metrics = Metrics()
    cap_bytes = 8 * ROWS_BYTES  # three quarters of it for live rows
    with capture_logs() as lines:
        async with running(sink(tmp_path, replace(SETTINGS, buffer_bytes=cap_bytes), metrics.archive)) as own:
            await own.begin(A, 0)
            with Blocked(tmp_path):
                for start in range(0, 1500, 50):
                    own.take(packed(A, start, start + 50))
                    assert own.status().buffered_bytes <= cap_bytes
                    if start % 200 == 0:
                        await own.attempted()
                await failing(own)
                let_go = own.missing(url(0))
                buffered = own.status().buffered_rows
                assert let_go.count + buffered == 1500
                assert let_go.lowest == 0
                assert metrics.registry.get_sample_value("certstream_delta_entries_let_go_total") == let_go.count
            await working(own)
            while len(missing := own.missing(url(0))):
                assert await own.wait_missing(url(0)) == missing
                for start, stop in missing:
                    for first in range(start, stop, 50):
                        await own.take_again(packed(A, first, min(first + 50, stop)))
            await working(own)
            assert own.archived(url(0)) == 1500
            assert sum(line["event"].startswith("archive's buffer is full") for line in lines) == 1
            for start in range(1500, 2000, 50):  # and once more
                own.take(packed(A, start, start + 50))
    assert held(tmp_path)[url(0)][:1500] == list(range(1500))
    assert sum(line["event"].startswith("archive's buffer is full") for line in lines) == 2


async def test_what_was_written_of_a_commit_that_fails_is_removed(tmp_path: Path) -> None:
    async with running(sink(tmp_path, MANUAL)) as own:
        await own.begin(A, 0)
    with Blocked(tmp_path, "2026-11-24"):
        async with running(sink(tmp_path, replace(SETTINGS, retry_initial_s=3600, retry_max_s=3600))) as own:
            own.take(packed(A, 0, 20))
            own.take(packed(A, 20, 40, date="2026-11-24"))
            await failing(own)
            assert data_files(tmp_path) == set()
            assert own.status().buffered_rows == 40


async def test_the_position_stays_before_what_was_let_go(tmp_path: Path) -> None:
    async with running(sink(tmp_path, replace(SETTINGS, buffer_bytes=4 * ROWS_BYTES))) as own:
        await own.begin(A, 0)
        own.take(packed(A, 0, 50))
        await working(own)
        with Blocked(tmp_path):
            for start in range(50, 400, 50):
                own.take(packed(A, start, start + 50))
            await failing(own)
        await working(own)
        missing = own.missing(url(0))
        assert missing.lowest == 50
        assert positions(tmp_path, url(0)) == [50]
        assert own.status().lag_entries == missing.count
    assert held(tmp_path) == {url(0): sorted(set(range(400)) - _members(missing))}
    async with running(sink(tmp_path)) as own:  # and the next start knows
        await own.begin(A, 400)
        assert own.missing(url(0)) == missing


def _members(intervals: Intervals) -> set[int]:
    return {index for start, stop in intervals for index in range(start, stop)}


async def test_rows_that_are_read_again_wait_for_room_and_for_the_archive_and_cost_no_live_rows(
    tmp_path: Path,
) -> None:
    metrics = Metrics()
    async with running(sink(tmp_path, MANUAL, metrics.archive)) as own:
        own.take(packed(A, 0, 50))
    settings = replace(SETTINGS, buffer_bytes=8 * ROWS_BYTES)
    async with running(sink(tmp_path, settings, metrics.archive)) as own:
        await own.begin(A, 1000)
        with Blocked(tmp_path):
            own.take(packed(A, 1000, 1050))
            await failing(own)
            again = [asyncio.create_task(own.take_again(packed(A, n, n + 50))) for n in range(50, 1000, 50)]
            missing = asyncio.create_task(own.wait_missing(url(0)))
            await own.attempted()
            await own.attempted()
            assert not missing.done()
            assert not any(task.done() for task in again)
            for start in range(1050, 1250, 50):
                own.take(packed(A, start, start + 50))
        await asyncio.gather(*again)
        missing.cancel()
        await working(own)
        assert own.archived(url(0)) == 1250
    assert held(tmp_path) == {url(0): list(range(1250))}
    assert metrics.registry.get_sample_value("certstream_delta_entries_let_go_total") == 0
    assert metrics.registry.get_sample_value("certstream_delta_entries_reread_total") == 950


async def test_a_batch_larger_than_the_buffer_is_archived_all_the_same(tmp_path: Path) -> None:
    async with running(sink(tmp_path, replace(SETTINGS, buffer_bytes=1000))) as own:
        own.take(packed(A, 0, 50))
        await until(own, lambda: own.archived(url(0)) == 50)
        await own.begin(A, 50)
        own.take(packed(A, 100, 150))
        await working(own)
        await own.take_again(packed(A, 50, 100))
        await until(own, lambda: own.archived(url(0)) == 150)
    assert held(tmp_path) == {url(0): list(range(150))}


async def test_no_log_waits_for_an_archive_that_fails_and_its_start_is_committed_later(tmp_path: Path) -> None:
    (tmp_path / "table").write_bytes(b"")  # a file: there can be no table now
    async with running(sink(tmp_path / "table" / "deep", replace(SETTINGS, begin_wait_s=3600))) as own:
        assert own.is_failing
        await own.begin(A, 7)
        own.take(packed(A, 7, 12))
        assert own.archived(url(0)) is None
        assert own.missing(url(0)) == Intervals()
        assert own.status().lag_entries == 5
        (tmp_path / "table").unlink()
        await until(own, lambda: own.archived(url(0)) is not None)
        await working(own)
    assert held(tmp_path / "table" / "deep") == {url(0): list(range(7, 12))}
    assert positions(tmp_path / "table" / "deep", url(0)) == [12]


async def test_a_log_waits_no_longer_than_it_is_told_for_an_archive_that_takes_long(tmp_path: Path) -> None:
    Committer(tmp_path).look()
    async with sink(tmp_path, replace(MANUAL, begin_wait_s=0.3)) as own:  # nobody runs it
        with capture_logs() as lines:
            await asyncio.gather(own.begin(A, 7), own.begin(B, 1))
            for start in range(7, 11):
                await own.begin(A, start)  # has waited
                own.take(packed(A, start, start + 1))
        assert [line["log"] for line in lines] == ["log0", "log1"]
        assert own.archived(url(0)) is None
        assert not own.is_failing
    assert positions(tmp_path, url(0), url(1)) == [11, 1]


async def test_a_broken_delta_log_stops_no_start_and_is_read_once_it_is_repaired(tmp_path: Path) -> None:
    Committer(tmp_path).add(starts={url(0): 0})
    last = tmp_path / storage.DELTA_LOG / f"{1:020}.json"
    content = last.read_bytes()
    last.write_bytes(b'{"add": broken')
    metrics = Metrics()
    async with running(sink(tmp_path, SETTINGS, metrics.archive)) as own:
        assert own.is_failing
        await own.begin(A, 10)
        own.take(packed(A, 10, 20))
        await own.attempted()
        assert own.status().buffered_rows == 10
        last.write_bytes(content)
        assert await own.wait_missing(url(0)) == Intervals.of((0, 10))
        await working(own)
    assert held(tmp_path) == {url(0): list(range(10, 20))}
    assert positions(tmp_path, url(0)) == [0]


async def test_an_error_that_nobody_expects_is_a_failure_of_the_archive_and_ends_nothing(tmp_path: Path) -> None:
    with capture_logs() as lines:
        async with running(sink(tmp_path, SETTINGS)) as own:
            own.take(PackedRows(A, 0, 5, pa.py_buffer(b"no rows")))
            await failing(own)
            assert (await own.attempted()).state == "failing"
            own.take(packed(B, 0, 5))
            assert own.status().buffered_rows == 10
    assert own.status().buffered_rows == 10
    first = next(line for line in lines if line["event"].startswith("archive cannot"))
    assert "Arrow" in str(first["error"])
    assert first["exc_info"] is not None
    assert lines[-1]["event"].startswith("not all rows could be archived")
    assert (lines[-1]["log_level"], lines[-1]["rows"]) == ("warning", 10)


async def test_where_the_archive_of_a_log_begins_is_to_be_remembered_until_the_table_says_so(tmp_path: Path) -> None:
    begun: list[LogInfo] = []
    (tmp_path / "table").write_bytes(b"")  # a file: there can be no table now
    async with running(sink(tmp_path / "table", on_begun=begun.append)) as own:
        own.take_up(A, 600)
        await own.begin(A, 600)
        own.take(packed(A, 600, 900))
        await failing(own)
    assert begun == []
    (tmp_path / "table").unlink()
    async with running(sink(tmp_path / "table", on_begun=begun.append)) as own:
        own.take_up(A, 900, 600)
        assert await own.wait_missing(url(0)) == Intervals.of((600, 900))
        assert positions(tmp_path / "table", url(0)) == [600]
    assert begun == [A]


async def test_closing_gives_up_in_time_and_leaves_the_rest_to_the_next_start(tmp_path: Path) -> None:
    Committer(tmp_path).look()
    with Blocked(tmp_path):
        async with running(sink(tmp_path, replace(SETTINGS, retry_initial_s=3600, retry_max_s=3600))) as own:
            await own.begin(A, 0)
            own.take(packed(A, 0, 20))
            await failing(own)
    async with running(sink(tmp_path)) as own:
        await own.begin(A, 20)
        assert own.missing(url(0)) == Intervals.of((0, 20))


async def test_a_table_that_is_removed_is_made_anew_from_where_this_run_began(tmp_path: Path) -> None:
    async with running(sink(tmp_path / "table", SETTINGS)) as own:
        await own.begin(A, 0)
        own.take(packed(A, 0, 10))
        await working(own)
        storage.delete_table(tmp_path / "table")
        own.take(packed(A, 10, 20))
        await working(own)
        assert own.missing(url(0)) == Intervals.of((0, 10))
        await own.take_again(packed(A, 0, 10))
        await until(own, lambda: own.archived(url(0)) == 20)
    assert held(tmp_path / "table") == {url(0): list(range(20))}


async def test_in_a_table_that_is_made_anew_quiet_logs_have_their_beginning_too(tmp_path: Path) -> None:
    root = tmp_path / "table"
    async with running(sink(root, SETTINGS)) as own:
        await asyncio.gather(own.begin(A, 100), own.begin(B, 5))
        own.take(packed(A, 100, 110))
        own.take(packed(B, 5, 10))
        await working(own)
        assert positions(root, url(0), url(1)) == [110, 10]
        storage.delete_table(root)
        own.take(packed(A, 110, 120))
        await until(own, lambda: own.archived(url(0)) == 100)
        assert positions(root, url(0), url(1)) == [100, 5]
        assert own.missing(url(0)) == Intervals.of((100, 110))
        assert own.missing(url(1)) == Intervals.of((5, 10))
        assert own.status().lag_entries == 15


def test_waits_between_attempts_grow_up_to_a_bound_and_are_spread() -> None:
    settings = SinkSettings(retry_initial_s=1, retry_max_s=60)
    assert [settings.wait_s(failures, 0.0) for failures in (1, 2, 3, 6, 7, 8, 5000)] == [1, 2, 4, 32, 60, 60, 60]
    assert [settings.wait_s(failures, 1.0) for failures in (1, 2, 7, 5000)] == [0.5, 1, 30, 30]
