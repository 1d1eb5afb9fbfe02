"""Limits that change while requests wait and are in flight."""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack

import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer

from certstream.client.clock import Clock
from certstream.client.http import FetchSettings, HttpClient, Prefetch
from certstream.client.pacing import RECOVERY_FACTOR, RECOVERY_S, Pacer, PaceSettings, Pacing, Slots
from certstream.ct.types import LogInfo
from certstream.errors import FetchError
from certstream.metrics import Metrics
from tests.client.reading_support import FakeTime


@pytest.fixture
def time() -> FakeTime:
    return FakeTime()


def limit(rate_per_s: float | None, in_flight: int = 16) -> PaceSettings:
    return PaceSettings(default_rate_per_s=rate_per_s, in_flight=in_flight, sporadic=0)


async def request(pacer: Pacer) -> float:
    async with pacer.turn() as admitted_at:
        return admitted_at


async def test_a_request_that_waits_goes_out_once_the_limit_is_gone() -> None:
    waits = asyncio.Event()

    async def sleep(_delay_s: float) -> None:
        waits.set()
        await asyncio.Event().wait()

    pacer = Pacer(limit(1 / 600), "op", Clock(sleep=sleep))
    await request(pacer)
    waiting = [asyncio.create_task(request(pacer)) for _ in range(3)]
    await waits.wait()
    pacer.apply(limit(None))
    async with asyncio.timeout(10):
        await asyncio.gather(*waiting)
    assert pacer.rate_per_s is None


async def test_a_new_limit_holds_from_the_next_request_on(time: FakeTime) -> None:
    pacing = Pacing(limit(None), time.clock)
    pacer = pacing.of("op")
    for _ in range(10):
        await request(pacer)
    pacing.apply(PaceSettings({"op": 2.0}, default_rate_per_s=5.0))
    admitted = [await request(pacer) for _ in range(3)]
    assert admitted[2] - admitted[1] == pytest.approx(0.5)
    assert pacing.of("other").rate_per_s == 5.0, "an operator that was not known yet"


@pytest.mark.parametrize(("configured", "rate"), [(100.0, 4.0), (1.0, 1.0), (None, 4.0)])
async def test_a_new_limit_does_not_speed_up_what_a_429_slowed_down(
    time: FakeTime, configured: float | None, rate: float
) -> None:
    pacer = Pacer(limit(8.0), "op", time.clock)
    pacer.limited(await request(pacer), None)
    assert pacer.rate_per_s == 4.0
    pacer.apply(limit(configured))
    assert pacer.rate_per_s == rate
    assert pacer.paused_s > 0, "nor does it shorten the pause that was asked for"
    for _ in range(40):
        time.now_s += RECOVERY_S
        pacer.answered(await request(pacer))
    assert pacer.rate_per_s == configured


async def test_limits_that_stay_change_nothing_of_a_pace_that_recovers(time: FakeTime) -> None:
    pacer = Pacer(limit(8.0), "op", time.clock)
    pacer.limited(await request(pacer), None)
    pacer.apply(limit(8.0, in_flight=4))
    time.now_s += RECOVERY_S
    pacer.answered(await request(pacer))
    assert pacer.rate_per_s == 4.0 * RECOVERY_FACTOR


async def test_slots_grow_at_once_and_shrink_as_they_are_left() -> None:
    slots = Slots(2)

    async def enter(stack: AsyncExitStack) -> bool:
        entering = asyncio.create_task(stack.enter_async_context(slots))
        await asyncio.sleep(0)
        if not entering.done():
            entering.cancel()
            await asyncio.gather(entering, return_exceptions=True)
            return False
        return True

    async with AsyncExitStack() as rest:
        async with AsyncExitStack() as first:
            assert [await enter(first), await enter(rest), await enter(rest)] == [True, True, False]
            slots.resize(3)
            assert [await enter(rest), await enter(rest)] == [True, False]
            slots.resize(2)
        assert not await enter(rest), "one has left, and two are in"
        slots.resize(3)
        slots.resize(1)
        slots.resize(3)
        assert [await enter(rest), await enter(rest)] == [True, False]


def test_permits_follow_their_number_and_those_that_are_taken_come_back() -> None:
    prefetch = Prefetch(2)
    assert [prefetch.take(), prefetch.take(), prefetch.take()] == [True, True, False]
    prefetch.resize(1)
    prefetch.give_back()
    assert not prefetch.take()
    prefetch.resize(2)
    assert prefetch.take()
    prefetch.give_back()
    prefetch.give_back()
    assert [prefetch.take(), prefetch.take(), prefetch.take()] == [True, True, False]


async def test_agent_and_time_limit_of_requests_change_on_the_open_session() -> None:
    agents: list[str] = []
    answers = asyncio.Event()
    answers.set()

    async def handler(request: web.Request) -> web.StreamResponse:
        agents.append(request.headers["User-Agent"])
        await answers.wait()
        return web.Response(body=b"ok")

    app = web.Application()
    app.router.add_get("/checkpoint", handler)
    async with TestServer(app) as server, HttpClient(FetchSettings(user_agent="one"), Metrics()) as http:
        log = LogInfo("log", str(server.make_url("/")), "static", "op")
        assert await http.get(log, "checkpoint") == b"ok"
        http.apply(FetchSettings(user_agent="two", request_timeout_s=0.05))
        assert await http.get(log, "checkpoint") == b"ok"
        answers.clear()
        with pytest.raises(FetchError, match="no answer in time"):
            await http.get(log, "checkpoint")
        answers.set()
        assert agents == ["one", "two", "two"]
