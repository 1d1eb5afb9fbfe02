"""The HTTP server: routes, heartbeats, start and shutdown."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from dataclasses import replace
from types import TracebackType
from typing import Final, Self

import orjson
from aiohttp import hdrs, web

from certstream.errors import ConfigError
from certstream.metrics import Metrics
from certstream.serve.access import AccessSettings
from certstream.serve.arrivals import Bounds, note_requests
from certstream.serve.connections import Connections
from certstream.serve.guard import Guard
from certstream.serve.health import DeepHealth, Readiness
from certstream.serve.listener import Address, Listener
from certstream.serve.options import EXAMPLE_PATHS, WEBSOCKET_PATHS, ServeOptions
from certstream.serve.pages import Pages
from certstream.serve.peers import PeerConnections
from certstream.serve.sse import EventStreams
from certstream.serve.tls import TlsCertificate
from certstream.serve.websocket import WebSocketStream
from certstream.stream.hub import KINDS, Hub, StreamKind

MONITORING_CONNECTIONS: Final = 64  # at the same time on the second address: of the files that clients leave
_DRAIN_S: Final = 0.3  # for clients that are behind to take what waits for them, at shutdown
_STREAMS_GRACE_S: Final = 0.5  # then to read the last of it, and to answer the close


class StreamServer:
    """Serves the hub's streams and what is known of the service, on one address or monitoring on a second.

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
        readiness: Callable[[], Readiness] = Readiness,
        coverage: Callable[[], Awaitable[bytes]] | None = None,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._hub = hub
        self._options = options or ServeOptions()
        self._clock = clock
        self._connections = Connections()
        self._guard = Guard(access or AccessSettings(), metrics)
        self._pages = Pages(hub, health, readiness, metrics, self._options)
        self._coverage = coverage
        self._address = Address(host, port)
        self._refused = metrics.connections_refused
        self._expiry = metrics.tls_certificate_expiry_timestamp_seconds
        self._certificate: TlsCertificate | None = None
        self._listener: Listener | None = None
        self._monitoring: Listener | None = None
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
        return self._listener.port if self._listener else self._address.port

    @property
    def open_connections(self) -> int:
        """Connections of all kinds that are open now, on the first address."""
        return self._listener.open_connections if self._listener else 0

    @property
    def monitoring_port(self) -> int | None:
        """The port of the address for monitoring; None where there is none."""
        if self._monitoring is not None:
            return self._monitoring.port
        return self._options.monitoring.port if self._options.monitoring else None

    async def start(self) -> None:
        """Listen. Raises ConfigError where an address cannot be listened on, or the certificate cannot be used."""
        options = self._options
        if options.tls is not None:
            self._certificate = TlsCertificate(options.tls, options.tls_poll_s)
        try:
            peers = PeerConnections(lambda: self._guard.settings)
            tls = options.tls is not None
            self._listener = await self._listen(self._app(), self._address, options.bounds, tls=tls, peers=peers)
            if options.monitoring is not None:
                app, bounds = self._monitoring_app(), replace(options.bounds, connections=MONITORING_CONNECTIONS)
                self._monitoring = await self._listen(app, options.monitoring, bounds, tls=options.monitoring_tls)
        except ConfigError:
            await self._close_listeners()
            raise
        if self._certificate is not None:
            certificate = self._certificate
            self._expiry.set_function(lambda: certificate.expires_s)
            certificate.watch()
        self._heartbeat = asyncio.create_task(self._beat(), name="serve:heartbeat")

    async def _listen(
        self,
        app: web.Application,
        address: Address,
        bounds: Bounds,
        *,
        tls: bool,
        peers: PeerConnections | None = None,
    ) -> Listener:
        context = self._certificate.context if tls and self._certificate else None
        listener = Listener(app, address, bounds, self._refused, context, peers)
        await listener.start()
        return listener

    async def _close_listeners(self) -> None:
        for listener in (self._listener, self._monitoring):
            if listener is not None:
                await listener.close()
        self._listener = self._monitoring = None

    def apply(self, settings: AccessSettings) -> None:
        """Let these settings decide from the next request on; clients that are in stay in."""
        self._guard.settings = settings

    async def close(self) -> None:
        """Stop listening, end all streams (WebSocket 1001) and cut what is left; done within a second."""
        if self._heartbeat is not None:
            self._heartbeat.cancel()
            await asyncio.wait([self._heartbeat])
            self._heartbeat = None
        if self._certificate is not None:
            self._certificate.close()
        for listener in (self._listener, self._monitoring):
            if listener is not None:
                listener.stop()
        await self._hub.drain(_DRAIN_S)
        self._hub.close()
        await self._connections.close(_STREAMS_GRACE_S)
        await self._close_listeners()

    async def _beat(self) -> None:
        while True:
            await asyncio.sleep(self._options.heartbeat_s)
            self._hub.heartbeat(orjson.dumps({"message_type": "heartbeat", "timestamp": self._clock()}))

    def _app(self) -> web.Application:
        app = web.Application(middlewares=[note_requests])
        self._guard.protect(app)
        options = self._options
        for kind in KINDS:
            if kind in options.streams and options.websocket:
                app.router.add_get(WEBSOCKET_PATHS[kind], self._websocket(kind))
            if kind in options.streams and options.example_json:
                app.router.add_get(EXAMPLE_PATHS[kind], self._pages.example(kind))
        if "lite" not in options.streams or not options.websocket:
            app.router.add_get("/", self._pages.about)
        if options.sse:
            streams = EventStreams(self._hub, options.streams, self._connections)
            app.router.add_get("/sse", self._guard.limit(streams.serve), allow_head=False)
        if options.monitoring is None:
            self._add_monitoring(app)
        return app

    def _monitoring_app(self) -> web.Application:
        app = web.Application(middlewares=[note_requests])
        self._guard.protect(app, monitoring=True)
        self._add_monitoring(app)
        return app

    def _add_monitoring(self, app: web.Application) -> None:
        if self._options.health:
            app.router.add_get("/health", self._pages.alive)
            app.router.add_get("/health/ready", self._pages.ready)
            app.router.add_get("/health/deep", self._pages.deep_health)
            if self._coverage is not None:
                app.router.add_get("/coverage", self._pages.coverage(self._coverage))
        if self._options.metrics:
            app.router.add_get("/metrics", self._pages.metrics)

    def _websocket(self, kind: StreamKind) -> Callable[[web.Request], Awaitable[web.StreamResponse]]:
        stream = WebSocketStream(self._hub, kind, self._connections, self._options.max_message_bytes)
        limited = self._guard.limit(stream.serve)
        otherwise = self._pages.about if WEBSOCKET_PATHS[kind] == "/" else self._pages.upgrade_required

        async def serve(request: web.Request) -> web.StreamResponse:
            if request.headers.get(hdrs.UPGRADE, "").lower() == "websocket":
                return await limited(request)
            return await otherwise(request)

        return serve
