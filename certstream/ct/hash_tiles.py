"""The hash tiles of a static log, proven under one signed root (static-ct-api, "Merkle Tree").

Tile (L, N) holds the nodes [256 N, 256 N + width) of height 8 L. Where a full tile's 256 nodes lead is one node of the
tile above it, (L + 1, N // 256); the partial tiles, one of each level at most, are the right edge and lead to the root
together. So each tile is proven by those above it, and a data tile by a single node.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Final

from certstream.ct.edge import TreeEdge
from certstream.ct.types import HASH_BYTES, TILE_WIDTH
from certstream.errors import InvalidProofError

_HEIGHT: Final = 8  # 256 == 2**8


@dataclass(frozen=True, order=True, slots=True)
class Tile:
    """One hash tile: what `tile_path` names."""

    level: int
    index: int
    width: int = TILE_WIDTH

    @property
    def place(self) -> tuple[int, int]:
        """Level and index: the tile, however wide it is by now."""
        return self.level, self.index


def edge_tiles(size: int) -> list[Tile]:
    """The tiles that hold the edge of the first `size` leaves, with as many nodes of each; the highest first.

    In a tree of that size they are its partial tiles.
    """
    levels = range(-(-size.bit_length() // _HEIGHT))
    tiles = [Tile(level, *divmod(size >> _HEIGHT * level, TILE_WIDTH)) for level in levels]
    return [tile for tile in reversed(tiles) if tile.width]


class HashTiles:
    """What is known of the tree of `size` leaves under `root`: tiles are asked for by `missing…` and taken by `add`.

    Nothing is taken that is not proven. At most `keep` full tiles are held, 8 KiB each: the last ones used.
    Belongs to one task at a time: what is missing for one purpose may be let go of for another.
    """

    def __init__(self, size: int, root: bytes, *, keep: int = 64) -> None:
        self.size = size
        self.root = root
        self._keep = keep
        self._full: dict[tuple[int, int], bytes] = {}
        self._partial: dict[tuple[int, int], bytes] = {}
        self._edge: TreeEdge | None = None
        if not edge_tiles(self.size):
            self._take_edge({})

    def _width(self, level: int, index: int) -> int:
        """How wide that tile is in this tree; 0 or less where there is none."""
        return min(TILE_WIDTH, (self.size >> _HEIGHT * level) - index * TILE_WIDTH)

    def missing(self, level: int, index: int) -> list[Tile]:
        """The tiles to `add`, all of them at once, so that this one is proven; none where it is.

        Raises ValueError for a tile that the tree does not have.
        """
        width = self._width(level, index)
        if width <= 0:
            raise ValueError(f"a tree of {self.size} leaves has no tile {index} on level {level}")
        if self.tile(level, index) is not None:
            return []
        if width < TILE_WIDTH:
            return edge_tiles(self.size)
        return [*self.missing(level + 1, index // TILE_WIDTH), Tile(level, index)]

    def missing_for_leaves(self, start: int, stop: int) -> list[Tile]:
        """The tiles to `add` so that the leaves [start, stop), which lie in one data tile, can be checked."""
        index = start // TILE_WIDTH
        if stop > self.size or start >= stop or (stop - 1) // TILE_WIDTH != index:
            raise ValueError(f"[{start}, {stop}) does not lie in one tile of a tree of {self.size} leaves")
        if self._is_whole(start, stop):
            return self.missing(1, index // TILE_WIDTH)
        return self.missing(0, index)

    def missing_for_edge(self, size: int) -> list[Tile]:
        """The tiles to `add` so that `edge_at` can tell the edge of the first `size` leaves."""
        self._check_size(size)
        return list(dict.fromkeys(tile for each in edge_tiles(size) for tile in self.missing(each.level, each.index)))

    def add(self, tiles: Mapping[Tile, bytes]) -> None:
        """Take what was asked for. Raises InvalidProofError at the first that is not proven; those before it stay."""
        partial = {tile.level: data for tile, data in tiles.items() if tile.width < TILE_WIDTH}
        if partial and self._edge is None:
            self._take_edge(partial)
        for tile in sorted((tile for tile in tiles if tile.width == TILE_WIDTH), reverse=True):
            self._take_full(tile, tiles[tile])

    def _take_edge(self, tiles: Mapping[int, bytes]) -> None:
        wanted = edge_tiles(self.size)
        for tile in wanted:
            _check_width(tile, tiles.get(tile.level, b""))
        edge = TreeEdge(self.size, _edge_hashes(tiles[tile.level] for tile in wanted))
        if edge.root() != self.root:
            raise InvalidProofError(f"the partial tiles of {self.size} leaves do not lead to the root")
        self._edge = edge
        self._partial = {tile.place: tiles[tile.level] for tile in wanted}

    def _take_full(self, tile: Tile, data: bytes) -> None:
        _check_width(tile, data)
        self._check_node(tile.level + 1, tile.index, data, f"tile {tile.index} of level {tile.level}")
        self._full.pop(tile.place, None)
        self._full[tile.place] = data
        while len(self._full) > self._keep:
            del self._full[next(iter(self._full))]

    def _check_node(self, level: int, position: int, below: bytes, what: str) -> None:
        """Whether the 256 nodes `below` lead to that node of height 8 * level."""
        index, place = divmod(position, TILE_WIDTH)
        above = self._known(Tile(level, index))
        (node,) = TreeEdge().extended(below).hashes
        if node != above[place * HASH_BYTES : (place + 1) * HASH_BYTES]:
            raise InvalidProofError(f"{what} does not lead to the root of {self.size} leaves")

    def tile(self, level: int, index: int) -> bytes | None:
        """A proven tile: its hashes, 32 bytes each; None where it is not known."""
        place = level, index
        if place in self._full:
            self._full[place] = self._full.pop(place)  # the last one used goes last
        return self._full.get(place) or self._partial.get(place)

    def _known(self, tile: Tile) -> bytes:
        data = self.tile(tile.level, tile.index)
        if data is None:
            raise ValueError(f"tile {tile.index} of level {tile.level} is not proven yet")
        return data

    @property
    def edge(self) -> TreeEdge | None:
        """The edge of the whole tree, None where it is not known yet."""
        return self._edge

    def edge_at(self, size: int) -> TreeEdge:
        """The edge of the first `size` leaves, once `missing_for_edge` is added. Raises ValueError before."""
        self._check_size(size)
        return TreeEdge(size, _edge_hashes(self._known(tile)[: tile.width * HASH_BYTES] for tile in edge_tiles(size)))

    def _check_size(self, size: int) -> None:
        if not 0 <= size <= self.size:
            raise ValueError(f"a tree of {self.size} leaves has no edge of {size}")

    def check_leaves(self, start: int, leaves: bytes) -> None:
        """Check leaf hashes, 32 bytes each, from index `start` on, of one data tile.

        Raises InvalidProofError where they are not in the tree, ValueError before `missing_for_leaves` is added.
        """
        stop = start + len(leaves) // HASH_BYTES
        index = start // TILE_WIDTH
        if self._is_whole(start, stop):
            self._check_node(1, index, leaves, f"data tile {index}")
            return
        data = self._known(Tile(0, index))
        at = (start - index * TILE_WIDTH) * HASH_BYTES
        if data[at : at + len(leaves)] != leaves:
            raise InvalidProofError(f"entries [{start}, {stop}) are not in the tree of {self.size} leaves")

    @staticmethod
    def _is_whole(start: int, stop: int) -> bool:
        return stop - start == TILE_WIDTH


def _edge_hashes(tiles: Iterable[bytes]) -> tuple[bytes, ...]:
    """The edge that the tiles are, the highest first: nodes of one level are put together as leaves are."""
    return tuple(node for nodes in tiles for node in TreeEdge().extended(nodes).hashes)


def _check_width(tile: Tile, data: bytes) -> None:
    if len(data) != tile.width * HASH_BYTES:
        raise InvalidProofError(
            f"tile {tile.index} of level {tile.level} has {len(data)} bytes, {tile.width * HASH_BYTES} expected"
        )
