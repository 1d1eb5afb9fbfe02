"""Streams as WebSocket messages, read by the `websockets` client and byte by byte."""

from __future__ import annotations

import asyncio
import json
import socket
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import closing

import pytest
import websockets
from websockets.asyncio.client import ClientConnection
from websockets.asyncio.client import connect as connect_websocket

from certstream.metrics import Metrics
from certstream.serve.options import WEBSOCKET_PATHS, ServeOptions
from certstream.serve.server import StreamServer
from certstream.stream.hub import KINDS, Hub, StreamKind

Serve = Callable[..., Awaitable[StreamServer]]

TEXT, CLOSE, PING, PONG = 0x81, 0x88, 0x89, 0x8A
HANDSHAKE = (
    b"GET / HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n"
)


class RawClient:
    """A WebSocket client that does only what it is told: it reads no frame and answers no ping by itself."""

    def __init__(self, sock: socket.socket) -> None:
        self.sock = sock
        self._data = b""

    async def send(self, first: int, payload: bytes = b"") -> None:
        """Send one short frame, masked with zeros."""
        await self.send_bytes(bytes((first, 0x80 | len(payload), 0, 0, 0, 0)) + payload)

    async def send_bytes(self, data: bytes) -> None:
        await asyncio.get_running_loop().sock_sendall(self.sock, data)

    async def head(self) -> bytes:
        while b"\r\n\r\n" not in self._data:
            await self._more()
        head, _, self._data = self._data.partition(b"\r\n\r\n")
        return head

    async def read(self, size: int) -> bytes:
        while len(self._data) < size:
            await self._more()
        data, self._data = self._data[:size], self._data[size:]
        return data

    async def frame(self) -> tuple[int, bytes]:
        first, size = await self.read(2)
        if size >= 126:
            size = int.from_bytes(await self.read(2 if size == 126 else 8))
        return first, await self.read(size)

    async def message(self) -> bytes:
        first, payload = await self.frame()
        assert first == TEXT
        return payload

    async def at_end(self) -> bool:
        async with asyncio.timeout(10):
            return not self._data and not await asyncio.get_running_loop().sock_recv(self.sock, 1)

    async def _more(self) -> None:
        async with asyncio.timeout(10):
            data = await asyncio.get_running_loop().sock_recv(self.sock, 1 << 16)
        if not data:
            raise EOFError(self._data[-100:])
        self._data += data


RawConnect = Callable[[StreamServer], Awaitable[RawClient]]


@pytest.fixture
def connect_raw() -> Iterator[RawConnect]:
    opened: list[socket.socket] = []

    async def connect(server: StreamServer) -> RawClient:
        opened.append(socket.socket())
        opened[-1].setblocking(False)
        await asyncio.get_running_loop().sock_connect(opened[-1], ("127.0.0.1", server.port))
        client = RawClient(opened[-1])
        await client.send_bytes(HANDSHAKE + b"\r\n")
        assert b" 101 " in await client.head()
        return client

    yield connect
    for sock in opened:
        sock.close()


def fragment(opcode: int, size: int) -> bytes:
    """A frame that is not the last of its message, masked with zeros."""
    return bytes((opcode, 0x80 | 126)) + size.to_bytes(2) + bytes(4) + b"x" * size


def connect(server: StreamServer, path: str = "/") -> connect_websocket:
    return connect_websocket(f"ws://127.0.0.1:{server.port}{path}", max_size=None, compression=None)


async def receive(client: ClientConnection) -> str | bytes:
    async with asyncio.timeout(10):
        return await client.recv()


async def fill(hub: Hub, clients: int) -> None:
    """Publish until only that many clients are left in the hub."""
    while hub.clients() > clients:
        hub.publish("lite", [b"x" * 60_000])
        hub.flush()
        await asyncio.sleep(0)


@pytest.mark.parametrize("kind", KINDS)
async def test_each_path_streams_its_kind_as_text(serve: Serve, hub: Hub, kind: StreamKind) -> None:
    async with connect(await serve(), WEBSOCKET_PATHS[kind]) as client:
        for other in KINDS:
            hub.publish(other, [b'{"kind":"%s"}' % other.encode()])
        assert await receive(client) == f'{{"kind":"{kind}"}}'


async def test_messages_of_every_frame_length_arrive_whole(serve: Serve, hub: Hub) -> None:
    sizes = (0, 1, 125, 126, 127, 65_535, 65_536, 200_000)
    async with connect(await serve()) as client:
        hub.publish("lite", [b"x" * size for size in sizes])
        assert [await receive(client) for _ in sizes] == ["x" * size for size in sizes]


async def test_ten_thousand_messages_arrive_in_order(serve: Serve, hub: Hub) -> None:
    async with connect(await serve()) as client:
        for start in range(0, 10_000, 100):
            hub.publish("lite", [b"%d" % n for n in range(start, start + 100)])
            assert [await receive(client) for _ in range(100)] == [str(n) for n in range(start, start + 100)]


