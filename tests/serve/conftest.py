"""A real server on a port of its own, on the event loop that the service runs on."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Protocol

import pytest
import uvloop

from certstream.metrics import Metrics
from certstream.serve.health import DeepHealth, Readiness, assess
from certstream.serve.options import ServeOptions
from certstream.serve.server import StreamServer
from certstream.stream.hub import Hub


def pytest_asyncio_loop_factories() -> dict[str, Callable[[], asyncio.AbstractEventLoop]]:
    return {"uvloop": uvloop.new_event_loop}


class Serve(Protocol):
    def __call__(
        self,
        options: ServeOptions | None = None,
        health: Callable[[], DeepHealth] = ...,
        readiness: Callable[[], Readiness] = ...,
        coverage: Callable[[], Awaitable[bytes]] | None = ...,
    ) -> Awaitable[StreamServer]: ...


@pytest.fixture
def metrics() -> Metrics:
    return Metrics(version="1.2.3")


@pytest.fixture
def hub(metrics: Metrics) -> Hub:
    return Hub(metrics, client_backlog_bytes=256 << 10)


def no_logs() -> DeepHealth:
    return assess([], version="1.2.3", uptime_s=5.0)


@pytest.fixture
async def serve(hub: Hub, metrics: Metrics) -> AsyncIterator[Serve]:
    """Starts servers of the hub; they are closed after the test."""
    async with contextlib.AsyncExitStack() as stack:

        async def start(
            options: ServeOptions | None = None,
            health: Callable[[], DeepHealth] = no_logs,
            readiness: Callable[[], Readiness] = Readiness,
            coverage: Callable[[], Awaitable[bytes]] | None = None,
        ) -> StreamServer:
            server = StreamServer(
                hub, health, metrics, "127.0.0.1", 0, options=options, readiness=readiness, coverage=coverage
            )
            return await stack.enter_async_context(server)

        yield start
