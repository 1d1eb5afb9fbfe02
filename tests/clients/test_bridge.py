"""An asynchronous generator as blocking code sees it."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncGenerator, Callable

import pytest

from certstream.subscribe.bridge import Bridge
from tests.clients.clients_support import PATIENCE_S


def flat(bridge: Bridge[int]) -> list[int]:
    return [item for batch in bridge for item in batch]


def bridge_of(generate: Callable[[], AsyncGenerator[int, None]], limit_bytes: int = 1000) -> Bridge[int]:
    return Bridge(generate, lambda _: 1, limit_bytes)


class Endless:
    """Counts up, and tells how far it was asked and when it was closed."""

    def __init__(self, pause_at: int | None = None) -> None:
        self.given = 0
        self.reached = threading.Event()
        self.closed = threading.Event()
        self._pause_at = pause_at

    async def __call__(self) -> AsyncGenerator[int, None]:
        try:
            while True:
                if self.given == self._pause_at:
                    self.reached.set()
                    await asyncio.get_running_loop().create_future()
                self.given += 1
                yield self.given
        finally:
            self.closed.set()


async def ten() -> AsyncGenerator[int, None]:
    for number in range(10):
        yield number
        await asyncio.sleep(0)


def test_items_come_in_order_and_the_iteration_ends_with_them() -> None:
    with bridge_of(ten) as bridge:
        assert flat(bridge) == list(range(10))


def test_what_the_generator_raises_comes_after_its_items() -> None:
    async def failing() -> AsyncGenerator[int, None]:
        yield 1
        raise LookupError("broken")

    seen: list[int] = []
    with bridge_of(failing) as bridge, pytest.raises(LookupError, match="broken"):
        seen.extend(item for batch in bridge for item in batch)
    assert seen == [1]


def test_no_more_is_asked_for_than_the_bound_until_it_is_taken() -> None:
    endless = Endless()
    with bridge_of(endless, limit_bytes=10) as bridge:
        batches = iter(bridge)
        for _ in range(50):
            first = next(batches)
            assert len(first) <= 10
            assert endless.given <= first[-1] + 10
    assert endless.closed.wait(PATIENCE_S)


def test_leaving_it_closes_the_generator_and_ends_its_thread() -> None:
    endless = Endless()
    before = threading.active_count()
    with bridge_of(endless) as bridge:
        next(iter(bridge))
    assert endless.closed.is_set()
    assert threading.active_count() == before


def test_closing_it_from_another_thread_ends_an_iteration_that_waits() -> None:
    endless = Endless(pause_at=3)
    with bridge_of(endless) as bridge:

        def close() -> None:
            endless.reached.wait(PATIENCE_S)
            bridge.close()

        closer = threading.Thread(target=close)
        closer.start()
        assert flat(bridge) in ([], [1], [1, 2], [1, 2, 3])  # whatever was taken before it closed
        closer.join()
    assert endless.closed.is_set()


def test_closing_it_before_it_begins_is_its_end() -> None:
    endless = Endless()
    bridge = bridge_of(endless)
    bridge.close()
    with bridge:
        assert flat(bridge) == []
    assert endless.given == 0


async def test_it_may_be_iterated_where_an_event_loop_runs() -> None:
    with bridge_of(ten) as bridge:
        assert flat(bridge) == list(range(10))
