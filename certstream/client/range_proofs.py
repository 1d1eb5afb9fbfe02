"""Which entries of a range stand in the tree of a signed head, and which do not, as exactly as can be told.

For reading out of order: a backfill, and what is read again. A head is taken as it is: verify its signature first.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Final

import numpy as np

from certstream.client.proofs import Prover, StaticProver
from certstream.ct.edge import leaf_hashes
from certstream.ct.types import HASH_BYTES, TILE_WIDTH, EntryBatch, Int64Array, LogInfo, TreeHead, check_consecutive
from certstream.errors import FetchError, InvalidProofError

_HALVINGS: Final = 32  # of ranges that are not proven, in one check: two proofs each


@dataclass(frozen=True, slots=True)
class Unproven:
    """Entries [start, stop) that could not be shown to stand in the tree."""

    start: int
    stop: int
    error: str


class RangeChecker:
    """Checks what was read of one log, a range of consecutive entries at a time; belongs to one task at a time.

    A whole range takes two proofs (RFC 6962), or a hash tile for 65,536 entries (static). Where it is not proven, it is
    halved until single entries are left (RFC 6962), at most _HALVINGS times, or compared with the hash tiles below
    (static), one for each data tile. So requests are bounded, whatever the log says; in memory are 32 bytes an entry,
    and at most 0.5 MB of tiles.
    """

    def __init__(self, prover: Prover, log: LogInfo) -> None:
        self._prover = prover
        self._log = log

    async def check(self, head: TreeHead, batches: Sequence[EntryBatch]) -> list[Unproven]:
        """Which of the entries are not proven, ascending and apart; none where all are.

        The batches follow each other. Raises FetchError where the log gives no proof, ValueError where the head does
        not cover them.
        """
        check_consecutive(batches)
        return await self.check_leaves(head, batches[0].start, b"".join(map(leaf_hashes, batches)))

    async def check_leaves(self, head: TreeHead, start: int, leaves: bytes) -> list[Unproven]:
        """Likewise by leaf hashes, 32 bytes each, from index `start` on."""
        stop = start + len(leaves) // HASH_BYTES
        if stop > head.tree_size:
            raise ValueError(f"{self._log.name}: a head of {head.tree_size} entries does not cover [{start}, {stop})")
        if isinstance(self._prover, StaticProver):
            return _joined(await self._by_tiles(self._prover, head, start, leaves))
        return _joined(await self._by_halves(head, start, leaves))

    # RFC 6962

    async def _by_halves(self, head: TreeHead, start: int, leaves: bytes) -> list[Unproven]:
        wrong = await self._wrong(head, start, leaves)
        unproven = [] if wrong is None else [wrong]
        for _ in range(_HALVINGS):
            widest = max(unproven, key=lambda each: each.stop - each.start, default=None)
            if widest is None or widest.stop - widest.start == 1:
                break
            try:
                halves = await self._halved(head, widest, start, leaves)
            except FetchError:
                break  # it is known that something in them is wrong, and only later what
            at = unproven.index(widest)
            unproven[at : at + 1] = halves
        return unproven

    async def _halved(self, head: TreeHead, wrong: Unproven, start: int, leaves: bytes) -> list[Unproven]:
        middle = (wrong.start + wrong.stop) // 2
        halves = ((wrong.start, middle), (middle, wrong.stop))
        parts = [(first, leaves[(first - start) * HASH_BYTES : (last - start) * HASH_BYTES]) for first, last in halves]
        found = await asyncio.gather(*(self._wrong(head, *part) for part in parts), return_exceptions=True)
        for each in found:
            if isinstance(each, BaseException):
                raise each
        return [each for each in found if isinstance(each, Unproven)]

    async def _wrong(self, head: TreeHead, start: int, leaves: bytes) -> Unproven | None:
        try:
            await self._prover.check_leaves(head, start, leaves)
        except InvalidProofError as exc:
            return Unproven(start, start + len(leaves) // HASH_BYTES, self._said(exc))
        return None

    # static-ct-api

    async def _by_tiles(self, prover: StaticProver, head: TreeHead, start: int, leaves: bytes) -> list[Unproven]:
        stop = start + len(leaves) // HASH_BYTES
        broken: dict[tuple[int, int], str] = {}  # tiles that are not proven themselves: none is asked for twice
        unproven: list[Unproven] = []
        for first in (start, *range(start - start % TILE_WIDTH + TILE_WIDTH, stop, TILE_WIDTH)):
            last = min(stop, first - first % TILE_WIDTH + TILE_WIDTH)
            part = leaves[(first - start) * HASH_BYTES : (last - start) * HASH_BYTES]
            unproven += await self._in_data_tile(prover, head, first, part, broken)
        return unproven

    async def _in_data_tile(
        self, prover: StaticProver, head: TreeHead, start: int, leaves: bytes, broken: dict[tuple[int, int], str]
    ) -> list[Unproven]:
        stop, index = start + len(leaves) // HASH_BYTES, start // TILE_WIDTH
        above = 1, index // TILE_WIDTH  # proves each whole data tile below it, and the hash tile beside that
        place = above if stop - start == TILE_WIDTH else (0, index)
        if above in broken:
            return [Unproven(start, stop, broken[above])]
        try:
            tiles = await prover.proven_tiles(head, *place)
        except InvalidProofError as exc:
            broken[place] = self._said(exc)
            return [Unproven(start, stop, broken[place])]
        try:
            tiles.check_leaves(start, leaves)
        except InvalidProofError as exc:
            return await self._differing(prover, head, start, leaves, exc)
        return []

    async def _differing(
        self, prover: StaticProver, head: TreeHead, start: int, leaves: bytes, wrong: InvalidProofError
    ) -> list[Unproven]:
        """What of a data tile is not what the hash tile beside it says; all of it where that cannot be told."""
        index, first = start // TILE_WIDTH, start % TILE_WIDTH * HASH_BYTES
        whole = [Unproven(start, start + len(leaves) // HASH_BYTES, self._said(wrong))]
        try:
            tile = (await prover.proven_tiles(head, 0, index)).tile(0, index)
        except (FetchError, InvalidProofError):
            return whole
        assert tile is not None
        ranges = _runs(_rows(leaves) != _rows(tile[first : first + len(leaves)]))
        return [replace(whole[0], start=start + one, stop=start + end) for one, end in ranges]

    def _said(self, error: InvalidProofError) -> str:
        return f"{self._log.name}: {error}"


def _rows(hashes: bytes) -> Int64Array:
    return np.frombuffer(hashes, np.int64).reshape(-1, HASH_BYTES // 8)


def _runs(differing: np.ndarray[tuple[int, ...], np.dtype[np.bool_]]) -> list[tuple[int, int]]:
    """Where rows with any difference begin and end."""
    edges = np.flatnonzero(np.diff(differing.any(axis=1), prepend=False, append=False))
    return list(zip(edges[::2].tolist(), edges[1::2].tolist(), strict=True))


def _joined(unproven: list[Unproven]) -> list[Unproven]:
    """Those that touch each other as one, with the first one's reason."""
    result: list[Unproven] = []
    for each in unproven:
        if result and result[-1].stop == each.start:
            result[-1] = replace(result[-1], stop=each.stop)
        else:
            result.append(each)
    return result
