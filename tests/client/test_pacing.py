from __future__ import annotations

import asyncio
import selectors
from random import Random

import pytest

from certstream.client.clock import Clock
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
    sporadic = int(settings.get("sporadic", 0))
    settings_of = PaceSettings(default_rate_per_s=limit, in_flight=in_flight, sporadic=sporadic)
    return Pacer(settings_of, "op", time.clock)


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
    second = asyncio.Event()
    order: list[int] = []
    inside: set[int] = set()
    together = 0

    async def hold(number: int) -> None:
        nonlocal together
        async with pacer.turn():
            order.append(number)
            inside.add(number)
            together = max(together, len(inside))
            if number == 1:
                second.set()
            await second.wait()
            inside.remove(number)

    async with asyncio.TaskGroup() as group:
        for number in range(5):
            group.create_task(hold(number))
    assert together == 2
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


async def test_429s_now_and_then_pause_and_do_not_slow_the_pace(time: FakeTime) -> None:
    pacer = make_pacer(time, sporadic=3)
    chance = Random(1)
    for _ in range(2_000):
        admitted = await request(pacer)
        time.now_s += 0.05
        if chance.random() < 0.05:
            pacer.limited(admitted, None)
            assert 0 < pacer.paused_s <= 2
        else:
            pacer.answered(admitted)
        assert pacer.rate_per_s is None


async def test_429s_in_a_row_slow_the_pace_after_the_first_few(time: FakeTime) -> None:
    pacer = make_pacer(time, sporadic=3)
    rates = []
    for _ in range(5):
        pacer.limited(await request(pacer), 1.0)
        rates.append(pacer.rate_per_s)
    assert rates[:3] == [None] * 3
    assert None not in rates[3:]


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


async def test_idle_polls_before_a_429_are_no_measure_of_the_rate_that_was_refused(time: FakeTime) -> None:
    pacer = make_pacer(time)
    for _ in range(60):
        await request(pacer)
        time.now_s += 10
    for _ in range(40):
        admitted = await request(pacer)
    pacer.limited(admitted, None)
    assert pacer.rate_per_s == pytest.approx(10, rel=0.05)


async def test_a_rate_at_the_floor_is_left_by_steps_from_the_floor(time: FakeTime) -> None:
    pacer = make_pacer(time)
    for _ in range(50):
        pacer.limited(await request(pacer), None)
    rates: list[float] = []
    while (rate := pacer.rate_per_s) is not None:
        rates.append(rate)
        time.now_s += RECOVERY_S
        pacer.answered(await request(pacer))
    assert rates[0] == MIN_RATE_PER_S
    assert rates[-1] > 6 * MIN_RATE_PER_S, "released clear of the rate that held, not of one below it"


class JumpingSelector(selectors.DefaultSelector):
    """Waits for nothing: time goes on to when the event loop would wake."""

    now_s = 0.0

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        ready = super().select(0)
        self.now_s += 0 if ready else timeout or 0
        return ready


class VirtualLoop(asyncio.SelectorEventLoop):
    """An event loop where sleeping takes no time."""

    def __init__(self) -> None:
        self._jumping = JumpingSelector()
        super().__init__(self._jumping)

    def time(self) -> float:
        return self._jumping.now_s


class Operator:
    """Admits `allowed` requests per second and bursts of twice that; counts those that it answered."""

    def __init__(self, allowed: float) -> None:
        self.allowed = allowed
        self.answered_at: list[float] = []
        self._tokens = 2 * allowed
        self._filled_at = 0.0

    def admits(self, now: float) -> bool:
        self._tokens = min(2 * self.allowed, self._tokens + (now - self._filled_at) * self.allowed)
        self._filled_at = now
        if self._tokens < 1:
            return False
        self._tokens -= 1
        self.answered_at.append(now)
        return True


async def catch_up(operator: Operator, idle_s: float, busy_s: float, retry_after_s: float | None) -> float:
    """Poll for `idle_s`, then read with four requests at a time; requests answered per second of reading."""
    now = asyncio.get_running_loop().time
    pacer = Pacer(PaceSettings(), "op", Clock(monotonic=now, wall=now, sleep=asyncio.sleep, random=lambda: 0.5))

    async def ask() -> bool:
        async with pacer.turn() as admitted_at:
            await asyncio.sleep(0.05)
            if operator.admits(now()):
                pacer.answered(admitted_at)
                return True
            pacer.limited(admitted_at, retry_after_s)
            return False

    async def read() -> None:
        while now() < idle_s:
            await ask()
            await asyncio.sleep(min(40, idle_s - now()) if now() < idle_s else 0)
        while now() < idle_s + busy_s:
            if not await ask():
                await asyncio.sleep(1)

    async with asyncio.TaskGroup() as group:
        for _ in range(4):
            group.create_task(read())
    return sum(at >= idle_s for at in operator.answered_at) / busy_s


@pytest.mark.parametrize("retry_after_s", [None, 1.0])
@pytest.mark.parametrize("idle_s", [0, 600])
@pytest.mark.parametrize("allowed", [2, 5, 20])
def test_what_an_operator_allows_is_mostly_used_also_after_a_long_idle_time(
    allowed: float, idle_s: float, retry_after_s: float | None
) -> None:
    with asyncio.Runner(loop_factory=VirtualLoop) as runner:
        used = runner.run(catch_up(Operator(allowed), idle_s, 600, retry_after_s))
    assert used >= 0.75 * allowed


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
