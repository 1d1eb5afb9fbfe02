"""TLS connections count from the moment they are accepted, whatever becomes of their handshake."""

from __future__ import annotations

import asyncio
import contextlib
import resource
import socket
import ssl
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from aiohttp import web

from certstream.errors import ConfigError
from certstream.metrics import Metrics
from certstream.serve.arrivals import Bounds
from certstream.serve.handshakes import listening_sockets
from certstream.serve.listener import Address, Listener
from certstream.serve.tls import TlsCertificate, TlsFiles
from tests.serve.tls_support import make_pair

PAIR = make_pair("handshakes")
HALF_A_HELLO = b"\x16\x03\x01"
MOST = 30


@pytest.fixture
def context(tmp_path: Path) -> ssl.SSLContext:
    files = TlsFiles(tmp_path / "cert.pem", tmp_path / "key.pem")
    PAIR.write(files)
    return TlsCertificate(files).context


@pytest.fixture
async def listener(metrics: Metrics, context: ssl.SSLContext) -> AsyncIterator[Listener]:
    bounds = Bounds(connections=MOST)
    listener = Listener(web.Application(), Address("127.0.0.1", 0), bounds, metrics.connections_refused, context)
    await listener.start()
    yield listener
    await listener.close()


async def secure(listener: Listener, sock: socket.socket | None = None) -> asyncio.StreamWriter:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    async with asyncio.timeout(10):
        if sock is not None:
            return (await asyncio.open_connection(sock=sock, ssl=context, server_hostname="x"))[1]
        return (await asyncio.open_connection("127.0.0.1", listener.port, ssl=context))[1]


def cut(writer: asyncio.StreamWriter) -> None:
    writer.transport.abort()
    writer.close()


async def until_open(listener: Listener, count: int) -> None:
    async with asyncio.timeout(10):
        while listener.open_connections != count:  # noqa: ASYNC110 - nobody tells when the server saw it
            await asyncio.sleep(0.001)


def refused(metrics: Metrics) -> float:
    return metrics.registry.get_sample_value("certstream_connections_refused_total", {"reason": "full"}) or 0.0


async def test_half_handshakes_take_no_more_than_the_bound_and_make_room_when_they_end(
    listener: Listener, metrics: Metrics
) -> None:
    halves = [(await asyncio.open_connection("127.0.0.1", listener.port))[1] for _ in range(MOST)]
    for half in halves:
        half.write(HALF_A_HELLO)
    await until_open(listener, MOST)
    reader, further = await asyncio.open_connection("127.0.0.1", listener.port)
    async with asyncio.timeout(5):  # far less than a handshake may take
        with contextlib.suppress(ConnectionError):
            assert await reader.read() == b""
    assert (listener.open_connections, refused(metrics)) == (MOST, 1)
    cut(halves[0])
    await until_open(listener, MOST - 1)
    whole = await secure(listener)
    assert listener.open_connections == MOST
    for writer in (whole, *halves, further):
        cut(writer)
    await until_open(listener, 0)


@pytest.mark.parametrize("sent", [b"", HALF_A_HELLO, b"GET / HTTP/1.1\r\n\r\n", b"\x16\x03\x01\x00\x05hello"])
async def test_a_handshake_that_fails_is_counted_no_more(listener: Listener, sent: bytes) -> None:
    for _ in range(20):
        with socket.create_connection(("127.0.0.1", listener.port)) as client:
            client.sendall(sent)
        await asyncio.sleep(0)
    whole = await secure(listener)
    await until_open(listener, 1)
    cut(whole)
    await until_open(listener, 0)


async def test_closing_ends_handshakes_and_leaves_nothing(metrics: Metrics, context: ssl.SSLContext) -> None:
    before = asyncio.all_tasks()
    listener = Listener(web.Application(), Address("127.0.0.1", 0), Bounds(), metrics.connections_refused, context)
    await listener.start()
    port = listener.port
    reader, half = await asyncio.open_connection("127.0.0.1", port)
    half.write(HALF_A_HELLO)
    await until_open(listener, 1)
    await listener.close()
    async with asyncio.timeout(5):
        with contextlib.suppress(ConnectionError):
            assert await reader.read() == b""
        while asyncio.all_tasks() != before:  # noqa: ASYNC110 - a task that was cancelled ends in a turn of its own
            await asyncio.sleep(0)
    cut(half)
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.1", port))


async def test_where_the_process_has_no_file_left_a_connection_is_accepted_later(listener: Listener) -> None:
    failures: list[object] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: failures.append(context))
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    client = socket.create_connection(("127.0.0.1", listener.port))
    client.setblocking(False)
    resource.setrlimit(resource.RLIMIT_NOFILE, (3, hard))
    try:
        for _ in range(10):
            await asyncio.sleep(0)
        assert listener.open_connections == 0
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    cut(await secure(listener, client))
    assert failures == []
    await until_open(listener, 0)


async def test_an_address_in_use_is_the_operators_mistake_over_tls_too(
    listener: Listener, metrics: Metrics, context: ssl.SSLContext
) -> None:
    address = Address("127.0.0.1", listener.port)
    second = Listener(web.Application(), address, Bounds(), metrics.connections_refused, context)
    with pytest.raises(ConfigError, match=f"cannot listen on {address}: Address already in use"):
        await second.start()


async def test_every_address_of_a_host_is_listened_on() -> None:
    sockets = await listening_sockets("localhost", 0, 1)
    infos = socket.getaddrinfo("localhost", 0, type=socket.SOCK_STREAM)
    assert {sock.getsockname()[0] for sock in sockets} == {info[4][0] for info in infos}
    for sock in sockets:
        sock.close()