async def test_compression_is_not_agreed_to(serve: Serve) -> None:
    server = await serve()
    async with connect_websocket(f"ws://127.0.0.1:{server.port}/", compression="deflate") as client:
        assert client.response is not None
        assert "Sec-WebSocket-Extensions" not in client.response.headers


@pytest.mark.parametrize("header", [b"Sec-WebSocket-Version: 13", b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ=="])
async def test_a_handshake_without_key_or_version_is_400(serve: Serve, hub: Hub, header: bytes) -> None:
    server = await serve()
    reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
    with closing(writer):
        writer.write(HANDSHAKE.replace(header + b"\r\n", b"") + b"\r\n")
        assert b" 400 " in await reader.readline()
    assert hub.clients() == 0


async def test_a_heartbeat_is_a_message_and_a_ping_and_whoever_never_answers_lives_on(
    serve: Serve, hub: Hub, connect_raw: RawConnect
) -> None:
    client = await connect_raw(await serve(ServeOptions(heartbeat_s=0.01)))
    for _ in range(20):
        beat = json.loads(await client.message())
        assert beat.keys() == {"message_type", "timestamp"}
        assert beat["message_type"] == "heartbeat"
        assert isinstance(beat["timestamp"], float)
        assert abs(beat["timestamp"] - time.time()) < 60
        assert await client.frame() == (PING, b"")
    assert hub.clients() == 1


async def test_pings_are_answered_between_whole_messages(serve: Serve, hub: Hub, connect_raw: RawConnect) -> None:
    client = await connect_raw(await serve())
    sent = 0
    got: list[bytes] = []
    pongs: list[bytes] = []
    for n in range(50):
        await client.send(PING, b"%d" % n)
        for _ in range(20):
            hub.publish("lite", [b"%d:" % sent + b"x" * 100])
            sent += 1
        await asyncio.sleep(0)
    while len(got) < sent or len(pongs) < 50:
        first, payload = await client.frame()
        (pongs if first == PONG else got).append(payload)
    assert got == [b"%d:" % n + b"x" * 100 for n in range(sent)]
    assert pongs == [b"%d" % n for n in range(50)]


async def test_what_clients_send_is_ignored(serve: Serve, hub: Hub, connect_raw: RawConnect) -> None:
    client = await connect_raw(await serve())
    await client.send(TEXT, b'{"subscribe":"all"}')
    await client.send(0x82, b"\x00\xff")
    await client.send(TEXT, b"\xff\xfe is not UTF-8")
    await client.send(PONG, b"never asked for")
    await client.send(PING, b"done")
    assert await client.frame() == (PONG, b"done")
    hub.publish("lite", [b"{}"])
    assert await client.message() == b"{}"


@pytest.mark.parametrize(
    "frames",
    [
        pytest.param(b"\x82\xff" + (1 << 20).to_bytes(8) + bytes(4), id="the header of one frame is enough"),
        pytest.param(fragment(0x02, 600) + fragment(0x00, 600), id="fragments count together"),
    ],
)
async def test_a_message_of_a_client_above_the_bound_closes_with_1009(
    serve: Serve, hub: Hub, connect_raw: RawConnect, frames: bytes
) -> None:
    client = await connect_raw(await serve(ServeOptions(max_message_bytes=1000)))
    await client.send_bytes(frames)
    first, payload = await client.frame()
    assert first == CLOSE
    assert payload[:2] == (1009).to_bytes(2)
    assert await client.at_end()
    assert hub.clients() == 0


async def test_a_close_is_answered_and_nothing_follows(serve: Serve, hub: Hub, connect_raw: RawConnect) -> None:
    client = await connect_raw(await serve())
    await client.send(CLOSE, (1000).to_bytes(2))
    first, payload = await client.frame()
    assert (first, payload[:2]) == (CLOSE, (1000).to_bytes(2))
    assert hub.clients() == 0
    hub.publish("lite", [b"{}"])
    assert await client.at_end()


async def test_a_connection_that_breaks_is_forgotten(serve: Serve, hub: Hub, connect_raw: RawConnect) -> None:
    client = await connect_raw(await serve())
    client.sock.close()
    async with asyncio.timeout(10):
        while hub.clients():  # noqa: ASYNC110 - nobody tells a test that the server saw the connection end
            await asyncio.sleep(0.001)


@pytest.mark.parametrize(
    "frame",
    [
        pytest.param(bytes((PING, 0x80, 0, 0, 0, 0)), id="pings"),
        pytest.param(bytes((PONG, 0x80, 0, 0, 0, 0)), id="pongs"),
        pytest.param(bytes((TEXT, 0x80, 0, 0, 0, 0)), id="messages"),
        pytest.param(b"\x82\xfe\x80\x00" + bytes(4 + (32 << 10)), id="large messages"),
    ],
)
async def test_a_flood_is_closed_with_1008_and_costs_nobody_a_message(
    serve: Serve, hub: Hub, metrics: Metrics, connect_raw: RawConnect, frame: bytes
) -> None:
    """The flooding client reads nothing until it is closed; what it is owed stays bounded."""
    server = await serve()
    flooding = await connect_raw(server)
    sending = asyncio.create_task(flooding.send_bytes(frame * ((8 << 20) // len(frame))))
    async with connect(server) as reader:
        count = 0
        while hub.clients() == 2:
            hub.publish("lite", [b"%d" % count])
            assert await receive(reader) == str(count)
            assert hub.backlog_bytes() < 64 << 10
            count += 1
        hub.publish("lite", [b"after"])
        assert await receive(reader) == "after"
    while (answer := await flooding.frame())[0] != CLOSE:
        assert answer[0] in (TEXT, PONG)
    assert answer[1] == (1008).to_bytes(2) + b"too many frames"
    await asyncio.wait([sending])
    assert isinstance(sending.exception(), ConnectionError)
    assert hub.held_bytes() == hub.clients() == 0
    assert 'clients_dropped_total{reason="flood",stream="lite"} 1.0' in metrics.exposition().decode()


async def test_fragments_without_end_are_closed_though_they_are_empty(
    serve: Serve, hub: Hub, connect_raw: RawConnect
) -> None:
    client = await connect_raw(await serve())
    await client.send_bytes(fragment(0x02, 0) + fragment(0x00, 0) * 300)
    assert await client.frame() == (CLOSE, (1008).to_bytes(2) + b"too many frames")
    assert hub.clients() == 0


async def test_a_client_that_says_goodbye_before_it_is_dropped_gets_one_close(
    serve: Serve, hub: Hub, connect_raw: RawConnect
) -> None:
    client = await connect_raw(await serve())
    await client.send_bytes(b"\x88\x82" + bytes(4) + (1000).to_bytes(2) + bytes((PING, 0x80, 0, 0, 0, 0)) * 500)
    assert await client.frame() == (CLOSE, (1000).to_bytes(2))
    assert await client.at_end()
    assert hub.clients() == 0


async def test_a_slow_reader_is_closed_with_1008_while_another_reads_everything(
    serve: Serve, hub: Hub, connect_raw: RawConnect
) -> None:
    server = await serve()
    slow = await connect_raw(server)
    async with connect(server) as reader:
        count = 0
        while hub.clients() == 2:
            message = b"%d:" % count + b"x" * 60_000
            hub.publish("lite", [message])
            assert await receive(reader) == message.decode()
            count += 1
        assert hub.held_bytes() == 0
        hub.publish("lite", [b"after"])
        assert await receive(reader) == "after"
    read = 0
    while (frame := await slow.frame())[0] == TEXT:
        assert frame[1] == b"%d:" % read + b"x" * 60_000
        read += 1
    assert frame == (CLOSE, (1008).to_bytes(2) + b"too slow: backlog is full")
    assert 0 < read < count


async def test_a_dropped_client_that_answers_the_close_is_not_sent_another(
    serve: Serve, hub: Hub, connect_raw: RawConnect
) -> None:
    client = await connect_raw(await serve())
    await fill(hub, 0)
    while (await client.frame())[0] != CLOSE:
        pass
    await client.send(CLOSE, (1008).to_bytes(2))
    assert await client.at_end()


async def test_a_dropped_client_that_does_not_read_is_cut_within_seconds(
    serve: Serve, hub: Hub, connect_raw: RawConnect
) -> None:
    server = await serve()
    tasks = len(asyncio.all_tasks())
    await connect_raw(server)
    await fill(hub, 0)
    assert len(asyncio.all_tasks()) > tasks  # its connection is still there, for the close frame to arrive
    async with asyncio.timeout(5):
        while len(asyncio.all_tasks()) > tasks:  # noqa: ASYNC110 - nobody tells a test that a connection was cut
            await asyncio.sleep(0.01)


async def test_shutdown_says_1001_to_those_who_read_after_their_last_message(serve: Serve, hub: Hub) -> None:
    server = await serve()
    clients = [await connect(server) for _ in range(20)]
    hub.publish("lite", [b"last"])
    started = time.monotonic()
    await server.close()
    assert time.monotonic() - started < 2
    for client in clients:
        assert await receive(client) == "last"
        with pytest.raises(websockets.ConnectionClosed) as closed:
            await receive(client)
        assert closed.value.rcvd is not None
        assert closed.value.rcvd.code == 1001


async def test_shutdown_ends_within_two_seconds_with_clients_that_do_not_read(
    serve: Serve, hub: Hub, connect_raw: RawConnect
) -> None:
    server = await serve()
    clients = [await connect_raw(server) for _ in range(5)]
    while not hub.held_bytes():
        hub.publish("lite", [b"x" * 60_000])
        hub.flush()
        await asyncio.sleep(0)
    started = time.monotonic()
    await server.close()
    assert time.monotonic() - started < 2
    assert hub.clients() == 0
    assert hub.held_bytes() == 0
    for client in clients:
        with pytest.raises((ConnectionError, EOFError)):
            await client.read(1 << 40)


async def test_shutdown_is_quick_when_clients_answer(serve: Serve, hub: Hub) -> None:
    server = await serve()
    async with connect(server):
        started = time.monotonic()
        await server.close()
        assert time.monotonic() - started < 0.9
