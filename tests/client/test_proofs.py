"""Logs of both protocols prove edges and entries under a head; what they do not prove is an error."""

from __future__ import annotations

import pytest

from certstream.client.proofs import Prover, prover
from certstream.ct.edge import TreeEdge
from certstream.ct.merkle import leaf_hash
from certstream.ct.types import LogKind, TreeHead
from certstream.errors import FetchError, InvalidProofError
from certstream.simulator.faults import Fault, FaultKind
from tests.client.large_log_support import KINDS, LOG, SIZE
from tests.client.reading_support import Reader, reading

_NO_ANSWERS = (FaultKind.UNAVAILABLE, FaultKind.HTML, FaultKind.GARBAGE, FaultKind.EMPTY)
PLACES = (0, 1, 255, 256, 300, 65_536, 65_537, 69_999, SIZE)


@pytest.fixture(autouse=True)
def no_faults() -> None:
    LOG.faults.clear()
    LOG.requests.clear()


def proving(reader: Reader, kind: LogKind) -> Prover:
    return prover(reader.http, LOG.info(kind))


def leaves(start: int, stop: int) -> bytes:
    return b"".join(LOG.tree.leaf(index) for index in range(start, stop))


def edge(size: int) -> TreeEdge:
    return TreeEdge().extended(leaves(0, size))


@pytest.mark.parametrize("kind", KINDS)
async def test_the_edge_at_any_place(kind: LogKind) -> None:
    async with reading(LOG) as reader:
        for size in PLACES:
            assert await proving(reader, kind).edge(LOG.head, size) == edge(size)


@pytest.mark.parametrize("kind", KINDS)
async def test_an_edge_that_is_the_beginning_of_the_tree(kind: LogKind) -> None:
    async with reading(LOG) as reader:
        for size in PLACES:
            await proving(reader, kind).check_edge(LOG.head, edge(size))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("size", [1, 256, 65_537, SIZE])
