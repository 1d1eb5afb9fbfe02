"""A stream as server-sent events (HTML Living Standard, "Server-sent events")."""

from __future__ import annotations

import asyncio
from collections.abc import Collection
from typing import Final

from aiohttp import web

from certstream.metrics import DropReason
from certstream.serve.connections import Connections, hang_up
from certstream.stream.framing import SSE
from certstream.stream.hub import KINDS, Hub, StreamKind

_HEADERS: Final = {
    "Content-Type": "text/event-stream; charset=utf-8",
    "Cache-Control": "no-cache, no-transform",
    "X-Accel-Buffering": "no",  # nginx would hold events back
}


class _EventStream(web.StreamResponse):
    """A response without length and without chunks: its body ends with the connection, as HTTP/1.0 and 1.1 allow.

    Chunked framing would make the shared bytes depend on the client's version of HTTP.
    """

    _length_check = False


class EventStreams:
    """Serves `?stream=lite|full|domains`, lite where it is not given."""

    def __init__(self, hub: Hub, kinds: Collection[StreamKind], connections: Connections) -> None:
        self._hub = hub
        self._kinds = kinds
        self._connections = connections

    async def serve(self, request: web.Request) -> web.StreamResponse:
        """Stream until the client goes or the hub gives it up. Raises HTTPBadRequest, HTTPNotFound."""
        kind = self._kind(request.query.get("stream", "lite"))
        response = _EventStream(headers=_HEADERS)
        response.force_close()
        await response.prepare(request)
        transport = request.transport
        if transport is not None:
            with self._connections.track(transport):
                await self._stream(kind, transport)
        return response

    async def _stream(self, kind: StreamKind, transport: asyncio.Transport) -> None:
        def dropped(_reason: DropReason) -> None:
            hang_up(transport)

        subscription = self._hub.attach(kind, SSE, transport, dropped)
        try:
            await asyncio.get_running_loop().create_future()  # cancelled when the connection is lost
        finally:
            self._hub.detach(subscription)

    def _kind(self, name: str) -> StreamKind:
        for kind in KINDS:
            if kind == name:
                if kind not in self._kinds:
                    raise web.HTTPNotFound(text=f"the stream {kind} is switched off\n")
                return kind
        raise web.HTTPBadRequest(text=f"stream={name!r}: there are {', '.join(KINDS)}\n")
