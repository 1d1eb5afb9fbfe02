"""Reading a log so that it is known of every entry whether it stands in a tree that the log has signed.

Wraps a LogClient. Heads are verified against the log's key. The leaf hashes of what is read extend the right edge of
the tree; where that reaches a head, its root must be the head's, and where it ends below one, the log must prove that
the head's tree begins with it. What was verified once is what everything after it is checked against.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable, Iterator
from contextlib import aclosing
from dataclasses import dataclass
from typing import Final, Literal, TypeAlias

from certstream.client.base import LogClient, Readable, WrappedClient
from certstream.client.proofs import Prover
from certstream.client.proven_tree import Proof, ProvenTree
from certstream.client.trail import Trail
from certstream.ct.edge import TreeEdge, leaf_hashes
from certstream.ct.types import HASH_BYTES, TILE_WIDTH, EntryBatch, TreeHead, cut_batch, slice_batch
from certstream.errors import FetchError, InvalidSignatureError, LogMisbehaviourError
from certstream.evidence import Case

Mode: TypeAlias = Literal["warn", "enforce"]

MAX_UNPROVEN: Final = 10_240  # entries; each proof below a head is a request or two

_PROOFS_IN_THAT: Final = 4  # so that what is read while one is waited for has room
_STEP_BYTES: Final = 1 << 20  # of entries hashed at a time, in about 2 ms: the event loop has others to serve


@dataclass(frozen=True, slots=True)
class Findings:
    """Who is told what was found; all are called in the event loop and must not raise."""

    proven: Callable[[int, int], None]  # the entries [start, stop) stand in a signed tree
    tainted: Callable[[int, int], None]  # they went out, and it could not be proven that they do
    evidence: Callable[[Case], None]
    streamed: Callable[[int, bytes], None] = lambda _start, _leaves: None  # leaf hashes of what is tainted, from start


@dataclass(frozen=True, slots=True)
class _Read:
    """A batch, and the edges before and behind it, if the log is right."""

    batch: EntryBatch
    before: TreeEdge
    hashes: bytes
    after: TreeEdge

    def edge_at(self, position: int) -> TreeEdge:
        """The edge inside or behind it."""
        if position == self.after.size:
            return self.after
        return self.before.extended(self.hashes[: (position - self.before.size) * HASH_BYTES])

    def cut(self, stop: int) -> _Read:
        """What of it lies before `stop`."""
        count = stop - self.before.size
        batch = slice_batch(self.batch, self.batch.start, stop)
        return _Read(batch, self.before, self.hashes[: count * HASH_BYTES], self.edge_at(stop))


class VerifiedClient(WrappedClient):
    """A LogClient of proven entries.

    `enforce`: `batches` yields nothing that is not proven; where a proof fails, what lies before the batch or tile that
    is wrong comes and then LogMisbehaviourError, and reading again begins there. Where a log gives no proof now, it
    waits for it with FetchError. `warn`: everything is yielded at once and proven behind it, in a task that nobody
    waits for; what could not be is `tainted`, and reading goes on. Close such a client in the end.

    At most `max_unproven` entries are read without a proof; `enforce` holds them in memory, `warn` their hashes, and
    gives up proving those before where a log gives no proofs.
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
        anchor: TreeEdge | None = None,
        max_unproven: int = MAX_UNPROVEN,
    ) -> None:
        """`key`: the log's SubjectPublicKeyInfo. `edge`: that of the position to begin at, if it is known.

        `anchor`: the longest one that was proven before, where that is another.
        """
        super().__init__(client)
        self._findings = findings
        self._mode = mode
        self._tree = ProvenTree(client.log, prover, key, findings.evidence, edge, anchor)
        self._proof_every = max(1, max_unproven // _PROOFS_IN_THAT)
        self._trail = Trail(
            client.log.name,
            self._tree,
            findings.proven,
            findings.tainted,
            findings.streamed,
            most=max_unproven,
            every=self._proof_every,
        )
        self._last: _Read | None = None  # that was yielded
        self._newest_size = 0  # of the head that came last
        self._is_short = False  # the log did not give what a larger head before that promises

    @property
    def anchor(self) -> TreeEdge | None:
        """The longest edge that is proven: what every head has to begin with. None where nothing is."""
        return self._tree.anchor

    def edge_at(self, position: int) -> TreeEdge | None:
        """The edge of the first `position` entries, for a later start; None where it is not known or not proven."""
        proven, last = self._tree.edge, self._last
        if proven is None or position > proven.size:
            return None
        if position == proven.size:
            return proven
        is_there = last is not None and last.before.size <= position <= last.after.size <= proven.size
        return last.edge_at(position) if last is not None and is_there else None

    async def head(self) -> TreeHead:
        """Return the log's newest word on its tree, its signature verified.

        Raises FetchError; LogMisbehaviourError where the signature does not hold, or, with `enforce`, where it is
        another root than what is proven has at that size.
        """
        head = await self._client.head()
        try:
            self._tree.take(head)
        except InvalidSignatureError:
            raise
        except LogMisbehaviourError:
            if self._mode == "enforce":
                raise
        self._newest_size = head.tree_size
        self._is_short = self._is_short and head.tree_size < self._tree.signed_size
        self._trail.prove()
        return head

    def readable(self, position: int, tree_size: int) -> Readable:
        """Say how far to read now, see LogClient; with `enforce` no further than a head says that may be right.

        Where the log did not give what a head promises, no further than the newest one says, until one as large comes.
        """
        if self._is_short:
            tree_size = min(tree_size, max(position, self._newest_size))
        if self._mode == "enforce":
            tree_size = min(tree_size, max(position, self._tree.tree_size))
        return self._client.readable(position, tree_size)

    async def finish(self, budget_s: float) -> None:
        """Prove what went out and is not proven yet, within `budget_s`; nothing more is proven after that."""
        await self._trail.finish(budget_s)

    def close(self) -> None:
        """Let nothing go on in the background; what is not proven counts as tainted."""
        self._trail.close()

    async def batches(self, start: int, stop: int) -> AsyncGenerator[EntryBatch, None]:
        """Yield the entries of [start, stop) in order, see LogClient. A head that covers `stop` must have come."""
        if stop > (self._tree.tree_size if self._mode == "enforce" else self._tree.signed_size):
            raise ValueError(f"{self.log.name}: no verified head covers [{start}, {stop})")
        reading = self._enforced(start, stop) if self._mode == "enforce" else self._warned(start, stop)
        try:
            async with aclosing(reading) as batches:
                async for batch in batches:
                    yield batch
        except FetchError:
            self._is_short = True
            raise

    # enforce: first the proof, then the entries

    async def _enforced(self, start: int, stop: int) -> AsyncGenerator[EntryBatch, None]:
        with self.waits.on("proving"):
            edge = await self._tree.begin(start)
        held: list[_Read] = []
        failure: FetchError | LogMisbehaviourError | None = None
        async with aclosing(self._client.batches(start, stop)) as batches:
            while failure is None and edge.size < stop:
                try:
                    batch = await anext(batches)
                except (FetchError, LogMisbehaviourError) as exc:
                    failure = exc
                else:
                    held.append(await _extended(edge, batch))
                    edge = held[-1].after
                    if edge.size < stop and edge.size - held[0].batch.start < self._proof_every:
                        continue
                with self.waits.on("proving"):
                    proof = await self._prove(held)
                for each in self._released(held, proof.unproven[0].start if proof.unproven else edge.size):
                    self._last = each
                    self._findings.proven(each.before.size, each.after.size)
                    yield each.batch
                if proof.error is not None:
                    self._client.forget()
                    failure = proof.error
                held = []
        if failure is not None:
            raise failure

    async def _prove(self, held: list[_Read]) -> Proof:
        """Raises FetchError."""
        if not held or self._tree.matches(held[-1].after):
            return Proof()
        hashes = b"".join([each.hashes for each in held])
        return await self._tree.prove(held[0].before.size, hashes, held[-1].after)

    def _released(self, held: list[_Read], end: int) -> Iterator[_Read]:
        """What goes out where everything before `end` is proven: whole batches, of a static log whole data tiles."""
        for each in held:
            if each.after.size <= end:
                yield each
                continue
            boundary = end - end % TILE_WIDTH if self.log.kind == "static" else 0
            part = each.cut(max(boundary, each.before.size))
            self._tree.edge = part.after  # where reading begins again
            if len(part.batch):
                yield part
            return

    # warn: first the entries, then the proof

    async def _warned(self, start: int, stop: int) -> AsyncGenerator[EntryBatch, None]:
        async with aclosing(self._client.batches(start, stop)) as batches:
            async for batch in batches:
                hashes = await _hashed(batch)
                with self.waits.on("proving"):
                    await self._trail.make_room(len(batch))
                before = self._trail.edge_before(batch.start)
                read = None if before is None else _Read(batch, before, hashes, before.extended(hashes))
                self._trail.add(batch.start, batch.stop, hashes, None if read is None else read.after)
                self._last = read
                yield batch
                self._trail.prove(now=batch.stop >= stop)


async def _extended(edge: TreeEdge, batch: EntryBatch) -> _Read:
    hashes = await _hashed(batch)
    return _Read(batch, edge, hashes, edge.extended(hashes))


async def _hashed(batch: EntryBatch) -> bytes:
    """The leaf hashes, in turns with others."""
    parts: list[bytes] = []
    for part in cut_batch(batch, _STEP_BYTES):
        if parts:
            await asyncio.sleep(0)
        parts.append(leaf_hashes(part))
    return b"".join(parts)