async def test_an_edge_of_another_tree_is_an_invalid_proof(kind: LogKind, size: int) -> None:
    other = edge(size - 1).extended(leaf_hash(b"another"))
    async with reading(LOG) as reader:
        with pytest.raises(InvalidProofError):
            await proving(reader, kind).check_edge(LOG.head, other)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    ("start", "stop"), [(0, 1), (0, 256), (5, 6), (250, 600), (65_500, 65_600), (69_000, SIZE), (69_999, SIZE)]
)
async def test_leaves_are_proven_and_another_leaf_among_them_is_not(kind: LogKind, start: int, stop: int) -> None:
    right = leaves(start, stop)
    async with reading(LOG) as reader:
        await proving(reader, kind).check_leaves(LOG.head, start, right)
        for at in {0, len(right) // 64 * 32, len(right) - 32}:
            wrong = right[:at] + leaf_hash(b"another") + right[at + 32 :]
            with pytest.raises(InvalidProofError):
                await proving(reader, kind).check_leaves(LOG.head, start, wrong)


async def test_a_range_of_any_length_costs_two_requests() -> None:
    async with reading(LOG) as reader:
        await proving(reader, "rfc6962").check_leaves(LOG.head, 100, leaves(100, 20_000))
    assert sum(LOG.requests.values()) == 2


async def test_hash_tiles_are_asked_for_once() -> None:
    async with reading(LOG) as reader:
        static = proving(reader, "static")
        for start in range(0, 65_536, 4_096):
            await static.check_leaves(LOG.head, start, leaves(start, start + 4_096))
        assert dict(LOG.requests) == {
            "tile/0/273.p/112": 1, "tile/1/001.p/17": 1, "tile/2/000.p/1": 1, "tile/1/000": 1
        }  # fmt: skip


async def test_a_new_head_asks_for_the_tiles_anew() -> None:
    older = LOG.older_head(1_000)
    async with reading(LOG) as reader:
        static = proving(reader, "static")
        await static.check_leaves(LOG.head, 0, leaves(0, 256))
        LOG.requests.clear()
        await static.check_leaves(older, 0, leaves(0, 256))
    assert LOG.requests["tile/1/000"] == 1


async def test_a_partial_tile_that_is_gone_is_taken_from_the_full_one() -> None:
    head = LOG.older_head(SIZE - 65_000)  # its partial tiles are full by now, and the log has deleted them
    async with reading(LOG) as reader:
        assert await proving(reader, "static").edge(head, 65_000) == edge(65_000)
    assert LOG.requests["tile/0/253"] == 1


@pytest.mark.parametrize("status", [400, 404, 500, 501, 504])
async def test_a_log_without_get_entry_and_proof_proves_by_hash(status: int) -> None:
    LOG.faults.add(Fault(FaultKind.STATUS, on="get-entry-and-proof", status=status))
    async with reading(LOG) as reader:
        rfc6962 = proving(reader, "rfc6962")
        assert await rfc6962.edge(LOG.head, 777) == edge(777)
        await rfc6962.check_leaves(LOG.head, 777, leaves(777, 900))
        with pytest.raises(FetchError, match="get-proof-by-hash"):
            await rfc6962.check_leaves(LOG.head, 776, leaves(777, 900))


@pytest.mark.parametrize("kind", KINDS)
async def test_a_wrong_proof_proves_nothing(kind: LogKind) -> None:
    async with reading(LOG) as reader:
        LOG.faults.add(Fault(FaultKind.WRONG_HASH))
        for work in (
            proving(reader, kind).edge(LOG.head, 300),
            proving(reader, kind).check_edge(LOG.head, edge(300)),
            proving(reader, kind).check_leaves(LOG.head, 300, leaves(300, 400)),
        ):
            with pytest.raises(InvalidProofError):
                await work


@pytest.mark.parametrize("kind", KINDS)
async def test_tiles_and_proofs_that_do_not_come_prove_nothing_and_come_later(kind: LogKind) -> None:
    async with reading(LOG) as reader:
        proof = proving(reader, kind)
        for failure in (*_NO_ANSWERS, FaultKind.RATE_LIMITED):
            fault = LOG.faults.add(Fault(failure))
            with pytest.raises(FetchError):
                await proof.check_leaves(LOG.head, 300, leaves(300, 400))
            with pytest.raises(FetchError):
                await proof.check_edge(LOG.head, edge(300))
            LOG.faults.remove(fault)
        await proof.check_leaves(LOG.head, 300, leaves(300, 400))


async def test_what_lies_beyond_the_head_is_not_asked_for() -> None:
    head = TreeHead(10, 0, LOG.tree.root(10), b"")
    async with reading(LOG) as reader:
        for kind in KINDS:
            with pytest.raises(ValueError, match="more than the head's 10"):
                await proving(reader, kind).edge(head, 11)
            with pytest.raises(ValueError, match="more than the head's 10"):
                await proving(reader, kind).check_leaves(head, 9, leaves(9, 11))
    assert not LOG.requests


@pytest.mark.parametrize("size", [69_888, 69_889, 69_999])
async def test_an_edge_in_the_last_tile_costs_one_tile(size: int) -> None:
    async with reading(LOG) as reader:
        await proving(reader, "static").check_edge(LOG.head, edge(size))
    assert dict(LOG.requests) == {"tile/0/273.p/112": 1}


@pytest.mark.parametrize("size", [69_888, 69_999])
async def test_another_edge_in_the_last_tile_is_an_invalid_proof(size: int) -> None:
    other = edge(size - 1).extended(leaf_hash(b"another"))
    async with reading(LOG) as reader:
        with pytest.raises(InvalidProofError):
            await proving(reader, "static").check_edge(LOG.head, other)


async def test_a_wrong_tile_that_comes_once_does_not_disprove_an_edge() -> None:
    LOG.faults.add(Fault(FaultKind.WRONG_HASH, on="tile/0/*", times=1))
    async with reading(LOG) as reader:
        await proving(reader, "static").check_edge(LOG.head, edge(69_900))
    assert LOG.requests["tile/0/273.p/112"] == 2
