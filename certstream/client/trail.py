"""Entries that went out before they were proven, and the proving of them behind that."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import Final

import structlog

from certstream.client.proven_tree import ProvenTree
from certstream.client.range_proofs import Unproven
from certstream.ct.edge import TreeEdge
from certstream.ct.types import HASH_BYTES
from certstream.errors import FetchError

_WAIT_S: Final = 1.0

logger: structlog.stdlib.BoundLogger = structlog.get_logger(__name__)


class Trail:
    """The leaf hashes of what went out and is not proven yet: consecutive entries, at most `most`, or one batch.

    Where there are more, because the log gives no proofs, those before count as tainted, as they do where reading goes
    on elsewhere; a proof that is under way is waited for, for _WAIT_S, if the last one came in that time. Where the
    edge behind a batch has the root of a head, all is proven at once; else the log is asked, in a task that nobody
    waits for, when `every` entries are not proven, or nothing is left to read.
    """

    def __init__(
        self,
        name: str,
        tree: ProvenTree,
        proven: Callable[[int, int], None],
        tainted: Callable[[int, int], None],
        streamed: Callable[[int, bytes], None],
        *,
        most: int,
        every: int,
    ) -> None:
        self._name = name
        self._tree = tree
        self._proven = proven
        self._tainted = tainted
        self._streamed = streamed  # told what is tainted as well: its leaf hashes, from an index on
        self._most = most
        self._every = every
        self._start = self._stop = 0
        self._hashes: list[bytes] = []  # of [start, stop), a batch each
        self._edge: TreeEdge | None = None  # of the first `stop` entries, if they are right and it is known
        self._is_due = False
        self._is_slow = False
        self._task: asyncio.Task[None] | None = None

    def edge_before(self, start: int) -> TreeEdge | None:
        """The edge of the first `start` entries, if all are right; None where it is not known."""
        edge = self._edge if self._hashes else self._tree.edge
        return edge if edge is not None and edge.size == start else None

    async def make_room(self, count: int) -> None:
        """Wait a moment for a proof where `count` entries more are too many; not where the log is slow to prove."""
        if self._task is None or self._is_slow or self._stop - self._start + count <= self._most:
            return
        done, _ = await asyncio.wait([self._task], timeout=_WAIT_S)
        self._is_slow = not done

    def add(self, start: int, stop: int, hashes: bytes, after: TreeEdge | None) -> None:
        """Entries [start, stop) go out; `after`: the edge behind them, where that before them is known."""
        if self._hashes and (start != self._stop or stop - self._start > self._most):
            self._leave(start)
            after = None
        if not self._hashes:
            self._start = start
        self._hashes.append(hashes)
        self._stop, self._edge = stop, after
        if after is not None and self._tree.matches(after):
            self._cancel()
            self._proven(self._start, stop)
            self._hashes.clear()

    def prove(self, *, now: bool = True) -> None:
        """Have the log asked for a proof where it is time; `now`: whatever there is to be proven."""
        self._is_due = bool(self._hashes) and (self._is_due or now or self._stop - self._start >= self._every)
        if self._is_due and self._task is None:
            self._task = asyncio.create_task(self._prove(), name=f"prove:{self._name}")

    async def _prove(self) -> None:
        try:
            while self._is_due:
                self._is_due = False
                await self._prove_once()
        except FetchError:
            pass  # tried again with the next head or batch
        except Exception:
            logger.exception("proving what went out crashed, it counts as tainted", log=self._name)
            self._taint(self._stop)
        self._task = None

    async def _prove_once(self) -> None:
        """Prove what there is now. What is not appended to it meanwhile cancels this."""
        count, start, stop, edge = len(self._hashes), self._start, self._stop, self._edge
        hashes = b"".join(self._hashes)
        proof = await self._tree.prove(start, hashes, edge)
        self._is_slow = False
        del self._hashes[:count]
        self._start = stop
        self._tell(start, hashes, proof.unproven)
        if proof.error is not None:
            self._edge = None
        elif edge is None and self._tree.edge is not None:
            self._edge = self._tree.edge.extended(b"".join(self._hashes))

    def _tell(self, start: int, hashes: bytes, unproven: Sequence[Unproven]) -> None:
        first, stop = start, start + len(hashes) // HASH_BYTES
        for each in unproven:
            if start < each.start:
                self._proven(start, each.start)
            self._tainted(each.start, each.stop)
            self._streamed(each.start, hashes[(each.start - first) * HASH_BYTES : (each.stop - first) * HASH_BYTES])
            start = each.stop
        if start < stop:
            self._proven(start, stop)

    async def finish(self, budget_s: float) -> None:
        """Prove what there is, within `budget_s`, and then nothing more; what is not proven stays unverified."""
        self.prove()
        if self._task is not None:
            await asyncio.wait([self._task], timeout=budget_s)
        self._cancel()
        self._hashes.clear()

    def close(self) -> None:
        """Ask the log no more; what is not proven counts as tainted."""
        self._leave(self._stop)

    def _leave(self, start: int) -> None:
        """Reading goes on at `start`: what went out before it is not proven any more."""
        self._cancel()
        self._taint(min(self._stop, start))

    def _taint(self, stop: int) -> None:
        if self._hashes and self._start < stop:
            self._tainted(self._start, stop)
            self._streamed(self._start, b"".join(self._hashes)[: (stop - self._start) * HASH_BYTES])
        self._hashes.clear()
        self._edge = None
        self._is_due = False

    def _cancel(self) -> None:
        if self._task is not None:
            self._task.cancel()
            self._task = None
