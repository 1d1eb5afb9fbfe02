"""Which entries of a batch are new to the streams: another log may have shown the same certificate before."""

from __future__ import annotations

import secrets
from collections.abc import Callable
from typing import Final

import numpy as np
from numpy.typing import NDArray

Keys = NDArray[np.uint64]  # (n, 2): the first 128 bits of SHA-256
Rows = NDArray[np.intp]

_TICKS_PER_S: Final = 10  # times are kept as uint32: 13 years of them
_EMPTY: Final = 0  # of a slot; others hold row + 1


class _Generation:
    """A hash table of at most `capacity` keys, built once and dropped whole.

    Memory is touched as it fills: 24 bytes per key and 8 to 16 for its slots (open addressing, linear probing).
    `seed` is odd and secret: nobody can make certificates that all want the same slot.
    """

    def __init__(self, capacity: int, seed: int) -> None:
        self.capacity = capacity
        self.size = 0
        self._keys = np.zeros((capacity, 2), np.uint64)
        self.log = np.zeros(capacity, np.uint32)
        self.tick = np.zeros(capacity, np.uint32)
        bits = max(1, (2 * capacity - 1).bit_length())
        self._slots = np.zeros(1 << bits, np.uint32)
        self._mask = np.uint64((1 << bits) - 1)
        self._shift = np.uint64(64 - bits)
        self._seed = np.uint64(seed)

    def find(self, keys: Keys) -> Rows:
        """The row of each key, -1 where there is none."""
        rows = np.full(len(keys), -1, np.intp)
        if not self.size:
            return rows
        asked = np.arange(len(keys))
        slot = self._first_slot(keys)
        while len(asked):
            held = self._slots[slot].astype(np.intp) - 1
            taken = held >= 0
            same = taken & (self._keys[held] == keys[asked]).all(axis=1)
            rows[asked[same]] = held[same]
            further = taken & ~same
            asked, slot = asked[further], (slot[further] + np.uint64(1)) & self._mask
        return rows

    def add(self, keys: Keys, log: int, tick: int) -> None:
        """Add distinct keys that are not there yet, for which there must be room."""
        rows = np.arange(self.size, self.size + len(keys))
        self.size += len(keys)
        self._keys[rows] = keys
        self.log[rows] = log
        self.tick[rows] = tick
        slot = self._first_slot(keys)
        while len(rows):
            free = self._slots[slot] == _EMPTY
            # Where several keys want the same free slot the last one written has it; the others go on.
            self._slots[slot[free]] = rows[free] + 1
            lost = self._slots[slot] != rows + 1
            rows, slot = rows[lost], (slot[lost] + np.uint64(1)) & self._mask

    def _first_slot(self, keys: Keys) -> Keys:
        return (keys[:, 0] * self._seed) >> self._shift  # multiplicative hashing: the high bits of the product


class Deduplicator:
    """Remembers up to `capacity` certificates for `ttl_s`, with the log that showed each.

    Bounded: two generations of half the capacity; when one is full the older one is forgotten, so that between half
    of the capacity and all of it is remembered. 128 bits of the SHA-256 decide.
    """

    def __init__(self, capacity: int, ttl_s: float, clock: Callable[[], float]) -> None:
        self._half = max(1, capacity // 2)
        self._ttl_ticks = round(ttl_s * _TICKS_PER_S)
        self._clock = clock
        self._born_s = clock()
        self._logs: dict[str, int] = {}
        self._seed = secrets.randbits(64) | 1
        self._young = _Generation(self._half, self._seed)
        self._old = _Generation(1, self._seed)

    def __len__(self) -> int:
        """Certificates remembered."""
        return self._young.size + self._old.size

    def fresh(self, sha256: NDArray[np.uint8], log_key: str) -> NDArray[np.bool_]:
        """Say which rows of `sha256`, shape (n, 32), one log's entries, belong on the streams.

        All but those that another log showed less than `ttl_s` ago; never one because of another of the same log.
        """
        keys: Keys = np.ascontiguousarray(sha256[:, :16]).view(np.uint64)
        log = self._logs.setdefault(log_key, len(self._logs))
        fresh = np.ones(len(keys), np.bool_)
        for first in range(0, len(keys), self._half):
            part = slice(first, first + self._half)
            fresh[part] = self._fresh(keys[part], log)
        return fresh

    def _fresh(self, keys: Keys, log: int) -> NDArray[np.bool_]:
        tick = int((self._clock() - self._born_s) * _TICKS_PER_S)
        young = self._young.find(keys)
        old = self._old.find(keys)
        fresh = ~(self._shown(self._young, young, log, tick) | self._shown(self._old, old, log, tick))
        seen_again = young[fresh & (young >= 0)]
        self._young.log[seen_again] = log
        self._young.tick[seen_again] = tick
        self._add(keys[fresh & (young < 0)], log, tick)
        return fresh

    def _shown(self, generation: _Generation, rows: Rows, log: int, tick: int) -> NDArray[np.bool_]:
        """Which of the rows found were shown by another log, not too long ago."""
        age = tick - generation.tick[rows].astype(np.int64)
        shown: NDArray[np.bool_] = (rows >= 0) & (generation.log[rows] != log) & (age < self._ttl_ticks)
        return shown

    def _add(self, keys: Keys, log: int, tick: int) -> None:
        if not len(keys):
            return
        # Of two that differ in their second half only, one is not remembered: shown twice, should that ever come.
        keys = keys[np.unique(keys[:, 0], return_index=True)[1]]
        if self._young.size + len(keys) > self._young.capacity:
            self._old, self._young = self._young, _Generation(self._half, self._seed)
        self._young.add(keys, log, tick)
