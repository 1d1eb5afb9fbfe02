"""One address cannot hold all connections, whatever it sends on them or does not."""

from __future__ import annotations

import asyncio
import contextlib
import ipaddress
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import TypeAlias

import pytest
from aiohttp import web

from certstream.metrics import Metrics
from certstream.serve.access import AccessSettings, ConnectionLimits
from certstream.serve.arrivals import Bounds
from certstream.serve.listener import Address, Listener
from certstream.serve.options import ServeOptions
from certstream.serve.peers import SPARE_CONNECTIONS, UNLIMITED, PeerConnections
from certstream.serve.server import StreamServer
from certstream.serve.tls import TlsCertificate, TlsFiles
from tests.serve.tls_support import make_pair

Serve = Callable[..., Awaitable[StreamServer]]
Stream: TypeAlias = tuple[asyncio.StreamReader, asyncio.StreamWriter]

PAIR = make_pair("peers")
HALF_A_HELLO = b"\x16\x03\x01"
ASK = b"GET /health HTTP/1.1\r\nHost: x\r\n\r\n"
ONE = AccessSettings(connections=ConnectionLimits(per_address=1))
TWO = AccessSettings(connections=ConnectionLimits(per_address=2))
MOST = 1 + SPARE_CONNECTIONS
LOOPBACK = ipaddress.ip_network("127.0.0.0/8")
HERE, ELSEWHERE = "127.0.0.1", "127.0.0.2"


class Clients:
    """Connections that are cut after the test."""

    def __init__(self) -> None:
        self.streams: list[Stream] = []

    async def connect(self, port: int, source: str = HERE, tls: ssl.SSLContext | None = None) -> Stream:
        async with asyncio.timeout(10):
            stream = await asyncio.open_connection(HERE, port, local_addr=(source, 0), ssl=tls)
        self.streams.append(stream)
        return stream

    async def cut(self) -> None:
        for _, writer in self.streams:
            writer.transport.abort()
            writer.close()
            with contextlib.suppress(OSError):
                await writer.wait_closed()
        self.streams.clear()


@pytest.fixture
async def clients() -> AsyncIterator[Clients]:
    clients = Clients()
    yield clients
    await clients.cut()


@pytest.fixture
def peers() -> PeerConnections:
    return PeerConnections(lambda: ONE)


Listen: TypeAlias = Callable[[PeerConnections], Awaitable[Listener]]


@pytest.fixture
async def listen_tls(metrics: Metrics, tmp_path: Path) -> AsyncIterator[Listen]:
    files = TlsFiles(tmp_path / "cert.pem", tmp_path / "key.pem")
    PAIR.write(files)
    async with contextlib.AsyncExitStack() as stack:

        async def listen(peers: PeerConnections) -> Listener:
            context = TlsCertificate(files).context
            refused = metrics.connections_refused
            listener = Listener(web.Application(), Address(HERE, 0), Bounds(), refused, context, peers)
            await listener.start()
            stack.push_async_callback(listener.close)
            return listener

        yield listen


def client_tls() -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    return context


async def is_cut(stream: Stream) -> bool:
    """Whether the server ended the connection without a word; far sooner than a silent one is."""
    async with asyncio.timeout(5):
        with contextlib.suppress(ConnectionError):
            return await stream[0].read(1) == b""
        return True


async def is_served(stream: Stream) -> bool:
    reader, writer = stream
    writer.write(ASK)
    async with asyncio.timeout(10):
        with contextlib.suppress(ConnectionError, asyncio.IncompleteReadError):
            return (await reader.readuntil(b"\r\n\r\nOK")).startswith(b"HTTP/1.1 200 OK")
        return False


def refused(metrics: Metrics, reason: str = "address_full") -> float | None:
    return metrics.registry.get_sample_value("certstream_connections_refused_total", {"reason": reason})


async def until_open(server: StreamServer | Listener, count: int) -> None:
    async with asyncio.timeout(10):
        while server.open_connections != count:  # noqa: ASYNC110 - nobody tells when the server saw it
            await asyncio.sleep(0.001)


