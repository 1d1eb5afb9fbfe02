from __future__ import annotations

import asyncio

import pytest

from certstream.client.pacing import (
    MAX_PAUSE_S,
    MAX_UNASKED_PAUSE_S,
    MIN_RATE_PER_S,
    RECOVERY_FACTOR,
    RECOVERY_S,
    Pacer,
    PaceSettings,
    Pacing,
)
from tests.client.reading_support import FakeTime


@pytest.fixture
def time() -> FakeTime:
    return FakeTime()


def make_pacer(time: FakeTime, **settings: float) -> Pacer:
    limit = settings.get("rate_per_s")
    in_flight = int(settings.get("in_flight", 16))
    return Pacer(PaceSettings(default_rate_per_s=limit, in_flight=in_flight), "op", time.clock)


async def request(pacer: Pacer) -> float:
    async with pacer.turn() as admitted_at:
        return admitted_at


async def test_no_request_waits_while_nothing_limits_the_operator(time: FakeTime) -> None:
    pacer = make_pacer(time)
    for _ in range(1000):
        await request(pacer)
    assert time.slept == []
    assert pacer.rate_per_s is None


async def test_a_configured_rate_spaces_requests(time: FakeTime) -> None:
    pacer = make_pacer(time, rate_per_s=2.0)
    admitted = [await request(pacer) for _ in range(5)]
    assert admitted == pytest.approx([1000, 1000.5, 1001, 1001.5, 1002])


async def test_an_unused_rate_allows_a_burst_of_half_a_second_only(time: FakeTime) -> None:
    pacer = make_pacer(time, rate_per_s=20.0)
    await request(pacer)
    time.now_s += 3600
    admitted = [await request(pacer) - 4600 for _ in range(12)]
    assert admitted == pytest.approx([0.0] * 10 + [0.05, 0.10])


async def test_rates_are_taken_by_operator_name(time: FakeTime) -> None:
    pacing = Pacing(PaceSettings({"Sectigo": 4.0}, default_rate_per_s=1.0), time.clock)
    assert pacing.of("Sectigo").rate_per_s == 4.0
    assert pacing.of("Other").rate_per_s == 1.0
    assert pacing.of("Sectigo") is pacing.of("Sectigo")


async def test_requests_in_flight_are_bounded_and_admitted_in_order(time: FakeTime) -> None:
    pacer = make_pacer(time, in_flight=2)
    release = asyncio.Event()
    order: list[int] = []

    async def hold(number: int) -> None:
        async with pacer.turn():
            order.append(number)
            await release.wait()

    async with asyncio.TaskGroup() as group:
        for number in range(5):
            group.create_task(hold(number))
        for _ in range(10):
            await asyncio.sleep(0)
        assert order == [0, 1]
        release.set()
    assert order == [0, 1, 2, 3, 4]


async def test_retry_after_holds_every_request_of_the_operator(time: FakeTime) -> None:
    pacer = make_pacer(time)
    pacer.limited(await request(pacer), 90.0)
    assert pacer.paused_s == 90
    assert await request(pacer) >= 1090
    assert pacer.paused_s == 0


async def test_an_absurd_retry_after_is_cut(time: FakeTime) -> None:
    pacer = make_pacer(time)
    pacer.limited(await request(pacer), 1e9)
    assert pacer.paused_s == MAX_PAUSE_S


async def test_429s_that_say_nothing_pause_longer_each_time_but_not_for_long(time: FakeTime) -> None:
    pacer = make_pacer(time)
    pauses = []
    for _ in range(8):
        pacer.limited(await request(pacer), None)
        pauses.append(pacer.paused_s)
    assert pauses == [1, 2, 4, 8, 16, MAX_UNASKED_PAUSE_S, MAX_UNASKED_PAUSE_S, MAX_UNASKED_PAUSE_S]


async def test_a_429_halves_the_rate_that_was_refused(time: FakeTime) -> None:
    pacer = make_pacer(time)
    for _ in range(41):
        admitted = await request(pacer)
        time.now_s += 0.05
    pacer.limited(admitted, 1.0)
    assert pacer.rate_per_s == pytest.approx(10, rel=0.05)
    start = await request(pacer)
    for _ in range(10):
        last = await request(pacer)
    assert last - start == pytest.approx(1.0, rel=0.05)


async def test_429s_of_one_burst_slow_the_pace_once(time: FakeTime) -> None:
    pacer = make_pacer(time, rate_per_s=16.0)
    burst = [await request(pacer) for _ in range(8)]
    time.now_s += 1
    pacer.limited(burst[0], 1.0)
    slowed = pacer.rate_per_s
    for admitted in burst[1:]:
        pacer.limited(admitted, 5.0)
    assert pacer.rate_per_s == slowed
    assert pacer.paused_s == 5.0


async def test_the_rate_never_falls_to_a_standstill(time: FakeTime) -> None:
    pacer = make_pacer(time)
    for _ in range(50):
        pacer.limited(await request(pacer), None)
    assert pacer.rate_per_s == MIN_RATE_PER_S


async def test_time_without_429_speeds_up_to_the_configured_rate(time: FakeTime) -> None:
    pacer = make_pacer(time, rate_per_s=8.0)
    pacer.limited(await request(pacer), 1.0)
    slow = pacer.rate_per_s
    assert slow == 4.0
    time.now_s += RECOVERY_S
    pacer.answered(await request(pacer))
    assert pacer.rate_per_s == slow * RECOVERY_FACTOR
    pacer.answered(await request(pacer))
    assert pacer.rate_per_s == slow * RECOVERY_FACTOR, "only after another while without 429"
    for _ in range(20):
        time.now_s += RECOVERY_S
        pacer.answered(await request(pacer))
    assert pacer.rate_per_s == 8.0


async def test_an_operator_that_stopped_refusing_is_unlimited_again(time: FakeTime) -> None:
    pacer = make_pacer(time)
    pacer.limited(await request(pacer), None)
    for _ in range(20):
        time.now_s += RECOVERY_S
        pacer.answered(await request(pacer))
    assert pacer.rate_per_s is None


async def test_an_answer_to_a_request_from_before_the_429_speeds_up_nothing(time: FakeTime) -> None:
    pacer = make_pacer(time)
    early = await request(pacer)
    time.now_s += 1
    pacer.limited(await request(pacer), None)
    rate = pacer.rate_per_s
    time.now_s += 100
    pacer.answered(early)
    assert pacer.rate_per_s == rate


async def test_a_cancelled_wait_gives_its_place_back(time: FakeTime) -> None:
    pacer = make_pacer(time, in_flight=1)
    async with pacer.turn():
        waiting = asyncio.create_task(request(pacer))
        await asyncio.sleep(0)
        waiting.cancel()
        await asyncio.gather(waiting, return_exceptions=True)
        next_one = asyncio.create_task(request(pacer))
        await asyncio.sleep(0)
        assert not next_one.done()
    assert await next_one == 1000
