from __future__ import annotations

import asyncio

import pytest
from structlog.testing import capture_logs

from certstream.ct.types import EntryBatch, LogKind
from certstream.live.condition import TailSettings
from certstream.simulator.faults import Fault, FaultKind
from certstream.simulator.log import SimulatedLog
from tests.client.reading_support import reading, tiles
from tests.live.following_support import SETTINGS, Follower

KINDS: list[LogKind] = ["rfc6962", "static"]
both = pytest.mark.parametrize("kind", KINDS)


def make_log(initial: int) -> SimulatedLog:
    return SimulatedLog("followed", seed=9, initial=initial)


@both
@pytest.mark.parametrize("as_date", [False, True])
async def test_429_is_never_a_failure_and_its_retry_after_is_waited_out(kind: LogKind, as_date: bool) -> None:
    log = make_log(50)
    async with reading(log) as reader:
        follower = Follower(reader, log, kind, partial_tile_wait_s=0)
        log.clock = reader.time.clock.wall
        fault = log.faults.add(Fault(FaultKind.RATE_LIMITED, retry_after_s=120, retry_after_date=as_date))
        async with follower.running():
            await follower.until(lambda: log.endpoints.total() >= 10)
            assert follower.state == "rate_limited"
            assert reader.time.now_s - 1000 >= 9 * 119
            assert follower.moves == []
            log.faults.remove(fault)
            await follower.until_read(50)
            await follower.until(lambda: follower.state == "following")
        assert follower.check(0) == 50
        assert not set(follower.states) & {"degraded", "unhealthy"}
        for error in ("RateLimitedError", "FetchError"):
            assert reader.counted("certstream_log_errors_total", log="followed", kind=error) == 0
        assert reader.counted("certstream_log_requests_total", log="followed", status="429") >= 10


@both
async def test_idle_polling_backs_off_and_returns_at_once(kind: LogKind) -> None:
    log = make_log(256)
    async with reading(log) as reader:
        follower = Follower(reader, log, kind)
        async with follower.running():
            await follower.until(lambda: len(reader.time.slept) >= 8)
            waits = [1, 1.5, 2.25, 3.375, 5.0625, 7.59375, 10, 10]
            assert reader.time.slept[:8] == waits
            log.grow(256)
            reader.time.slept.clear()
            await follower.until_read(512)
            await follower.until(lambda: 1 in reader.time.slept)
            assert next(s for s in reader.time.slept if s < 10) == 1


async def test_a_log_that_is_caught_up_costs_one_request_per_poll() -> None:
    log = make_log(256)
    async with reading(log) as reader:
        follower = Follower(reader, log, "static")
        async with follower.running():
            await follower.until(lambda: len(reader.time.slept) == 50)
        assert log.endpoints["checkpoint"] in (50, 51)
        assert tiles(log) == {"tile/data/000": 1}


@pytest.mark.parametrize("wait_s", [0, 15, 600])
async def test_an_entry_in_a_partial_tile_goes_out_at_the_latest_one_poll_after_its_wait(wait_s: float) -> None:
    log = make_log(256)
    async with reading(log) as reader:
        follower = Follower(reader, log, "static", partial_tile_wait_s=wait_s)
        async with follower.running():
            await follower.until_read(256)
            for _ in range(3):
                size, grown_at = log.tree_size, reader.time.now_s
                log.grow(4)
                await follower.until_read(size + 4)
                waited = reader.time.now_s - grown_at
                # The head that first covers it comes at most one idle poll later.
                assert wait_s <= waited <= wait_s + SETTINGS.idle_poll_max_s + SETTINGS.poll_interval_s
        assert follower.check(0) == 268
        assert set(tiles(log).values()) == {1}


async def test_a_partial_tile_that_fills_while_it_waits_is_fetched_once_and_full() -> None:
    log = make_log(200)
    async with reading(log) as reader:
        follower = Follower(reader, log, "static", partial_tile_wait_s=600)
        async with follower.running():
            await follower.until(lambda: len(reader.time.slept) >= 3)
            assert follower.batches == []
            log.grow(56)
            await follower.until_read(256)
        assert follower.check(0) == 256
        assert tiles(log) == {"tile/data/000": 1}