async def fill(server: StreamServer, clients: Clients, count: int = MOST) -> None:
    """Take what one address may have: one connection is served and kept, the others stay silent."""
    assert await is_served(await clients.connect(server.port))
    before = server.open_connections
    for _ in range(count - 1):
        await clients.connect(server.port)
    await until_open(server, before + count - 1)


async def test_past_the_limit_one_address_is_cut_at_once_and_others_are_served(
    serve: Serve, metrics: Metrics, clients: Clients
) -> None:
    server = await serve()
    server.apply(ONE)
    await fill(server, clients)
    for further in range(1, 4):
        assert await is_cut(await clients.connect(server.port))
        assert refused(metrics) == further
    assert await is_served(await clients.connect(server.port, ELSEWHERE))
    assert await is_served(clients.streams[0])
    await until_open(server, MOST + 1)
    assert refused(metrics, "full") == 0


async def test_connections_that_end_make_room_for_as_many(serve: Serve, metrics: Metrics, clients: Clients) -> None:
    server = await serve()
    server.apply(ONE)
    for _ in range(2):
        await fill(server, clients)
        assert await is_cut(await clients.connect(server.port))
        await clients.cut()
        await until_open(server, 0)
    assert refused(metrics) == 2


async def test_a_connection_that_is_cut_for_being_late_makes_room(
    serve: Serve, metrics: Metrics, clients: Clients
) -> None:
    server = await serve(ServeOptions(bounds=Bounds(request_s=0.2)))
    server.apply(ONE)
    silent = [await clients.connect(server.port) for _ in range(MOST)]
    for stream in silent:
        assert await is_cut(stream)
    await until_open(server, 0)
    assert (refused(metrics), refused(metrics, "slow_request")) == (0, MOST)
    assert await is_served(await clients.connect(server.port))


async def test_plain_connections_are_forgotten_with_their_address(
    metrics: Metrics, peers: PeerConnections, clients: Clients
) -> None:
    listener = Listener(web.Application(), Address(HERE, 0), Bounds(), metrics.connections_refused, None, peers)
    await listener.start()
    try:
        for source in (HERE, ELSEWHERE):
            for _ in range(MOST):
                await clients.connect(listener.port, source)
            assert await is_cut(await clients.connect(listener.port, source))
        await until_open(listener, 2 * MOST)
        assert (len(peers), refused(metrics)) == (2, 2)
        await clients.cut()
        await until_open(listener, 0)
        assert len(peers) == 0
    finally:
        await listener.close()


async def test_tls_handshakes_count_from_the_moment_they_are_accepted(
    listen_tls: Listen, metrics: Metrics, peers: PeerConnections, clients: Clients
) -> None:
    listener = await listen_tls(peers)
    await clients.connect(listener.port, tls=client_tls())
    for number in range(MOST - 1):
        _, writer = await clients.connect(listener.port)
        writer.write(HALF_A_HELLO[: number % 4])
    await until_open(listener, MOST)
    assert await is_cut(await clients.connect(listener.port))
    assert (listener.open_connections, refused(metrics)) == (MOST, 1)
    await clients.connect(listener.port, ELSEWHERE, client_tls())
    assert (listener.open_connections, len(peers)) == (MOST + 1, 2)
    await clients.cut()
    await until_open(listener, 0)
    assert len(peers) == 0


async def test_handshakes_that_fail_are_counted_no_more(
    listen_tls: Listen, metrics: Metrics, peers: PeerConnections, clients: Clients
) -> None:
    listener = await listen_tls(peers)
    for _ in range(2 * MOST):
        stream = await clients.connect(listener.port)
        stream[1].write(b"GET / HTTP/1.1\r\n\r\n")
        with contextlib.suppress(ConnectionError):
            await stream[0].read()  # an alert may come before the end
        await clients.cut()
        await until_open(listener, 0)
    assert (len(peers), refused(metrics)) == (0, 0)


