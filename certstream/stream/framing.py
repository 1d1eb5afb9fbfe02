"""How messages become the bytes of a transport: WebSocket frames (RFC 6455 §5.2) and server-sent events."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, Literal, Protocol, TypeAlias

TransportName: TypeAlias = Literal["websocket", "sse"]

_TEXT: Final = 0x81  # FIN and opcode 1; what a server sends is never masked
_CLOSE: Final = 0x88
_PING: Final = 0x89
_PONG: Final = 0x8A
_MAX_CONTROL_BYTES: Final = 125


class Framing(Protocol):
    """One way to write messages, the same bytes for every client."""

    @property
    def name(self) -> TransportName:
        """What metrics call it."""

    @property
    def keepalive(self) -> bytes:
        """Bytes that go out after each heartbeat message."""

    def frame(self, messages: Sequence[bytes]) -> bytes:
        """Return all messages framed and joined; whole frames only, so that other writes fall between frames."""


class WebSocketFraming:
    """Each message is one text frame; a ping goes out with each heartbeat."""

    name: Final = "websocket"
    keepalive: Final = bytes((_PING, 0))

    def frame(self, messages: Sequence[bytes]) -> bytes:
        """Return one unmasked text frame per message."""
        parts: list[bytes] = []
        for message in messages:
            parts += (_header(_TEXT, len(message)), message)
        return b"".join(parts)


class SseFraming:
    """Each message is one event. Messages hold no line break (JSON as our encoder writes it)."""

    name: Final = "sse"
    keepalive: Final = b""

    def frame(self, messages: Sequence[bytes]) -> bytes:
        """Return one `data:` event per message."""
        return b"data: " + b"\n\ndata: ".join(messages) + b"\n\n"


WEBSOCKET: Final = WebSocketFraming()
SSE: Final = SseFraming()


def close_frame(code: int | None = None, reason: str = "") -> bytes:
    """Return a WebSocket close frame (RFC 6455 §5.5.1); the reason is cut to what a control frame holds."""
    payload = b"" if code is None else (code.to_bytes(2) + reason.encode())[:_MAX_CONTROL_BYTES]
    return _header(_CLOSE, len(payload)) + payload


def pong_frame(payload: bytes) -> bytes:
    """Return the answer to a ping of at most 125 bytes (RFC 6455 §5.5.3)."""
    return _header(_PONG, len(payload)) + payload


def _header(first: int, size: int) -> bytes:
    if size < 126:
        return bytes((first, size))
    if size < 1 << 16:
        return bytes((first, 126)) + size.to_bytes(2)
    return bytes((first, 127)) + size.to_bytes(8)
