"""Encoded entries of one log: pages and data tiles, kept while there is room."""

from __future__ import annotations

import zlib
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from itertools import islice
from typing import TypeVar

from certstream.ct.types import TILE_WIDTH
from certstream.simulator.entries import json_entry
from certstream.simulator.faults import Fault, FaultKind
from certstream.simulator.log import SimulatedLog

T = TypeVar("T", bytes, list[bytes])

_GZIP_LEVEL = 1
_GZIP_WINDOW = 31  # zlib's window of 2**15, with gzip framing
_UNKNOWN_ENTRY_TYPE = b"\x7f\xff"


@dataclass(frozen=True, slots=True)
class Answer:
    """What a handler answers a request with."""

    status: int
    body: bytes
    content_type: str
    cache_control: str = "no-store"
    gzipped: bool = False


class RefusedError(Exception):
    """A request that the log answers with an error of its own: a status and a text."""

    def __init__(self, status: int, text: str) -> None:
        super().__init__(text)
        self.status = status


class BodyCache:
    """Bodies by key, the least recently used dropped past `limit_bytes`."""

    def __init__(self, limit_bytes: int) -> None:
        self._limit_bytes = limit_bytes
        self._bytes = 0
        self._bodies: OrderedDict[tuple[str, int], bytes | list[bytes]] = OrderedDict()

    def get(self, kind: str, number: int, build: Callable[[], T]) -> T:
        """The body under this key, built where it is not kept."""
        key = (kind, number)
        if key in self._bodies:
            self._bodies.move_to_end(key)
            return self._bodies[key]  # type: ignore[return-value]  # a kind has bodies of one type
        body = self._bodies[key] = build()
        self._bytes += _size(body)
        while self._bytes > self._limit_bytes:
            self._bytes -= _size(self._bodies.popitem(last=False)[1])
        return body


def _size(body: bytes | list[bytes]) -> int:
    return len(body) if isinstance(body, bytes) else sum(map(len, body))


class Content:
    """The entries of a log in the forms that its protocols serve.

    Encodes whole runs of 256; they are the same at every tree size, as entries follow from their index.
    """

    def __init__(self, log: SimulatedLog) -> None:
        self._log = log
        self._cache = BodyCache(log.cache_bytes)

    def page(self, start: int, stop: int, faults: list[Fault]) -> bytes:
        """The body of get-entries for [start, stop), one chunk or many."""
        start, stop = _displaced(start, stop, faults)
        entries: list[bytes] = []
        for number in range(start // TILE_WIDTH, -(-stop // TILE_WIDTH)):
            first = number * TILE_WIDTH
            chunk = self._cache.get("json", number, lambda first=first: self._json_entries(first))  # type: ignore[misc]
            entries += islice(chunk, max(start - first, 0), stop - first)
        for fault, index in self._struck(start, stop, faults):
            entry = self._log.entry(index)
            entries[index - start] = json_entry(altered(entry.leaf_input, fault.kind), entry.extra_data)
        return b'{"entries":[' + b",".join(entries) + b"]}"

    def data_tile(self, number: int, width: int, faults: list[Fault]) -> bytes:
        """The first `width` entries of a data tile."""
        first = number * TILE_WIDTH
        start, stop = _displaced(first, first + width, faults)
        struck = self._struck(start, stop, faults)
        if (start, stop) == (first, first + TILE_WIDTH) and not struck:
            return self._cache.get("tile", number, lambda: b"".join(self._tile_leaves(start, stop)))
        if start == first and stop <= first + TILE_WIDTH:
            leaves = self._cache.get("leaves", number, lambda: self._tile_leaves(first, first + TILE_WIDTH))[:width]
        else:
            leaves = self._tile_leaves(start, stop)
        for fault, index in struck:
            leaves[index - start] = _altered(leaves[index - start], fault.kind, 0)
        return b"".join(leaves)

    def gzipped_tile(self, number: int, width: int, faults: list[Fault]) -> bytes:
        """The same, compressed; kept where it is a full tile as it should be."""
        if width == TILE_WIDTH and not faults:
            return self._cache.get("gzip", number, lambda: _gzip(self.data_tile(number, width, faults)))
        return _gzip(self.data_tile(number, width, faults))

    def leaf_input(self, index: int, faults: list[Fault]) -> bytes:
        """leaf_input of one entry."""
        leaf_input = self._log.entry(index).leaf_input
        for fault, _ in self._struck(index, index + 1, faults):
            leaf_input = altered(leaf_input, fault.kind)
        return leaf_input

    def _json_entries(self, first: int) -> list[bytes]:
        return [entry for run in self._log.records(first, first + TILE_WIDTH) for entry in run.json_entries()]

    def _tile_leaves(self, start: int, stop: int) -> list[bytes]:
        return [leaf for run in self._log.records(start, stop) for leaf in run.tile_leaves()]

    def _struck(self, start: int, stop: int, faults: list[Fault]) -> list[tuple[Fault, int]]:
        """The faults that alter an entry, each with its index: the one it names, or any of [start, stop)."""
        random = self._log.faults.random
        struck = []
        for fault in faults:
            if fault.kind in (FaultKind.WRONG_LEAF, FaultKind.UNKNOWN_TYPE) and start < stop:
                struck.append((fault, random.randrange(start, stop) if fault.index is None else fault.index))
            elif fault.kind == FaultKind.FORK:
                struck.append((fault, fault.index or 0))
        return [(fault, index) for fault, index in struck if start <= index < stop]


def _gzip(body: bytes) -> bytes:
    return zlib.compress(body, _GZIP_LEVEL, _GZIP_WINDOW)


def _displaced(start: int, stop: int, faults: list[Fault]) -> tuple[int, int]:
    """Which entries are served for [start, stop): also such as no head covers yet."""
    for fault in faults:
        if fault.kind == FaultKind.SHIFTED:
            start, stop = start + 1, stop + 1
        elif fault.kind == FaultKind.MORE_ENTRIES:
            stop += fault.entries
    return start, stop


def altered(leaf_input: bytes, kind: FaultKind) -> bytes:
    """Another leaf_input: of another millisecond, or of an entry_type that no specification names."""
    return _altered(leaf_input, kind, 2)


def _altered(leaf: bytes, kind: FaultKind, timestamp_at: int) -> bytes:
    """Another leaf: the next or last millisecond, or an entry_type that no specification names."""
    after = timestamp_at + 8
    if kind == FaultKind.UNKNOWN_TYPE:
        return leaf[:after] + _UNKNOWN_ENTRY_TYPE + leaf[after + 2 :]
    return leaf[: after - 1] + bytes((leaf[after - 1] ^ 1,)) + leaf[after:]
