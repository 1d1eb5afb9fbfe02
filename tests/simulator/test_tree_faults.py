"""Faults of the tree: heads, entries and proofs that are signed, in form, and not of one tree."""

from __future__ import annotations

import base64
from hashlib import sha256

import pytest

from certstream.ct.merkle import leaf_hash, verify_consistency, verify_inclusion
from certstream.ct.signatures import verify_tree_head
from certstream.ct.static_ct import parse_data_tile
from certstream.ct.types import LogKind
from certstream.errors import InvalidProofError
from certstream.simulator import Fault, FaultKind, SimulatedLog
from tests.simulator.simulator_support import Served, head_of, leaves, page

KINDS: list[LogKind] = ["rfc6962", "static"]


def hashes(proof: list[str]) -> list[bytes]:
    return [base64.b64decode(each) for each in proof]


@pytest.mark.parametrize("kind", KINDS)
async def test_another_root_is_signed_at_the_same_size(served: Served, log: SimulatedLog, kind: LogKind) -> None:
    log.faults.add(Fault(FaultKind.OTHER_ROOT))
    head = await head_of(served, log, kind)
    verify_tree_head(head, log.spki)
    assert (head.tree_size, head.root_hash) == (300, sha256(log.tree.root()).digest())


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("fault", "by_ms"), [(FaultKind.FUTURE_HEAD, 86_400_000), (FaultKind.OLD_HEAD, -86_400_000)])
async def test_a_head_of_another_time_is_signed(
    served: Served, log: SimulatedLog, kind: LogKind, fault: FaultKind, by_ms: int
) -> None:
    log.faults.add(Fault(fault))
    head = await head_of(served, log, kind)
    verify_tree_head(head, log.spki)
    assert (head.timestamp_ms - log.head.timestamp_ms, head.root_hash) == (by_ms, log.tree.root())


async def test_a_fork_is_one_tree_in_head_entries_and_proofs(served: Served, log: SimulatedLog) -> None:
    log.faults.add(Fault(FaultKind.FORK, index=7))
    head = await head_of(served, log, "rfc6962")
    verify_tree_head(head, log.spki)
    assert head.root_hash != log.tree.root()
    served_leaves = leaves(await page(served, log, 0, 31))
    assert [at for at, leaf in enumerate(served_leaves) if leaf != log.entry(at).leaf_input] == [7]
    proof = (await served.classic(log, "get-entry-and-proof", leaf_index=7, tree_size=300)).json
    leaf = leaf_hash(base64.b64decode(proof["leaf_input"]))
    verify_inclusion(leaf, 7, 300, hashes(proof["audit_path"]), head.root_hash)
    tile = await served.static(log, "tile/0/000")
    assert tile.body == log.tree.tile(0, 0)[: 7 * 32] + leaf + log.tree.tile(0, 0)[8 * 32 :]
    data = parse_data_tile(log.info("static"), 0, (await served.static(log, "tile/data/000")).body).batch
    assert leaf_hash(data.leaf_prefix[1:] + data.data[data.leaf.start[7] : data.leaf.stop[7]]) == leaf


async def test_a_fork_grows_with_its_log_and_is_consistent_with_itself_alone(served: Served, log: SimulatedLog) -> None:
    before = log.tree.root()
    fault = log.faults.add(Fault(FaultKind.FORK, index=290))
    first = await head_of(served, log, "rfc6962")
    log.grow(100)
    second = await head_of(served, log, "rfc6962")
    proof = hashes((await served.classic(log, "get-sth-consistency", first=300, second=400)).json["consistency"])
    verify_consistency(300, 400, first.root_hash, second.root_hash, proof)
    with pytest.raises(InvalidProofError):
        verify_consistency(300, 400, before, second.root_hash, proof)
    log.faults.remove(fault)
    assert (await head_of(served, log, "static")).root_hash == log.tree.root()
    assert leaves(await page(served, log, 290, 290)) == [log.entry(290).leaf_input]


async def test_a_frontend_that_lags_has_neither_the_last_entries_nor_their_tiles(
    served: Served, log: SimulatedLog
) -> None:
    log.faults.add(Fault(FaultKind.LAGGING, entries=50))
    for kind in KINDS:
        assert (await head_of(served, log, kind)).tree_size == 300
    assert len(leaves(await page(served, log, 240, 299))) == 10
    assert (await page(served, log, 250, 299)).status == 400
    assert (await served.classic(log, "get-sth-consistency", first=10, second=300)).status == 400
    assert (await served.static(log, "tile/data/000.p/250")).status == 200
    for path in ("tile/data/000", "tile/0/000", "tile/data/001.p/44"):
        assert (await served.static(log, path)).status == 404


async def test_more_entries_come_than_were_asked_for(served: Served, log: SimulatedLog) -> None:
    log.faults.add(Fault(FaultKind.MORE_ENTRIES, entries=3))
    assert leaves(await page(served, log, 290, 299)) == [log.entry(at).leaf_input for at in range(290, 303)]
    tile = (await served.static(log, "tile/data/000")).body
    assert tile == b"".join(log.entry(at).tile_leaf for at in range(259))


async def test_shifted_entries_are_those_that_follow(served: Served, log: SimulatedLog) -> None:
    log.faults.add(Fault(FaultKind.SHIFTED))
    assert leaves(await page(served, log, 298, 299)) == [log.entry(at).leaf_input for at in (299, 300)]
    tile = (await served.static(log, "tile/data/001.p/44")).body
    assert tile == b"".join(log.entry(at).tile_leaf for at in range(257, 301))
