"""A stream that ends is connected again: when, and what is told of it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from contextlib import aclosing

from certstream.client.clock import Clock
from certstream.errors import StreamRefusedError
from certstream.subscribe.connection import Opened
from certstream.subscribe.follow import Backoff, Event, Lost, follow
from certstream.subscribe.options import ConnectOptions
from tests.clients.clients_support import PATIENCE_S, ManualServer


class Time:
    """A clock that tests move; sleeping moves it."""

    def __init__(self) -> None:
        self.now_s = 0.0
        self.slept: list[float] = []

    async def sleep(self, delay_s: float) -> None:
        self.slept.append(delay_s)
        self.now_s += delay_s

    def clock(self) -> Clock:
        return Clock(monotonic=lambda: self.now_s, sleep=self.sleep, random=lambda: 0.0)


def test_delays_double_up_to_a_bound_and_are_jittered() -> None:
    time = Time()
    backoff = Backoff(time.clock())
    assert [backoff.delay_s() for _ in range(7)] == [1, 2, 4, 8, 16, 30, 30]
    assert 0.5 <= Backoff(Clock()).delay_s() <= 1


def test_only_a_connection_that_lasted_begins_anew() -> None:
    time = Time()
    backoff = Backoff(time.clock())
    for expected in (1, 2, 4):
        backoff.opened()
        time.now_s += 29
        assert backoff.delay_s() == expected
    backoff.opened()
    time.now_s += 30
    assert [backoff.delay_s(), backoff.delay_s()] == [1, 2]


def test_what_the_server_asks_for_is_waited_within_a_bound() -> None:
    backoff = Backoff(Time().clock())
    assert [backoff.delay_s(7), backoff.delay_s(0), backoff.delay_s(86_400)] == [7, 2, 300]


async def next_of(events: AsyncGenerator[Event, None]) -> Event:
    async with asyncio.timeout(PATIENCE_S):
        return await anext(events)


async def test_a_stream_is_connected_again_after_each_end(server: ManualServer) -> None:
    time = Time()
    async with aclosing(follow(ConnectOptions(url=server.url), time.clock())) as events:
        for code, delay_s in ((1001, 1.0), (1008, 2.0)):
            assert await next_of(events) == Opened(server.url)
            connection = await server.connection()
            await connection.send("{}")
            assert await next_of(events) == b"{}"
            following = asyncio.create_task(next_of(events))
            await connection.close(code)
            lost = await following
            assert isinstance(lost, Lost)
            assert (lost.error.code, lost.retry_in_s) == (code, delay_s)
        assert await next_of(events) == Opened(server.url)
    assert time.slept == [1.0, 2.0]


async def test_an_attempt_that_fails_is_told_before_it_is_waited_for_the_next(server: ManualServer) -> None:
    time = Time()
    server.refusal = (503, {"Retry-After": "5"})
    async with aclosing(follow(ConnectOptions(url=server.url), time.clock())) as events:
        lost = await next_of(events)
        assert isinstance(lost, Lost)
        assert (lost.retry_in_s, time.slept) == (5.0, [])
        server.refusal = (401, {})
        refused = await next_of(events)
        assert isinstance(refused, Lost)
        assert isinstance(refused.error, StreamRefusedError)
        server.refusal = None
        assert await next_of(events) == Opened(server.url)
