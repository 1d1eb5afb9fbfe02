"""Fetched entries on their way to decoding: bounded in bytes, put together to batches worth decoding."""

from __future__ import annotations

import asyncio
from collections import deque
from dataclasses import dataclass, field
from typing import Final

from certstream.ct.types import EntryBatch

_PATIENCE_S: Final = 1.0  # that entries wait for more to come


@dataclass(frozen=True, slots=True)
class RunSize:
    """How much is decoded together, about: each time has a fixed cost, and takes memory and time in proportion."""

    entries: int = 4096
    size_bytes: int = 12 << 20


@dataclass(slots=True)
class Run:
    """Consecutive batches of one log."""

    worth: RunSize
    begun_at: float  # of the event loop's clock
    batches: list[EntryBatch] = field(default_factory=list)
    entries: int = 0
    size_bytes: int = 0

    @property
    def stop(self) -> int:
        """Index after the last entry."""
        return self.batches[-1].stop

    def add(self, batch: EntryBatch) -> None:
        """Append what follows."""
        self.batches.append(batch)
        self.entries += len(batch)
        self.size_bytes += len(batch.data)

    @property
    def is_whole(self) -> bool:
        """Whether it is worth decoding as it is."""
        return self.entries >= self.worth.entries or self.size_bytes >= self.worth.size_bytes


class EntryBuffer:
    """Entries of all logs that wait for decoding, at most `cap_bytes` of them or one batch.

    At the bound `put` waits, first come first served. What `take` gives counts until `release`. The entries of one
    log come out in the order in which they went in, up to `run` together where they follow each other.
    """

    def __init__(self, cap_bytes: int, run: RunSize) -> None:
        self._cap_bytes = cap_bytes
        self._run = run
        self._held_bytes = 0
        self._whole: deque[Run] = deque()
        self._growing: dict[str, Run] = {}  # by base_url, the oldest first; each behind its log's whole ones
        self._entrance = asyncio.Lock()
        self._room = asyncio.Event()
        self._changed = asyncio.Event()
        self._crowded = False  # somebody waits in `put`
        self._emptied = 0  # waits in `emptied`
        self._closed = False

    @property
    def held_bytes(self) -> int:
        """Bytes put in and not released."""
        return self._held_bytes

    async def put(self, batch: EntryBatch) -> None:
        """Add a batch that is not empty, once there is room."""
        size = len(batch.data)
        async with self._entrance:
            try:
                while self._held_bytes and self._held_bytes + size > self._cap_bytes:
                    self._crowded = True
                    self._changed.set()
                    self._room.clear()
                    await self._room.wait()
            finally:
                self._crowded = False
            self._held_bytes += size
        self._add(batch)

    async def take(self) -> Run | None:
        """Wait for entries worth decoding, or for what there is after a second, or where room is wanted.

        None once the buffer is closed and empty.
        """
        while True:
            if self._whole:
                return self._whole.popleft()
            if not self._growing and self._closed:
                return None
            wait_s = self._wait_s()
            if wait_s is not None and wait_s <= 0:
                return self._growing.pop(self._next_growing())
            self._changed.clear()
            try:
                async with asyncio.timeout(wait_s):
                    await self._changed.wait()
            except TimeoutError:
                continue

    def release(self, run: Run) -> None:
        """Let what was taken count no more."""
        self._held_bytes -= run.size_bytes
        self._room.set()

    async def emptied(self) -> None:
        """Wait until everything that was put in is released; nothing waits for more to come meanwhile."""
        self._emptied += 1
        self._changed.set()
        try:
            while self._held_bytes:
                self._room.clear()
                await self._room.wait()
        finally:
            self._emptied -= 1

    def close(self) -> None:
        """Nothing more will be put in."""
        self._closed = True
        self._changed.set()

    def _add(self, batch: EntryBatch) -> None:
        key = batch.log.base_url
        run = self._growing.get(key)
        if run is not None and run.stop != batch.start:
            self._whole.append(self._growing.pop(key))
            run = None
        if run is None:
            run = self._growing[key] = Run(self._run, asyncio.get_running_loop().time())
        run.add(batch)
        if run.is_whole:
            self._whole.append(self._growing.pop(key))
        if self._whole or len(self._growing) == 1:
            self._changed.set()

    def _wait_s(self) -> float | None:
        """How long to wait for more; None while there is nothing."""
        if not self._growing:
            return None
        if self._crowded or self._closed or self._emptied:
            return 0.0
        oldest = next(iter(self._growing.values()))
        return oldest.begun_at + _PATIENCE_S - asyncio.get_running_loop().time()

    def _next_growing(self) -> str:
        """The largest where room is wanted, else the oldest."""
        if not self._crowded:
            return next(iter(self._growing))
        return max(self._growing, key=lambda key: self._growing[key].size_bytes)
