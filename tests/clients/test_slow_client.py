"""What a client sees that is slower than the stream."""

from __future__ import annotations

import asyncio
import json
import threading
from typing import Any

import certstream
from certstream.metrics import Metrics
from certstream.serve.health import assess
from certstream.serve.server import StreamServer
from certstream.stream.hub import Hub
from tests.clients.clients_support import PATIENCE_S, update

BACKLOG_BYTES = 256 << 10


class Slow:
    """A callback that waits for the test, and keeps the order in which messages came."""

    def __init__(self) -> None:
        self.go_on = threading.Event()
        self.indices: list[int] = []
        self.errors: list[BaseException] = []
        self.opened = 0

    def __call__(self, message: dict[str, Any], _context: Any) -> None:
        self.go_on.wait(PATIENCE_S)
        self.indices.append(message["data"]["cert_index"])
        if self.opened == 2:
            raise KeyboardInterrupt

    def on_open(self) -> None:
        self.opened += 1


async def until_there(hub: Hub) -> None:
    async with asyncio.timeout(PATIENCE_S):
        while hub.clients() == 0:  # noqa: ASYNC110 - the hub tells nobody
            await asyncio.sleep(0.01)


async def publish(hub: Hub, first: int, until_clients: int) -> int:
    """Publish numbered messages of 10 KB until the hub has so many clients; the number after the last."""
    async with asyncio.timeout(PATIENCE_S):
        while hub.clients() != until_clients:
            hub.publish("lite", [json.dumps(update("x" * 10_000, first)).encode()])
            hub.flush()
            first += 1
            await asyncio.sleep(0)
    return first


async def test_who_is_too_slow_is_dropped_gets_whole_messages_in_order_and_comes_back() -> None:
    hub = Hub(Metrics(version="1.2.3"), client_backlog_bytes=BACKLOG_BYTES)
    health = assess([], version="1.2.3", uptime_s=5.0)
    slow = Slow()
    async with StreamServer(hub, lambda: health, Metrics(version="1.2.3"), "127.0.0.1", 0) as server:
        listening = asyncio.create_task(
            asyncio.to_thread(
                certstream.listen_for_events,
                slow,
                f"ws://127.0.0.1:{server.port}/",
                on_open=slow.on_open,
                on_error=slow.errors.append,
            )
        )
        await until_there(hub)
        published = await publish(hub, 0, until_clients=0)
        slow.go_on.set()
        await until_there(hub)
        while not listening.done():
            hub.publish("lite", [json.dumps(update("b.example", published)).encode()])
            await asyncio.sleep(0.01)
        await listening
    assert slow.indices[:-1] == list(range(len(slow.indices) - 1))
    assert slow.indices[-1] == published
    assert 0 < len(slow.indices) - 1 < published
    (error,) = slow.errors
    assert isinstance(error, certstream.StreamError)
    assert error.code in (1008, None)  # None: it came too late for the close frame
