"""A signed head counts only where it is one of the tree that was read so far, whichever of the two is larger."""

from __future__ import annotations

import pytest

from certstream.client.known_tree import KnownTree
from certstream.client.proofs import prover
from certstream.client.signed_heads import SignedHeads
from certstream.ct.edge import TreeEdge
from certstream.ct.types import LogKind
from certstream.errors import FetchError, InvalidProofError
from certstream.evidence import Case
from certstream.simulator.faults import Fault, FaultKind
from certstream.simulator.log import SimulatedLog
from tests.client.reading_support import Reader, reading

both = pytest.mark.parametrize("kind", ["rfc6962", "static"])
SIZE = 1_000
SMALLER = 600  # how large a head is that comes late

# A log is costly to make and these tests change only its faults
LOG = SimulatedLog("log", seed=4, initial=SMALLER)
LOG.grow(SIZE - SMALLER)


@pytest.fixture(autouse=True)
def no_faults() -> None:
    LOG.faults.clear()
    LOG.requests.clear()


class Known:
    """What is known of the log, which may grow, and its heads."""

    def __init__(self, reader: Reader, kind: LogKind, size: int | None) -> None:
        self.edge = None if size is None else edge_of(size)
        self.cases: list[Case] = []
        info = LOG.info(kind)
        tree = KnownTree(info, prover(reader.http, info), lambda: self.edge, self.cases.append)
        self.heads = SignedHeads(reader.client(LOG, kind), LOG.spki, self.cases.append, tree)


def edge_of(size: int) -> TreeEdge:
    return TreeEdge().extended(b"".join(LOG.tree.leaf(index) for index in range(size)))


def asked() -> int:
    return sum(LOG.requests.values())


@both
@pytest.mark.parametrize("size", [1, 256, 700, SIZE])
async def test_a_head_that_begins_with_the_known_tree_counts_and_is_compared_once(kind: LogKind, size: int) -> None:
    async with reading(LOG) as reader:
        it = Known(reader, kind, size)
        head = await it.heads.head()
        before = asked()
        await it.heads.check(head, SIZE)
        assert (asked(), it.heads.covering(SIZE), it.cases) == (before, head, [])


@both
@pytest.mark.parametrize("size", [4, 256, 700, SIZE])
async def test_a_head_of_another_tree_is_evidence_and_covers_nothing(kind: LogKind, size: int) -> None:
    async with reading(LOG) as reader:
        it = Known(reader, kind, size)
        LOG.faults.add(Fault(FaultKind.FORK, index=3))
        with pytest.raises(InvalidProofError, match=f"a head of 1000 entries is not consistent with the first {size}"):
            await it.heads.head()
        assert it.heads.covering(0) is None
        (case,) = it.cases
        assert (case.kind, case.heads[0].tree_size) == ("inconsistent", SIZE)
        assert (case.start, case.stop) == (size, SIZE)
        assert case.hashes == {"root_proven_before": edge_of(size).root()}


@both
async def test_a_smaller_head_counts_where_it_lies_in_the_known_tree(kind: LogKind) -> None:
    async with reading(LOG) as reader:
        it = Known(reader, kind, SIZE)
        LOG.faults.add(Fault(FaultKind.SMALLER_TREE, entries=SIZE - SMALLER))
        head = await it.heads.head()
        assert (head.tree_size, it.heads.covering(SMALLER), it.cases) == (SMALLER, head, [])


@both
async def test_a_smaller_head_of_another_tree_is_evidence(kind: LogKind) -> None:
    async with reading(LOG) as reader:
        it = Known(reader, kind, SIZE)
        LOG.faults.add(Fault(FaultKind.SMALLER_TREE, entries=SIZE - SMALLER))
        LOG.faults.add(Fault(FaultKind.OTHER_ROOT))
        with pytest.raises(InvalidProofError, match="a head of 600 entries is not consistent with the first 1000"):
            await it.heads.head()
        assert [case.kind for case in it.cases] == ["inconsistent"]


@both
async def test_a_head_is_compared_again_for_what_became_known_since(kind: LogKind) -> None:
    async with reading(LOG) as reader:
        it = Known(reader, kind, 300)
        fork = LOG.faults.add(Fault(FaultKind.FORK, index=500))
        head = await it.heads.head()
        it.edge = edge_of(700)
        await it.heads.check(head, 300)
        with pytest.raises(InvalidProofError):
            await it.heads.check(head, 600)
        assert it.heads.covering(0) is None
        LOG.faults.remove(fork)
        await it.heads.head()
        assert it.heads.covering(SIZE) is not None


@both
async def test_where_the_log_proves_nothing_now_the_head_is_a_claim_that_is_checked_later(kind: LogKind) -> None:
    async with reading(LOG) as reader:
        it = Known(reader, kind, 300)
        proof = "get-sth-consistency" if kind == "rfc6962" else "hash-tile"
        fault = LOG.faults.add(Fault(FaultKind.UNAVAILABLE, on=proof))
        head = await it.heads.head()
        with pytest.raises(FetchError):
            await it.heads.check(head, SIZE)
        LOG.faults.remove(fault)
        await it.heads.check(head, SIZE)
        assert it.cases == []


@both
async def test_where_nothing_is_known_nothing_is_asked(kind: LogKind) -> None:
    async with reading(LOG) as reader:
        it = Known(reader, kind, None)
        await it.heads.check(await it.heads.head(), SIZE)
        assert asked() == 1
