"""The beginning of a log: of one that takes no more entries, or that is left."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Final

from certstream.client.base import LogClient, Readable, WrappedClient
from certstream.ct.edge import TreeEdge
from certstream.ct.types import TreeHead
from certstream.errors import LogMisbehaviourError
from certstream.evidence import Case

_LOOK_S: Final = 2.0  # until it is looked again whether what was read up to the bound is proven


@dataclass(frozen=True, slots=True)
class FinalRoot:
    """What the root of the bounded tree must be, and who is told where it is another."""

    root_hash: bytes
    edge_at: Callable[[int], TreeEdge | None]  # of what was read, as VerifiedClient knows it
    evidence: Callable[[Case], None]
    enforce: bool  # another root stops the reading


class BoundedClient(WrappedClient):
    """A LogClient of the first `stop` entries. With `final` it is compared what the log says, and gave, up to there."""

    def __init__(self, client: LogClient, stop: int, final: FinalRoot | None = None) -> None:
        super().__init__(client)
        self._stop = stop
        self._final = final
        self._is_noted = False
        self._is_compared = final is None  # what was read up to the bound, or a head of that size
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
        return replace(head, tree_size=self._stop)

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

    def _check(self, root_hash: bytes, heads: list[TreeHead]) -> None:
        final, self._is_compared = self._final, True
        if final is None or root_hash == final.root_hash:
            return
        error = f"{self.log.name}: another root than that of its final tree head of {self._stop} entries"
        if not self._is_noted:
            hashes = {"final_root": final.root_hash, "root_of_what_was_read" if not heads else "root": root_hash}
            final.evidence(Case("two_roots", self.log, error, heads, stop=self._stop, hashes=hashes))
            self._is_noted = True
        if final.enforce:
            raise LogMisbehaviourError(error)
