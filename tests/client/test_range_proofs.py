"""Whole ranges are proven under a head; of one that is not, the entries that cannot be are told exactly."""

from __future__ import annotations

import re

import pytest

from certstream.client.proofs import prover
from certstream.client.range_proofs import RangeChecker, Unproven
from certstream.ct.merkle import leaf_hash
from certstream.ct.types import LogKind, TreeHead
from certstream.errors import FetchError
from certstream.simulator.faults import Fault, FaultKind
from tests.client.large_log_support import KINDS, LOG, SIZE
from tests.client.reading_support import Reader, reading, taken

RANGES = (
    (0, 1), (0, 255), (0, 256), (0, 257), (1, 256), (255, 257), (777, 778), (65_535, 65_537), (60_000, SIZE),
    (69_888, SIZE), (69_999, SIZE), (0, 65_535), (0, 65_536), (0, 65_537),
)  # fmt: skip


@pytest.fixture(autouse=True)
def no_faults() -> None:
    LOG.faults.clear()
    LOG.requests.clear()


def checking(reader: Reader, kind: LogKind) -> RangeChecker:
    info = LOG.info(kind)
    return RangeChecker(prover(reader.http, info), info)


def leaves(start: int, stop: int, *wrong: int) -> bytes:
    """The leaf hashes of the log, but of other leaves at the indices `wrong`."""
    return b"".join(leaf_hash(b"another") if at in wrong else LOG.tree.leaf(at) for at in range(start, stop))


def spans(unproven: list[Unproven]) -> list[tuple[int, int]]:
    return [(each.start, each.stop) for each in unproven]


