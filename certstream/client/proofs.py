"""What a log proves of its tree under a signed head, whatever its protocol.

A head is taken as it is: verify its signature first. Where a proof leads to another root, InvalidProofError is raised;
where the log gives none, FetchError.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Iterable, Sequence
from typing import Final, Protocol, TypeVar
from urllib.parse import quote

import pybase64

from certstream.client.http import HttpClient
from certstream.ct.edge import TreeEdge, leaf_hashes, proven_edge, verify_range
from certstream.ct.hash_tiles import HashTiles, Tile
from certstream.ct.merkle import leaf_hash, verify_consistency
from certstream.ct.rfc6962 import parse_consistency, parse_entry_and_proof, parse_get_entries, parse_proof_by_hash
from certstream.ct.static_ct import tile_path
from certstream.ct.types import HASH_BYTES, TILE_WIDTH, LogInfo, TreeHead
from certstream.errors import FetchError, InvalidProofError, MalformedError

T = TypeVar("T")

_AT_ONCE: Final = 4  # requests for hash tiles at a time
_PROOF_CAP_BYTES: Final = 2**20
# get-entry-and-proof is not given then; 500 and 504 are from logs to which it is too much
_UNSUPPORTED: Final = frozenset({"400", "403", "404", "405", "500", "501", "504", "body"})


class Prover(Protocol):
    """Proves what a log has in its tree. Belongs to one task at a time."""

    async def edge(self, head: TreeHead, size: int) -> TreeEdge:
        """Return the edge of the first `size` leaves of the head's tree. Raises FetchError or InvalidProofError."""

    async def check_edge(self, head: TreeHead, edge: TreeEdge) -> None:
        """Check that the head's tree begins with that of `edge`. Raises FetchError or InvalidProofError."""

    async def check_leaves(self, head: TreeHead, start: int, leaves: bytes) -> None:
        """Check that leaf hashes, 32 bytes each, stand from index `start` on in the head's tree.

        Raises FetchError or InvalidProofError.
        """


def prover(http: HttpClient, log: LogInfo) -> Prover:
    """What proves the entries of that log, by its protocol."""
    return StaticProver(http, log) if log.kind == "static" else Rfc6962Prover(http, log)


class Rfc6962Prover:
    """By consistency and inclusion proofs (RFC 6962 §4.4, §4.5, §4.8)."""

    def __init__(self, http: HttpClient, log: LogInfo) -> None:
        self._http = http
        self._log = log

    async def edge(self, head: TreeHead, size: int) -> TreeEdge:
        """One request: the siblings to the left of a leaf's path are the edge before it."""
        _check_size(head, size)
        if size == 0:
            return TreeEdge()
        if size < head.tree_size:
            leaf, path = await self._leaf_and_path(head, size)
            return proven_edge(leaf, size, head.tree_size, path, head.root_hash)
        leaf, path = await self._leaf_and_path(head, size - 1)
        return proven_edge(leaf, size - 1, head.tree_size, path, head.root_hash).extended(leaf)

    async def check_edge(self, head: TreeHead, edge: TreeEdge) -> None:
        """One request, or none where the sizes are the same."""
        _check_size(head, edge.size)
        if edge.size in (0, head.tree_size):
            _check_root(head, edge)
            return
        path = f"ct/v1/get-sth-consistency?first={edge.size}&second={head.tree_size}"
        proof = await self._get(path, parse_consistency)
        verify_consistency(edge.size, head.tree_size, edge.root(), head.root_hash, proof)

    async def check_leaves(self, head: TreeHead, start: int, leaves: bytes) -> None:
        """Two requests for any number of leaves, one for a single one."""
        last = start + len(leaves) // HASH_BYTES - 1
        _check_size(head, last + 1)
        ends = {start: leaves[:HASH_BYTES], last: leaves[-HASH_BYTES:]}  # one, of a single leaf
        paths = await _all(self._path_of(head, index, leaf) for index, leaf in ends.items())
        verify_range(start, leaves, head.tree_size, paths[0], paths[-1], head.root_hash)

    async def _path_of(self, head: TreeHead, index: int, leaf: bytes) -> list[bytes]:
        """The audit path that the log gives for `index`; for another leaf than `leaf` it leads nowhere."""
        _, path = await self._leaf_and_path(head, index, leaf)
        return path

    async def _leaf_and_path(self, head: TreeHead, index: int, leaf: bytes | None = None) -> tuple[bytes, list[bytes]]:
        query = f"leaf_index={index}&tree_size={head.tree_size}"
        try:
            leaf_input, path = await self._get(f"ct/v1/get-entry-and-proof?{query}", parse_entry_and_proof)
            return leaf_hash(leaf_input), path
        except FetchError as exc:
            if exc.status not in _UNSUPPORTED:
                raise
            leaf = leaf or await self._leaf_hash(index)
            return leaf, await self._path_by_hash(head, index, leaf, exc)

    async def _leaf_hash(self, index: int) -> bytes:
        path = f"ct/v1/get-entries?start={index}&end={index}"
        batch = await self._get(path, lambda body: parse_get_entries(self._log, index, body, most=1))
        if not len(batch):
            raise FetchError(f"{self._log.name}: {self._log.base_url}/{path}: no entries", status="empty")
        return leaf_hashes(batch)

    async def _path_by_hash(self, head: TreeHead, index: int, leaf: bytes, cause: FetchError) -> list[bytes]:
        """Of logs without get-entry-and-proof; a leaf that stands twice may be proven at its other place."""
        query = f"hash={_query_base64(leaf)}&tree_size={head.tree_size}"
        found, path = await self._get(f"ct/v1/get-proof-by-hash?{query}", parse_proof_by_hash)
        if found != index:
            raise FetchError(f"{cause}; and get-proof-by-hash gives that of entry {found}", status="body") from cause
        return path

    async def _get(self, path: str, parse: Callable[[bytes], T]) -> T:
        body = await self._http.get(self._log, path, cap_bytes=_PROOF_CAP_BYTES)
        try:
            return parse(body)
        except MalformedError as exc:
            raise FetchError(f"{self._log.name}: {self._log.base_url}/{path}: {exc}", status="body") from exc


