"""A log's heads, each verified against the log's key; its entries as they come."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from typing import Final

from certstream.client.base import LogClient, WrappedClient
from certstream.client.known_tree import KnownTree
from certstream.ct.signatures import verify_tree_head
from certstream.ct.types import TreeHead
from certstream.errors import FetchError, InvalidSignatureError, LogMisbehaviourError
from certstream.evidence import Case

_HEADS: Final = 16  # remembered; frontends of a log lag a few heads behind each other


class SignedHeads(WrappedClient):
    """A LogClient whose `head` is signed by the log; entries are not proven here, but `covering` says under what head.

    For reading out of order; who follows a log has VerifiedClient.
    """

    def __init__(
        self, client: LogClient, key: bytes, evidence: Callable[[Case], None], known: KnownTree | None = None
    ) -> None:
        """`key`: the log's SubjectPublicKeyInfo. `evidence` is called in the event loop and must not raise.

        `known`: what heads must be consistent with; None where nothing is known.
        """
        super().__init__(client)
        self._key = key
        self._evidence = evidence
        self._known = known
        self._heads: dict[int, TreeHead] = {}  # by tree size, in the order in which they came

    def covering(self, stop: int) -> TreeHead | None:
        """The first head that came of those with entries up to `stop`: what is proven under it stays so."""
        return next((head for size, head in self._heads.items() if size >= stop), None)

    async def head(self) -> TreeHead:
        """Return the log's newest word on its tree, its signature verified.

        Raises FetchError; LogMisbehaviourError where the signature does not hold, where it signed another root for the
        same size before, or where the head is shown not to be of the known tree. One that the log proves nothing about
        now is a claim: see `check`.
        """
        head = await self._client.head()
        try:
            verify_tree_head(head, self._key)
        except InvalidSignatureError as exc:
            error = f"{self.log.name}: {exc}"
            self._evidence(Case("signature", self.log, error, [head]))
            raise InvalidSignatureError(error) from exc
        known = self._heads.get(head.tree_size, head)
        if known.root_hash != head.root_hash:
            error = f"{self.log.name}: another root than before for a tree of {head.tree_size} entries"
            self._evidence(Case("two_roots", self.log, error, [known, head]))
            raise LogMisbehaviourError(error)
        with suppress(FetchError):
            await self.check(head, head.tree_size)
        self._heads.setdefault(head.tree_size, head)
        if len(self._heads) > _HEADS:
            del self._heads[next(iter(self._heads))]
        return head

    async def check(self, head: TreeHead, stop: int) -> None:
        """Check that a head's first `stop` entries are those of the known tree; it covers nothing any more where not.

        Asks the log for nothing where that is known. Raises FetchError, or LogMisbehaviourError.
        """
        if self._known is None:
            return
        try:
            await self._known.check(head, stop)
        except LogMisbehaviourError:
            self._heads.pop(head.tree_size, None)
            raise
