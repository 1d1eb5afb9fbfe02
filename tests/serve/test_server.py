"""Start and end of the server."""

from __future__ import annotations

import asyncio
import logging
import socket
from collections.abc import Awaitable, Callable

import aiohttp
import pytest
from websockets.asyncio.client import connect

from certstream.errors import ConfigError
from certstream.metrics import Metrics
from certstream.serve.health import DeepHealth, assess
from certstream.serve.server import StreamServer
from certstream.stream.hub import Hub

Serve = Callable[..., Awaitable[StreamServer]]


def server_at(host: str, port: int) -> StreamServer:
    metrics = Metrics()
    return StreamServer(Hub(metrics), lambda: assess([], version="1", uptime_s=0), metrics, host, port)


async def test_an_address_in_use_is_the_operators_mistake_and_named() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        server = server_at("127.0.0.1", port)
        with pytest.raises(ConfigError) as error:
            await server.start()
    assert error.value.mistakes == (f"cannot listen on 127.0.0.1:{port}: Address already in use",)
    await server.close()


async def test_an_address_of_another_machine_is_named() -> None:
    with pytest.raises(ConfigError, match=r"^cannot listen on \[2001:db8::1\]:8080: "):
        await server_at("2001:db8::1", 8080).start()


async def test_the_port_is_the_kernels_choice_where_0_is_asked_for(serve: Serve) -> None:
    first, second = await serve(), server_at("127.0.0.1", 9)
    assert first.port > 0
    assert second.port == 9


async def test_closing_twice_is_harmless_and_frees_the_port() -> None:
    server = server_at("127.0.0.1", 0)
    async with server:
        port = server.port
        await server.close()
    async with server_at("127.0.0.1", port) as again:
        assert again.port == port


async def test_a_burst_before_the_end_reaches_whoever_reads(serve: Serve, hub: Hub) -> None:
    server = await serve()
    messages = [b"%06d" % number + b"x" * 20_000 for number in range(150)]  # more than a transport takes at once
    async with connect(f"ws://127.0.0.1:{server.port}/", max_size=None, compression=None, max_queue=None) as client:
        hub.publish("lite", messages)
        await server.close()
        received = [message async for message in client]
        assert client.close_code == 1001
    assert received == [message.decode() for message in messages]


async def test_closing_leaves_no_task_behind() -> None:
    before = asyncio.all_tasks()
    async with server_at("127.0.0.1", 0) as server, aiohttp.ClientSession() as http:
        async with http.get(f"http://127.0.0.1:{server.port}/health") as answer:
            assert answer.status == 200
        socket = await http.ws_connect(f"http://127.0.0.1:{server.port}/")
        assert len(asyncio.all_tasks()) > len(before)
        await server.close()
        await socket.close()
    assert asyncio.all_tasks() == before


async def test_idle_keep_alive_connections_do_not_hold_the_shutdown(serve: Serve) -> None:
    server = await serve()
    reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
    writer.write(b"GET /health HTTP/1.1\r\nHost: x\r\n\r\n")
    assert (await reader.readuntil(b"\r\n\r\nOK")).startswith(b"HTTP/1.1 200")
    async with asyncio.timeout(2):
        await server.close()
        assert await reader.read() == b""
    writer.close()
    await writer.wait_closed()


@pytest.mark.parametrize(
    "garbage", [b"GET / HTTP/9\r\n\r\n", b"\x16\x03\x01\x02\x00\r\n\r\n", b"GET / HTTP/1.1\r\nA\r\n\r\n"]
)
async def test_what_is_not_http_is_answered_400_and_not_logged(
    serve: Serve, caplog: pytest.LogCaptureFixture, garbage: bytes
) -> None:
    server = await serve()
    reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
    writer.write(b"GET /health HTTP/1.1\r\nHost: x\r\n\r\n")
    await reader.readuntil(b"\r\n\r\nOK")
    writer.write(garbage)
    assert b" 400 " in await reader.readline()
    await reader.read()
    writer.close()
    await writer.wait_closed()
    assert [record for record in caplog.records if record.levelno >= logging.WARNING] == []


async def test_a_handler_that_fails_is_500_and_logged(serve: Serve, caplog: pytest.LogCaptureFixture) -> None:
    def broken() -> DeepHealth:
        raise ValueError("health is broken")

    server = await serve(health=broken)
    async with aiohttp.ClientSession() as http, http.get(f"http://127.0.0.1:{server.port}/health/deep") as answer:
        assert answer.status == 500
        assert "health is broken" not in await answer.text()
    (record,) = [record for record in caplog.records if record.levelno >= logging.WARNING]
    assert record.name == "certstream.serve"
    assert record.exc_info is not None
    assert str(record.exc_info[1]) == "health is broken"


async def test_a_hundred_connections_at_once_are_all_served(serve: Serve, hub: Hub) -> None:
    server = await serve()
    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)) as http:
        url = f"http://127.0.0.1:{server.port}/"
        clients = await asyncio.gather(*(http.ws_connect(url) for _ in range(100)))
        assert hub.clients() == 100
        hub.publish("lite", [b"{}"])
        assert [await client.receive_str() for client in clients] == ["{}"] * 100
        await server.close()
