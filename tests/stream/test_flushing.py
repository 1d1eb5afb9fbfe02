"""When messages go out, and what it costs to drop many clients; time passes only where a test says so."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Callable, Iterator, Sequence

import pytest

from certstream.metrics import DropReason, Metrics
from certstream.stream.framing import WEBSOCKET
from certstream.stream.hub import Hub

PROMISE_S = 0.02


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


class Client(asyncio.Transport):
    """A connection that is written to in `takes_s` by the clock, and whose other end reads everything or nothing."""

    def __init__(self, clock: Clock, *, takes_s: float = 0.0, reads: bool = True) -> None:
        super().__init__()
        self.written: list[bytes] = []
        self.dropped: list[DropReason] = []
        self._clock = clock
        self._takes_s = takes_s
        self._reads = reads
        self._size = 0

    def is_closing(self) -> bool:
        return False

    def get_write_buffer_size(self) -> int:
        return 0 if self._reads else self._size

    def write(self, data: bytes | bytearray | memoryview) -> None:
        self._clock.now += self._takes_s
        self.written.append(bytes(data))
        self._size += len(data)


class Scheduler:
    """A loop that is asked to call, and never does; remembers after how many seconds."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.calls: list[tuple[Callable[[], object], float]] = []
        self._loop = loop

    def call_soon(self, callback: Callable[[], object]) -> asyncio.Handle:
        self.calls.append((callback, 0.0))
        return self._loop.call_soon(callback)

    def call_later(self, delay: float, callback: Callable[[], object]) -> asyncio.Handle:
        self.calls.append((callback, delay))
        return self._loop.call_later(delay, callback)


@pytest.fixture
def scheduler(monkeypatch: pytest.MonkeyPatch) -> Iterator[Scheduler]:
    with contextlib.closing(asyncio.new_event_loop()) as loop:
        scheduler = Scheduler(loop)
        monkeypatch.setattr(asyncio, "get_running_loop", lambda: scheduler)
        yield scheduler


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def hub(clock: Clock, scheduler: Scheduler) -> Hub:
    return Hub(Metrics(), clock=clock)


def attach(hub: Hub, client: Client) -> Client:
    hub.attach("lite", WEBSOCKET, client, client.dropped.append)
    return client


def flush_once(hub: Hub, client: Client) -> None:
    """Send a message to the hub's only client, which takes its time."""
    attach(hub, client)
    hub.publish("lite", [b"first"])
    hub.flush()
    client.written.clear()


def delays(scheduler: Scheduler, hub: Hub, messages: Sequence[bytes] = (b"{}",)) -> list[float]:
    """Publish messages; return after how long flushes are to run (s)."""
    scheduler.calls.clear()
    for message in messages:
        hub.publish("lite", [message])
    return [delay for callback, delay in scheduler.calls if callback == hub.flush]


@pytest.mark.parametrize(
    ("takes_s", "pause_s"),
    [
        pytest.param(0.0005, 0.002, id="four times the flush"),
        pytest.param(0.002, 0.008, id="many clients"),
        pytest.param(0.004, 0.01, id="at most half of the promise"),
        pytest.param(1.0, 0.01, id="the loop was held up"),
    ],
)
def test_after_a_flush_messages_gather_in_proportion_to_it_for_half_of_the_promise_at_most(
    hub: Hub, clock: Clock, scheduler: Scheduler, takes_s: float, pause_s: float
) -> None:
    flush_once(hub, Client(clock, takes_s=takes_s))
    (delay,) = delays(scheduler, hub)
    assert delay == pytest.approx(pause_s)
    assert delay <= PROMISE_S / 2


def test_messages_of_a_pause_wait_for_the_rest_of_it_only_and_go_out_in_one_write(
    hub: Hub, clock: Clock, scheduler: Scheduler
) -> None:
    client = Client(clock, takes_s=0.002)
    flush_once(hub, client)
    clock.now += 0.005
    (delay,) = delays(scheduler, hub, [b"0", b"1", b"2"])
    assert delay == pytest.approx(0.003)
    assert client.written == []
    hub.flush()
    assert client.written == [WEBSOCKET.frame([b"0", b"1", b"2"])]


def test_after_the_pause_messages_go_out_at_once(hub: Hub, clock: Clock, scheduler: Scheduler) -> None:
    flush_once(hub, Client(clock, takes_s=0.002))
    clock.now += 0.0081
    assert delays(scheduler, hub) == [0]


def test_after_a_flush_that_took_no_time_messages_go_out_at_once(hub: Hub, clock: Clock, scheduler: Scheduler) -> None:
    flush_once(hub, Client(clock, takes_s=0))
    assert delays(scheduler, hub) == [0]


def until_behind(hub: Hub, clients: Sequence[Client], chunks: int) -> None:
    """Publish until so many flushes are held for clients that do not read."""
    for client in clients:
        attach(hub, client)
    while hub.held_bytes() < chunks * 100_000:
        hub.publish("lite", [b"x" * 100_000])
        hub.flush()
    assert not any(client.dropped for client in clients)


def cost_of_dropping(count: int) -> float:
    """Return the CPU time (s) it takes to close a hub of which all clients are behind."""
    hub, clients = Hub(Metrics()), [Client(Clock(), reads=False) for _ in range(count)]
    until_behind(hub, clients, chunks=2)
    started = time.thread_time()
    hub.close()
    cost = time.thread_time() - started
    assert all(client.dropped == ["shutdown"] for client in clients)
    assert hub.held_bytes() == 0
    return cost


@pytest.mark.usefixtures("scheduler")
def test_dropping_eight_times_the_clients_costs_about_eight_times_as_much() -> None:
    few = min(cost_of_dropping(250) for _ in range(3))
    many = min(cost_of_dropping(2000) for _ in range(3))
    assert many < 24 * few  # of the square it would be 64
