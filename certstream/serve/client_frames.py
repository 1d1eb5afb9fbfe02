"""What WebSocket clients send (RFC 6455 §5), read without keeping it.

aiohttp's own reader hands each frame to a task, which answers all that one read brought before anybody else gets a
turn: tens of thousands of pings. Here a frame costs a few microseconds, and few are allowed.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Final, Literal, TypeAlias

from certstream.stream.framing import close_frame, pong_frame

End: TypeAlias = Literal["closed", "error", "flood"]

BURST_FRAMES: Final = 200
FRAMES_PER_S: Final = 20.0
_BYTES_PER_FRAME: Final = 4096  # so many bytes of payload count as one more frame

_CONTINUATION, _TEXT, _BINARY, _CLOSE, _PING, _PONG = 0x0, 0x1, 0x2, 0x8, 0x9, 0xA
_KNOWN: Final = frozenset((_CONTINUATION, _TEXT, _BINARY, _CLOSE, _PING, _PONG))
_MAX_CONTROL_BYTES: Final = 125
_PROTOCOL_ERROR, _TOO_BIG = 1002, 1009


class _BrokenError(Exception):
    """What ends the connection, with its close code."""

    def __init__(self, code: int, reason: str) -> None:
        super().__init__(reason)
        self.code = code
        self.reason = reason


class _FloodError(Exception):
    """More frames than a client may send."""


class ClientFrames:
    """Reads the frames of one client; answers pings and the close, throws messages away.

    Holds the beginning of one header or control frame at most. A client may send 200 frames at once and
    20 a second, where 4 KiB of payload count as one more; past that it has ended as `flood`.
    """

    __slots__ = ("_budget", "_clock", "_in_message", "_max_message_bytes", "_message_bytes", "_rest", "_skip", "_then",
                 "end")  # fmt: skip

    def __init__(self, max_message_bytes: int, clock: Callable[[], float] = time.monotonic) -> None:
        self.end: End | None = None  # why nothing more is read
        self._max_message_bytes = max_message_bytes
        self._clock = clock
        self._budget = float(BURST_FRAMES)
        self._then = clock()
        self._rest = b""
        self._skip = 0  # bytes of a payload that are still to come
        self._in_message = False  # a fragment came that was not the last
        self._message_bytes = 0

    def feed(self, data: bytes) -> bytes:
        """Take bytes from the client; return the frames that answer them. Sets `end` when the connection is to end."""
        if self.end is not None:
            return b""
        answers: list[bytes] = []
        self._refill()
        try:
            self._read(self._rest + data, answers)
        except _BrokenError as broken:
            self.end = "error"
            answers.append(close_frame(broken.code, broken.reason))
        except _FloodError:
            self.end = "flood"
            answers.clear()
        return b"".join(answers)

    def _refill(self) -> None:
        now = self._clock()
        self._budget = min(BURST_FRAMES, self._budget + (now - self._then) * FRAMES_PER_S)
        self._then = now

    def _read(self, data: bytes, answers: list[bytes]) -> None:
        pos = 0
        while self.end is None:
            skipped = min(self._skip, len(data) - pos)
            pos += skipped
            self._skip -= skipped
            after = self._frame(data, pos, answers)
            if after is None:
                break
            pos = after
        self._rest = data[pos:]

    def _frame(self, data: bytes, pos: int, answers: list[bytes]) -> int | None:
        """Read the frame at `pos`; return where its payload begins, or a control frame ends. None: not all is there."""
        if len(data) - pos < 2:
            return None
        first, second = data[pos], data[pos + 1]
        opcode, length = first & 0x0F, second & 0x7F
        self._check(first, second)
        start = pos + 2 + {126: 2, 127: 8}.get(length, 0)
        if len(data) < start + 4:  # of the mask
            return None
        if length > _MAX_CONTROL_BYTES:
            length = int.from_bytes(data[pos + 2 : start])
        if opcode & 0x8:
            stop = start + 4 + length
            if len(data) < stop:
                return None
            self._charge(length)
            self._control(opcode, _unmasked(data[start : start + 4], data[start + 4 : stop]), answers)
            return stop
        self._message(first, length)
        self._charge(length)
        self._skip = length
        return start + 4

    def _check(self, first: int, second: int) -> None:
        opcode = first & 0x0F
        if first & 0x70 or opcode not in _KNOWN:
            raise _BrokenError(_PROTOCOL_ERROR, "reserved bits or unknown opcode")
        if not second & 0x80:
            raise _BrokenError(_PROTOCOL_ERROR, "frame without a mask")
        if opcode & 0x8 and (not first & 0x80 or second & 0x7F > _MAX_CONTROL_BYTES):
            raise _BrokenError(_PROTOCOL_ERROR, "control frame in fragments or too long")

    def _message(self, first: int, length: int) -> None:
        """Note a frame of a message. Its size and that of its fragments together is bounded."""
        if (first & 0x0F == _CONTINUATION) != self._in_message:
            raise _BrokenError(_PROTOCOL_ERROR, "fragments out of order")
        self._message_bytes = length + (self._message_bytes if self._in_message else 0)
        if self._message_bytes > self._max_message_bytes:
            raise _BrokenError(_TOO_BIG, f"messages may have {self._max_message_bytes} bytes")
        self._in_message = not first & 0x80

    def _charge(self, length: int) -> None:
        self._budget -= 1 + length // _BYTES_PER_FRAME
        if self._budget < 0:
            raise _FloodError

    def _control(self, opcode: int, payload: bytes, answers: list[bytes]) -> None:
        if opcode == _PING:
            answers.append(pong_frame(payload))
        elif opcode == _CLOSE:
            answers.append(close_frame(_close_code(payload), "") if payload else close_frame())
            self.end = "closed"


def _close_code(payload: bytes) -> int:
    """Return the code to answer a close with: the client's, where it may send that one (RFC 6455 §7.4)."""
    code = int.from_bytes(payload[:2])
    allowed = 1000 <= code <= 1003 or 1007 <= code <= 1014 or 3000 <= code <= 4999
    return code if len(payload) >= 2 and allowed else _PROTOCOL_ERROR


def _unmasked(mask: bytes, payload: bytes) -> bytes:
    size = len(payload)
    key = int.from_bytes((mask * (size // 4 + 1))[:size])
    return (int.from_bytes(payload) ^ key).to_bytes(size)
