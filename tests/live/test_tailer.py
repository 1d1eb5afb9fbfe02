from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest
from aiohttp.test_utils import unused_port
from structlog.testing import capture_logs

from certstream.client.base import ReadSettings
from certstream.client.rfc6962 import Rfc6962Client
from certstream.ct.types import EntryBatch, LogInfo, LogKind
from certstream.live.condition import TailSettings
from certstream.live.tailer import Tailer
from certstream.simulator.faults import Fault, FaultKind
from certstream.simulator.log import SimulatedLog
from tests.client.reading_support import reading
from tests.live.following_support import Follower

KINDS: list[LogKind] = ["rfc6962", "static"]
both = pytest.mark.parametrize("kind", KINDS)


def make_log(initial: int, name: str = "followed", **settings: int) -> SimulatedLog:
    return SimulatedLog(name, seed=9, initial=initial, **settings)  # type: ignore[arg-type]


@pytest.fixture(autouse=True)
async def nothing_left_running() -> AsyncIterator[None]:
    yield
    names = {task.get_name() for task in asyncio.all_tasks()}
    assert not [name for name in names if name.startswith(("fetch:", "issuer:"))]


# where following begins


@both
async def test_a_first_start_follows_from_the_current_head(kind: LogKind) -> None:
    log = make_log(300)
    async with reading(log) as reader:
        follower = Follower(reader, log, kind, start="head")
        async with follower.running():
            await follower.until_read(300)
            assert follower.moves == [(300, 300)]
            log.grow(45)
            await follower.until_read(345)
        assert follower.check(300) == 345


@both
@pytest.mark.parametrize(("start", "first"), [("beginning", 0), (17, 17), (299, 299)])
async def test_a_first_start_follows_from_where_start_says(kind: LogKind, start: int, first: int) -> None:
    log = make_log(300)
    async with reading(log) as reader:
        follower = Follower(reader, log, kind, start=start)
        async with follower.running():
            await follower.until_read(300)
        assert follower.moves[0] == (first, 300)
        assert follower.check(first) == 300


@both
async def test_a_start_past_the_end_waits_for_the_tree_to_come_there(kind: LogKind) -> None:
    log = make_log(100)
    async with reading(log) as reader:
        follower = Follower(reader, log, kind, start=150)
        async with follower.running():
            await follower.until(lambda: len(reader.time.slept) >= 3)
            assert follower.batches == []
            log.grow(100)
            await follower.until_read(200)
        assert follower.check(150) == 200


@both
async def test_a_restart_goes_on_at_the_position_in_the_middle_of_a_tile(kind: LogKind) -> None:
    log = make_log(700)
    async with reading(log) as reader:
        first = Follower(reader, log, kind)
        async with first.running():
            await first.until_read(700)
        log.grow(100)
        second = Follower(reader, log, kind, position=first.position, tree_size=700, start="head")
        async with second.running():
            await second.until_read(800)
        assert first.check(0) == 700
        assert second.check(700) == 800


# every entry once and in order, whatever the log does

FAULTS = [
    Fault(FaultKind.RATE_LIMITED, probability=0.3),
    Fault(FaultKind.RATE_LIMITED, probability=0.3, retry_after_s=30),
    Fault(FaultKind.RATE_LIMITED, probability=0.3, retry_after_s=30, retry_after_date=True),
    Fault(FaultKind.UNAVAILABLE, probability=0.3),
    Fault(FaultKind.UNAVAILABLE, probability=0.3, retry_after_s=30),
    Fault(FaultKind.SERVER_ERROR, probability=0.3),
    Fault(FaultKind.STATUS, probability=0.3, status=400),
    Fault(FaultKind.STATUS, probability=0.3, status=403),
    Fault(FaultKind.STATUS, probability=0.3, status=404),
    Fault(FaultKind.RESET, probability=0.2),
    Fault(FaultKind.STALL, probability=0.1),
    Fault(FaultKind.TRUNCATED, probability=0.3),
    Fault(FaultKind.CUT, probability=0.3),
    Fault(FaultKind.HTML, probability=0.3),
    Fault(FaultKind.NO_ENTRIES, probability=0.3),
    Fault(FaultKind.SMALLER_TREE, probability=0.5, entries=150),
    Fault(FaultKind.UNKNOWN_TYPE, index=130, on="data-tile", times=3),
    Fault(FaultKind.MISSING_PARTIAL, probability=0.5),
    Fault(FaultKind.MISSING_ISSUER),
    Fault(FaultKind.SHORT_PAGE, probability=0.5, entries=7),
]
APPLIES_TO: dict[FaultKind, list[LogKind]] = {
    FaultKind.UNKNOWN_TYPE: ["static"],
    FaultKind.MISSING_PARTIAL: ["static"],
    FaultKind.MISSING_ISSUER: ["static"],
    FaultKind.SHORT_PAGE: ["rfc6962"],
}


