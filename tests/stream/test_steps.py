"""A flush is sent in steps: the loop turns in between, and nobody gets anything twice, out of order or not at all."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Sequence
from typing import Final

import pytest

from certstream.metrics import DropReason, Metrics
from certstream.stream.feed import CHUNK_BYTES, Subscription
from certstream.stream.framing import WEBSOCKET
from certstream.stream.hub import Hub

MESSAGE: Final = 64 << 10
CLIENTS: Final = 100


class Client(asyncio.Transport):
    """A connection whose other end reads everything, or nothing while it is `stopped`."""

    def __init__(self) -> None:
        super().__init__()
        self.written: list[bytes] = []
        self.waiting = 0
        self.stopped = False
        self.dropped: list[DropReason] = []

    def is_closing(self) -> bool:
        return False

    def get_write_buffer_size(self) -> int:
        return self.waiting

    def write(self, data: bytes | bytearray | memoryview) -> None:
        self.written.append(bytes(data))
        self.waiting += len(data) if self.stopped else 0

    def got(self) -> bytes:
        return b"".join(self.written)


class CountingFraming:
    """Frames as ever, and counts the bytes it has framed."""

    name: Final = "websocket"
    keepalive: Final = WEBSOCKET.keepalive

    def __init__(self) -> None:
        self.framed_bytes = 0

    def frame(self, messages: Sequence[bytes]) -> bytes:
        framed = WEBSOCKET.frame(messages)
        self.framed_bytes += len(framed)
        return framed


@pytest.fixture
def framing() -> CountingFraming:
    return CountingFraming()


@pytest.fixture
def hub() -> Hub:
    return Hub(Metrics())


def attach(hub: Hub, framing: CountingFraming, client: Client) -> Subscription:
    return hub.attach("lite", framing, client, client.dropped.append)


def attach_many(hub: Hub, framing: CountingFraming) -> list[Client]:
    clients = [Client() for _ in range(CLIENTS)]
    for client in clients:
        attach(hub, framing, client)
    return clients


def messages(count: int, first: int = 0, size: int = MESSAGE) -> list[bytes]:
    return [b"%08d" % n + b"x" * (size - 8) for n in range(first, first + count)]


async def until_all_got(clients: Sequence[Client], sent: Sequence[bytes]) -> int:
    """Let the loop turn until all have everything; how often it turned."""
    size, turns = len(WEBSOCKET.frame(sent)), 0
    async with asyncio.timeout(10):
        while any(sum(map(len, client.written)) < size for client in clients):
            await asyncio.sleep(0)
            turns += 1
    return turns


async def test_between_the_steps_of_a_large_flush_the_loop_turns(hub: Hub, framing: CountingFraming) -> None:
    clients = attach_many(hub, framing)
    sent = messages(16)
    hub.publish("lite", sent)
    handed: list[int] = []

    def look() -> None:
        handed.append(sum(len(data) for client in clients for data in client.written))
        asyncio.get_running_loop().call_soon(look)

    look()
    assert await until_all_got(clients, sent) > 10
    per_turn = [after - before for before, after in itertools.pairwise(handed)]
    assert max(per_turn) <= (8 << 20) + CHUNK_BYTES + 16  # a step ends with the chunk that exhausts it, and a header
    for client in clients:
        assert client.got() == WEBSOCKET.frame(sent)


async def test_a_small_flush_goes_out_at_once(hub: Hub, framing: CountingFraming) -> None:
    clients = attach_many(hub, framing)
    hub.publish("lite", [b"{}"])
    hub.flush()
    assert all(client.got() == WEBSOCKET.frame([b"{}"]) for client in clients)


async def test_what_is_published_meanwhile_comes_after_it_and_a_heartbeat_too(
    hub: Hub, framing: CountingFraming
) -> None:
    clients = attach_many(hub, framing)
    sent = messages(4)
    hub.publish("lite", sent)
    hub.flush()
    for n in range(10):
        sent += messages(4, first=len(sent))
        hub.publish("lite", sent[-4:])
        if n == 5:
            hub.heartbeat(b"beat")
            sent.append(b"beat")
        await asyncio.sleep(0)
    await until_all_got(clients, sent)
    await asyncio.sleep(0)
    keepalive = WEBSOCKET.frame([b"beat"]) + WEBSOCKET.keepalive
    expected = WEBSOCKET.frame(sent).replace(WEBSOCKET.frame([b"beat"]), keepalive)
    for client in clients:
        assert client.got() == expected


async def test_who_leaves_during_a_flush_gets_nothing_more_and_who_comes_gets_the_rest_in_whole_frames(
    hub: Hub, framing: CountingFraming
) -> None:
    clients = attach_many(hub, framing)
    leaving = [Client() for _ in range(CLIENTS)]
    subscriptions = [attach(hub, framing, client) for client in leaving]
    sent = messages(40)
    hub.publish("lite", sent)
    hub.flush()
    await asyncio.sleep(0)
    for subscription in subscriptions:
        hub.detach(subscription)
    had = [client.got() for client in leaving]
    late = Client()
    attach(hub, framing, late)
    await until_all_got(clients, sent)
    assert [client.got() for client in leaving] == had
    whole = WEBSOCKET.frame(sent)
    assert whole.endswith(late.got())
    assert len(late.got()) % (len(whole) // len(sent)) == 0
    assert hub.clients() == CLIENTS + 1
    assert hub.held_bytes() == 0


async def test_who_stops_reading_during_a_flush_goes_on_where_it_stopped(hub: Hub, framing: CountingFraming) -> None:
    clients = attach_many(hub, framing)
    stopped = clients[0]
    sent = messages(40)
    stopped.stopped = True
    hub.publish("lite", sent)
    await until_all_got(clients[1:], sent)
    assert 0 < hub.held_bytes() <= len(WEBSOCKET.frame(sent))
    assert stopped.dropped == []
    stopped.stopped, stopped.waiting = False, 0
    await until_all_got([stopped], sent)
    assert stopped.got() == WEBSOCKET.frame(sent)
    assert hub.held_bytes() == 0


async def test_messages_of_megabytes_are_framed_once_and_go_to_few_clients_a_turn(
    hub: Hub, framing: CountingFraming
) -> None:
    """What 64 certificates of 64 KB in a chain make of an entry."""
    clients = attach_many(hub, framing)
    sent = messages(4, size=5 << 20)
    hub.publish("lite", sent)
    assert await until_all_got(clients, sent) > CLIENTS
    assert framing.framed_bytes == len(WEBSOCKET.frame(sent))
    assert all(client.got() == WEBSOCKET.frame(sent) for client in clients[:3])


async def test_a_chunk_is_framed_when_its_turn_comes(hub: Hub, framing: CountingFraming) -> None:
    attach_many(hub, framing)
    hub.publish("lite", messages(400))
    hub.flush()
    assert framing.framed_bytes <= 2 * CHUNK_BYTES


async def test_past_the_bound_of_what_gathers_the_flush_is_sent_before_publishing_goes_on(
    hub: Hub, framing: CountingFraming
) -> None:
    clients = attach_many(hub, framing)
    sent = messages(16)
    hub.publish("lite", sent)
    hub.flush()
    assert any(client.got() != WEBSOCKET.frame(sent) for client in clients)
    more = messages(520, first=16)
    hub.publish("lite", more[:260])
    assert any(client.got() != WEBSOCKET.frame(sent) for client in clients)
    hub.publish("lite", more[260:])
    assert all(client.got() == WEBSOCKET.frame(sent) for client in clients)
    await until_all_got(clients, sent + more)
    assert clients[0].got() == WEBSOCKET.frame(sent + more)


async def test_closing_sends_the_rest_of_a_flush_first(hub: Hub, framing: CountingFraming) -> None:
    clients = attach_many(hub, framing)
    sent = messages(16)
    hub.publish("lite", sent)
    hub.flush()
    hub.publish("lite", [b"last"])
    hub.close()
    for client in clients:
        assert client.got() == WEBSOCKET.frame([*sent, b"last"])
        assert client.dropped == ["shutdown"]
