"""The beginning of a log: of one that takes no more entries, or that is left."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Final

import structlog

from certstream.client.base import LogClient, Readable, WrappedClient
from certstream.client.proofs import Prover
from certstream.ct.edge import TreeEdge
from certstream.ct.types import TreeHead
from certstream.errors import InvalidProofError, LogMisbehaviourError
from certstream.evidence import Case

_LOOK_S: Final = 2.0  # until it is looked again whether what was read up to the bound is proven

logger: structlog.stdlib.BoundLogger = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class FinalRoot:
    """What the root of the bounded tree must be, and who is told where it is another."""

    root_hash: bytes
    edge_at: Callable[[int], TreeEdge | None]  # of what was read, as VerifiedClient knows it
    anchor: Callable[[], TreeEdge | None]  # the longest one that is proven, likewise
    prover: Prover  # its own
    evidence: Callable[[Case], None]
    enforce: bool  # another root stops the reading


class BoundedClient(WrappedClient):
    """A LogClient of the first `stop` entries. With `final` it is compared what the log says, and gave, up to there.

    Where more was read before, the tree seems to end at the position: there is nothing to read, and nothing missing.
    """

    def __init__(self, client: LogClient, stop: int, final: FinalRoot | None = None, position: int = 0) -> None:
        """`position` is where reading goes on; only where it is beyond `stop` it matters."""
        super().__init__(client)
        self._stop = stop
        self._final = final
        self._end = max(stop, position)
        self._is_noted = False
        self._is_compared = final is None  # what was read up to the bound, or a head of that size
        self._asks = position > stop  # the log for what is there: reading does not show it
        self._root: bytes | None = None  # of the first `stop` entries, as the log proved it
        self._tree_size = 0  # of the log's largest head

    async def head(self) -> TreeHead:
        """Return the newest head, with `stop` for a size beyond it; what the log signed is not of that size then.

        Raises FetchError; LogMisbehaviourError where the root is another one and `final` is enforced.
        """
        head = await self._client.head()
        self._tree_size = max(self._tree_size, head.tree_size)
        if head.tree_size < self._stop:
            return head
        if head.tree_size == self._stop:
            self._check(head.root_hash, [head])
        elif self._asks:
            await self._check_proven(head)
        return replace(head, tree_size=min(self._end, head.tree_size))

    def readable(self, position: int, tree_size: int) -> Readable:
        """Say how far to read now, see LogClient. Raises LogMisbehaviourError as `head` does."""
        self._check_read(position)
        # What is believed beyond the bound is the log's own size: its heads are what entries are proven under
        believed = max(tree_size, self._tree_size) if tree_size >= self._stop else tree_size
        readable = self._client.readable(position, believed)
        return readable if readable.stop < self._stop else Readable(self._stop, None if self._is_compared else _LOOK_S)

    def _check_read(self, position: int) -> None:
        if self._final is None or position != self._stop:
            return
        edge = self._final.edge_at(position)
        if edge is not None:
            self._check(edge.root(), [])
        else:
            self._asks = True  # from the next head on, by then what was read may be proven

    async def _check_proven(self, head: TreeHead) -> None:
        """Compare the root that the log proves to be there: in the tree that is proven, else in the head's.

        Raises FetchError; InvalidProofError where what it gives leads to neither.
        """
        final, stop = self._final, self._stop
        if final is None:
            return
        edge = final.edge_at(stop)
        if edge is not None:
            self._check(edge.root(), [])
            return
        if self._root is None:
            self._root = await self._proven_root(final, head)
            if self._end > stop:
                name, past = self.log.name, self._end - stop
                logger.warning("log grew past its final tree head", log=name, final_tree_size=stop, read_past=past)
        self._check(self._root, [])

    async def _proven_root(self, final: FinalRoot, head: TreeHead) -> bytes:
        anchor = final.anchor()
        if anchor is not None and anchor.size >= self._stop:
            head = TreeHead(anchor.size, 0, anchor.root(), b"")
        try:
            return (await final.prover.edge(head, self._stop)).root()
        except InvalidProofError as exc:
            error = (
                f"{self.log.name}: its tree of {head.tree_size} entries at its final tree head of {self._stop}: {exc}"
            )
            hashes = {"final_root": final.root_hash, f"root_at_{head.tree_size}": head.root_hash}
            self._note(Case("wrong_root", self.log, error, stop=self._stop, hashes=hashes))
            raise InvalidProofError(error) from exc

    def _check(self, root_hash: bytes, heads: list[TreeHead]) -> None:
        final, self._is_compared = self._final, True
        if final is None or root_hash == final.root_hash:
            return
        error = f"{self.log.name}: another root than that of its final tree head of {self._stop} entries"
        hashes = {"final_root": final.root_hash, "root_of_what_was_read" if not heads else "root": root_hash}
        self._note(Case("two_roots", self.log, error, heads, stop=self._stop, hashes=hashes))
        if final.enforce:
            raise LogMisbehaviourError(error)

    def _note(self, case: Case) -> None:
        if self._final is not None and not self._is_noted:
            self._final.evidence(case)
            self._is_noted = True
