"""Entries of a simulated log, as raw bytes: a run of them at a time, and one with all that is known of it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from hashlib import sha256

import pybase64

from certstream.ct.tls import Reader
from certstream.ct.types import PRECERT_ENTRY, UNKNOWN_ENTRY, X509_ENTRY
from certstream.errors import MalformedError
from certstream.simulator.templates import chain_vector, fingerprints_vector, vector


@dataclass(frozen=True, slots=True)
class RawEntry:
    """An entry to serve as it is given. `tile_leaf` is its form in a data tile, b"" to derive it."""

    leaf_input: bytes
    extra_data: bytes
    tile_leaf: bytes = b""


@dataclass(frozen=True, slots=True)
class LogEntry:
    """One entry and what is true of it, for tests to compare with.

    `shape` is "given" for an entry that was not generated; then nothing is said of its names.
    """

    index: int
    timestamp_ms: int
    entry_type: int  # X509_ENTRY, PRECERT_ENTRY, or UNKNOWN_ENTRY where the framing does not hold
    leaf_input: bytes
    extra_data: bytes
    tile_leaf: bytes  # as in a data tile
    der: bytes  # as submitted; of an unknown type the leaf_input
    chain: tuple[bytes, ...]  # DER
    shape: str
    common_name: str | None = None
    dns_names: tuple[str, ...] = ()  # of the subjectAltName, in order
    is_ca: bool = False

    @property
    def all_domains(self) -> tuple[str, ...]:
        """The names as a stream message lists them: the common name of no authority first, then the others."""
        first = () if self.is_ca or not self.common_name else (self.common_name,)
        return tuple(dict.fromkeys((*first, *self.dns_names)))


@dataclass(slots=True)
class Records:
    """Entries [first, first + len): one buffer of records, and beside it what they share.

    A record is 0x00 || leaf_input || what comes between it and the chain; see Template.record.
    """

    first: int
    data: bytes
    start: list[int]
    leaf_stop: list[int]
    stop: list[int]
    chain: list[bytes]  # end of extra_data
    fingerprints: list[bytes]  # end of the data tile's leaf

    def __len__(self) -> int:
        return len(self.start)

    def leaf_hashes(self) -> bytes:
        """The leaf hashes, 32 bytes each."""
        view = memoryview(self.data)
        spans = zip(self.start, self.leaf_stop, strict=True)
        return b"".join([sha256(view[start:stop]).digest() for start, stop in spans])

    def leaf_input(self, at: int) -> bytes:
        """leaf_input of the entry at position `at` of this run."""
        return self.data[self.start[at] + 1 : self.leaf_stop[at]]

    def extra_data(self, at: int) -> bytes:
        """extra_data of the entry at position `at` of this run."""
        return self.data[self.leaf_stop[at] : self.stop[at]] + self.chain[at]

    def tile_leaf(self, at: int) -> bytes:
        """The entry at position `at` as in a data tile: without version and leaf_type, the chain as hashes."""
        return self.data[self.start[at] + 3 : self.stop[at]] + self.fingerprints[at]

    def tile_leaves(self) -> list[bytes]:
        """All entries as in a data tile."""
        return [self.tile_leaf(at) for at in range(len(self))]

    def json_entries(self) -> list[bytes]:
        """All entries as JSON objects of get-entries."""
        encode, data = pybase64.b64encode, self.data
        view = memoryview(data)
        rows = zip(self.start, self.leaf_stop, self.stop, self.chain, strict=True)
        return [
            b'{"leaf_input":"%b","extra_data":"%b"}'
            % (encode(view[start + 1 : leaf_stop]), encode(data[leaf_stop:stop] + chain))
            for start, leaf_stop, stop, chain in rows
        ]


def json_entry(leaf_input: bytes, extra_data: bytes) -> bytes:
    """One entry as JSON object of get-entries."""
    return b'{"leaf_input":"%b","extra_data":"%b"}' % (pybase64.b64encode(leaf_input), pybase64.b64encode(extra_data))


def given_records(first: int, entries: Sequence[RawEntry]) -> Records:
    """Records of given entries: the leaf_input, then all of the extra_data or of the tile's leaf.

    Both ends are kept apart because an entry that cannot be framed has no other common form.
    """
    records = Records(first, b"", [], [], [], [], [])
    parts: list[bytes] = []
    at = 0
    for entry in entries:
        records.start.append(at)
        at += 1 + len(entry.leaf_input)
        records.leaf_stop.append(at)
        records.stop.append(at)
        records.chain.append(entry.extra_data)
        records.fingerprints.append((entry.tile_leaf or tile_leaf_of(entry))[max(len(entry.leaf_input) - 2, 0) :])
        parts += (b"\x00", entry.leaf_input)
    records.data = b"".join(parts)
    return records


def tile_leaf_of(entry: RawEntry) -> bytes:
    """The form of an entry in a data tile; one that cannot be framed is its leaf_input alone, which breaks the tile."""
    entry_type, _, chain = framed(entry)
    if entry_type == UNKNOWN_ENTRY:
        return entry.leaf_input[2:]
    submitted = b""
    if entry_type == PRECERT_ENTRY:
        submitted = vector(3, Reader(entry.extra_data).vector(3))
    return entry.leaf_input[2:] + submitted + fingerprints_vector(chain)


def framed(entry: RawEntry) -> tuple[int, bytes, tuple[bytes, ...]]:
    """Entry type, DER as submitted and chain; UNKNOWN_ENTRY and the leaf_input where the framing does not hold."""
    try:
        return _framed(entry)
    except MalformedError:
        return UNKNOWN_ENTRY, entry.leaf_input, ()


def _framed(entry: RawEntry) -> tuple[int, bytes, tuple[bytes, ...]]:
    leaf, extra = Reader(entry.leaf_input), Reader(entry.extra_data)
    if leaf.uint(2):
        raise MalformedError("another version or leaf_type than RFC 6962 names")
    leaf.take(8)
    entry_type = leaf.uint(2)
    if entry_type == X509_ENTRY:
        der = leaf.vector(3)
    elif entry_type == PRECERT_ENTRY:
        leaf.take(32)
        leaf.vector(3)
        der = extra.vector(3)
    else:
        raise MalformedError(f"entry_type {entry_type}")
    leaf.vector(2)
    leaf.end()
    chain = _certificates(extra.vector(3))
    extra.end()
    return entry_type, der, chain


def _certificates(data: bytes) -> tuple[bytes, ...]:
    reader, found = Reader(data), []
    while reader.left:
        found.append(reader.vector(3))
    return tuple(found)


def entries_of_tile(data: bytes, issuers: Mapping[bytes, bytes] | None = None) -> list[RawEntry]:
    """The entries of a data tile, to serve them as a log; raises MalformedError where its framing breaks.

    `issuers` (SHA-256 → DER) gives extra_data its chain, which without them is left empty.
    """
    reader, found = Reader(data), []
    while reader.left:
        found.append(_tile_entry(data, reader, issuers or {}))
    return found


def _tile_entry(data: bytes, reader: Reader, issuers: Mapping[bytes, bytes]) -> RawEntry:
    start = reader.pos
    reader.take(8)
    entry_type = reader.uint(2)
    if entry_type not in (X509_ENTRY, PRECERT_ENTRY):
        raise MalformedError(f"entry_type {entry_type} at offset {start}")
    if entry_type == PRECERT_ENTRY:
        reader.take(32)
    reader.vector(3)
    reader.vector(2)
    leaf_input = b"\x00\x00" + data[start : reader.pos]
    submitted = vector(3, reader.vector(3)) if entry_type == PRECERT_ENTRY else b""
    fingerprints = reader.vector(2)
    hashes = [fingerprints[at : at + 32] for at in range(0, len(fingerprints), 32)]
    chain = tuple(issuers[each] for each in hashes if each in issuers)
    return RawEntry(leaf_input, submitted + chain_vector(chain), data[start : reader.pos])
