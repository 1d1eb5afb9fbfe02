"""What went out and is tainted, by its leaf hashes: to compare it with what the log proves later."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from certstream.ct.types import HASH_BYTES, LogInfo

_MOST_BYTES: Final = 16 << 20  # 500,000 entries
_OVERHEAD_BYTES: Final = 256  # of a run


class StreamedLeaves:
    """Leaf hashes of tainted entries of all logs; belongs to the event loop.

    At most `most_bytes`: past that the runs that were kept first are forgotten.
    """

    def __init__(self, most_bytes: int = _MOST_BYTES) -> None:
        self._most_bytes = most_bytes
        self._runs: dict[tuple[str, int], bytes] = {}  # by base_url and index of the first
        self._bytes = 0

    def keep(self, log: LogInfo, start: int, leaves: bytes) -> None:
        """Keep the leaf hashes, 32 bytes each, of entries from `start` on."""
        self._drop((log.base_url, start))
        self._runs[log.base_url, start] = leaves
        self._bytes += len(leaves) + _OVERHEAD_BYTES
        while self._bytes > self._most_bytes:
            self._drop(next(iter(self._runs)))

    def of(self, log: LogInfo, start: int, stop: int) -> dict[int, bytes]:
        """Those of [start, stop) that are known, by index."""
        return dict(self._within(log, start, stop))

    def _within(self, log: LogInfo, start: int, stop: int) -> Iterator[tuple[int, bytes]]:
        for (url, first), leaves in self._runs.items():
            if url == log.base_url:
                last = first + len(leaves) // HASH_BYTES
                for index in range(max(start, first), min(stop, last)):
                    at = (index - first) * HASH_BYTES
                    yield index, leaves[at : at + HASH_BYTES]

    def forget(self, log: LogInfo) -> None:
        """Nothing of the log is tainted any more."""
        for place in [place for place in self._runs if place[0] == log.base_url]:
            self._drop(place)

    def _drop(self, place: tuple[str, int]) -> None:
        leaves = self._runs.pop(place, None)
        if leaves is not None:
            self._bytes -= len(leaves) + _OVERHEAD_BYTES