async def test_a_handshake_that_ends_before_it_began_is_given_back(listen_tls: Listen, clients: Clients) -> None:
    listening: list[Listener] = []
    loop = asyncio.get_running_loop()

    def stop_and_allow_one() -> AccessSettings:
        loop.call_soon(listening[0].stop)  # runs between the arrival and the first step of its handshake
        return ONE

    peers = PeerConnections(stop_and_allow_one)
    listening.append(await listen_tls(peers))
    assert await is_cut(await clients.connect(listening[0].port))
    await until_open(listening[0], 0)
    assert len(peers) == 0


async def test_closing_gives_everything_back(listen_tls: Listen, peers: PeerConnections, clients: Clients) -> None:
    listener = await listen_tls(peers)
    await clients.connect(listener.port, tls=client_tls())
    await clients.connect(listener.port)
    await until_open(listener, 2)
    assert len(peers) == 1
    await listener.close()
    await until_open(listener, 0)
    assert len(peers) == 0


async def test_a_trusted_proxy_has_no_limit(serve: Serve, metrics: Metrics, clients: Clients) -> None:
    server = await serve()
    server.apply(AccessSettings(connections=ONE.connections, trusted_proxies=(LOOPBACK,)))
    await fill(server, clients, MOST + 5)
    assert await is_served(await clients.connect(server.port))
    assert refused(metrics) == 0


async def test_without_a_limit_nobody_is_cut(serve: Serve, metrics: Metrics, clients: Clients) -> None:
    server = await serve()
    await fill(server, clients, MOST + 5)
    assert await is_served(await clients.connect(server.port))
    assert refused(metrics) == 0


async def test_a_changed_limit_holds_for_new_connections_and_leaves_those_that_are_there(
    serve: Serve, metrics: Metrics, clients: Clients
) -> None:
    server = await serve()
    server.apply(TWO)
    await fill(server, clients, MOST + 1)
    server.apply(ONE)
    assert await is_cut(await clients.connect(server.port))
    assert await is_served(clients.streams[0])
    await until_open(server, MOST + 1)
    server.apply(AccessSettings(connections=ConnectionLimits(per_address=3)))
    assert await is_served(await clients.connect(server.port))
    assert await is_cut(await clients.connect(server.port))
    server.apply(AccessSettings())
    assert await is_served(await clients.connect(server.port))
    assert refused(metrics) == 2


async def test_the_address_for_monitoring_is_exempt(serve: Serve, metrics: Metrics, clients: Clients) -> None:
    server = await serve(ServeOptions(monitoring=Address(HERE, 0)))
    server.apply(ONE)
    assert server.monitoring_port is not None
    for _ in range(MOST + 5):
        assert await is_served(await clients.connect(server.monitoring_port))
    assert refused(metrics) == 0


@pytest.mark.parametrize(
    ("one", "same", "other"),
    [
        ("192.0.2.1", "::ffff:192.0.2.1", "192.0.2.2"),
        ("2001:db8::1", "2001:db8::ffff:ffff:ffff:ffff", "2001:db8:0:1::1"),
        ("fe80::1%eth0", "fe80::2%eth0", "fec0::1"),
    ],
)
def test_an_address_is_an_ipv4_address_or_a_64(peers: PeerConnections, one: str, same: str, other: str) -> None:
    for _ in range(MOST):
        assert peers.arrive(lambda: (one, 1)).refused is None
    assert peers.arrive(lambda: (same, 1)).refused == "address_full"
    assert peers.arrive(lambda: (other, 1)).refused is None


def test_without_a_limit_nobody_asks_for_the_address() -> None:
    def unasked() -> None:
        raise AssertionError

    assert PeerConnections(AccessSettings).arrive(unasked) is UNLIMITED


def test_a_peer_that_is_gone_is_not_counted(peers: PeerConnections) -> None:
    peers.leave(peers.arrive(lambda: None))
    assert len(peers) == 0


def test_what_was_not_counted_takes_nothing_away_when_settings_have_changed() -> None:
    settings = AccessSettings()
    peers = PeerConnections(lambda: settings)
    before = peers.arrive(lambda: (HERE, 1))
    settings = ONE
    counted = peers.arrive(lambda: (HERE, 2))
    settings = AccessSettings()
    peers.leave(before)
    assert len(peers) == 1
    peers.leave(counted)
    assert len(peers) == 0
