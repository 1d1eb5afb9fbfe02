"""Which connections shutdown waits for, and which it cuts."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import Iterator

import pytest

from certstream.serve.connections import Connections


class Connection(asyncio.Protocol):
    """The server's end of a connection."""

    def __init__(self) -> None:
        self.lost = asyncio.Event()

    def connection_lost(self, exc: Exception | None) -> None:
        self.lost.set()


@pytest.fixture
def pair() -> Iterator[tuple[socket.socket, socket.socket]]:
    ours, theirs = socket.socketpair()
    theirs.settimeout(10)
    with ours, theirs:
        yield ours, theirs


async def serve(sock: socket.socket, connections: Connections) -> tuple[asyncio.Transport, asyncio.Task[None]]:
    """Serve one connection, in a task that ends with it."""
    transport, connection = await asyncio.get_running_loop().connect_accepted_socket(Connection, sock)
    tracked = asyncio.Event()

    async def handle() -> None:
        with connections.track(transport):
            tracked.set()
            await connection.lost.wait()

    task = asyncio.create_task(handle())
    await tracked.wait()
    return transport, task


async def test_a_connection_that_stays_is_cut_and_its_handler_has_ended_when_closing_is_done(
    pair: tuple[socket.socket, socket.socket],
) -> None:
    ours, theirs = pair
    connections = Connections()
    transport, handler = await serve(ours, connections)
    transport.write(b"x" * (8 << 20))  # more than goes out while nobody reads
    transport.close()
    await connections.close(0)
    assert handler.done()
    assert transport.get_write_buffer_size() == 0
    read = 0
    with contextlib.suppress(ConnectionError):
        while data := theirs.recv(1 << 20):
            read += len(data)
    assert read < 8 << 20


async def test_closing_waits_for_connections_and_is_done_with_the_last(
    pair: tuple[socket.socket, socket.socket],
) -> None:
    ours, theirs = pair
    connections = Connections()
    transport, handler = await serve(ours, connections)
    closing = asyncio.create_task(connections.close(3_600))
    transport.write(b"last")
    transport.close()
    async with asyncio.timeout(10):
        await closing
    assert handler.done()
    assert theirs.recv(10) == b"last"
    assert theirs.recv(10) == b""


async def test_without_connections_closing_is_done_at_once() -> None:
    async with asyncio.timeout(10):
        await Connections().close(3_600)