@both
@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: f"{fault.kind}-{fault.retry_after_s or fault.status}")
async def test_every_entry_of_a_growing_log_comes_once_and_in_order_through(fault: Fault, kind: LogKind) -> None:
    log = make_log(100, page_boundary=64)
    log.faults.add(fault)
    async with reading(log, stall_timeout_s=0.05) as reader:
        follower = Follower(reader, log, kind, partial_tile_wait_s=0)
        async with follower.running():
            for growth in (0, 60, 1, 400, 3):
                log.grow(growth)
                await follower.until_read(log.tree_size)
        assert follower.check(0) == 564
        assert follower.moves[-1] == (564, 564)
    assert bool(log.faults.struck[fault]) == (kind in APPLIES_TO.get(fault.kind, KINDS))


@both
async def test_a_failure_moves_nothing_until_the_log_answers(kind: LogKind) -> None:
    log = make_log(50)
    async with reading(log) as reader:
        follower = Follower(reader, log, kind, partial_tile_wait_s=0)
        async with follower.running():
            await follower.until_read(50)
            moves = list(follower.moves)
            fault = log.faults.add(Fault(FaultKind.UNAVAILABLE))
            log.grow(50)
            await follower.until(lambda: follower.state == "unhealthy")
            assert follower.moves == moves
            assert "followed: http" in str(follower.tailer.status().last_error)
            log.faults.remove(fault)
            await follower.until_read(100)
        assert follower.check(0) == 100


@both
async def test_a_smaller_tree_neither_rewinds_nor_counts_as_failure(kind: LogKind) -> None:
    log = make_log(500)
    async with reading(log) as reader:
        follower = Follower(reader, log, kind, partial_tile_wait_s=0)
        async with follower.running():
            await follower.until_read(500)
            requests = log.endpoints["get-entries"] + log.endpoints["data-tile"]
            fault = log.faults.add(Fault(FaultKind.SMALLER_TREE, entries=300))
            slept = len(reader.time.slept)
            await follower.until(lambda: len(reader.time.slept) >= slept + 5)
            status = follower.tailer.status()
            assert (status.position, status.tree_size, status.lag_entries) == (500, 500, 0)
            assert follower.state == "following"
            assert log.endpoints["get-entries"] + log.endpoints["data-tile"] == requests
            log.faults.remove(fault)
            log.grow(10)
            await follower.until_read(510)
        assert follower.check(0) == 510


@both
async def test_a_tree_smaller_than_the_position_of_the_last_run_is_waited_for(kind: LogKind) -> None:
    log = make_log(100)
    async with reading(log) as reader:
        follower = Follower(reader, log, kind, position=130, tree_size=140, partial_tile_wait_s=0)
        async with follower.running():
            await follower.until(lambda: len(reader.time.slept) >= 4)
            assert follower.batches == []
            assert follower.position == 130
            log.grow(50)
            await follower.until_read(150)
        assert follower.check(130) == 150


# states


@both
async def test_a_log_that_keeps_failing_is_degraded_then_unhealthy_probed_and_taken_up(kind: LogKind) -> None:
    log = make_log(20)
    settings = TailSettings(retry_max_attempts=2, unhealthy_threshold=3, healthy_threshold=2)
    async with reading(log) as reader:
        follower = Follower(reader, log, kind, settings=settings, partial_tile_wait_s=0)
        with capture_logs() as lines:
            async with follower.running():
                await follower.until_read(20)
                await follower.until(lambda: follower.state == "following")
                fault = log.faults.add(Fault(FaultKind.SERVER_ERROR))
                reader.time.slept.clear()
                await follower.until(lambda: follower.state == "unhealthy" and len(reader.time.slept) > 20)
                failures = [s for s in reader.time.slept if s != 1.5]
                assert max(failures) == 30, "backoff never waits longer"
                assert failures[-5:] == [30] * 5
                log.faults.remove(fault)
                log.grow(5)
                await follower.until_read(25)
                await follower.until(lambda: follower.state == "following")
        assert follower.check(0) == 25
        assert follower.states == ["starting", "following", "degraded", "unhealthy", "following"]
    changes = [line["state"] for line in lines if line.get("log") == "followed"]
    assert changes == ["following", "degraded", "unhealthy", "following", "stopped"]
    warnings = [line for line in lines if line["log_level"] == "warning"]
    assert all("followed: http" in line["error"] and line["url"] for line in warnings)
    assert len(warnings) == 2


