"""What a connection may cost before it has asked for anything."""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import pytest
from aiohttp import web
from prometheus_client.parser import text_string_to_metric_families

from certstream.metrics import Metrics
from certstream.serve.arrivals import Bounds
from certstream.serve.listener import Address, Listener
from certstream.serve.options import ServeOptions
from certstream.serve.server import MONITORING_CONNECTIONS, StreamServer
from certstream.stream.hub import Hub

Serve = Callable[..., Awaitable[StreamServer]]
Connect = Callable[[StreamServer], Awaitable[tuple[asyncio.StreamReader, asyncio.StreamWriter]]]

ASK = b"GET /health HTTP/1.1\r\nHost: x\r\n\r\n"
HANDSHAKE = (
    b"GET %b HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n"
)
LATE = ServeOptions(bounds=Bounds(request_s=0.1))


@pytest.fixture
async def connect() -> AsyncIterator[Connect]:
    async with contextlib.AsyncExitStack() as stack:

        async def open_one(server: StreamServer) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
            reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
            stack.push_async_callback(cut, writer)
            return reader, writer

        yield open_one


async def cut(writer: asyncio.StreamWriter) -> None:
    writer.transport.abort()
    writer.close()
    with contextlib.suppress(OSError):
        await writer.wait_closed()


def refused(metrics: Metrics, reason: str) -> float:
    for family in text_string_to_metric_families(metrics.exposition().decode()):
        for sample in family.samples:
            if sample.name == "certstream_connections_refused_total" and sample.labels == {"reason": reason}:
                return sample.value
    return 0.0


async def read_to_the_end(reader: asyncio.StreamReader) -> bytes:
    """Return what came until the connection was closed or cut."""
    got = b""
    async with asyncio.timeout(10):
        with contextlib.suppress(ConnectionError):
            while data := await reader.read(1 << 16):
                got += data
    return got


