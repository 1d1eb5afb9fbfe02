"""Bodies taken in piece by piece, inflated where they are gzip, never beyond their cap. No I/O.

A log may send gzip whether it was asked to or not, and a file server may send a stored .gz without saying so.
No body of either protocol starts with gzip's magic bytes otherwise, so those decide together with the header.
"""

from __future__ import annotations

import zlib
from typing import Final

from certstream.errors import FetchError

_GZIP_MAGIC: Final = b"\x1f\x8b"
_GZIP: Final = frozenset({"gzip", "x-gzip"})
_AUTO_HEADER: Final = 32 + zlib.MAX_WBITS  # zlib or gzip, by the first bytes
_SMALL: Final = 4_096  # bytes; smaller pieces are put together, an object for each would take many times their memory
_STEP: Final = 1 << 20  # bytes inflated at a time: no more of a bomb is in memory than the cap lets in
_MAX_MEMBERS: Final = 64  # of one gzip body; each costs a copy of what is left


class BodyBuffer:
    """Collects one body; raises FetchError with status `too_large` past `cap_bytes`, `body` for damage.

    The cap holds for what was received and for what it inflates to, whatever the ratio between them.
    """

    def __init__(self, content_encoding: str, cap_bytes: int) -> None:
        self._encoding = content_encoding.strip().lower()
        if self._encoding not in {"", "identity", "deflate", *_GZIP}:
            raise FetchError(f"Content-Encoding {self._encoding[:40]!r} was not asked for", status="body")
        self._cap_bytes = cap_bytes
        self._received = 0
        self._size = 0
        self._pieces: list[bytes] = []
        self._small = bytearray()  # what comes after them
        self._members = 0
        self._inflater: zlib._Decompress | None = None

    def feed(self, chunk: bytes) -> None:
        """Take the next bytes of the body, at least two in the first chunk of a gzip body without header."""
        if not chunk:
            return
        if not self._received and self._is_packed(chunk):
            self._inflater = zlib.decompressobj(_AUTO_HEADER)
        self._received += len(chunk)
        if self._received > self._cap_bytes:
            raise self._too_large()
        if self._inflater is None:
            self._keep(chunk)
        else:
            self._inflate(chunk)

    def finish(self) -> bytes:
        """The whole body."""
        if self._inflater is not None and not self._inflater.eof:
            raise FetchError(f"compressed body ends after {self._received} bytes, unfinished", status="body")
        self._put_together()
        return self._pieces[0] if len(self._pieces) == 1 else b"".join(self._pieces)

    def clear(self) -> None:
        """Let go of the body."""
        self._pieces.clear()
        self._small.clear()
        self._inflater = None

    def _is_packed(self, chunk: bytes) -> bool:
        return self._encoding == "deflate" or self._encoding in _GZIP or chunk.startswith(_GZIP_MAGIC)

    def _inflate(self, chunk: bytes) -> None:
        more = True
        while more:
            assert self._inflater is not None
            if self._inflater.eof:  # gzip: members follow one another (RFC 1952 §2.2)
                if not chunk:
                    return
                self._members += 1
                if self._members == _MAX_MEMBERS:
                    raise FetchError(f"compressed body of more than {_MAX_MEMBERS} members", status="body")
                self._inflater = zlib.decompressobj(_AUTO_HEADER)
            try:
                piece = self._inflater.decompress(chunk, _STEP)
            except zlib.error as exc:
                raise FetchError(f"compressed body is damaged: {exc}", status="body") from exc
            self._keep(piece)
            chunk = self._inflater.unconsumed_tail or self._inflater.unused_data
            more = bool(chunk) or len(piece) == _STEP  # all may be taken in and not all given out

    def _keep(self, piece: bytes) -> None:
        self._size += len(piece)
        if self._size > self._cap_bytes:
            raise self._too_large()
        if len(piece) < _SMALL:
            self._small += piece
        else:
            self._put_together()
            self._pieces.append(piece)

    def _put_together(self) -> None:
        if self._small:
            self._pieces.append(bytes(self._small))
            self._small.clear()

    def _too_large(self) -> FetchError:
        return FetchError(f"body is larger than {self._cap_bytes} bytes", status="too_large")