async def test_a_single_failure_is_no_change_of_state() -> None:
    log = make_log(20)
    async with reading(log) as reader:
        follower = Follower(reader, log, "rfc6962", settings=TailSettings())
        async with follower.running():
            await follower.until_read(20)
            fault = log.faults.add(Fault(FaultKind.SERVER_ERROR, times=1))
            await follower.until(lambda: log.faults.struck[fault] == 1)
            log.grow(1)
            await follower.until_read(21)
        assert follower.states == ["starting", "following"]
        assert reader.counted("certstream_log_errors_total", log="followed", kind="FetchError") == 1


async def test_a_log_that_cannot_be_reached_at_the_start_is_named_at_once() -> None:
    log = make_log(1)
    async with reading(log) as reader:
        url = f"http://127.0.0.1:{unused_port()}/gone"
        info = LogInfo("gone", url, "rfc6962", "op")
        asleep = asyncio.Event()
        reader.time.on_sleep = asleep.set

        async def publish(batch: EntryBatch) -> None:
            raise AssertionError(batch)

        tailer = Tailer(
            Rfc6962Client(reader.http, info, ReadSettings()),
            publish=publish,
            advance=lambda position, tree_size: None,
            metrics=reader.http.metrics.log("gone"),
            clock=reader.time.clock,
        )
        with capture_logs() as lines:
            task = asyncio.create_task(tailer.run())
            await asleep.wait()
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
        assert tailer.status().state == "degraded"
        assert tailer.status().position is None
        assert tailer.status().lag_entries is None
    assert lines[0]["log_level"] == "warning"
    assert lines[0]["log"] == "gone"
    assert lines[0]["url"] == url
    assert "not reached" in lines[0]["error"]


async def test_a_broken_tile_marks_the_log_at_once_and_the_rest_comes_when_it_is_mended() -> None:
    log = make_log(600)
    fault = log.faults.add(Fault(FaultKind.UNKNOWN_TYPE, index=300))
    async with reading(log) as reader:
        settings = TailSettings(retry_max_attempts=100)
        follower = Follower(reader, log, "static", settings=settings, partial_tile_wait_s=0)
        async with follower.running():
            await follower.until_read(300)
            await follower.until(lambda: follower.state == "degraded")
            assert follower.position == 300
            assert "tile/data/001" in str(follower.tailer.status().last_error)
            assert reader.counted("certstream_log_errors_total", log="followed", kind="MalformedError") >= 1
            log.faults.remove(fault)
            await follower.until_read(600)
        assert follower.check(0) == 600


async def test_the_status_and_the_metrics_say_how_far_behind_the_log_is() -> None:
    log = make_log(2000)
    async with reading(log) as reader:
        follower = Follower(reader, log, "rfc6962", batch_size=1000)
        follower.fails_on = 1500
        task = asyncio.create_task(follower.tailer.run())
        with pytest.raises(ValueError, match="cannot be published"):
            await task
        status = follower.tailer.status()
        newest_s = log.entry(999).timestamp_ms / 1000
        assert (status.position, status.tree_size, status.lag_entries) == (1000, 2000, 1000)
        assert status.lag_s == pytest.approx(reader.time.clock.wall() - newest_s)
        reader.time.now_s += 60
        assert follower.tailer.status().lag_s == pytest.approx(reader.time.clock.wall() - newest_s)
        assert status.last_success_s is not None
        for metric, value in (("position", 1000), ("tree_size", 2000), ("lag_entries", 1000), ("entries_total", 1000)):
            assert reader.counted(f"certstream_log_{metric}", log="followed") == value
        follower.fails_on = None
        async with follower.running():
            await follower.until_read(2000)
            read = follower.tailer.status().lag_s
            reader.time.now_s += 1000
            assert follower.tailer.status().lag_s == read, "caught up: the age when it was read"
        assert follower.check(0) == 2000