async def ask(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bytes:
    """Ask on a connection that is kept; return the status line."""
    writer.write(ASK)
    async with asyncio.timeout(10):
        return (await reader.readuntil(b"\r\n\r\nOK")).partition(b"\r\n")[0]


async def test_connections_that_send_nothing_are_cut_and_others_are_served(
    serve: Serve, metrics: Metrics, connect: Connect
) -> None:
    server = await serve(LATE)
    asking = await connect(server)
    assert await ask(*asking) == b"HTTP/1.1 200 OK"
    silent = [await connect(server) for _ in range(50)]
    for reader, _ in silent:
        assert await read_to_the_end(reader) == b""
    assert server.open_connections == 1
    assert refused(metrics, "slow_request") == 50
    assert await ask(*asking) == b"HTTP/1.1 200 OK"


async def test_a_header_that_trickles_is_cut_however_often_bytes_come(
    serve: Serve, metrics: Metrics, connect: Connect
) -> None:
    server = await serve(LATE)
    reader, writer = await connect(server)
    writer.write(b"GET /health HTTP/1.1\r\n")
    ended = asyncio.create_task(read_to_the_end(reader))
    sent = 0
    while not ended.done():
        writer.write(b"X-Header-%d: x\r\n" % sent)
        sent += 1
        await asyncio.wait([ended], timeout=0.02)
    assert await ended == b""
    assert sent > 2
    assert server.open_connections == 0
    assert refused(metrics, "slow_request") == 1


async def test_half_a_tls_handshake_is_cut(metrics: Metrics) -> None:
    """The client's hello never comes; the listener is the one that serves TLS."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    listener = Listener(web.Application(), Address("127.0.0.1", 0), LATE.bounds, metrics.connections_refused, context)
    await listener.start()
    try:
        reader, writer = await asyncio.open_connection("127.0.0.1", listener.port)
        writer.write(b"\x16\x03\x01")
        assert await read_to_the_end(reader) == b""
        assert listener.open_connections == 0
        await cut(writer)
    finally:
        await listener.close()


@pytest.mark.parametrize(
    ("request_head", "status"),
    [
        pytest.param(b"GET /" + b"x" * 8_200 + b" HTTP/1.1\r\n", b"400", id="line"),
        pytest.param(b"GET / HTTP/1.1\r\nX: " + b"x" * 8_200 + b"\r\n", b"400", id="one header"),
        pytest.param(b"GET / HTTP/1.1\r\n" + b"X: x\r\n" * 65, b"400", id="many headers"),
        pytest.param(b"GET / HTTP/1.1\r\n" + (b"X: " + b"x" * 8_000 + b"\r\n") * 5, b"431", id="large altogether"),
        pytest.param(b"GET / HTTP/1.1\r\nX: " + b"x" * 200_000, b"431", id="without end"),
    ],
)
async def test_a_request_that_is_too_large_is_answered_with_an_error_and_its_connection_closed(
    serve: Serve, connect: Connect, request_head: bytes, status: bytes
) -> None:
    server = await serve()
    reader, writer = await connect(server)
    writer.write(request_head + b"\r\n")
    assert (await read_to_the_end(reader)).split(b" ")[1] == status
    assert server.open_connections == 0


async def test_headers_as_large_as_the_bound_are_served(serve: Serve, connect: Connect) -> None:
    server = await serve()
    reader, writer = await connect(server)
    for _ in range(3):  # each request is counted for itself
        writer.write(b"GET /health HTTP/1.1\r\nHost: x\r\n" + (b"X: " + b"x" * 8_000 + b"\r\n") * 3 + b"\r\n")
        assert (await reader.readuntil(b"\r\n\r\nOK")).startswith(b"HTTP/1.1 200 ")


async def test_past_the_bound_connections_are_cut_at_once_until_one_ends(
    serve: Serve, metrics: Metrics, connect: Connect
) -> None:
    server = await serve(ServeOptions(bounds=Bounds(connections=2)))
    kept = [await connect(server) for _ in range(2)]
    for reader, writer in kept:
        assert await ask(reader, writer) == b"HTTP/1.1 200 OK"
    reader, _ = await connect(server)
    assert await read_to_the_end(reader) == b""
    assert refused(metrics, "full") == 1
    kept[0][1].close()
    async with asyncio.timeout(10):
        while server.open_connections > 1:  # noqa: ASYNC110 - nobody tells a test that the server saw the connection end
            await asyncio.sleep(0.001)
    assert await ask(*await connect(server)) == b"HTTP/1.1 200 OK"


async def test_the_address_for_monitoring_takes_few_connections_and_leaves_those_of_the_first(
    serve: Serve, metrics: Metrics, connect: Connect
) -> None:
    server = await serve(ServeOptions(monitoring=Address("127.0.0.1", 0)))
    many = [await asyncio.open_connection("127.0.0.1", server.monitoring_port) for _ in range(MONITORING_CONNECTIONS)]
    for reader, writer in many:
        assert await ask(reader, writer) == b"HTTP/1.1 200 OK"
    reader, further = await asyncio.open_connection("127.0.0.1", server.monitoring_port)
    assert await read_to_the_end(reader) == b""
    assert refused(metrics, "full") == 1
    reader, writer = await connect(server)
    writer.write(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
    assert await reader.readline() == b"HTTP/1.1 200 OK\r\n"
    for cutting in (further, *(writer for _, writer in many)):
        await cut(cutting)


async def test_two_thousand_connects_and_disconnects_leave_nothing_and_disturb_nobody(
    serve: Serve, hub: Hub, connect: Connect
) -> None:
    server = await serve()
    tasks = len(asyncio.all_tasks())
    asking = await connect(server)
    loop = asyncio.get_running_loop()
    for n in range(2_000):
        with socket.socket() as sock:
            sock.setblocking(False)
            await loop.sock_connect(sock, ("127.0.0.1", server.port))
            if n % 2:
                await loop.sock_sendall(sock, ASK[: n % 40])
        if n % 500 == 0:
            assert await ask(*asking) == b"HTTP/1.1 200 OK"
    asking[1].close()
    async with asyncio.timeout(10):
        while server.open_connections or len(asyncio.all_tasks()) > tasks:  # noqa: ASYNC110
            await asyncio.sleep(0.001)
    assert hub.clients() == 0


async def test_accepted_sockets_have_the_options_that_end_half_open_connections(serve: Serve, connect: Connect) -> None:
    server = await serve()
    reader, writer = await connect(server)
    assert await ask(reader, writer) == b"HTTP/1.1 200 OK"
    with accepted(writer.get_extra_info("sockname")) as sock:
        for level, name, value in Bounds().socket_options():
            doubled = 2 if name == socket.SO_RCVBUF and level == socket.SOL_SOCKET else 1  # socket(7)
            assert sock.getsockopt(level, name) == value * doubled


def accepted(client: tuple[str, int]) -> socket.socket:
    """The server's end of a connection, found among the files of this process."""
    for link in Path("/proc/self/fd").iterdir():
        with contextlib.suppress(OSError), socket.socket(fileno=os.dup(int(link.name))) as sock:
            if sock.family == socket.AF_INET and sock.getpeername() == client:
                return sock.dup()
    raise AssertionError(f"no connection of {client}")


@pytest.mark.parametrize("path", [b"/", b"/sse"])
async def test_a_client_whose_window_stays_shut_is_cut_by_the_kernel(
    serve: Serve, hub: Hub, connect: Connect, path: bytes
) -> None:
    """What is on its way to it never ends, and nothing new comes that would find it too far behind."""
    server = await serve(ServeOptions(bounds=Bounds(dead_s=0.5)))
    reader, writer = await connect(server)
    writer.write(HANDSHAKE % path)
    await reader.readuntil(b"\r\n\r\n")
    writer.transport.pause_reading()  # type: ignore[attr-defined]
    while not hub.held_bytes() and hub.clients():
        hub.publish("lite", [b"x" * 60_000])
        hub.flush()
        await asyncio.sleep(0)
    assert hub.clients() == 1
    async with asyncio.timeout(10):
        while hub.clients() or server.open_connections:  # noqa: ASYNC110
            await asyncio.sleep(0.01)
    assert hub.held_bytes() == hub.backlog_bytes() == 0