@pytest.mark.parametrize("kind", KINDS)
async def test_every_range_of_the_log_is_proven(kind: LogKind) -> None:
    async with reading(LOG) as reader:
        for start, stop in RANGES:
            assert await checking(reader, kind).check_leaves(LOG.head, start, leaves(start, stop)) == []


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("start", "stop"), RANGES)
async def test_a_wrong_leaf_is_told_wherever_it_stands(kind: LogKind, start: int, stop: int) -> None:
    async with reading(LOG) as reader:
        for wrong in {start, (start + stop) // 2, stop - 1}:
            (found,) = await checking(reader, kind).check_leaves(LOG.head, start, leaves(start, stop, wrong))
            assert (found.start, found.stop) == (wrong, wrong + 1)
            assert re.match(r"log: .*(root|tree)", found.error)


@pytest.mark.parametrize("kind", KINDS)
async def test_several_wrong_leaves_are_told_and_those_beside_each_other_as_one(kind: LogKind) -> None:
    wrong = (1_000, 1_100, 1_101, 1_102, 2_999)
    async with reading(LOG) as reader:
        found = await checking(reader, kind).check_leaves(LOG.head, 1_000, leaves(1_000, 3_000, *wrong))
    assert spans(found) == [(1_000, 1_001), (1_100, 1_103), (2_999, 3_000)]


@pytest.mark.parametrize("kind", KINDS)
async def test_batches_as_they_were_read_are_checked(kind: LogKind) -> None:
    async with reading(LOG) as reader:
        client = reader.client(LOG, kind)
        await client.head()
        batches, _ = await taken(client, 300, 2_500)
        assert await checking(reader, kind).check(LOG.head, batches) == []
        LOG.faults.add(Fault(FaultKind.WRONG_LEAF, index=1_234))
        batches, _ = await taken(client, 300, 2_500)
        assert spans(await checking(reader, kind).check(LOG.head, batches)) == [(1_234, 1_235)]
        with pytest.raises(ValueError, match="do not follow"):
            await checking(reader, kind).check(LOG.head, [batches[-1], batches[0]])


async def test_requests_are_few_for_a_proven_range_and_bounded_where_everything_is_wrong() -> None:
    nothing_right = leaf_hash(b"another") * 8_192
    async with reading(LOG) as reader:
        await checking(reader, "rfc6962").check_leaves(LOG.head, 100, leaves(100, 8_292))
        assert sum(LOG.requests.values()) == 2
        found = await checking(reader, "rfc6962").check_leaves(LOG.head, 100, nothing_right)
        assert spans(found) == [(100, 8_292)]
        assert sum(LOG.requests.values()) <= 2 + 2 + 32 * 4
        LOG.requests.clear()
        found = await checking(reader, "static").check_leaves(LOG.head, 256, nothing_right)
        assert spans(found) == [(256, 8_448)]
        assert sum(LOG.requests.values()) == 4 + 32  # the edge and a tile of level 1, and one beside each data tile


async def test_a_single_entry_takes_one_proof() -> None:
    async with reading(LOG) as reader:
        assert await checking(reader, "rfc6962").check_leaves(LOG.head, 5, leaves(5, 6)) == []
    assert sum(LOG.requests.values()) == 1


@pytest.mark.parametrize(
    ("path", "start", "stop", "unproven"),
    [
        ("tile/2/000.p/1", 0, 1_024, [(0, 1_024)]),  # the edge: nothing is proven without it
        ("tile/0/273.p/112", 69_888, SIZE, [(69_888, SIZE)]),  # likewise
        ("tile/1/000", 256, 1_024, [(256, 1_024)]),  # what it covers
        ("tile/1/000", 65_000, 66_000, [(65_000, 65_536)]),  # and what it does not is proven by the edge
        ("tile/0/001", 300, 1_024, [(300, 512)]),  # a part of a data tile is proven by the tile beside it
    ],
)
async def test_a_wrong_hash_tile_taints_what_it_covers(
    path: str, start: int, stop: int, unproven: list[tuple[int, int]]
) -> None:
    async with reading(LOG) as reader:
        LOG.faults.add(Fault(FaultKind.WRONG_HASH, on=path))
        found = await checking(reader, "static").check_leaves(LOG.head, start, leaves(start, stop))
    assert spans(found) == unproven
    assert LOG.requests[path] <= 2


async def test_a_wrong_leaf_whose_hash_tile_is_wrong_too_taints_its_data_tile() -> None:
    async with reading(LOG) as reader:
        LOG.faults.add(Fault(FaultKind.WRONG_HASH, on="tile/0/001"))
        found = await checking(reader, "static").check_leaves(LOG.head, 0, leaves(0, 1_024, 300))
    assert spans(found) == [(256, 512)]


@pytest.mark.parametrize("kind", KINDS)
async def test_a_proof_that_was_wrong_once_taints_nothing_for_good(kind: LogKind) -> None:
    async with reading(LOG) as reader:
        LOG.faults.add(Fault(FaultKind.WRONG_HASH, times=2))
        await checking(reader, kind).check_leaves(LOG.head, 300, leaves(300, 700))
        assert await checking(reader, kind).check_leaves(LOG.head, 300, leaves(300, 700)) == []


@pytest.mark.parametrize("kind", KINDS)
async def test_without_a_proof_nothing_is_said(kind: LogKind) -> None:
    async with reading(LOG) as reader:
        fault = LOG.faults.add(Fault(FaultKind.UNAVAILABLE))
        checker = checking(reader, kind)
        with pytest.raises(FetchError):
            await checker.check_leaves(LOG.head, 300, leaves(300, 700))
        LOG.faults.remove(fault)
        assert await checker.check_leaves(LOG.head, 300, leaves(300, 700)) == []


@pytest.mark.parametrize("kind", KINDS)
async def test_where_proofs_stop_coming_what_is_known_to_be_wrong_stays_so(kind: LogKind) -> None:
    """The first proof of the range failed; what would say more of it does not come."""
    beside = "tile/0/*" if kind == "static" else "ct/v1/get-entry-and-proof?leaf_index=511&*"
    async with reading(LOG) as reader:
        checker = checking(reader, kind)
        assert await checker.check_leaves(LOG.head, 0, leaves(0, 256)) == []  # the tiles above are known from here on
        LOG.faults.add(Fault(FaultKind.UNAVAILABLE, on=beside))
        found = await checker.check_leaves(LOG.head, 0, leaves(0, 1_024, 300))
    assert spans(found) == ([(256, 512)] if kind == "static" else [(0, 1_024)])


async def test_a_head_that_does_not_cover_the_range_is_refused() -> None:
    head = TreeHead(300, 0, LOG.tree.root(300), b"")
    async with reading(LOG) as reader:
        for kind in KINDS:
            with pytest.raises(ValueError, match="does not cover"):
                await checking(reader, kind).check_leaves(head, 200, leaves(200, 301))
    assert not LOG.requests
