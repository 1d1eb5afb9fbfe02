"""What a client goes on sending while it is given events: none of it is read without end."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable

import pytest

from certstream.serve.server import StreamServer
from certstream.stream.hub import Hub

Serve = Callable[..., Awaitable[StreamServer]]

GET = b"GET /sse HTTP/1.1\r\nHost: x\r\n"
MOST_BYTES = 32 << 20  # what both kernels hold is far less
PATIENCE_S = 10.0


@pytest.mark.parametrize(
    ("head", "more"),
    [
        pytest.param(GET + b"Connection: Upgrade\r\nUpgrade: websocket\r\n\r\n", b"x" * 65_536, id="after an upgrade"),
        pytest.param(GET + b"Content-Length: 99999999999\r\n\r\n", b"x" * 65_536, id="a body"),
        pytest.param(GET + b"\r\n", (GET + b"\r\n") * 2_000, id="further requests"),
    ],
)
async def test_what_is_sent_to_an_event_stream_waits_at_the_client(
    serve: Serve, hub: Hub, head: bytes, more: bytes
) -> None:
    server = await serve()
    reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
    writer.write(head)
    assert b" 200 " in await reader.readline()
    await reader.readuntil(b"\r\n\r\n")
    writer.transport.set_write_buffer_limits(0)
    sent = 0
    with contextlib.suppress(TimeoutError):
        while sent < MOST_BYTES:
            writer.write(more)
            sent += len(more)
            async with asyncio.timeout(1):
                await writer.drain()
    assert sent < MOST_BYTES
    hub.publish("lite", [b"{}"])
    async with asyncio.timeout(PATIENCE_S):
        assert await reader.readuntil(b"\n\n") == b"data: {}\n\n"
    writer.transport.abort()
