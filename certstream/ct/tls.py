"""A bounded reader for the TLS presentation language (RFC 8446 §3), in which CT structures are written."""

from __future__ import annotations

from certstream.errors import MalformedError


class Reader:
    """Reads big-endian integers and length-prefixed bytes; never past `stop`.

    Raises MalformedError where fewer bytes are left than asked for.
    """

    __slots__ = ("_data", "_pos", "_stop")

    def __init__(self, data: bytes, pos: int = 0, stop: int | None = None) -> None:
        self._data = data
        self._pos = pos
        self._stop = len(data) if stop is None else stop

    @property
    def pos(self) -> int:
        """Offset of the next byte."""
        return self._pos

    @property
    def left(self) -> int:
        """Bytes not read yet."""
        return self._stop - self._pos

    def take(self, count: int) -> bytes:
        """Return the next `count` bytes."""
        start = self._pos
        if count > self._stop - start:
            raise MalformedError(f"{count} bytes wanted at offset {start}, {self._stop - start} left")
        self._pos = start + count
        return self._data[start : self._pos]

    def uint(self, width: int) -> int:
        """Return the next `width` bytes as an unsigned integer."""
        return int.from_bytes(self.take(width))

    def vector(self, width: int) -> bytes:
        """Return a variable-length vector with a length of `width` bytes."""
        return self.take(self.uint(width))

    def end(self) -> None:
        """Raise MalformedError unless everything was read."""
        if self.left:
            raise MalformedError(f"{self.left} bytes left over at offset {self._pos}")
