from __future__ import annotations

import base64
import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from certstream.ct.merkle import EMPTY_ROOT, MerkleTree, leaf_hash, node_hash, verify_consistency, verify_inclusion
from certstream.errors import InvalidProofError

DATA = Path(__file__).parents[1] / "data"
LEAVES = [leaf_hash(str(index).encode()) for index in range(600)]


def vectors(name: str) -> list[Any]:
    loaded: list[dict[str, Any]] = json.loads((DATA / "merkle" / f"{name}.json").read_text())
    return [pytest.param(vector, id=f"{number}-{vector['desc']}") for number, vector in enumerate(loaded)]


def decode(texts: list[str] | None) -> list[bytes]:
    return [base64.b64decode(text or "") for text in texts or []]


def tree_of(size: int) -> MerkleTree:
    tree = MerkleTree()
    tree.append(b"".join(LEAVES[:size]))
    return tree


def mth(leaves: list[bytes]) -> bytes:
    """The definition of RFC 6962 §2.1, over leaf hashes."""
    if not leaves:
        return EMPTY_ROOT
    if len(leaves) == 1:
        return leaves[0]
    middle = 1
    while middle * 2 < len(leaves):
        middle *= 2
    return node_hash(mth(leaves[:middle]), mth(leaves[middle:]))


@pytest.mark.parametrize("vector", vectors("inclusion"))
def test_inclusion_vectors_verify_as_their_source_says(vector: dict[str, Any]) -> None:
    leaf, root = decode([vector["leafHash"], vector["root"]])
    arguments = (leaf, vector["leafIdx"], vector["treeSize"], decode(vector["proof"]), root)
    if vector["wantErr"]:
        with pytest.raises(InvalidProofError):
            verify_inclusion(*arguments)
    else:
        verify_inclusion(*arguments)


@pytest.mark.parametrize("vector", vectors("consistency"))
def test_consistency_vectors_verify_as_their_source_says(vector: dict[str, Any]) -> None:
    first_root, second_root = decode([vector["root1"], vector["root2"]])
    arguments = (vector["size1"], vector["size2"], first_root, second_root, decode(vector["proof"]))
    if vector["wantErr"]:
        with pytest.raises(InvalidProofError):
            verify_consistency(*arguments)
    else:
        verify_consistency(*arguments)


def test_root_is_the_definition_of_the_specification_at_every_size() -> None:
    tree = tree_of(70)
    assert [tree.root(size) for size in range(71)] == [mth(LEAVES[:size]) for size in range(71)]


def test_root_of_a_leaf_of_known_bytes() -> None:
    assert leaf_hash(b"").hex() == "6e340b9cffb37a989ca544e6bb780a2c78901d3fb33738768511a30617afa01d"


@given(st.lists(st.integers(0, 200), max_size=5))
def test_tree_is_the_same_however_its_leaves_were_appended(batches: list[int]) -> None:
    grown, size = MerkleTree(), 0
    for batch in batches:
        grown.append(b"".join(LEAVES[:600][size : size + batch]))
        size = min(size + batch, 600)
    assert len(grown) == size
    assert grown.root() == mth(LEAVES[:size])


def test_every_inclusion_proof_of_every_size_verifies_and_no_other_leaf_with_it() -> None:
    tree = tree_of(40)
    for size in range(1, 41):
        for index in range(size):
            proof = tree.inclusion_proof(index, size)
            verify_inclusion(LEAVES[index], index, size, proof, tree.root(size))
            with pytest.raises(InvalidProofError):
                verify_inclusion(LEAVES[index + 1], index, size, proof, tree.root(size))


def test_every_consistency_proof_verifies_and_not_for_another_old_root() -> None:
    tree = tree_of(40)
    for second in range(1, 41):
        for first in range(1, second + 1):
            proof = tree.consistency_proof(first, second)
            verify_consistency(first, second, tree.root(first), tree.root(second), proof)
            with pytest.raises(InvalidProofError):
                verify_consistency(first, second, tree.root(first - 1), tree.root(second), proof)


@given(st.integers(1, 600), st.data())
def test_a_proof_with_one_flipped_bit_does_not_verify(size: int, data: st.DataObject) -> None:
    tree, index = tree_of(size), data.draw(st.integers(0, size - 1))
    proof = [*tree.inclusion_proof(index, size), LEAVES[index]]
    at, bit = data.draw(st.integers(0, len(proof) - 1)), data.draw(st.integers(0, 255))
    proof[at] = (int.from_bytes(proof[at]) ^ 1 << bit).to_bytes(32)
    with pytest.raises(InvalidProofError):
        verify_inclusion(proof[-1], index, size, proof[:-1], tree.root())


def test_tiles_hold_the_nodes_of_their_level() -> None:
    tree = tree_of(600)
    assert tree.tile(0, 1) == b"".join(LEAVES[256:512])
    assert tree.tile(0, 2, 88) == b"".join(LEAVES[512:])
    assert tree.tile(1, 0, 2) == mth(LEAVES[:256]) + mth(LEAVES[256:512])


@pytest.mark.parametrize(("level", "index", "width"), [(0, 2, 89), (0, 3, 1), (1, 0, 3), (2, 0, 1), (9, 0, 1)])
def test_tiles_past_the_tree_are_refused(level: int, index: int, width: int) -> None:
    with pytest.raises(ValueError, match="not within"):
        tree_of(600).tile(level, index, width)


def test_positions_past_the_tree_are_refused() -> None:
    tree = tree_of(3)
    for call in (
        lambda: tree.root(4),
        lambda: tree.leaf(3),
        lambda: tree.leaf(-1),
        lambda: tree.inclusion_proof(2, 4),
        lambda: tree.inclusion_proof(2, 2),
        lambda: tree.consistency_proof(0, 3),
        lambda: tree.consistency_proof(2, 4),
    ):
        with pytest.raises(ValueError, match="not within"):
            call()
    assert len(tree) == 3


def test_half_a_hash_is_refused_and_leaves_the_tree_as_it_was() -> None:
    tree = tree_of(3)
    with pytest.raises(ValueError, match="whole hashes"):
        tree.append(b"x" * 33)
    assert tree.root() == mth(LEAVES[:3])


def test_a_leaf_is_found_by_its_hash_within_the_size_asked() -> None:
    tree = tree_of(600)
    assert tree.index_of(LEAVES[599], 600) == 599
    assert tree.index_of(LEAVES[599], 599) is None
    assert tree.index_of(LEAVES[0][1:] + LEAVES[1][:1], 600) is None
    assert tree.leaf(599) == LEAVES[599]
