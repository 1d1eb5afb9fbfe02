"""The right edge of a log's tree: all that must be kept of a tree to add leaves to it and to know its root.

The edge of the first n leaves is the hashes of the largest complete subtrees that they fall into, from left to right:
one for each bit that is set in n, at most 64 ("compact range"). Leaves are added by their hashes, many at a time.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from hashlib import sha256
from typing import Final

import numpy as np

from certstream.ct.merkle import EMPTY_ROOT, node_hash, verify_inclusion
from certstream.ct.types import HASH_BYTES, MAX_TREE_SIZE, EntryBatch
from certstream.errors import InvalidProofError, MalformedError

_PAIR: Final = 2 * HASH_BYTES
_MANY: Final = 32  # pairs that are worth a call of numpy


@dataclass(frozen=True, slots=True)
class TreeEdge:
    """The edge of a tree of `size` leaves; never changes, `extended` gives a new one."""

    size: int = 0
    hashes: tuple[bytes, ...] = ()  # of its complete subtrees, the largest and leftmost first

    def __post_init__(self) -> None:
        """Raises ValueError where there is not one hash of 32 bytes for each bit of the size."""
        if not 0 <= self.size <= MAX_TREE_SIZE:
            raise ValueError(f"no tree has {self.size} leaves")
        if len(self.hashes) != self.size.bit_count() or any(len(each) != HASH_BYTES for each in self.hashes):
            raise ValueError(f"the edge of {self.size} leaves is {self.size.bit_count()} hashes of {HASH_BYTES} bytes")

    def root(self) -> bytes:
        """Root hash of the tree (RFC 6962 §2.1)."""
        if not self.hashes:
            return EMPTY_ROOT
        *left, root = self.hashes
        for sibling in reversed(left):
            root = node_hash(sibling, root)
        return root

    def extended(self, leaf_hashes: bytes) -> TreeEdge:
        """The edge with more leaves, given by their hashes, 32 bytes each; two hashes a leaf, as SHA-256 is called.

        Raises ValueError for anything but a multiple of 32 bytes.
        """
        count, rest = divmod(len(leaf_hashes), HASH_BYTES)
        if rest:
            raise ValueError(f"{len(leaf_hashes)} bytes are not whole hashes")
        if not count:
            return self
        there = dict(zip(_levels(self.size), reversed(self.hashes), strict=True))
        level, nodes, left = 0, leaf_hashes, self.size
        found: list[bytes] = []
        while nodes or left:
            if level in there:
                nodes = there[level] + nodes
            if len(nodes) % _PAIR:
                found.append(nodes[-HASH_BYTES:])
                nodes = nodes[:-HASH_BYTES]
            nodes = pairs_hashed(nodes)
            level, left = level + 1, left >> 1
        return TreeEdge(self.size + count, tuple(reversed(found)))

    def to_bytes(self) -> bytes:
        """The size, 8 bytes big-endian, and the hashes."""
        return self.size.to_bytes(8) + b"".join(self.hashes)

    @classmethod
    def from_bytes(cls, data: bytes) -> TreeEdge:
        """What `to_bytes` gave; raises MalformedError for anything else."""
        size = int.from_bytes(data[:8])
        hashes = tuple(data[at : at + HASH_BYTES] for at in range(8, len(data), HASH_BYTES))
        try:
            if len(data) < 8:
                raise ValueError(f"{len(data)} bytes")
            return cls(size, hashes)
        except ValueError as exc:
            raise MalformedError(f"not the edge of a tree: {exc}") from exc


def _levels(size: int) -> Iterator[int]:
    """Levels of the complete subtrees, the smallest first."""
    return (level for level in range(size.bit_length()) if size >> level & 1)


def pairs_hashed(nodes: bytes) -> bytes:
    """The hashes of the parents of an even number of nodes."""
    if len(nodes) < _MANY * _PAIR:
        return b"".join([sha256(b"\x01" + nodes[at : at + _PAIR]).digest() for at in range(0, len(nodes), _PAIR)])
    pairs = np.frombuffer(nodes, np.uint8).reshape(-1, _PAIR)
    prefixed = np.empty((len(pairs), 1 + _PAIR), np.uint8)
    prefixed[:, 0] = 0x01
    prefixed[:, 1:] = pairs
    return b"".join([sha256(each).digest() for each in prefixed.view(f"V{1 + _PAIR}")[:, 0].tolist()])


def leaf_hashes(batch: EntryBatch) -> bytes:
    """The leaf hash of each entry of a batch, 32 bytes each: what its log says it has put into its tree."""
    prefix, data = batch.leaf_prefix, batch.data
    bounds = zip(batch.leaf.start.tolist(), batch.leaf.stop.tolist(), strict=True)
    return b"".join([sha256(prefix + data[start:stop]).digest() for start, stop in bounds])


def proven_edge(leaf: bytes, index: int, tree_size: int, proof: Sequence[bytes], root: bytes) -> TreeEdge:
    """The edge of the first `index` leaves, from an audit path that proves the leaf hash `leaf` at `index`.

    The siblings to the left of a leaf's path are that edge, so that one proof under a signed head is enough to begin
    anywhere. Raises InvalidProofError where the proof does not lead to `root`.
    """
    verify_inclusion(leaf, index, tree_size, proof, root)
    left = []
    node, last = index, tree_size - 1
    for sibling in proof:
        if node & 1 or node == last:
            left.append(sibling)
            while not node & 1 and node:
                node, last = node >> 1, last >> 1
        node, last = node >> 1, last >> 1
    return TreeEdge(index, tuple(reversed(left)))


def verify_range(
    start: int,
    leaves: bytes,
    tree_size: int,
    first_proof: Sequence[bytes],
    last_proof: Sequence[bytes],
    root: bytes,
) -> TreeEdge:
    """Check that the leaf hashes `leaves`, 32 bytes each, stand from index `start` on in the tree; the edge after them.

    `first_proof` and `last_proof` are the audit paths of the first and the last of them: the first proves what lies
    before, the last that what is between them leads there. Raises InvalidProofError where they do not.
    """
    if not leaves or len(leaves) % HASH_BYTES:
        raise InvalidProofError(f"{len(leaves)} bytes are not the hashes of a range of leaves")
    last = start + len(leaves) // HASH_BYTES - 1
    before = proven_edge(leaves[:HASH_BYTES], start, tree_size, first_proof, root)
    expected = proven_edge(leaves[-HASH_BYTES:], last, tree_size, last_proof, root)
    if before.extended(leaves[:-HASH_BYTES]) != expected:
        raise InvalidProofError(f"the leaves between {start} and {last} do not lead to the root")
    return expected.extended(leaves[-HASH_BYTES:])
