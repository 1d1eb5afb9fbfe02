"""The hub over real connections: who gets what, when, and what happens to whoever is too slow."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator, Awaitable, Callable

import pytest
from prometheus_client.parser import text_string_to_metric_families

from certstream.metrics import DropReason, Metrics
from certstream.stream.feed import Subscription
from certstream.stream.framing import SSE, WEBSOCKET, Framing
from certstream.stream.hub import KINDS, Hub, StreamKind

LIMIT = 256 << 10


class Client:
    """One end of a TCP connection whose other end the hub writes to; reads only when told."""

    def __init__(self, sock: socket.socket, transport: asyncio.Transport) -> None:
        self.sock = sock
        self.transport = transport
        self.dropped: list[DropReason] = []

    async def read(self, size: int) -> bytes:
        """Return exactly `size` bytes."""
        data = b""
        async with asyncio.timeout(10):
            while len(data) < size:
                more = await asyncio.get_running_loop().sock_recv(self.sock, size - len(data))
                assert more, f"closed after {data[-100:]!r}"
                data += more
        return data

    async def read_chunk(self) -> bytes:
        """Return what one read gives."""
        async with asyncio.timeout(10):
            return await asyncio.get_running_loop().sock_recv(self.sock, 1 << 20)

    def nothing_to_read(self) -> bool:
        with contextlib.suppress(BlockingIOError):
            return not self.sock.recv(1, socket.MSG_PEEK)
        return True


Connect = Callable[[], Awaitable[Client]]


@pytest.fixture
async def connect() -> AsyncIterator[Connect]:
    """Opens connections with small buffers, so that a client that does not read is soon behind."""
    loop = asyncio.get_running_loop()
    with contextlib.ExitStack() as stack, socket.create_server(("127.0.0.1", 0)) as listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 16 << 10)

        async def open_one() -> Client:
            sock = stack.enter_context(socket.socket())
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 16 << 10)
            sock.connect(listener.getsockname())
            sock.setblocking(False)
            accepted, _ = listener.accept()
            transport, _ = await loop.connect_accepted_socket(asyncio.Protocol, accepted)
            stack.callback(transport.abort)
            return Client(sock, transport)

        yield open_one


@pytest.fixture
def metrics() -> Metrics:
    return Metrics()


@pytest.fixture
def hub(metrics: Metrics) -> Hub:
    return Hub(metrics, client_backlog_bytes=LIMIT)


def attach(hub: Hub, client: Client, kind: StreamKind = "lite", framing: Framing = WEBSOCKET) -> Subscription:
    return hub.attach(kind, framing, client.transport, client.dropped.append)


def messages(count: int, size: int = 1000, first: int = 0) -> list[bytes]:
    return [b"%d:" % n + b"x" * (size - len(b"%d:" % n)) for n in range(first, first + count)]


def value(metrics: Metrics, name: str, **labels: str) -> float:
    for family in text_string_to_metric_families(metrics.exposition().decode()):
        for sample in family.samples:
            if sample.name == name and sample.labels == labels:
                return sample.value
    raise AssertionError(f"no {name} {labels}")


async def until(condition: Callable[[], object]) -> None:
    async with asyncio.timeout(10):
        while not condition():  # noqa: ASYNC110 - what connections do reaches the hub without an event
            await asyncio.sleep(0.001)


async def fall_behind(hub: Hub, client: Client, held_bytes: int = 1) -> list[bytes]:
    """Publish until so much is held for the client, which does not read; returns what was published."""
    published: list[bytes] = []
    while hub.held_bytes() < held_bytes:
        published += messages(10, first=len(published))
        hub.publish("lite", published[-10:])
        hub.flush()
        await asyncio.sleep(0)
    assert not client.dropped
    return published


async def test_a_kind_is_wanted_while_it_has_a_client(hub: Hub, connect: Connect) -> None:
    assert not any(map(hub.wants, KINDS))
    first, second = attach(hub, await connect()), attach(hub, await connect(), framing=SSE)
    assert [kind for kind in KINDS if hub.wants(kind)] == ["lite"]
    assert hub.clients() == hub.clients("lite") == 2
    hub.detach(first)
    assert hub.wants("lite")
    hub.detach(second)
    assert not hub.wants("lite")
    assert hub.clients() == 0


async def test_every_client_of_a_kind_gets_the_same_bytes_in_order_and_no_other_does(
    hub: Hub, connect: Connect
) -> None:
    readers = [await connect() for _ in range(3)]
    for reader in readers:
        attach(hub, reader)
    other = await connect()
    attach(hub, other, "full")
    sent = messages(50)
    hub.publish("lite", sent[:20])
    hub.publish("lite", sent[20:])
    expected = WEBSOCKET.frame(sent)
    assert [await reader.read(len(expected)) for reader in readers] == [expected] * 3
    assert other.nothing_to_read()


async def test_both_framings_of_a_kind_carry_the_same_messages(hub: Hub, connect: Connect) -> None:
    websocket, sse = await connect(), await connect()
    attach(hub, websocket)
    attach(hub, sse, framing=SSE)
    hub.publish("lite", [b'{"a":1}', b'{"a":2}'])
    assert await websocket.read(18) == WEBSOCKET.frame([b'{"a":1}', b'{"a":2}'])
    assert await sse.read(30) == b'data: {"a":1}\n\ndata: {"a":2}\n\n'


async def test_what_is_published_in_one_turn_goes_out_in_one_write(hub: Hub, connect: Connect) -> None:
    client = await connect()
    attach(hub, client)
    for message in messages(5, size=10):
        hub.publish("lite", [message])
    assert await client.read_chunk() == WEBSOCKET.frame(messages(5, size=10))


async def test_a_client_starts_with_what_is_published_after_it_came(hub: Hub, connect: Connect) -> None:
    early, late = await connect(), await connect()
    attach(hub, early)
    hub.publish("lite", [b"first"])
    hub.flush()
    attach(hub, late)
    hub.publish("lite", [b"second"])
    assert await late.read(8) == WEBSOCKET.frame([b"second"])
    assert await early.read(15) == WEBSOCKET.frame([b"first", b"second"])


async def test_a_detached_client_gets_nothing_more(hub: Hub, connect: Connect) -> None:
    gone, stays = await connect(), await connect()
    subscription = attach(hub, gone)
    attach(hub, stays)
    hub.detach(subscription)
    hub.detach(subscription)
    hub.publish("lite", [b"{}"])
    assert await stays.read(4) == WEBSOCKET.frame([b"{}"])
    assert gone.nothing_to_read()
    assert gone.dropped == []


async def test_a_client_that_was_behind_gets_every_message_once_it_reads(metrics: Metrics, connect: Connect) -> None:
    hub = Hub(metrics, client_backlog_bytes=4 * LIMIT)
    slow = await connect()
    attach(hub, slow)
    published = await fall_behind(hub, slow, held_bytes=700_000)  # more than its transport takes at once
    expected = WEBSOCKET.frame(published)
    assert await slow.read(len(expected)) == expected
    await until(lambda: not hub.held_bytes())
    hub.publish("lite", [b"{}"])
    assert await slow.read(4) == WEBSOCKET.frame([b"{}"])
    assert hub.backlog_bytes() == 0


async def test_clients_that_are_behind_share_what_is_held_for_them(hub: Hub, connect: Connect) -> None:
    slow = [await connect() for _ in range(5)]
    for client in slow:
        attach(hub, client)
    await fall_behind(hub, slow[0])
    assert hub.held_bytes() <= 2 * 10 * 1004
    assert hub.backlog_bytes() > 4 * hub.held_bytes()


async def test_a_client_past_its_bound_is_dropped_and_nobody_else_notices(
    hub: Hub, metrics: Metrics, connect: Connect
) -> None:
    slow, reader = await connect(), await connect()
    attach(hub, slow)
    attach(hub, reader)
    for first in range(0, 4 * LIMIT // 1000, 10):
        batch = messages(10, first=first)
        hub.publish("lite", batch)
        expected = WEBSOCKET.frame(batch)
        assert await reader.read(len(expected)) == expected
        assert hub.held_bytes() <= LIMIT + len(expected)
    assert slow.dropped == ["backlog"]
    assert reader.dropped == []
    assert hub.clients() == 1
    assert hub.held_bytes() == 0
    assert value(metrics, "certstream_stream_clients_dropped_total", stream="lite", reason="backlog") == 1
    assert value(metrics, "certstream_stream_clients", stream="lite", transport="websocket") == 1


async def test_what_a_dropped_client_was_sent_ends_with_a_whole_frame(hub: Hub, connect: Connect) -> None:
    slow = await connect()
    attach(hub, slow)
    while not slow.dropped:
        hub.publish("lite", messages(10))
        hub.flush()
    slow.transport.write(b"end")
    data = b""
    while not data.endswith(b"end"):
        data += await slow.read_chunk()
    assert (len(data) - 3) % 1004 == 0


async def test_a_client_that_has_read_everything_is_not_dropped_for_one_large_flush(hub: Hub, connect: Connect) -> None:
    client = await connect()
    attach(hub, client)
    sent = messages(4 * LIMIT // 1000)
    expected = WEBSOCKET.frame(sent)
    for _ in range(2):
        hub.publish("lite", sent)
        assert await client.read(len(expected)) == expected
    assert client.dropped == []


async def test_past_the_bound_for_all_the_client_furthest_behind_is_dropped_first(
    metrics: Metrics, connect: Connect
) -> None:
    hub = Hub(metrics, client_backlog_bytes=4 * LIMIT, total_backlog_bytes=LIMIT)
    slowest, slower, other = await connect(), await connect(), await connect()
    for client in (slowest, slower):
        attach(hub, client)
    attach(hub, other, "full")
    published = await fall_behind(hub, slowest, held_bytes=LIMIT // 2)
    both = hub.backlog_bytes()
    await slower.read(LIMIT // 4)
    await until(lambda: hub.backlog_bytes() <= both - LIMIT // 4)
    while not slowest.dropped:
        published += messages(10, first=len(published))
        hub.publish("lite", published[-10:])
        hub.publish("full", [b"{}"])
        hub.flush()
        assert hub.held_bytes() <= LIMIT
    assert slowest.dropped == ["total_backlog"]
    assert slower.dropped == other.dropped == []
    assert value(metrics, "certstream_stream_clients_dropped_total", stream="lite", reason="total_backlog") == 1
    expected = WEBSOCKET.frame(published)[LIMIT // 4 :]
    assert await slower.read(len(expected)) == expected


async def test_what_is_held_for_a_client_is_freed_when_it_is_detached(hub: Hub, connect: Connect) -> None:
    slow = await connect()
    subscription = attach(hub, slow)
    await fall_behind(hub, slow)
    hub.detach(subscription)
    assert hub.held_bytes() == 0


async def test_what_is_held_for_a_client_is_freed_when_its_connection_breaks(hub: Hub, connect: Connect) -> None:
    slow = await connect()
    attach(hub, slow)
    await fall_behind(hub, slow)
    slow.transport.abort()
    await until(lambda: not hub.held_bytes())
    assert hub.clients() == 0


async def test_a_broken_connection_does_not_disturb_the_others(hub: Hub, connect: Connect) -> None:
    broken, reader = await connect(), await connect()
    subscription = attach(hub, broken)
    attach(hub, reader)
    broken.transport.abort()
    hub.publish("lite", [b"{}"])
    assert await reader.read(4) == WEBSOCKET.frame([b"{}"])
    hub.detach(subscription)
    assert hub.clients() == 1


async def test_what_a_broken_connection_cannot_be_sent_is_not_counted(
    hub: Hub, metrics: Metrics, connect: Connect
) -> None:
    broken, reader = await connect(), await connect()
    attach(hub, broken)
    attach(hub, reader)
    broken.transport.abort()
    hub.publish("lite", messages(3))
    await reader.read(3 * 1004)
    assert value(metrics, "certstream_stream_messages_sent_total", stream="lite") == 3
    assert value(metrics, "certstream_stream_sent_bytes_total", stream="lite") == 3 * 1004


async def test_a_heartbeat_reaches_all_kinds_after_what_was_published_and_is_no_example(
    hub: Hub, connect: Connect
) -> None:
    lite, full, sse = await connect(), await connect(), await connect()
    attach(hub, lite)
    attach(hub, full, "full")
    attach(hub, sse, "domains", SSE)
    hub.publish("lite", [b"1"])
    hub.heartbeat(b"beat")
    assert await lite.read(11) == WEBSOCKET.frame([b"1", b"beat"]) + b"\x89\x00"
    assert await full.read(8) == WEBSOCKET.frame([b"beat"]) + b"\x89\x00"
    assert await sse.read(12) == b"data: beat\n\n"
    assert hub.latest("lite") == b"1"
    assert hub.latest("full") is None


async def test_what_was_sent_is_counted_per_client(hub: Hub, metrics: Metrics, connect: Connect) -> None:
    clients = [await connect() for _ in range(2)]
    for client in clients:
        attach(hub, client)
    hub.publish("lite", messages(3))
    for client in clients:
        await client.read(3 * 1004)
    assert value(metrics, "certstream_stream_messages_sent_total", stream="lite") == 6
    assert value(metrics, "certstream_stream_sent_bytes_total", stream="lite") == 6 * 1004


async def test_messages_are_counted_once_though_they_waited(hub: Hub, metrics: Metrics, connect: Connect) -> None:
    slow = await connect()
    attach(hub, slow)
    published = await fall_behind(hub, slow)
    await slow.read(len(WEBSOCKET.frame(published)))
    assert value(metrics, "certstream_stream_messages_sent_total", stream="lite") == len(published)


async def test_closing_sends_what_was_published_and_drops_everyone_now_and_later(
    hub: Hub, metrics: Metrics, connect: Connect
) -> None:
    client, late = await connect(), await connect()
    attach(hub, client)
    hub.publish("lite", [b"last"])
    hub.close()
    assert await client.read(6) == WEBSOCKET.frame([b"last"])
    attach(hub, late)
    assert client.dropped == late.dropped == ["shutdown"]
    assert hub.clients() == 0
    assert value(metrics, "certstream_stream_clients_dropped_total", stream="lite", reason="backlog") == 0
    assert 'reason="shutdown"' not in metrics.exposition().decode()


def test_the_example_is_the_newest_message_and_wanted_again_after_a_second(metrics: Metrics) -> None:
    now = [100.0]
    hub = Hub(metrics, clock=lambda: now[0])
    assert hub.latest("lite") is None
    assert hub.wants_example("lite")
    hub.set_example("lite", b"1")
    assert hub.latest("lite") == b"1"
    assert not hub.wants_example("lite")
    assert hub.wants_example("full")
    now[0] += 1
    assert hub.wants_example("lite")
    hub.publish("lite", [b"2", b"3"])
    assert hub.latest("lite") == b"3"
    assert not hub.wants_example("lite")


def test_publishing_nothing_changes_nothing(hub: Hub) -> None:
    hub.publish("lite", [])
    assert hub.latest("lite") is None
