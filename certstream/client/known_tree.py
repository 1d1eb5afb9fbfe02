"""Whether a signed head is one of the tree that is known to be a log's: under a split view both are signed."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Final

from certstream.client.proofs import Prover
from certstream.ct.edge import TreeEdge
from certstream.ct.types import LogInfo, TreeHead
from certstream.errors import InvalidProofError
from certstream.evidence import Case, inconsistent

_HEADS: Final = 32  # remembered; more than anybody keeps of a log


class KnownTree:
    """The tree that reading a log has proven so far, and which of the log's heads are of it.

    Safe for several tasks, which wait for each other; each head costs the proof of an edge, once.
    """

    def __init__(
        self, log: LogInfo, prover: Prover, edge: Callable[[], TreeEdge | None], evidence: Callable[[Case], None]
    ) -> None:
        """`edge` gives what is proven now, None where nothing is; `evidence` must not raise. The prover is its own."""
        self._log = log
        self._prover = prover
        self._edge = edge
        self._evidence = evidence
        self._turn = asyncio.Lock()
        self._agreed: dict[tuple[int, bytes], int] = {}  # by head: up to how many entries both trees are the same

    async def check(self, head: TreeHead, stop: int) -> None:
        """Check that the first `stop` entries, which the head covers, are those of the known tree, as far as it goes.

        Raises FetchError where the log gives no proof, InvalidProofError where the two are not the same tree.
        """
        async with self._turn:
            edge = self._edge()
            place = head.tree_size, head.root_hash
            if edge is None or self._agreed.get(place, 0) >= min(stop, edge.size):
                return
            try:
                await self._compare(head, edge)
            except InvalidProofError as exc:
                case = inconsistent(self._log, [head], edge.size, edge.root(), exc)
                self._evidence(case)
                raise InvalidProofError(case.error) from exc
            self._agreed[place] = min(edge.size, head.tree_size)
            while len(self._agreed) > _HEADS:
                del self._agreed[next(iter(self._agreed))]

    async def _compare(self, head: TreeHead, edge: TreeEdge) -> None:
        if edge.size <= head.tree_size:
            await self._prover.check_edge(head, edge)
            return
        known = TreeHead(edge.size, 0, edge.root(), b"")  # the larger one is what the smaller is proven under
        if (await self._prover.edge(known, head.tree_size)).root() != head.root_hash:
            raise InvalidProofError(f"the first {head.tree_size} entries have another root")
