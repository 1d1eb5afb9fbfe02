"""Reading a log so that it is known of every entry whether it stands in a tree that the log has signed.

Wraps a LogClient. Heads are verified against the log's key. The leaf hashes of what is read extend the right edge of
the tree; where that reaches a head, its root must be the head's, and where it ends below one, the log must prove that
the head's tree begins with it. What was verified once is what everything after it is checked against.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing
from dataclasses import dataclass
from typing import Final, Literal, TypeAlias

from certstream.client.base import LogClient, Readable
from certstream.client.proofs import Prover
from certstream.client.waits import Waits
from certstream.ct.edge import TreeEdge, leaf_hashes
from certstream.ct.signatures import verify_tree_head
from certstream.ct.types import HASH_BYTES, EntryBatch, LogInfo, TreeHead
from certstream.errors import FetchError, InvalidProofError, InvalidSignatureError, LogMisbehaviourError
from certstream.evidence import Case

Mode: TypeAlias = Literal["warn", "enforce"]

MAX_UNPROVEN: Final = 10_240  # entries; each proof below a head is a request or two

_HEADS: Final = 16  # remembered; frontends of a log lag a few heads behind each other


@dataclass(frozen=True, slots=True)
class Findings:
    """Who is told what was found; all are called in the event loop and must not raise."""

    proven: Callable[[int, int], None]  # the entries [start, stop) stand in a signed tree
    tainted: Callable[[int, int], None]  # they went out, and it could not be proven that they do
    evidence: Callable[[Case], None]


@dataclass(slots=True)
class _Unproven:
    """A batch, and the edge behind it, if the log is right."""

    batch: EntryBatch
    before: TreeEdge
    hashes: bytes
    after: TreeEdge


class VerifiedClient:
    """A LogClient of proven entries.

    `enforce`: `batches` yields nothing that is not proven; where a proof fails, what is proven comes and then
    LogMisbehaviourError, and reading again begins there. `warn`: everything is yielded at once and proven behind it;
    what could not be is `tainted`, and reading goes on. Where a log gives no proof now, `enforce` waits for it with
    FetchError, and `warn` tries it again with the entries that follow.

    At most `max_unproven` entries are read without a proof; `enforce` holds them in memory.
    """

    def __init__(
        self,
        client: LogClient,
        prover: Prover,
        key: bytes,
        findings: Findings,
        *,
        mode: Mode,
        edge: TreeEdge | None = None,
        max_unproven: int = MAX_UNPROVEN,
    ) -> None:
        """`key`: the log's SubjectPublicKeyInfo. `edge`: that of the position to begin at, if it is known."""
        self._client = client
        self._prover = prover
        self._key = key
        self._findings = findings
        self._mode = mode
        self._max_unproven = max_unproven
        self._edge = edge  # behind what was yielded
        self._proven_to = None if edge is None else edge.size  # what lies from here on up to the edge is not proven yet
        self._latest: _Unproven | None = None  # the last batch that was yielded
        self._heads: dict[int, TreeHead] = {}  # whose signature holds, by tree size: the last ones that came

    @property
    def log(self) -> LogInfo:
        """The log that is read."""
        return self._client.log

    @property
    def paused_s(self) -> float:
        """Seconds until the log's operator takes requests again."""
        return self._client.paused_s

    @property
    def waits(self) -> Waits:
        """What reading the log spends its time on."""
        return self._client.waits

    def edge_at(self, position: int) -> TreeEdge | None:
        """The edge of the first `position` entries, for a later start; None where it is not known or not proven."""
        if self._proven_to is None or position > self._proven_to:
            return None
        if self._edge is not None and self._edge.size == position:
            return self._edge
        latest = self._latest
        if latest is None or not latest.batch.start <= position < latest.batch.stop:
            return None
        return latest.before.extended(latest.hashes[: (position - latest.batch.start) * HASH_BYTES])

    async def head(self) -> TreeHead:
        """Return the log's newest word on its tree, its signature verified.

        Raises FetchError; LogMisbehaviourError where the signature does not hold, or where it signed another root for
        the same size before.
        """
        head = await self._client.head()
        try:
            verify_tree_head(head, self._key)
        except InvalidSignatureError as exc:
            self._note("signature", f"{self.log.name}: {exc}", [head])
            raise InvalidSignatureError(f"{self.log.name}: {exc}") from exc
        known = self._heads.pop(head.tree_size, head)
        self._heads[head.tree_size] = known  # goes last
        if known.root_hash != head.root_hash:
            error = f"{self.log.name}: another root than before for a tree of {head.tree_size} entries"
            self._note("two_roots", error, [known, head])
            raise LogMisbehaviourError(error)
        if len(self._heads) > _HEADS:
            del self._heads[next(iter(self._heads))]
        return head

    def readable(self, position: int, tree_size: int) -> Readable:
        """Say how far to read now, see LogClient; larger heads than `tree_size` are not believed any more."""
        self._heads = {size: head for size, head in self._heads.items() if size <= tree_size}
        return self._client.readable(position, tree_size)

    async def batches(self, start: int, stop: int) -> AsyncGenerator[EntryBatch, None]:
        """Yield the entries of [start, stop) in order, see LogClient. A head that covers `stop` must have come."""
        covering = [size for size in self._heads if size >= stop]
        if not covering:
            raise ValueError(f"{self.log.name}: no verified head covers [{start}, {stop})")
        head = self._heads[min(covering)]
        reading = self._enforced(head, start, stop) if self._mode == "enforce" else self._warned(head, start, stop)
        async with aclosing(reading) as batches:
            async for batch in batches:
                yield batch

    # enforce: first the proof, then the entries

    async def _enforced(self, head: TreeHead, start: int, stop: int) -> AsyncGenerator[EntryBatch, None]:
        edge = await self._edge_before(head, start)
        held: list[_Unproven] = []
        failure: FetchError | LogMisbehaviourError | None = None
        async with aclosing(self._client.batches(start, stop)) as batches:
            while failure is None and edge.size < stop:
                try:
                    batch = await anext(batches)
                except (FetchError, LogMisbehaviourError) as exc:
                    failure = exc
                else:
                    held.append(_extended(edge, batch))
                    edge = held[-1].after
                    if edge.size < stop and edge.size - held[0].batch.start < self._max_unproven:
                        continue
                proven, wrong = await self._prove(head, held)
                for each in proven:
                    self._took(each)
                    self._proved(each.batch.start, each.after.size)
                    yield each.batch
                held = []
                failure = wrong or failure
        if failure is not None:
            raise failure

    async def _prove(
        self, head: TreeHead, held: list[_Unproven]
    ) -> tuple[list[_Unproven], LogMisbehaviourError | None]:
        """Which of the batches, from the first on, are proven; what is wrong with the next one. Raises FetchError."""
        if not held:
            return [], None
        try:
            await self._check(head, held[-1].after)
        except InvalidProofError as exc:
            if len(held) == 1:
                return [], self._wrong(head, held[0].batch.start, held[0].after, exc)
        else:
            return held, None
        for at, each in enumerate(held):
            try:
                await self._check(head, each.after)
            except InvalidProofError as exc:
                return held[:at], self._wrong(head, each.batch.start, each.after, exc)
        return held, None  # a proof was wrong, and is not any more

    # warn: first the entries, then the proof

    async def _warned(self, head: TreeHead, start: int, stop: int) -> AsyncGenerator[EntryBatch, None]:
        async with aclosing(self._client.batches(start, stop)) as batches:
            async for batch in batches:
                edge = await self._edge_if_any(head, batch.start)
                if edge is None:
                    self._give_up(batch.start)
                    self._findings.tainted(batch.start, batch.stop)
                else:
                    self._took(_extended(edge, batch))
                yield batch
                await self._catch_up(head, batch.stop, last=batch.stop == stop)

    async def _edge_if_any(self, head: TreeHead, start: int) -> TreeEdge | None:
        try:
            return await self._edge_before(head, start)
        except (FetchError, InvalidProofError):
            return None

    async def _catch_up(self, head: TreeHead, position: int, *, last: bool) -> None:
        """Prove what went out, once it is enough or the last; say what could not be proven."""
        proven_to, edge = self._proven_to, self._edge
        if proven_to is None or edge is None or (not last and position - proven_to < self._max_unproven):
            return
        try:
            await self._check(head, edge)
        except FetchError:
            return
        except InvalidProofError as exc:
            self._wrong(head, proven_to, edge, exc)
            self._give_up(position)  # the edge is of a tree that is not the log's
        else:
            self._proved(proven_to, position)

    # both

    async def _edge_before(self, head: TreeHead, start: int) -> TreeEdge:
        """The edge of the first `start` entries: known, or proven by the log. Raises FetchError, InvalidProofError."""
        if self._edge is None or self._edge.size != start:
            edge = self.edge_at(start)
            if edge is None:
                edge = await self._proven_edge(head, start)
                self._give_up(start)
            self._edge, self._proven_to, self._latest = edge, start, None
        return self._edge

    async def _proven_edge(self, head: TreeHead, start: int) -> TreeEdge:
        try:
            with self.waits.on("proving"):
                return await self._prover.edge(head, start)
        except InvalidProofError as exc:
            raise self._wrong(head, start, None, exc) from exc

    def _give_up(self, position: int) -> None:
        """What went out before `position` and is not proven will not be."""
        if self._proven_to is not None and self._proven_to < position:
            self._findings.tainted(self._proven_to, position)
        self._edge = self._latest = self._proven_to = None

    async def _check(self, head: TreeHead, edge: TreeEdge) -> None:
        if edge.size < head.tree_size:
            with self.waits.on("proving"):
                await self._prover.check_edge(head, edge)
        elif edge.root() != head.root_hash:
            raise InvalidProofError(f"another root than the head's of {head.tree_size} entries")

    def _took(self, read: _Unproven) -> None:
        self._latest, self._edge = read, read.after

    def _proved(self, start: int, stop: int) -> None:
        self._proven_to = stop
        self._findings.proven(start, stop)

    def _wrong(
        self, head: TreeHead, start: int, edge: TreeEdge | None, cause: InvalidProofError
    ) -> LogMisbehaviourError:
        stop = head.tree_size if edge is None else edge.size
        error = f"{self.log.name}: entries [{start}, {stop}) are not proven under a head of {head.tree_size}: {cause}"
        hashes = {} if edge is None else {"root_of_what_was_read": edge.root()}
        self._note("wrong_root", error, [head], start, stop, hashes)
        failure = InvalidProofError(error)
        failure.__cause__ = cause
        return failure

    def _note(
        self,
        kind: Literal["signature", "two_roots", "wrong_root"],
        error: str,
        heads: list[TreeHead],
        start: int | None = None,
        stop: int | None = None,
        hashes: dict[str, bytes] | None = None,
    ) -> None:
        self._findings.evidence(Case(kind, self.log, error, heads, start, stop, hashes or {}))


def _extended(edge: TreeEdge, batch: EntryBatch) -> _Unproven:
    hashes = leaf_hashes(batch)
    return _Unproven(batch, edge, hashes, edge.extended(hashes))
