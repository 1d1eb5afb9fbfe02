"""Hash tiles are taken only where they lead to the root, and prove data tiles and edges."""

from __future__ import annotations

from typing import Final

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from certstream.ct.edge import TreeEdge
from certstream.ct.hash_tiles import HashTiles, Tile
from certstream.ct.merkle import EMPTY_ROOT, MerkleTree, leaf_hash
from certstream.errors import InvalidProofError

MOST: Final = 256 * 300 + 77  # two full levels and a bit: level 2 is partial, level 1 has a full and a partial tile
SIZES: Final = (1, 255, 256, 257, 511, 512, 1_000, 65_535, 65_536, 65_537, 65_792, MOST)


@pytest.fixture(scope="module")
def leaves() -> bytes:
    return b"".join(leaf_hash(b"leaf %d" % index) for index in range(MOST))


@pytest.fixture(scope="module")
def tree(leaves: bytes) -> MerkleTree:
    tree = MerkleTree()
    tree.append(leaves)
    return tree


def fetched(tree: MerkleTree, tiles: list[Tile]) -> dict[Tile, bytes]:
    return {tile: tree.tile(tile.level, tile.index, tile.width) for tile in tiles}


def flipped(data: bytes, at: int = 0) -> bytes:
    return data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :]


def part(leaves: bytes, start: int, stop: int) -> bytes:
    return leaves[32 * start : 32 * stop]


@pytest.mark.parametrize("size", SIZES)
def test_the_partial_tiles_are_the_edge(tree: MerkleTree, leaves: bytes, size: int) -> None:
    tiles = HashTiles(size, tree.root(size))
    tiles.add(fetched(tree, tiles.missing_for_edge(size)))
    assert tiles.edge == tiles.edge_at(size) == TreeEdge().extended(part(leaves, 0, size))


def test_an_empty_tree_needs_no_tiles() -> None:
    tiles = HashTiles(0, EMPTY_ROOT)
    assert tiles.edge == TreeEdge()
    assert tiles.missing_for_edge(0) == []


def test_an_empty_tree_with_a_root_is_refused() -> None:
    with pytest.raises(InvalidProofError):
        HashTiles(0, bytes(32))


@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_the_edge_at_any_place_and_any_data_tile_are_proven(
    tree: MerkleTree, leaves: bytes, data: st.DataObject
) -> None:
    size = data.draw(st.sampled_from(SIZES) | st.integers(1, MOST), label="size")
    tiles = HashTiles(size, tree.root(size), keep=data.draw(st.sampled_from((4, 64)), label="keep"))
    for _ in range(4):
        at = data.draw(st.integers(0, size), label="edge")
        tiles.add(fetched(tree, tiles.missing_for_edge(at)))
        assert tiles.edge_at(at) == TreeEdge().extended(part(leaves, 0, at))
        start = data.draw(st.integers(0, size - 1), label="start")
        stop = data.draw(st.integers(start + 1, min(size, start - start % 256 + 256)), label="stop")
        tiles.add(fetched(tree, tiles.missing_for_leaves(start, stop)))
        within = part(leaves, start, stop)
        tiles.check_leaves(start, within)
        with pytest.raises(InvalidProofError):
            tiles.check_leaves(start, flipped(within, data.draw(st.integers(0, len(within) - 1), label="wrong byte")))


def test_a_whole_data_tile_costs_no_tile_of_its_own(tree: MerkleTree, leaves: bytes) -> None:
    tiles = HashTiles(MOST, tree.root(MOST))
    tiles.add(fetched(tree, tiles.missing_for_leaves(0, 256)))
    for index in range(256):
        assert tiles.missing_for_leaves(256 * index, 256 * index + 256) == []
        tiles.check_leaves(256 * index, part(leaves, 256 * index, 256 * index + 256))
    assert tiles.missing_for_leaves(256, 300) == [Tile(0, 1)]


@pytest.mark.parametrize("wrong", range(3))
def test_a_wrong_partial_tile_is_not_taken(tree: MerkleTree, wrong: int) -> None:
    tiles = HashTiles(MOST, tree.root(MOST))
    wanted = tiles.missing_for_edge(MOST)
    assert len(wanted) == 3
    given = fetched(tree, wanted)
    given[wanted[wrong]] = flipped(given[wanted[wrong]])
    with pytest.raises(InvalidProofError, match="do not lead to the root"):
        tiles.add(given)
    assert tiles.edge is None
    assert tiles.missing_for_edge(MOST) == wanted


def test_a_wrong_full_tile_is_not_taken_and_what_is_above_stays(tree: MerkleTree) -> None:
    tiles = HashTiles(MOST, tree.root(MOST))
    wanted = tiles.missing_for_leaves(10, 20)
    assert wanted[-2:] == [Tile(1, 0), Tile(0, 0)]
    given = fetched(tree, wanted)
    given[Tile(0, 0)] = flipped(given[Tile(0, 0)], 31)
    with pytest.raises(InvalidProofError, match="tile 0 of level 0 does not lead to the root"):
        tiles.add(given)
    assert tiles.missing_for_leaves(10, 20) == [Tile(0, 0)]


@pytest.mark.parametrize("width", [0, 8_191, 8_193])
def test_a_tile_of_another_width_is_not_taken(tree: MerkleTree, width: int) -> None:
    tiles = HashTiles(MOST, tree.root(MOST))
    given = fetched(tree, tiles.missing(1, 0))
    given[Tile(1, 0)] = given[Tile(1, 0)].ljust(8_193, b"x")[:width]
    with pytest.raises(InvalidProofError, match=f"has {width} bytes, 8192 expected"):
        tiles.add(given)
    assert tiles.tile(1, 0) is None


def test_nothing_is_checked_against_tiles_that_are_not_proven(tree: MerkleTree, leaves: bytes) -> None:
    tiles = HashTiles(MOST, tree.root(MOST))
    for start, stop in ((0, 256), (3, 9)):
        with pytest.raises(ValueError, match="not proven yet"):
            tiles.check_leaves(start, part(leaves, start, stop))
    with pytest.raises(ValueError, match="not proven yet"):
        tiles.edge_at(100)


def test_what_the_tree_does_not_have_is_refused(tree: MerkleTree) -> None:
    tiles = HashTiles(1_000, tree.root(1_000))
    with pytest.raises(ValueError, match="has no tile 4 on level 0"):
        tiles.missing(0, 4)
    with pytest.raises(ValueError, match="does not lie in one tile"):
        tiles.missing_for_leaves(250, 260)
    with pytest.raises(ValueError, match="does not lie in one tile"):
        tiles.missing_for_leaves(900, 1_001)
    with pytest.raises(ValueError, match="has no edge of 1001"):
        tiles.missing_for_edge(1_001)
