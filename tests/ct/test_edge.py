"""The edge of a tree is enough to add leaves to it, to know its root, and to begin anywhere under a proof."""

from __future__ import annotations

import json
from pathlib import Path
from random import Random
from typing import Final

import pybase64
import pytest
from hypothesis import given
from hypothesis import strategies as st

from certstream.ct.edge import TreeEdge, leaf_hashes, pairs_hashed, proven_edge, verify_range
from certstream.ct.merkle import EMPTY_ROOT, MerkleTree, leaf_hash, node_hash
from certstream.ct.rfc6962 import frame_entries
from certstream.ct.static_ct import parse_data_tile
from certstream.ct.types import LogInfo, slice_batch
from certstream.errors import InvalidProofError, MalformedError

SIZES: Final = (*range(70), 255, 256, 257, 1_000, 1_023, 1_024, 1_025)
MOST: Final = 1_100
DATA: Final = Path(__file__).parent.parent / "data"


@pytest.fixture(scope="module")
def leaves() -> bytes:
    return b"".join(leaf_hash(b"leaf %d" % index) for index in range(MOST))


@pytest.fixture(scope="module")
def tree(leaves: bytes) -> MerkleTree:
    tree = MerkleTree()
    tree.append(leaves)
    return tree


def flipped(data: bytes, at: int = 0) -> bytes:
    return data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :]


@pytest.mark.parametrize("size", SIZES)
def test_root_of_every_size(tree: MerkleTree, leaves: bytes, size: int) -> None:
    edge = TreeEdge().extended(leaves[: 32 * size])
    assert edge.size == size
    assert edge.root() == tree.root(size)


def test_the_empty_tree_has_the_root_of_nothing() -> None:
    assert TreeEdge().root() == EMPTY_ROOT
    assert TreeEdge().extended(b"") == TreeEdge()


@given(steps=st.lists(st.integers(0, 90), max_size=12))
def test_leaves_added_in_any_portions_give_the_same_edge(tree: MerkleTree, leaves: bytes, steps: list[int]) -> None:
    edge, size = TreeEdge(), 0
    for step in steps:
        edge = edge.extended(leaves[32 * size : 32 * (size + step)])
        size += step
        assert edge.root() == tree.root(size)
    assert edge == TreeEdge().extended(leaves[: 32 * size])


def test_a_part_of_a_hash_is_refused(leaves: bytes) -> None:
    with pytest.raises(ValueError, match="not whole hashes"):
        TreeEdge().extended(leaves[:33])


@given(size=st.integers(0, MOST))
def test_bytes_and_back(leaves: bytes, size: int) -> None:
    edge = TreeEdge().extended(leaves[: 32 * size])
    assert TreeEdge.from_bytes(edge.to_bytes()) == edge


@pytest.mark.parametrize(
    "data", [b"", b"1234567", bytes(7) + b"\1", bytes(40), bytes(7) + b"\1" + bytes(31), b"\xff" * 8 + bytes(64 * 32)]
)
def test_bytes_that_are_no_edge_are_refused(data: bytes) -> None:
    with pytest.raises(MalformedError, match="not the edge"):
        TreeEdge.from_bytes(data)


@pytest.mark.parametrize("size", SIZES[1:])
def test_an_audit_path_gives_the_edge_before_its_leaf(tree: MerkleTree, leaves: bytes, size: int) -> None:
    for index in {0, 1, size // 3, size // 2, size - 2, size - 1} & set(range(size)):
        proof = tree.inclusion_proof(index, size)
        edge = proven_edge(tree.leaf(index), index, size, proof, tree.root(size))
        assert edge == TreeEdge().extended(leaves[: 32 * index])


def test_an_audit_path_that_does_not_lead_to_the_root_gives_nothing(tree: MerkleTree) -> None:
    proof = tree.inclusion_proof(77, 1_000)
    for broken in (
        [flipped(proof[0]), *proof[1:]],
        [*proof[:-1], flipped(proof[-1])],
        proof[1:],
        [*proof, proof[0]],
        [proof[1], proof[0], *proof[2:]],
    ):
        with pytest.raises(InvalidProofError):
            proven_edge(tree.leaf(77), 77, 1_000, broken, tree.root(1_000))
    with pytest.raises(InvalidProofError):
        proven_edge(tree.leaf(76), 77, 1_000, proof, tree.root(1_000))


@given(data=st.data())
def test_two_proofs_prove_a_range_of_any_length(tree: MerkleTree, leaves: bytes, data: st.DataObject) -> None:
    size = data.draw(st.integers(1, MOST), label="size")
    start = data.draw(st.integers(0, size - 1), label="start")
    stop = data.draw(st.integers(start + 1, size), label="stop")
    first, last = tree.inclusion_proof(start, size), tree.inclusion_proof(stop - 1, size)
    within = leaves[32 * start : 32 * stop]
    edge = verify_range(start, within, size, first, last, tree.root(size))
    assert edge == TreeEdge().extended(leaves[: 32 * stop])
    wrong = data.draw(st.integers(0, len(within) - 1), label="wrong byte")
    with pytest.raises(InvalidProofError):
        verify_range(start, flipped(within, wrong), size, first, last, tree.root(size))


def test_a_range_that_lacks_a_leaf_or_repeats_one_is_not_proven(tree: MerkleTree, leaves: bytes) -> None:
    start, stop, size = 100, 900, 1_000
    first, last = tree.inclusion_proof(start, size), tree.inclusion_proof(stop - 1, size)
    within = leaves[32 * start : 32 * stop]
    for wrong in (within[32:], within[:-32], within[:320] + within[352:], within[:32] + within, b"", within[:-1]):
        with pytest.raises(InvalidProofError):
            verify_range(start, wrong, size, first, last, tree.root(size))


def test_leaf_hashes_of_a_real_data_tile_are_those_of_its_hash_tile() -> None:
    expected = (DATA / "tiles" / "hash-0-000").read_bytes()
    batch = parse_data_tile(
        LogInfo("x", "https://x/", "static", "x"), 0, (DATA / "tiles" / "data-000").read_bytes()
    ).batch
    assert leaf_hashes(batch) == expected
    assert leaf_hashes(slice_batch(batch, 3, 9)) == expected[3 * 32 : 9 * 32]


def test_leaf_hashes_of_rfc6962_entries() -> None:
    entries = json.loads((DATA / "ct_entries.json").read_text())
    parts = [pybase64.b64decode(entry[key]) for entry in entries for key in ("leaf_input", "extra_data")]
    batch = frame_entries(LogInfo("x", "https://x/", "rfc6962", "x"), 0, parts)
    assert leaf_hashes(batch) == b"".join(leaf_hash(leaf) for leaf in parts[::2])


@pytest.mark.parametrize("pairs", [0, 1, 31, 32, 33, 300])
def test_parents_are_hashes_of_their_children_however_many_there_are(pairs: int) -> None:
    nodes = Random(pairs).randbytes(64 * pairs)
    hashed = pairs_hashed(nodes)
    assert hashed == b"".join(
        node_hash(nodes[at : at + 32], nodes[at + 32 : at + 64]) for at in range(0, 64 * pairs, 64)
    )
    zeros = bytes(64 * pairs)  # trailing zeros are bytes like all others
    assert pairs_hashed(zeros) == node_hash(bytes(32), bytes(32)) * pairs
