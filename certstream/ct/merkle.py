"""The Merkle tree of a log: hashes, proofs and their verification (RFC 6962 §2.1, RFC 9162 §2.1)."""

from __future__ import annotations

from collections.abc import Sequence
from hashlib import sha256

from certstream.ct.types import HASH_BYTES, TILE_WIDTH
from certstream.errors import InvalidProofError

EMPTY_ROOT = sha256(b"").digest()

_TILE_LEVELS = 8  # levels of the tree that one level of tiles spans: 256 == 2**8


def leaf_hash(leaf_input: bytes) -> bytes:
    """Hash of one leaf: SHA-256(0x00 || leaf_input)."""
    return sha256(b"\x00" + leaf_input).digest()


def node_hash(left: bytes, right: bytes) -> bytes:
    """Hash of an inner node: SHA-256(0x01 || left || right)."""
    return sha256(b"\x01" + left + right).digest()


class MerkleTree:
    """A tree that grows by leaf hashes and answers for every size it ever had.

    Keeps the hash of each complete subtree: 64 bytes per leaf, without a Python object each.
    """

    __slots__ = ("_levels",)

    def __init__(self) -> None:
        self._levels = [bytearray()]  # level l: the hashes of complete subtrees of 2**l leaves

    def __len__(self) -> int:
        return len(self._levels[0]) // HASH_BYTES

    def append(self, leaf_hashes: bytes) -> None:
        """Add leaves by their hashes, 32 bytes each, one after the other.

        Raises ValueError for anything but a multiple of 32 bytes.
        """
        if len(leaf_hashes) % HASH_BYTES:
            raise ValueError(f"{len(leaf_hashes)} bytes are not whole hashes")
        self._levels[0] += leaf_hashes
        level = 0
        while len(self._levels[level]) >= 2 * HASH_BYTES:
            if level + 1 == len(self._levels):
                self._levels.append(bytearray())
            self._hash_pairs(level)
            level += 1

    def _hash_pairs(self, level: int) -> None:
        below, here = self._levels[level], self._levels[level + 1]
        pairs = bytes(below[2 * len(here) : len(below) // 64 * 64])
        here += b"".join([sha256(b"\x01" + pairs[at : at + 64]).digest() for at in range(0, len(pairs), 64)])

    def leaf(self, index: int) -> bytes:
        """Hash of leaf `index`. Raises ValueError past the end."""
        self._check(index < len(self), index)
        return self._node(0, index)

    def root(self, size: int | None = None) -> bytes:
        """Root hash of the first `size` leaves, by default of all. Raises ValueError past the end."""
        size = len(self) if size is None else size
        self._check(size <= len(self), size)
        return self._subtree(0, size) if size else EMPTY_ROOT

    def inclusion_proof(self, index: int, size: int) -> list[bytes]:
        """Audit path of leaf `index` in the tree of `size` leaves (RFC 6962 §2.1.1)."""
        self._check(index < size <= len(self), size)
        proof: list[bytes] = []
        start, stop = 0, size
        while stop - start > 1:
            middle = start + _largest_power_below(stop - start)
            if index < middle:
                proof.append(self._subtree(middle, stop))
                stop = middle
            else:
                proof.append(self._subtree(start, middle))
                start = middle
        return proof[::-1]

    def consistency_proof(self, first: int, second: int) -> list[bytes]:
        """Proof that the tree of `first` leaves, >= 1, is the start of that of `second` (RFC 6962 §2.1.2)."""
        self._check(1 <= first <= second <= len(self), second)
        proof: list[bytes] = []
        start, stop = 0, second
        while first != stop:
            middle = start + _largest_power_below(stop - start)
            if first <= middle:
                proof.append(self._subtree(middle, stop))
                stop = middle
            else:
                proof.append(self._subtree(start, middle))
                start = middle
        if start:  # else the verifier knows the last subtree: it is the first root
            proof.append(self._subtree(start, stop))
        return proof[::-1]

    def tile(self, level: int, index: int, width: int = TILE_WIDTH) -> bytes:
        """The first `width` hashes of a hash tile. Raises ValueError where the tree does not reach so far.

        static-ct-api, "Merkle Tree": tile (L, N) holds nodes [256 N, 256 N + width) of level 8 L.
        """
        nodes = self._levels[level * _TILE_LEVELS] if level * _TILE_LEVELS < len(self._levels) else b""
        start = index * TILE_WIDTH * HASH_BYTES
        stop = start + width * HASH_BYTES
        self._check(stop <= len(nodes), index)
        return bytes(nodes[start:stop])

    def index_of(self, wanted: bytes, size: int) -> int | None:
        """Lowest index of a leaf hash among the first `size` leaves, or None. Searches them one by one."""
        hashes, stop = self._levels[0], size * HASH_BYTES
        at = hashes.find(wanted, 0, stop)
        while at >= 0 and at % HASH_BYTES:
            at = hashes.find(wanted, at + 1, stop)
        return None if at < 0 else at // HASH_BYTES

    def _node(self, level: int, index: int) -> bytes:
        return bytes(self._levels[level][index * HASH_BYTES : (index + 1) * HASH_BYTES])

    def _subtree(self, start: int, stop: int) -> bytes:
        """Hash of leaves [start, stop), where `start` is a multiple of the largest power of 2 in the range."""
        right = None
        pieces = []
        while start < stop:
            level = (stop - start).bit_length() - 1
            pieces.append(self._node(level, start >> level))
            start += 1 << level
        for piece in reversed(pieces):
            right = piece if right is None else node_hash(piece, right)
        assert right is not None
        return right

    def _check(self, holds: bool, position: int) -> None:
        if not holds or position < 0:
            raise ValueError(f"{position} is not within a tree of {len(self)} leaves")


def _largest_power_below(size: int) -> int:
    """Return the largest power of 2 smaller than `size`, where size >= 2."""
    return 1 << ((size - 1).bit_length() - 1)


def verify_inclusion(leaf: bytes, index: int, tree_size: int, proof: Sequence[bytes], root: bytes) -> None:
    """Check that the leaf hash `leaf` stands at `index` in the tree (RFC 9162 §2.1.3.2).

    Raises InvalidProofError where the proof does not lead to `root`.
    """
    if not 0 <= index < tree_size:
        raise InvalidProofError(f"index {index} is outside a tree of {tree_size}")
    _check_lengths([leaf, *proof])
    node, last, current = index, tree_size - 1, leaf
    for sibling in proof:
        if last == 0:
            raise InvalidProofError(f"inclusion proof of {index} in {tree_size} is too long")
        if node & 1 or node == last:
            current = node_hash(sibling, current)
            while not node & 1 and node:
                node, last = node >> 1, last >> 1
        else:
            current = node_hash(current, sibling)
        node, last = node >> 1, last >> 1
    if last or current != root:
        raise InvalidProofError(f"inclusion proof of {index} in {tree_size} does not lead to the root")


def verify_consistency(first: int, second: int, first_root: bytes, second_root: bytes, proof: Sequence[bytes]) -> None:
    """Check that the tree of `first` leaves, >= 1, is the start of that of `second` (RFC 9162 §2.1.4.2).

    Raises InvalidProofError where the proof does not lead to both roots, and for `first` 0: everything
    is consistent with the empty tree, so such a check would prove nothing.
    """
    if not 1 <= first <= second:
        raise InvalidProofError(f"no consistency proof leads from {first} to {second} leaves")
    _check_lengths(proof)
    if first == second:
        if proof or first_root != second_root:
            raise InvalidProofError(f"two roots or a proof for the same {first} leaves")
        return
    if _consistent_roots(first, second, first_root, proof) != (first_root, second_root):
        raise InvalidProofError(f"consistency proof from {first} to {second} does not lead to the roots")


def _consistent_roots(first: int, second: int, first_root: bytes, proof: Sequence[bytes]) -> tuple[bytes, bytes]:
    path = list(proof) if first & (first - 1) else [first_root, *proof]
    if not path:
        raise InvalidProofError(f"consistency proof from {first} to {second} is empty")
    node, last = first - 1, second - 1
    while node & 1:
        node, last = node >> 1, last >> 1
    old = new = path[0]
    for sibling in path[1:]:
        if last == 0:
            raise InvalidProofError(f"consistency proof from {first} to {second} is too long")
        if node & 1 or node == last:
            old, new = node_hash(sibling, old), node_hash(sibling, new)
            while not node & 1 and node:
                node, last = node >> 1, last >> 1
        else:
            new = node_hash(new, sibling)
        node, last = node >> 1, last >> 1
    if last:
        raise InvalidProofError(f"consistency proof from {first} to {second} is too short")
    return old, new


def _check_lengths(proof: Sequence[bytes]) -> None:
    if any(len(sibling) != HASH_BYTES for sibling in proof):
        raise InvalidProofError("a proof holds something else than 32-byte hashes")
