"""Entries framed by hand, one field after the other: what the framing of whole batches is compared with."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from certstream.ct.edge import leaf_hashes
from certstream.ct.merkle import leaf_hash
from certstream.ct.static_ct import DataTile
from certstream.ct.tls import Reader
from certstream.ct.types import HASH_BYTES, PRECERT_ENTRY, TILE_WIDTH, UNKNOWN_ENTRY, X509_ENTRY, EntryBatch
from certstream.errors import MalformedError


class Entry(NamedTuple):
    """One entry."""

    kind: int
    timestamp_ms: int
    leaf_input: bytes
    cert: bytes
    chain: bytes


def assert_framed_as_by_hand(batch: EntryBatch, parts: Sequence[bytes]) -> None:
    """`parts` are leaf_input and extra_data of the first entry, of the second, and so on."""
    _assert_same(batch, [_entry(*pair) for pair in zip(parts[::2], parts[1::2], strict=True)])


def assert_tile_as_by_hand(tile: DataTile, body: bytes) -> None:
    """The entries up to where the framing breaks, and whether it does."""
    found: list[Entry] = []
    reader = Reader(body)
    broken = False
    while reader.left and len(found) < TILE_WIDTH and not broken:
        try:
            found.append(_tile_leaf(body, reader))
        except MalformedError:
            broken = True
    assert broken == (tile.error is not None)
    _assert_same(tile.batch, found)


def _assert_same(batch: EntryBatch, entries: Sequence[Entry]) -> None:
    assert len(batch) == len(entries)
    assert batch.entry_type.tolist() == [entry.kind for entry in entries]
    assert batch.timestamp_ms.tolist() == [entry.timestamp_ms for entry in entries]
    assert batch.cert.slices(batch.data) == [entry.cert for entry in entries]
    assert batch.chain.slices(batch.data) == [entry.chain for entry in entries]
    assert leaf_hashes(batch) == b"".join(leaf_hash(entry.leaf_input) for entry in entries)


def _entry(leaf_input: bytes, extra_data: bytes) -> Entry:
    """RFC 6962 §3.4 and §4.6; what does not follow them is of no known type."""
    timestamp_ms = _signed(leaf_input[2:10]) if len(leaf_input) >= 12 else 0
    unknown = Entry(UNKNOWN_ENTRY, _stamp(leaf_input, timestamp_ms), leaf_input, leaf_input, b"")
    reader, extra = Reader(leaf_input), Reader(extra_data)
    try:
        if reader.uint(2):
            return unknown
        reader.take(8)
        kind = reader.uint(2)
        if kind == PRECERT_ENTRY:
            reader.take(HASH_BYTES)
        elif kind != X509_ENTRY:
            return unknown
        cert = reader.vector(3)
        reader.vector(2)
        reader.end()
        if kind == PRECERT_ENTRY:
            cert = extra.vector(3)
    except MalformedError:
        return unknown
    return Entry(kind, unknown.timestamp_ms, leaf_input, cert, _chain(extra_data, extra.pos))


def _stamp(leaf_input: bytes, timestamp_ms: int) -> int:
    return max(0, timestamp_ms) if len(leaf_input) >= 12 else 0


def _signed(octets: bytes) -> int:
    return int.from_bytes(octets, signed=True)


def _chain(extra_data: bytes, at: int) -> bytes:
    """No hash covers it: a total that is cut short gives nothing, one that is too large what is there."""
    total = int.from_bytes(extra_data[at : at + 3])
    return extra_data[at + 3 : at + 3 + total]


def _tile_leaf(body: bytes, reader: Reader) -> Entry:
    """TileLeaf of static-ct-api, "Log Entries"."""
    start = reader.pos
    timestamp_ms = _signed(reader.take(8))
    kind = reader.uint(2)
    if kind == PRECERT_ENTRY:
        reader.take(HASH_BYTES)
    elif kind != X509_ENTRY:
        raise MalformedError(f"entry type {kind}")
    cert = reader.vector(3)
    reader.vector(2)
    leaf = bytes(2) + body[start : reader.pos]
    if kind == PRECERT_ENTRY:
        cert = reader.vector(3)
    chain = reader.vector(2)
    if len(chain) % HASH_BYTES:
        raise MalformedError(f"chain of {len(chain)} bytes")
    return Entry(kind, max(0, timestamp_ms), leaf, cert, chain)
