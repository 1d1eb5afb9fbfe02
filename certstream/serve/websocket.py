"""A stream as WebSocket messages.

Frames of the stream go from the hub to the transport directly. Each write holds whole frames, so pongs and closes
fall between them. permessage-deflate is not offered: it would compress every message once per client.
"""

from __future__ import annotations

import asyncio
import base64
import binascii
import hashlib
from typing import Final

from aiohttp import hdrs, web

from certstream.metrics import DropReason
from certstream.serve.client_frames import ClientFrames
from certstream.serve.connections import Connections, hang_up
from certstream.stream.feed import Subscription
from certstream.stream.framing import WEBSOCKET, close_frame
from certstream.stream.hub import Hub, StreamKind

_GOODBYES: Final[dict[DropReason, bytes]] = {
    "backlog": close_frame(1008, "too slow: backlog is full"),
    "total_backlog": close_frame(1008, "too slow: memory for backlogs is full"),
    "flood": close_frame(1008, "too many frames"),
    "shutdown": close_frame(1001, "server is shutting down"),
}
_ACCEPT_GUID: Final = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"  # RFC 6455 §1.3
_VERSIONS: Final = frozenset(("13", "8", "7"))  # their frames are the same


class WebSocketStream:
    """Serves one stream kind to every client that upgrades.

    What clients send is read and ignored; a message above `max_message_bytes` closes with 1009, more frames
    than `ClientFrames` allows with 1008. Pings are answered. Nobody waits for pongs: clients that never answer live on.
    """

    def __init__(self, hub: Hub, kind: StreamKind, connections: Connections, max_message_bytes: int) -> None:
        self._hub = hub
        self._kind = kind
        self._connections = connections
        self._max_message_bytes = max_message_bytes

    async def serve(self, request: web.Request) -> web.StreamResponse:
        """Upgrade, and stream until either side ends it. Raises HTTPBadRequest for a handshake that is wrong."""
        response = _SwitchingProtocols(_accepted(request))
        await response.prepare(request)
        transport = request.transport
        if transport is not None:
            client = _Client(transport, self._hub, ClientFrames(self._max_message_bytes))
            client.subscription = self._hub.attach(self._kind, WEBSOCKET, transport, client.dropped)
            try:
                with self._connections.track(transport):
                    request.protocol.set_parser(client)  # type: ignore[arg-type]  # has what is called of a reader
                    await client.ended  # cancelled when the connection is lost
            finally:
                self._hub.detach(client.subscription)
                if not transport.is_closing():
                    hang_up(transport)
        return response


class _SwitchingProtocols(web.StreamResponse):
    """The end of the handshake; what follows is no HTTP."""

    _length_check = False

    def __init__(self, accept: str) -> None:
        headers = {hdrs.UPGRADE: "websocket", hdrs.CONNECTION: "Upgrade", hdrs.SEC_WEBSOCKET_ACCEPT: accept}
        super().__init__(status=101, headers=headers)
        self.force_close()


class _Client:
    """One client: what aiohttp's connection gives its bytes to, and the hub tells when it gives the client up."""

    __slots__ = ("_frames", "_hub", "_left", "_said_goodbye", "_transport", "ended", "subscription")

    def __init__(self, transport: asyncio.Transport, hub: Hub, frames: ClientFrames) -> None:
        self.subscription: Subscription | None = None
        self.ended = asyncio.get_running_loop().create_future()  # when nothing more is to be sent or read
        self._transport = transport
        self._hub = hub
        self._frames = frames
        self._said_goodbye = False
        self._left = False  # what the frames ended with is dealt with

    def dropped(self, reason: DropReason) -> None:
        """Queue the close frame behind what the transport holds; the client has GRACE_S to answer it."""
        self._said_goodbye = True
        if not self._transport.is_closing():
            self._transport.write(_GOODBYES[reason])
        hang_up(self._transport, close=False)

    def feed_data(self, data: bytes) -> tuple[bool, bytes]:
        """Take what the client sent; never at an end for aiohttp, which would close before the goodbye is sent."""
        answer = self._frames.feed(data)
        if answer and not self._said_goodbye and not self._transport.is_closing():
            self._transport.write(answer)
        if self._frames.end is not None and not self._left:
            self._left = True
            self._end()
        return False, b""

    def feed_eof(self) -> None:
        """The connection was lost; it cancels who waits for `ended`."""

    def _end(self) -> None:
        """Leave the stream; at once where the client wanted it.

        Who broke the protocol or floods has until GRACE_S to read the close, and is read no more: its bytes wait in
        its own machine. Closing at once would be a reset, which overtakes the close frame.
        """
        if self._frames.end == "closed":
            if not self.ended.done():
                self.ended.set_result(None)
        elif not self._said_goodbye and self.subscription is not None:
            if self._frames.end == "flood":
                self._hub.drop(self.subscription, "flood")
            else:
                self._hub.detach(self.subscription)
                hang_up(self._transport, close=False)
            if not self._transport.is_closing():
                self._transport.pause_reading()


def _accepted(request: web.Request) -> str:
    """Return what proves that the handshake was understood (RFC 6455 §4.2.2). Raises HTTPBadRequest."""
    connection = request.headers.get(hdrs.CONNECTION, "").lower()
    if request.method != hdrs.METH_GET or "upgrade" not in (part.strip() for part in connection.split(",")):
        raise web.HTTPBadRequest(text="a WebSocket handshake is a GET with Connection: Upgrade\n")
    if request.headers.get(hdrs.SEC_WEBSOCKET_VERSION) not in _VERSIONS:
        raise web.HTTPBadRequest(text="Sec-WebSocket-Version must be 13\n")
    key = request.headers.get(hdrs.SEC_WEBSOCKET_KEY, "").strip()
    try:
        size = len(base64.b64decode(key, validate=True))
    except (binascii.Error, ValueError):
        size = 0
    if size != 16:
        raise web.HTTPBadRequest(text="Sec-WebSocket-Key must be 16 bytes in base64\n")
    return base64.b64encode(hashlib.sha1(key.encode() + _ACCEPT_GUID).digest()).decode()  # noqa: S324 - as it is laid down
