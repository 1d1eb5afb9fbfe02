"""The HTTP server: routes, heartbeats, start and shutdown."""

from __future__ import annotations

import asyncio
import logging
import os
import time
from collections.abc import Awaitable, Callable
from types import TracebackType
from typing import Final, Self

import orjson
from aiohttp import hdrs, web
from aiohttp.http_exceptions import HttpProcessingError

from certstream.errors import ConfigError
from certstream.metrics import Metrics
from certstream.serve.access import AccessSettings
from certstream.serve.connections import Connections
from certstream.serve.health import DeepHealth
from certstream.serve.options import EXAMPLE_PATHS, WEBSOCKET_PATHS, ServeOptions
from certstream.serve.pages import Pages
from certstream.serve.sse import EventStreams
from certstream.serve.websocket import WebSocketStream
from certstream.stream.hub import KINDS, Hub, StreamKind

_LISTEN_BACKLOG: Final = 4096  # connections not accepted yet; the kernel cuts it to its somaxconn
_KEEP_ALIVE_S: Final = 75.0  # idle HTTP connections
_STREAMS_GRACE_S: Final = 0.5  # for clients to read their last messages and to answer the close, at shutdown
_HANDLER_GRACE_S: Final = 0.2  # for other requests, at shutdown


class StreamServer:
    """Serves the hub's streams and what is known of the service on one address.

    An async context manager; `start` and `close` do the same. Closing closes the hub too.
    """

    def __init__(
        self,
        hub: Hub,
        health: Callable[[], DeepHealth],
        metrics: Metrics,
        host: str,
        port: int,
        *,
        options: ServeOptions | None = None,
        access: AccessSettings | None = None,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._hub = hub
        self._host = host
        self._port = port
        self._options = options or ServeOptions()
        self._access = access or AccessSettings()
        self._clock = clock
        self._connections = Connections()
        self._runner = web.AppRunner(
            self._app(Pages(hub, health, metrics, self._options)),
            access_log=None,
            logger=_logger(),
            handler_cancellation=True,  # a stream's handler ends with its connection
            keepalive_timeout=_KEEP_ALIVE_S,
            shutdown_timeout=_HANDLER_GRACE_S,
        )
        self._site: web.TCPSite | None = None
        self._heartbeat: asyncio.Task[None] | None = None

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self.close()

    @property
    def port(self) -> int:
        """The port that is listened on; the kernel's choice where 0 was asked for."""
        return self._site.port if self._site else self._port

    @property
    def _address(self) -> str:
        return f"[{self._host}]:{self._port}" if ":" in self._host else f"{self._host}:{self._port}"

    async def start(self) -> None:
        """Listen. Raises ConfigError where the address cannot be listened on."""
        await self._runner.setup()
        site = web.TCPSite(self._runner, self._host, self._port, backlog=_LISTEN_BACKLOG)
        try:
            await site.start()
        except OSError as exc:
            await self._runner.cleanup()
            raise ConfigError(f"cannot listen on {self._address}: {_reason(exc)}") from exc
        self._site = site
        self._heartbeat = asyncio.create_task(self._beat(), name="serve:heartbeat")

    def apply(self, settings: AccessSettings) -> None:
        """Let these settings decide from the next request on; clients that are in stay in."""
        self._access = settings

    async def close(self) -> None:
        """Stop listening, end all streams (WebSocket 1001) and cut what is left; done within a second."""
        if self._heartbeat is not None:
            self._heartbeat.cancel()
            await asyncio.wait([self._heartbeat])
            self._heartbeat = None
        if self._site is not None:
            await self._site.stop()
            self._site = None
        self._hub.close()
        await self._connections.close(_STREAMS_GRACE_S)
        await self._runner.cleanup()

    async def _beat(self) -> None:
        while True:
            await asyncio.sleep(self._options.heartbeat_s)
            self._hub.heartbeat(orjson.dumps({"message_type": "heartbeat", "timestamp": self._clock()}))

    def _app(self, pages: Pages) -> web.Application:
        app = web.Application()
        options = self._options
        for kind in KINDS:
            if kind in options.streams and options.websocket:
                app.router.add_get(WEBSOCKET_PATHS[kind], self._websocket(kind, pages))
            if kind in options.streams and options.example_json:
                app.router.add_get(EXAMPLE_PATHS[kind], pages.example(kind))
        if "lite" not in options.streams or not options.websocket:
            app.router.add_get("/", pages.about)
        if options.sse:
            streams = EventStreams(self._hub, options.streams, self._connections)
            app.router.add_get("/sse", streams.serve, allow_head=False)
        if options.health:
            app.router.add_get("/health", pages.alive)
            app.router.add_get("/health/deep", pages.deep_health)
        if options.metrics:
            app.router.add_get("/metrics", pages.metrics)
        return app

    def _websocket(self, kind: StreamKind, pages: Pages) -> Callable[[web.Request], Awaitable[web.StreamResponse]]:
        stream = WebSocketStream(self._hub, kind, self._connections, self._options.max_message_bytes)
        otherwise = pages.about if WEBSOCKET_PATHS[kind] == "/" else pages.upgrade_required

        async def serve(request: web.Request) -> web.StreamResponse:
            if request.headers.get(hdrs.UPGRADE, "").lower() == "websocket":
                return await stream.serve(request)
            return await otherwise(request)

        return serve


def _logger() -> logging.Logger:
    """Return the logger of failing handlers; what is not HTTP, as scanners send it, is answered 400 and not logged."""
    logger = logging.getLogger("certstream.serve")
    logger.addFilter(_is_no_protocol_error)
    return logger


def _is_no_protocol_error(record: logging.LogRecord) -> bool:
    return not (record.exc_info and isinstance(record.exc_info[1], HttpProcessingError))


def _reason(exc: OSError) -> str:
    return os.strerror(exc.errno) if exc.errno and exc.errno > 0 else exc.strerror or str(exc)
