"""A stream as WebSocket messages.

aiohttp does the handshake and reads what the client sends; frames of the stream go from the hub to the
transport directly. Each write holds whole frames, so pings, pongs and closes fall between them.
permessage-deflate is not offered: it would compress every message once per client.
"""

from __future__ import annotations

import asyncio
from typing import Final

from aiohttp import WSMsgType, web

from certstream.metrics import DropReason
from certstream.serve.connections import GRACE_S, Connections, hang_up
from certstream.stream.framing import WEBSOCKET, close_frame
from certstream.stream.hub import Hub, StreamKind

_GOODBYES: Final[dict[DropReason, bytes]] = {
    "backlog": close_frame(1008, "too slow: backlog is full"),
    "total_backlog": close_frame(1008, "too slow: memory for backlogs is full"),
    "shutdown": close_frame(1001, "server is shutting down"),
}
_ENDS: Final = (WSMsgType.CLOSE, WSMsgType.CLOSING, WSMsgType.CLOSED, WSMsgType.ERROR)


class WebSocketStream:
    """Serves one stream kind to every client that upgrades.

    What clients send is read and ignored; a message above `max_message_bytes` closes with 1009. Pings
    are answered. Nobody waits for pongs: clients that never answer live on.
    """

    def __init__(self, hub: Hub, kind: StreamKind, connections: Connections, max_message_bytes: int) -> None:
        self._hub = hub
        self._kind = kind
        self._connections = connections
        self._max_message_bytes = max_message_bytes

    async def serve(self, request: web.Request) -> web.StreamResponse:
        """Upgrade, and stream until either side ends it. Raises HTTPBadRequest for a handshake that is wrong."""
        socket: web.WebSocketResponse[bool] = web.WebSocketResponse(
            timeout=GRACE_S,
            autoclose=False,
            compress=False,
            max_msg_size=self._max_message_bytes,
            decode_text=False,
        )
        await socket.prepare(request)
        transport = request.transport
        if transport is not None:
            with self._connections.track(transport):
                await self._stream(socket, transport)
        return socket

    async def _stream(self, socket: web.WebSocketResponse[bool], transport: asyncio.Transport) -> None:
        client = _Client(transport)
        subscription = self._hub.attach(self._kind, WEBSOCKET, transport, client.dropped)
        try:
            await _read_to_the_end(socket)
        finally:
            self._hub.detach(subscription)
        if not client.said_goodbye:
            await socket.close(drain=False)
        hang_up(transport)


class _Client:
    """What the hub tells when it gives the client up."""

    __slots__ = ("said_goodbye", "transport")

    def __init__(self, transport: asyncio.Transport) -> None:
        self.transport = transport
        self.said_goodbye = False

    def dropped(self, reason: DropReason) -> None:
        """Queue the close frame behind what the transport holds; the client has GRACE_S to answer it."""
        self.said_goodbye = True
        if not self.transport.is_closing():
            self.transport.write(_GOODBYES[reason])
        hang_up(self.transport, close=False)


async def _read_to_the_end(socket: web.WebSocketResponse[bool]) -> None:
    try:
        while (await socket.receive()).type not in _ENDS:
            pass
    except ConnectionError:  # a pong that could not be sent any more
        return
