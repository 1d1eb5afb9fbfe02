"""Runs of fetched entries on their way to decoding: each is verified before, while others are fetched and decoded."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from certstream.backfill.buffer import EntryBuffer, Run
from certstream.backfill.verify import Checked, LogVerifier
from certstream.client.range_proofs import Unproven
from certstream.ct.edge import leaf_hashes
from certstream.ct.types import EntryBatch, LogInfo, batch_bytes, cut_batch
from certstream.intervals import Intervals
from certstream.ledger import Trust


@dataclass(frozen=True, slots=True)
class Piece:
    """Consecutive batches of one log that are decoded together, and what is known of them."""

    batches: list[EntryBatch]
    wanted: Intervals  # of them, to be archived
    trust: Trust
    done: Run | None  # to be released with this piece

    @property
    def log(self) -> LogInfo:
        """Whose entries they are."""
        return self.batches[0].log


@dataclass(slots=True)
class _Lane:
    """The pieces of one log, verified one after the other."""

    verifier: LogVerifier
    waiting: asyncio.Queue[Piece | None] = field(default_factory=asyncio.Queue)
    held_bytes: int = 0  # of entries that are not verified yet
    room: asyncio.Event = field(default_factory=asyncio.Event)


class Proofs:
    """Takes runs out of a buffer and gives them in pieces; those of a log with a verifier when that has checked them.

    Logs do not wait for each other: `room` keeps a log whose proofs are late from filling the buffer. What is given
    counts in the buffer until it is released there, so that nothing else bounds the pieces.
    """

    def __init__(
        self,
        buffer: EntryBuffer,
        verifiers: Mapping[str, LogVerifier],
        *,
        wanted: Callable[[str], Intervals],
        refuse: Callable[[LogInfo, Sequence[Unproven]], None],
        piece_bytes: int,
        lane_bytes: int,
    ) -> None:
        """`wanted` gives by base_url what is to be archived, `refuse` takes what is not, because it is not proven."""
        self._buffer = buffer
        self._lanes = {url: _Lane(verifier) for url, verifier in verifiers.items()}
        self._wanted = wanted
        self._refuse = refuse
        self._piece_bytes = piece_bytes
        self._lane_bytes = lane_bytes
        self._ready: asyncio.Queue[Piece | None] = asyncio.Queue()

    async def room(self, log: LogInfo) -> None:
        """Wait while as much of the log waits for its proofs as may."""
        lane = self._lanes.get(log.base_url)
        while lane is not None and lane.held_bytes >= self._lane_bytes:
            lane.room.clear()
            await lane.room.wait()

    async def take(self) -> Piece | None:
        """Wait for a piece that may be decoded; None once there are no more."""
        return await self._ready.get()

    async def run(self) -> None:
        """Verify everything in the buffer, until that is closed and empty."""
        async with asyncio.TaskGroup() as group:
            for lane in self._lanes.values():
                group.create_task(self._check_all(lane), name=f"backfill:prove:{lane.verifier.log.name}")
            while (run := await self._buffer.take()) is not None:
                self._sort(run)
            for lane in self._lanes.values():
                lane.waiting.put_nowait(None)
        self._ready.put_nowait(None)

    def _sort(self, run: Run) -> None:
        *parts, last = cut_together(run.batches, self._piece_bytes)
        url = last[0].log.base_url
        missing, lane = self._wanted(url), self._lanes.get(url)
        if lane is not None:
            lane.held_bytes += run.size_bytes
        for part in (*parts, last):
            wanted = missing.within(part[0].start, part[-1].stop)
            piece = Piece(part, wanted, Trust(), run if part is last else None)
            (self._ready if lane is None else lane.waiting).put_nowait(piece)

    async def _check_all(self, lane: _Lane) -> None:
        while (piece := await lane.waiting.get()) is not None:
            checked = await self._check(lane.verifier, piece.batches) if len(piece.wanted) else Checked()
            refused = piece.wanted & checked.refused_indices
            if len(refused):
                self._refuse(piece.log, checked.refused)
            if piece.done is not None:
                lane.held_bytes -= piece.done.size_bytes
                lane.room.set()
            wanted = piece.wanted - refused
            self._ready.put_nowait(Piece(piece.batches, wanted, checked.trust.within(wanted), piece.done))
            del piece  # megabytes, while the next one is waited for

    async def _check(self, verifier: LogVerifier, batches: Sequence[EntryBatch]) -> Checked:
        hashes = []
        for batch in batches:
            hashes.append(leaf_hashes(batch))
            await asyncio.sleep(0)  # a run of them would hold up the event loop
        return await verifier.check(batches, b"".join(hashes))


def cut_together(batches: Iterable[EntryBatch], most_bytes: int) -> Iterator[list[EntryBatch]]:
    """The batches together, or in several parts where their entries are uncommonly large."""
    part: list[EntryBatch] = []
    held_bytes = 0
    for batch in (each for whole in batches for each in cut_batch(whole, most_bytes)):
        size_bytes = batch_bytes(batch)
        if part and held_bytes + size_bytes > most_bytes:
            yield part
            part, held_bytes = [], 0
        part.append(batch)
        held_bytes += size_bytes
    if part:
        yield part
