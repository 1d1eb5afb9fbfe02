"""What must hold of whatever `ct` reads: nothing raises but what is documented, and proofs prove what they say."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from hashlib import sha256
from typing import Any, Final

from certstream.ct.edge import TreeEdge, proven_edge, verify_range
from certstream.ct.hash_tiles import HashTiles
from certstream.ct.log_choice import NamedList, Selection, choose_logs
from certstream.ct.log_list import MAX_LISTED_LOGS, parse_log_list, verify_log_list
from certstream.ct.merkle import node_hash, verify_consistency, verify_inclusion
from certstream.ct.rfc6962 import (
    parse_consistency,
    parse_entry_and_proof,
    parse_get_entries,
    parse_proof_by_hash,
    parse_sth,
)
from certstream.ct.signatures import log_id, verify_tree_head
from certstream.ct.static_ct import parse_checkpoint, parse_note_signatures
from certstream.ct.types import HASH_BYTES, MAX_TREE_SIZE, TILE_WIDTH, TreeHead
from certstream.ct.urls import is_log_url, url_identity
from certstream.errors import ConfigError, InvalidProofError, InvalidSignatureError, MalformedError
from fuzz.seeds import CHECKPOINT, CHECKPOINT_KEY, CHECKPOINT_ORIGIN, CLASSIC, unframed

_ANSWERS: Final[tuple[Callable[[bytes], Any], ...]] = (parse_consistency, parse_proof_by_hash, parse_entry_and_proof)
_SIGNED: Final = parse_checkpoint(CHECKPOINT, CHECKPOINT_ORIGIN, log_id(CHECKPOINT_KEY))


def accepts(errors: type[Exception] | tuple[type[Exception], ...], call: Callable[..., object], *args: Any) -> bool:
    """Whether it returns, and does not raise one of those errors; all others go on."""
    try:
        call(*args)
    except errors:
        return False
    return True


def check_answer(data: bytes) -> None:
    """An answer of an RFC 6962 log, but get-entries."""
    for parse in _ANSWERS:
        accepts(MalformedError, parse, data)
    try:
        head = parse_sth(data)
    except MalformedError:
        return
    _check_head(head)


def _check_head(head: TreeHead) -> None:
    assert len(head.root_hash) == HASH_BYTES
    assert 0 <= head.tree_size <= MAX_TREE_SIZE
    assert 0 <= head.timestamp_ms <= MAX_TREE_SIZE
    if accepts(InvalidSignatureError, verify_tree_head, head, CHECKPOINT_KEY):
        signed = (_SIGNED.tree_size, _SIGNED.timestamp_ms, _SIGNED.root_hash)
        assert (head.tree_size, head.timestamp_ms, head.root_hash) == signed


def check_page(data: bytes) -> None:
    """A get-entries answer."""
    try:
        batch = parse_get_entries(CLASSIC, 5, data)
    except MalformedError:
        accepts(MalformedError, parse_get_entries, CLASSIC, 5, data, 2)
        return
    first = parse_get_entries(CLASSIC, 5, data, 2)
    assert len(first) == min(2, len(batch))
    assert first.cert.slices(first.data) == batch.cert.rows(0, 2).slices(batch.data)


def check_checkpoint(data: bytes) -> None:
    """A checkpoint: with known origin and log id, and without; only what was signed verifies."""
    accepts(MalformedError, parse_note_signatures, data)
    key_id = log_id(CHECKPOINT_KEY)
    for arguments in ((), (CHECKPOINT_ORIGIN, key_id), (None, key_id)):
        try:
            head = parse_checkpoint(data, *arguments)
        except MalformedError:
            continue
        assert head.note == data
        _check_head(head)


def check_edge(data: bytes) -> None:
    """The edge of a tree, as it is kept."""
    try:
        edge = TreeEdge.from_bytes(data)
    except MalformedError:
        return
    assert edge.to_bytes() == data
    assert len(edge.root()) == HASH_BYTES
    if edge.size < MAX_TREE_SIZE:
        longer = edge.extended(bytes(HASH_BYTES))
        assert longer.size == edge.size + 1
        assert TreeEdge.from_bytes(longer.to_bytes()) == longer


def check_proof(data: bytes) -> None:
    """Inclusion and consistency proofs, of trees of any size: what the definition accepts is accepted, no more.

    Index or first size, and size, of eight bytes; leaf or first root; root; path.
    """
    first, second = int.from_bytes(data[:8]), int.from_bytes(data[8:16])
    hashes = [data[at : at + HASH_BYTES] for at in range(16, len(data), HASH_BYTES)]
    if len(hashes) < 2:
        return
    leaf, root, path = hashes[0], hashes[1], hashes[2:]
    whole = all(len(each) == HASH_BYTES for each in hashes)
    includes = accepts(InvalidProofError, verify_inclusion, leaf, first, second, path, root)
    assert includes == (whole and first < second and included_root(leaf, first, second, path) == root)
    consistent = accepts(InvalidProofError, verify_consistency, first, second, leaf, root, path)
    assert consistent == (
        whole and 1 <= first <= second and consistent_roots(first, second, leaf, path) == (leaf, root)
    )
    if second <= MAX_TREE_SIZE:
        assert includes == accepts(InvalidProofError, proven_edge, leaf, first, second, path, root)
        assert includes == accepts(InvalidProofError, verify_range, first, leaf, second, path, path, root)
        accepts(InvalidProofError, verify_range, first, leaf + root, second, path, path, root)


def included_root(leaf: bytes, index: int, size: int, path: Sequence[bytes]) -> bytes | None:
    """The root that an audit path leads to (RFC 6962 §2.1.1, from the root downwards), None where it is too short."""
    if size == 1 or not path:
        return leaf if size == 1 and not path else None
    middle = 1 << (size - 1).bit_length() - 1
    if index < middle:
        left = included_root(leaf, index, middle, path[:-1])
        return None if left is None else node_hash(left, path[-1])
    right = included_root(leaf, index - middle, size - middle, path[:-1])
    return None if right is None else node_hash(path[-1], right)


def consistent_roots(first: int, second: int, known: bytes | None, path: Sequence[bytes]) -> tuple[bytes, bytes] | None:
    """The roots that a consistency proof leads to (RFC 6962 §2.1.2, SUBPROOF); `known` is the first one's, at its left.

    None where the length of the proof is wrong.
    """
    if first == second:
        if known is not None:
            return None if path else (known, known)
        return (path[0], path[0]) if len(path) == 1 else None
    if not path:
        return None
    middle = 1 << (second - 1).bit_length() - 1
    if first <= middle:
        left = consistent_roots(first, middle, known, path[:-1])
        return None if left is None else (left[0], node_hash(left[1], path[-1]))
    right = consistent_roots(first - middle, second - middle, None, path[:-1])
    return None if right is None else (node_hash(path[-1], right[0]), node_hash(path[-1], right[1]))


def check_hash_tiles(data: bytes) -> None:
    """A size, a root, and the tiles that are asked for: those of the edge, then one of 256 leaves and its hashes."""
    size, root, rest = int.from_bytes(data[:8]), data[8:40].ljust(HASH_BYTES, b"\0"), data[40:]
    if not 0 < size <= MAX_TREE_SIZE:
        return
    tiles = HashTiles(size, root)
    wanted = tiles.missing_for_edge(size)
    given = {}
    for tile in wanted:
        given[tile], rest = rest[: tile.width * HASH_BYTES], rest[tile.width * HASH_BYTES :]
    if not accepts(InvalidProofError, tiles.add, given):
        assert tiles.edge is None
        return
    assert tiles.edge is not None
    assert (tiles.edge.size, tiles.edge.root()) == (size, root)
    count = min(TILE_WIDTH, size)
    missing = tiles.missing_for_leaves(0, count)
    if not missing:
        leaves = rest[: count * HASH_BYTES].ljust(count * HASH_BYTES, b"\0")
        if accepts(InvalidProofError, tiles.check_leaves, 0, leaves):
            assert TreeEdge().extended(leaves).hashes[0] in (*tiles.edge.hashes, (tiles.tile(1, 0) or b"")[:HASH_BYTES])


def check_signature(data: bytes) -> None:
    """A key and a signature, over a tree head or a list."""
    spki, signature = [*unframed(data, 2), b"", b""][:2]
    head = TreeHead(_SIGNED.tree_size, _SIGNED.timestamp_ms, _SIGNED.root_hash, signature)
    refused = (InvalidSignatureError, ConfigError)
    for key in (spki, CHECKPOINT_KEY):
        if accepts(refused, verify_tree_head, head, key) and key == CHECKPOINT_KEY:
            assert head.signature[:4] == _SIGNED.signature[:4]
        accepts(refused, verify_log_list, data, signature, key)


def check_log_list(data: bytes) -> None:
    """A log list, and the choice among its logs."""
    try:
        found = parse_log_list(data)
    except MalformedError:
        return
    assert 0 < len(found.logs) <= MAX_LISTED_LOGS
    assert (
        len({log.log_id for log in found.logs}) == len({url_identity(log.url) for log in found.logs}) == len(found.logs)
    )
    for log in found.logs:
        assert log.log_id == sha256(log.key).digest()
        assert is_log_url(log.url)
        assert log.name.isprintable()
        assert log.operator.isprintable()
        assert log.final_tree_head is None or log.state == "readonly"
    for bad in found.unusable:
        assert all(text.isprintable() for text in (bad.name, bad.url, bad.operator, bad.reason))
    lists = [NamedList("one", found), NamedList("two", found)]
    choice = choose_logs(lists, Selection(exclude_operators=("x",)), 1_767_139_200_000)
    assert len(choice.chosen) + len(choice.omitted) == len(found.logs) + 2 * len(found.unusable)
    assert len({each.log.name for each in choice.chosen}) == len(choice.chosen)


def check_url(data: bytes) -> None:
    """What may be a log's URL."""
    url = data.decode("utf-8", "surrogateescape")
    identity = url_identity(url)
    assert (identity is not None) == is_log_url(url)
    assert identity is None or url_identity(identity) == identity
