"""Answers that end: what is served, examples, health, metrics."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Final

import orjson
from aiohttp import hdrs, web

from certstream.errors import StorageError
from certstream.metrics import CONTENT_TYPE, Metrics
from certstream.serve.health import DeepHealth, Readiness, readiness_json, to_json
from certstream.serve.options import ServeOptions
from certstream.stream.hub import Hub, StreamKind

_JSON: Final = "application/json"
_TITLE: Final = "certstream: Certificate Transparency logs as a live stream"
_NO_CACHE: Final = {"Cache-Control": "no-store"}


class Pages:
    """The handlers of everything but the streams."""

    def __init__(
        self,
        hub: Hub,
        health: Callable[[], DeepHealth],
        readiness: Callable[[], Readiness],
        metrics: Metrics,
        options: ServeOptions,
    ) -> None:
        self._hub = hub
        self._health = health
        self._readiness = readiness
        self._metrics = metrics
        self._about = "\n".join((_TITLE, "", *options.endpoints(), ""))

    async def about(self, _request: web.Request) -> web.Response:
        """Say what is served, to whoever comes with a browser."""
        return web.Response(text=self._about)

    async def upgrade_required(self, _request: web.Request) -> web.Response:
        """Answer a plain GET for a stream."""
        text = f"this is a WebSocket stream: connect with ws://\n\n{self._about}"
        return web.Response(status=426, text=text, headers={hdrs.UPGRADE: "websocket"})

    def example(self, kind: StreamKind) -> Callable[[web.Request], Awaitable[web.Response]]:
        """Return the handler that answers with the newest message of a kind, 503 before the first."""

        async def serve(_request: web.Request) -> web.Response:
            message = self._hub.latest(kind)
            if message is None:
                return _no_example(kind)
            return web.Response(body=message, content_type=_JSON, headers=_NO_CACHE)

        return serve

    async def alive(self, _request: web.Request) -> web.Response:
        """Answer as long as the event loop turns."""
        return web.Response(text="OK", headers=_NO_CACHE)

    async def deep_health(self, _request: web.Request) -> web.Response:
        """Tell the state of each log; 503 when the service is unhealthy, as load balancers understand it."""
        health = self._health()
        body = orjson.dumps(to_json(health, self._hub.clients()))
        status = 503 if health.status == "unhealthy" else 200
        return web.Response(status=status, body=body, content_type=_JSON, headers=_NO_CACHE)

    async def ready(self, _request: web.Request) -> web.Response:
        """Tell whether clients are well served here; 503 where they are not, and why."""
        readiness = self._readiness()
        body = orjson.dumps(readiness_json(readiness))
        status = 200 if readiness.reason is None else 503
        return web.Response(status=status, body=body, content_type=_JSON, headers=_NO_CACHE)

    def coverage(self, look: Callable[[], Awaitable[bytes]]) -> Callable[[web.Request], Awaitable[web.Response]]:
        """Return the handler that tells what is archived; 503 while that cannot be read."""

        async def serve(_request: web.Request) -> web.Response:
            try:
                body, status = await look(), 200
            except StorageError as exc:
                body, status = orjson.dumps({"error": str(exc)}), 503
            return web.Response(status=status, body=body, content_type=_JSON, headers=_NO_CACHE)

        return serve

    async def metrics(self, _request: web.Request) -> web.Response:
        """Answer a scrape."""
        return web.Response(body=await self._metrics.scrape(), headers={hdrs.CONTENT_TYPE: CONTENT_TYPE})


def _no_example(kind: StreamKind) -> web.Response:
    body = orjson.dumps({"error": "no certificate seen yet", "stream": kind})
    return web.Response(status=503, body=body, content_type=_JSON, headers={**_NO_CACHE, hdrs.RETRY_AFTER: "1"})
