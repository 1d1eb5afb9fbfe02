"""An account of time that a test's clock makes."""

from __future__ import annotations

import asyncio

import pytest

from certstream.client.pacing import PaceSettings, Pacing
from certstream.client.waits import ACTIVITIES, Spent, Waits
from certstream.simulator.faults import Fault, FaultKind
from certstream.simulator.log import SimulatedLog
from tests.client.reading_support import FakeTime, reading, taken


class Time:
    def __init__(self) -> None:
        self.now_s = 50.0

    def __call__(self) -> float:
        return self.now_s


def test_time_counts_while_it_passes_and_no_more_when_it_is_over() -> None:
    time = Time()
    waits = Waits(time)
    with waits.on("reading"):
        time.now_s += 2
        assert waits.spent().seconds["reading"] == 2
        time.now_s += 1
    time.now_s += 10
    assert waits.spent().seconds == {**dict.fromkeys(ACTIVITIES, 0.0), "reading": 3.0}


def test_what_goes_on_at_the_same_time_counts_each_for_itself() -> None:
    time = Time()
    waits = Waits(time)
    with waits.on("reading"), waits.on("answering"):
        time.now_s += 1
        with waits.on("answering"):
            time.now_s += 2
    assert (waits.spent().seconds["reading"], waits.spent().seconds["answering"]) == (3, 5)


def test_what_ends_by_an_exception_ends() -> None:
    time = Time()
    waits = Waits(time)

    def fail() -> None:
        with waits.on("reading"):
            time.now_s += 1
            raise OSError("gone")

    with pytest.raises(OSError, match="gone"):
        fail()
    time.now_s += 1
    assert waits.spent().seconds["reading"] == 1


def test_the_difference_of_two_moments_is_what_was_spent_between_them() -> None:
    time = Time()
    waits = Waits(time)
    waits.page(10, 5)
    before = waits.spent()
    with waits.on("publishing"):
        time.now_s += 4
    waits.page(100, 25)
    assert waits.spent().since(before) == Spent({**dict.fromkeys(ACTIVITIES, 0.0), "publishing": 4.0}, 100, 25)


async def test_waiting_for_the_pace_is_counted_and_waiting_for_a_slot_is_not() -> None:
    time = FakeTime()
    pacer = Pacing(PaceSettings(default_rate_per_s=0.5, in_flight=1), time.clock).of("operator")
    first, second, held = Waits(time.clock.monotonic), Waits(time.clock.monotonic), asyncio.Event()

    async def turn(waits: Waits) -> None:
        async with pacer.turn(waits):
            await held.wait()

    async with asyncio.TaskGroup() as group:
        group.create_task(turn(first))
        group.create_task(turn(second))
        await asyncio.sleep(0)
        time.now_s += 1.5  # of the 2 s that the next token takes
        held.set()
    assert first.spent().seconds["pacing"] == 0
    assert second.spent().seconds["pacing"] == pytest.approx(0.5)


async def test_a_log_that_gives_small_pages_shows_in_what_was_wished_and_what_was_given() -> None:
    log = SimulatedLog("small", seed=1, initial=500)
    log.faults.add(Fault(FaultKind.SHORT_PAGE, entries=20))
    async with reading(log) as reader:
        client = reader.client(log, "rfc6962", batch_size=100)
        batches, error = await taken(client, 0, 500)
        spent = client.waits.spent()
    assert error is None
    assert spent.given == 500
    assert len(batches) >= 25
    assert spent.wished >= 4 * spent.given


async def test_the_rest_of_a_tree_is_no_small_page() -> None:
    log = SimulatedLog("short", seed=1, initial=30)
    async with reading(log) as reader:
        client = reader.client(log, "rfc6962", batch_size=100)
        await taken(client, 0, 30)
        assert client.waits.spent().wished == client.waits.spent().given == 30
