"""A log is read up to its final tree head, or to the last head before it is left, and its root must match there."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import pytest
import structlog

from certstream.client.base import Readable
from certstream.client.bounded import BoundedClient, FinalRoot
from certstream.client.proofs import prover
from certstream.client.verified import Findings, Mode, VerifiedClient
from certstream.ct.edge import TreeEdge
from certstream.ct.types import LogKind
from certstream.errors import FetchError, InvalidProofError, LogMisbehaviourError
from certstream.evidence import Case
from certstream.simulator.faults import Fault, FaultKind
from certstream.simulator.log import SimulatedLog
from tests.client.reading_support import Reader, reading, taken, whole_up_to

KINDS: tuple[LogKind, ...] = ("rfc6962", "static")
MODES: tuple[Mode, ...] = ("warn", "enforce")
SIZE = 700
WRONG = bytes(32)

pytestmark = pytest.mark.parametrize("kind", KINDS)


@dataclass
class Bounded:
    """A log, and what was found of it."""

    log: SimulatedLog
    reader: Reader
    kind: LogKind
    cases: list[Case] = field(default_factory=list)

    def client(
        self, stop: int, root_hash: bytes | None = None, mode: Mode = "enforce", read: TreeEdge | None = None
    ) -> BoundedClient:
        """Up to `stop`, verified from behind `read` on, else from 0; with a root that is compared at `stop`."""
        found = Findings(lambda _start, _stop: None, lambda _start, _stop: None, self.cases.append)
        info = self.log.info(self.kind)
        inner = VerifiedClient(
            self.reader.client(self.log, self.kind, partial_tile_wait_s=0), prover(self.reader.http, info),
            self.log.spki, found, mode=mode, edge=read or TreeEdge(),
        )  # fmt: skip
        if root_hash is None:
            return BoundedClient(inner, stop)
        asked = prover(self.reader.http, info)
        final = FinalRoot(root_hash, inner.edge_at, lambda: inner.anchor, asked, self.cases.append, mode == "enforce")
        return BoundedClient(inner, stop, final, 0 if read is None else read.size)


@asynccontextmanager
async def bounded(kind: LogKind, size: int = SIZE) -> AsyncIterator[Bounded]:
    log = SimulatedLog("log", seed=3, initial=size)
    async with reading(log) as reader:
        yield Bounded(log, reader, kind)


def edge_of(log: SimulatedLog, size: int) -> TreeEdge:
    return TreeEdge().extended(b"".join(log.tree.leaf(index) for index in range(size)))


async def proofs() -> None:
    """Wait for the proofs that the log is asked for behind what went out."""
    if proving := [task for task in asyncio.all_tasks() if task.get_name().startswith("prove:")]:
        await asyncio.wait(proving)


@pytest.mark.parametrize("stop", [1, 255, 256, 600, SIZE])
async def test_it_is_read_to_the_bound_and_no_further(kind: LogKind, stop: int) -> None:
    async with bounded(kind) as it:
        client = it.client(stop, it.log.tree.root(stop))
        head = await client.head()
        assert head.tree_size == stop
        assert client.readable(0, head.tree_size) == Readable(stop, None if stop == SIZE else 2.0)
        batches, error = await taken(client, 0, stop)
        assert (whole_up_to(it.log, batches, 0), error) == (stop, None)
        await proofs()
        assert client.readable(stop, head.tree_size) == Readable(stop, None), "it is compared"
        it.log.grow(100)
        assert (await client.head()).tree_size == stop
    assert it.cases == []


async def test_a_smaller_head_is_as_it_is(kind: LogKind) -> None:
    async with bounded(kind) as it:
        client = it.client(SIZE + 5)
        head = await client.head()
        assert (head.tree_size, head.root_hash) == (SIZE, it.log.tree.root(SIZE))
        assert client.readable(0, SIZE).stop == SIZE
        it.log.grow(100)
        assert (await client.head()).tree_size == SIZE + 5


@pytest.mark.parametrize("mode", MODES)
async def test_a_head_with_another_root_than_the_final_one_is_evidence(kind: LogKind, mode: Mode) -> None:
    async with bounded(kind) as it:
        client = it.client(SIZE, WRONG, mode)
        for _ in range(2):
            if mode == "enforce":
                with pytest.raises(LogMisbehaviourError, match="final tree head of 700"):
                    await client.head()
            else:
                assert (await client.head()).tree_size == SIZE
    (case,) = it.cases
    assert (case.kind, case.stop, [head.tree_size for head in case.heads]) == ("two_roots", SIZE, [SIZE])
    assert case.hashes == {"final_root": WRONG, "root": it.log.tree.root(SIZE)}


@pytest.mark.parametrize("mode", MODES)
async def test_what_was_read_up_to_there_is_compared_where_the_log_grew_on(kind: LogKind, mode: Mode) -> None:
    async with bounded(kind) as it:
        client = it.client(600, WRONG, mode)
        await client.head()
        batches, error = await taken(client, 0, 600)
        assert (whole_up_to(it.log, batches, 0), error) == (600, None)
        await proofs()
        if mode == "enforce":
            with pytest.raises(LogMisbehaviourError, match="final tree head of 600"):
                client.readable(600, 600)
        else:
            assert client.readable(600, 600).stop == 600
    (case,) = it.cases
    assert case.hashes == {"final_root": WRONG, "root_of_what_was_read": it.log.tree.root(600)}


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("stop", [1, 512, 600])
async def test_a_log_that_was_read_further_proves_what_it_has_there_and_then_is_at_rest(
    kind: LogKind, mode: Mode, stop: int
) -> None:
    async with bounded(kind) as it:
        client = it.client(stop, it.log.tree.root(stop), mode, edge_of(it.log, 650))
        it.log.grow(100)
        with structlog.testing.capture_logs() as lines:
            for _ in range(3):
                assert (await client.head()).tree_size == 650, "nothing is missing, and nothing is to be read"
                assert client.readable(650, 650) == Readable(stop, None), "it is compared"
                it.log.grow(1)
        (line,) = lines
        assert (line["event"], line["read_past"]) == ("log grew past its final tree head", 650 - stop)
        asked = it.log.endpoints["get-entry-and-proof"]
        assert asked == (1 if kind == "rfc6962" else 0)
    assert it.cases == []


@pytest.mark.parametrize("mode", MODES)
async def test_another_root_at_the_final_head_of_a_log_that_was_read_further_is_evidence(
    kind: LogKind, mode: Mode
) -> None:
    async with bounded(kind) as it:
        client = it.client(600, WRONG, mode, edge_of(it.log, 650))
        for _ in range(2):
            if mode == "enforce":
                with pytest.raises(LogMisbehaviourError, match="final tree head of 600"):
                    await client.head()
            else:
                assert (await client.head()).tree_size == 650
                assert client.readable(650, 650) == Readable(600, None)
    (case,) = it.cases
    assert (case.kind, case.stop) == ("two_roots", 600)
    assert case.hashes == {"final_root": WRONG, "root_of_what_was_read": it.log.tree.root(600)}


async def test_a_log_that_was_read_further_and_gives_no_proof_is_asked_again(kind: LogKind) -> None:
    async with bounded(kind) as it:
        client = it.client(600, it.log.tree.root(600), "warn", edge_of(it.log, 650))
        faults = [it.log.faults.add(Fault(FaultKind.UNAVAILABLE, on=each)) for each in ("get-*proof*", "tile/*")]
        with pytest.raises(FetchError):
            await client.head()
        for fault in faults:
            it.log.faults.remove(fault)
        assert (await client.head()).tree_size == 650
        assert client.readable(650, 650) == Readable(600, None)
    assert it.cases == []


async def test_a_log_that_proves_another_tree_than_what_was_read_of_it_is_evidence(kind: LogKind) -> None:
    async with bounded(kind) as it:
        client = it.client(600, it.log.tree.root(600), "warn", edge_of(it.log, 650))
        it.log.faults.add(Fault(FaultKind.FORK, index=300))
        with pytest.raises(InvalidProofError, match="tree of 650 entries at its final tree head of 600"):
            await client.head()
    (case,) = it.cases
    assert (case.kind, case.stop) == ("wrong_root", 600)
    assert case.hashes == {"final_root": it.log.tree.root(600), "root_at_650": it.log.tree.root(650)}


async def test_what_was_read_up_to_there_without_proof_is_proven_by_the_log(kind: LogKind) -> None:
    async with bounded(kind) as it:
        unread = TreeEdge()  # nothing is known of what was read
        client = it.client(600, it.log.tree.root(600), "warn", unread)
        assert (await client.head()).tree_size == 600
        assert client.readable(600, 600) == Readable(600, 2.0)
        assert (await client.head()).tree_size == 600
        assert client.readable(600, 600) == Readable(600, None)
    assert it.cases == []
