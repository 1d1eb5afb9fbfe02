from __future__ import annotations

import pytest

from certstream.ct.types import LogKind
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
