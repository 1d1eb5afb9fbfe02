"""Streams as server-sent events."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator, Awaitable, Callable

import aiohttp
import pytest

from certstream.serve.options import ServeOptions
from certstream.serve.server import StreamServer
from certstream.stream.hub import KINDS, Hub, StreamKind

Serve = Callable[..., Awaitable[StreamServer]]


@pytest.fixture
async def http() -> AsyncIterator[aiohttp.ClientSession]:
    async with aiohttp.ClientSession() as session:
        yield session


def url(server: StreamServer, query: str = "") -> str:
    return f"http://127.0.0.1:{server.port}/sse{query}"


async def event(answer: aiohttp.ClientResponse) -> object:
    async with asyncio.timeout(10):
        line = await answer.content.readuntil(b"\n\n")
    assert line.startswith(b"data: ")
    return json.loads(line[6:])


@pytest.mark.parametrize("kind", KINDS)
async def test_each_kind_can_be_chosen(serve: Serve, hub: Hub, http: aiohttp.ClientSession, kind: StreamKind) -> None:
    async with http.get(url(await serve(), f"?stream={kind}")) as answer:
        assert (answer.status, answer.content_type) == (200, "text/event-stream")
        for other in KINDS:
            hub.publish(other, [b'"%s"' % other.encode(), b"2"])
        assert await event(answer) == kind
        assert await event(answer) == 2


async def test_lite_is_what_you_get_where_nothing_is_asked(serve: Serve, hub: Hub, http: aiohttp.ClientSession) -> None:
    async with http.get(url(await serve())) as answer:
        assert answer.headers["Cache-Control"].startswith("no-cache")
        assert answer.headers["Connection"] == "close"  # which ends the body
        assert hub.clients("lite") == 1
        hub.publish("lite", [b'{"n":1}'])
        assert await event(answer) == {"n": 1}


@pytest.mark.parametrize("query", ["?stream=ful", "?stream=", "?stream=LITE", "?stream=%0d%0a"])
async def test_an_unknown_kind_is_400_and_names_those_that_there_are(
    serve: Serve, http: aiohttp.ClientSession, query: str
) -> None:
    async with http.get(url(await serve(), query)) as answer:
        assert answer.status == 400
        assert "full, lite, domains" in await answer.text()


async def test_a_kind_that_is_switched_off_is_404(serve: Serve, http: aiohttp.ClientSession) -> None:
    server = await serve(ServeOptions(streams=frozenset({"lite"})))
    async with http.get(url(server, "?stream=full")) as answer:
        assert answer.status == 404
        assert "switched off" in await answer.text()


async def test_heartbeats_are_events_too(serve: Serve, http: aiohttp.ClientSession) -> None:
    async with http.get(url(await serve(ServeOptions(heartbeat_s=0.01)))) as answer:
        beat = await event(answer)
        assert isinstance(beat, dict)
        assert beat.keys() == {"message_type", "timestamp"}
        assert beat["message_type"] == "heartbeat"
        assert abs(beat["timestamp"] - time.time()) < 60


async def test_a_client_that_goes_is_forgotten(serve: Serve, hub: Hub, http: aiohttp.ClientSession) -> None:
    answer = await http.get(url(await serve()))
    assert hub.clients() == 1
    answer.close()
    async with asyncio.timeout(10):
        while hub.clients():  # noqa: ASYNC110 - nobody tells a test that the server saw the connection end
            await asyncio.sleep(0.001)


async def test_closing_the_server_ends_the_events_after_the_last_one(
    serve: Serve, hub: Hub, http: aiohttp.ClientSession
) -> None:
    server = await serve()
    async with http.get(url(server)) as answer:
        hub.publish("lite", [b'"last"'])
        await server.close()
        assert await answer.read() == b'data: "last"\n\n'


async def test_a_client_of_http_1_0_gets_the_same_events(serve: Serve, hub: Hub) -> None:
    server = await serve()
    reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
    writer.write(b"GET /sse HTTP/1.0\r\n\r\n")
    head = await reader.readuntil(b"\r\n\r\n")
    assert b" 200 OK\r\n" in head
    assert b"chunked" not in head
    hub.publish("lite", [b"{}"])
    assert await reader.readexactly(10) == b"data: {}\n\n"
    writer.close()
    await writer.wait_closed()


async def test_a_client_that_is_too_slow_is_cut_off(serve: Serve, hub: Hub) -> None:
    server = await serve()
    reader, writer = await asyncio.open_connection("127.0.0.1", server.port, limit=1024)
    writer.write(b"GET /sse HTTP/1.1\r\nHost: x\r\n\r\n")
    await reader.readuntil(b"\r\n\r\n")
    while hub.clients():
        hub.publish("lite", [b"x" * 100_000])
        hub.flush()
        await asyncio.sleep(0)
    assert hub.held_bytes() == 0
    with pytest.raises((ConnectionError, asyncio.IncompleteReadError)):
        await reader.readexactly(1 << 40)
    writer.transport.abort()