@both
async def test_catching_up_is_a_state_and_looks_at_the_head_now_and_then(kind: LogKind) -> None:
    log = make_log(3000)
    settings = TailSettings(catching_up_entries=500, round_entries=1024)
    async with reading(log) as reader:
        follower = Follower(reader, log, kind, settings=settings, position=100, partial_tile_wait_s=0)
        async with follower.running():
            await follower.until_read(3000)
            await follower.until(lambda: follower.state == "following")
        assert follower.states[:3] == ["starting", "catching_up", "following"]
        assert follower.check(100) == 3000
        assert log.endpoints["get-sth"] + log.endpoints["checkpoint"] >= 3
        assert follower.batches[0].stop <= 1024


async def test_a_log_whose_operator_is_paused_for_another_shows_it() -> None:
    log = make_log(50)
    async with reading(log) as reader:
        follower = Follower(reader, log, "rfc6962")
        pauses = [300.0]

        def pause() -> None:
            if follower.position == 50 and pauses:
                reader.http.pacing.of("Simulator").limited(reader.time.now_s, pauses.pop())
            follower.notify()

        reader.time.on_sleep = pause
        with capture_logs() as lines:
            async with follower.running():
                await follower.until_read(50)
                await follower.until(lambda: not pauses)
                log.grow(5)
                await follower.until_read(55)
                await follower.until(lambda: follower.state == "following")
        assert follower.states == ["starting", "rate_limited", "following"]
        assert reader.time.now_s >= 1300
        assert follower.check(0) == 55
        assert reader.counted("certstream_log_requests_total", log="followed", status="429") == 0
    said = [line for line in lines if line.get("state") == "rate_limited"]
    assert [(line["log_level"], line["operator"], line["paused_s"]) for line in said] == [("info", "Simulator", 300)]


async def test_a_pause_of_the_operator_shows_while_a_log_waits_in_the_middle_of_reading() -> None:
    log = make_log(500)
    async with reading(log) as reader:
        follower = Follower(reader, log, "rfc6962", batch_size=100)
        follower.hold = asyncio.Event()
        async with follower.running():
            await follower.until(lambda: follower.begun == [0])
            before = state(follower)
            reader.http.pacing.of("Simulator").limited(reader.time.now_s, 300)
            assert (before, state(follower)) == ("starting", "rate_limited")
            follower.hold.set()
            await follower.until_read(500)
            await follower.until(lambda: follower.state == "following")
        assert follower.check(0) == 500


async def test_the_lag_in_seconds_grows_while_a_log_is_stuck() -> None:
    log = make_log(600)
    log.faults.add(Fault(FaultKind.UNKNOWN_TYPE, index=300))
    async with reading(log) as reader:
        follower = Follower(reader, log, "static", partial_tile_wait_s=0)
        async with follower.running():
            await follower.until(lambda: follower.state == "degraded")
            before, at_s = reader.counted("certstream_log_lag_seconds", log="followed"), reader.time.now_s
            await follower.until(lambda: reader.time.now_s > at_s + 100)
            after = reader.counted("certstream_log_lag_seconds", log="followed")
            assert after - before == pytest.approx(reader.time.now_s - at_s)
        assert follower.check(0) == 300


def state(follower: Follower) -> str:
    return follower.state


class Noting(Follower):
    """Notes the state before each batch."""

    noted: dict[int, str]

    async def publish(self, batch: EntryBatch) -> None:
        self.noted[batch.start] = self.state
        await super().publish(batch)


async def test_batches_that_arrive_make_a_log_healthy_before_all_of_them_are_read() -> None:
    log = make_log(1000)
    settings = TailSettings(retry_max_attempts=1, healthy_threshold=3)
    fault = log.faults.add(Fault(FaultKind.SERVER_ERROR))
    async with reading(log) as reader:
        follower = Noting(reader, log, "rfc6962", settings=settings, batch_size=100, fetch_concurrency=1)
        follower.noted = {}
        async with follower.running():
            await follower.until(lambda: follower.state == "degraded")
            log.faults.remove(fault)
            await follower.until_read(1000)
        assert [follower.noted[start] for start in (0, 100, 200)] == ["degraded"] * 3
        assert {follower.noted[start] for start in range(300, 1000, 100)} == {"following"}
        assert follower.check(0) == 1000