class StaticProver:
    """By hash tiles (static-ct-api, "Merkle Tree"); those once proven are not asked for again."""

    def __init__(self, http: HttpClient, log: LogInfo) -> None:
        self._http = http
        self._log = log
        self._tiles: HashTiles | None = None

    async def edge(self, head: TreeHead, size: int) -> TreeEdge:
        """A tile for each level, and those above them."""
        _check_size(head, size)
        tiles = self._under(head)
        await self._add(tiles, tiles.missing_for_edge(size))
        return tiles.edge_at(size)

    async def check_edge(self, head: TreeHead, edge: TreeEdge) -> None:
        """Likewise; one tile where the edge lies in the last tile of leaves, as it does while a log is followed."""
        _check_size(head, edge.size)
        if not await self._leads_to(head, edge) and await self.edge(head, edge.size) != edge:
            raise InvalidProofError(f"the first {edge.size} entries are others in the tree of {head.tree_size}")

    async def _leads_to(self, head: TreeHead, edge: TreeEdge) -> bool:
        """Whether the leaves behind the edge, where they are of the head's partial tile, lead to the head's root."""
        if self._is_under(head) or edge.size // TILE_WIDTH != head.tree_size // TILE_WIDTH:
            return False
        index, width = divmod(head.tree_size, TILE_WIDTH)
        leaves = await self._fetch(Tile(0, index, width)) if width else b""
        left = leaves[edge.size % TILE_WIDTH * HASH_BYTES :]
        return edge.extended(left).root() == head.root_hash

    async def check_leaves(self, head: TreeHead, start: int, leaves: bytes) -> None:
        """No tile for a whole data tile, beyond one of level 1 for 256 of them; else the hash tile beside it."""
        stop = start + len(leaves) // HASH_BYTES
        _check_size(head, stop)
        tiles = self._under(head)
        while leaves:
            count = min(stop, start - start % TILE_WIDTH + TILE_WIDTH) - start
            await self._add(tiles, tiles.missing_for_leaves(start, start + count))
            tiles.check_leaves(start, leaves[: count * HASH_BYTES])
            start, leaves = start + count, leaves[count * HASH_BYTES :]

    async def proven_tiles(self, head: TreeHead, level: int, index: int) -> HashTiles:
        """The tiles under the head, that one among them. Raises FetchError or InvalidProofError."""
        tiles = self._under(head)
        await self._add(tiles, tiles.missing(level, index))
        return tiles

    def _under(self, head: TreeHead) -> HashTiles:
        """The tiles under that head; none of another's, which may be of another tree."""
        if self._tiles is None or not self._is_under(head):
            self._tiles = HashTiles(head.tree_size, head.root_hash)
        return self._tiles

    def _is_under(self, head: TreeHead) -> bool:
        """Whether the tiles that are known are those under that head."""
        tiles = self._tiles
        return tiles is not None and (tiles.size, tiles.root) == (head.tree_size, head.root_hash)

    async def _add(self, tiles: HashTiles, wanted: Sequence[Tile]) -> None:
        fetched: dict[Tile, bytes] = {}
        for at in range(0, len(wanted), _AT_ONCE):
            part = wanted[at : at + _AT_ONCE]
            fetched |= zip(part, await _all(self._fetch(tile) for tile in part), strict=True)
        tiles.add(fetched)

    async def _fetch(self, tile: Tile) -> bytes:
        try:
            return await self._fetch_width(tile, tile.width)
        except FetchError as exc:
            if exc.status != "404" or tile.width == TILE_WIDTH:
                raise
            # "Partial Tiles": they may be gone once the full one is there.
            return await self._fetch_width(tile, TILE_WIDTH)

    async def _fetch_width(self, tile: Tile, width: int) -> bytes:
        path = tile_path(tile.level, tile.index, width)
        body = await self._http.get(self._log, path, cap_bytes=TILE_WIDTH * HASH_BYTES)
        if len(body) != width * HASH_BYTES:  # an error page, say: that is no claim of the log's
            what = f"{len(body)} bytes, {width * HASH_BYTES} expected"
            raise FetchError(f"{self._log.name}: {self._log.base_url}/{path}: {what}", status="body")
        return body[: tile.width * HASH_BYTES]


def _check_size(head: TreeHead, size: int) -> None:
    if size > head.tree_size:
        raise ValueError(f"{size} entries are more than the head's {head.tree_size}")


def _check_root(head: TreeHead, edge: TreeEdge) -> None:
    if edge.size and edge.root() != head.root_hash:
        raise InvalidProofError(f"another root than the head's of {head.tree_size} entries")


async def _all(work: Iterable[Coroutine[None, None, T]]) -> list[T]:
    """What all of it gives, done at the same time; one that fails ends the others, once those before it are done."""
    tasks = [asyncio.ensure_future(each) for each in work]
    try:
        return [await task for task in tasks]
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


def _query_base64(data: bytes) -> str:
    return quote(pybase64.b64encode(data), safe="")
