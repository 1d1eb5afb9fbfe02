"""The values that the rest of the program speaks in: logs, tree heads, batches of entries."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import pairwise
from typing import Literal, NamedTuple, TypeAlias

import numpy as np
from numpy.typing import NDArray

LogKind: TypeAlias = Literal["rfc6962", "static"]
Int64Array: TypeAlias = NDArray[np.int64]

X509_ENTRY = 0
PRECERT_ENTRY = 1
UNKNOWN_ENTRY = -1  # a type the specification does not name, or a framing that does not hold

TILE_WIDTH = 256  # entries in a full data tile, hashes in a full hash tile
HASH_BYTES = 32
MAX_TREE_SIZE = 2**63 - 1  # of what a log may claim: positions and times are signed 64-bit numbers everywhere
MAX_CHAIN = 64  # certificates read of one chain; real ones have up to 10
PADDING = bytes(64)  # after the last entry, where it costs no copy: see EntryBatch.data


@dataclass(frozen=True, slots=True)
class LogInfo:
    """One log as the configuration names it."""

    name: str
    url: str  # as configured; for a static log its monitoring prefix
    kind: LogKind
    operator: str  # whose pace its requests count against
    key: bytes | None = None  # DER SubjectPublicKeyInfo
    log_id: bytes | None = None  # 32 raw bytes
    origin: str | None = None  # first line of the checkpoint, static logs only

    @property
    def base_url(self) -> str:
        """The URL without trailing slash: what requests append to, and the key in state and archive."""
        return self.url.rstrip("/")


@dataclass(frozen=True, slots=True)
class TreeHead:
    """What a log says its tree is: a signed tree head, or a checkpoint.

    `signature` is a DigitallySigned (RFC 5246 §4.7) over the 50 bytes of RFC 6962 §3.5. For a
    checkpoint it comes from the note signature under the log's name, and `note` keeps the whole text;
    where no such signature stands, it is empty and `timestamp_ms` 0.
    """

    tree_size: int  # leaves, >= 0
    timestamp_ms: int  # Unix ms, the log's clock
    root_hash: bytes  # 32 bytes
    signature: bytes
    note: bytes = b""


class Spans(NamedTuple):
    """n half-open byte ranges [start, stop) into one shared buffer."""

    start: Int64Array
    stop: Int64Array

    def shifted(self, by: int) -> Spans:
        """The same ranges `by` bytes further on."""
        return Spans(self.start + by, self.stop + by)

    def slices(self, data: bytes) -> list[bytes]:
        """The bytes of each range."""
        return [data[a:b] for a, b in zip(self.start.tolist(), self.stop.tolist(), strict=True)]

    def rows(self, first: int, last: int) -> Spans:
        """Ranges [first, last)."""
        return Spans(self.start[first:last], self.stop[first:last])


@dataclass(frozen=True, slots=True, eq=False)
class EntryBatch:
    """Entries [start, start + len) of one log, as raw bytes and where their parts lie.

    All spans point into `data`, which may go on after the last of them: with PADDING behind it, decoding needs
    no copy. What could not be framed has `entry_type` UNKNOWN_ENTRY, `cert` equal to `leaf` and an empty `chain`:
    an entry all the same.
    """

    log: LogInfo
    start: int  # index of the first entry
    data: bytes
    timestamp_ms: Int64Array  # the log's timestamp of each entry, Unix ms
    entry_type: Int64Array  # X509_ENTRY, PRECERT_ENTRY or UNKNOWN_ENTRY
    leaf: Spans  # leaf_input; of a data tile: the TimestampedEntry, see leaf_prefix
    cert: Spans  # DER as submitted: the certificate, or the precertificate with its poison
    chain: Spans  # rfc6962: (u24 length || DER)*; static: the 32-byte SHA-256 of each issuer
    leaf_prefix: bytes = b"\x00"  # leaf hash = SHA-256(leaf_prefix || leaf)
    issuers: Mapping[bytes, bytes] = field(default_factory=dict)  # static: SHA-256 → DER, where known

    def __len__(self) -> int:
        return len(self.timestamp_ms)

    @property
    def stop(self) -> int:
        """Index after the last entry."""
        return self.start + len(self)


def slice_batch(batch: EntryBatch, start: int, stop: int) -> EntryBatch:
    """Entries [start, stop), given as indices of the log, of a batch that holds them; shares its bytes."""
    if not batch.start <= start <= stop <= batch.stop:
        raise ValueError(f"[{start}, {stop}) is not inside [{batch.start}, {batch.stop})")
    first, last = start - batch.start, stop - batch.start
    return replace(
        batch,
        start=start,
        timestamp_ms=batch.timestamp_ms[first:last],
        entry_type=batch.entry_type[first:last],
        leaf=batch.leaf.rows(first, last),
        cert=batch.cert.rows(first, last),
        chain=batch.chain.rows(first, last),
    )


def batch_bytes(batch: EntryBatch) -> int:
    """Bytes of the entries, chains included."""
    if not len(batch):
        return 0
    return int(max(batch.leaf.stop[-1], batch.cert.stop[-1], batch.chain.stop[-1]) - batch.leaf.start[0])


def cut_batch(batch: EntryBatch, most_bytes: int) -> Iterator[EntryBatch]:
    """The batch in consecutive parts of at most `most_bytes`, or of one entry where that is larger."""
    ends = np.append(batch.leaf.start[1:], len(batch.data)) if len(batch) else batch.leaf.start
    first = 0
    while first < len(batch):
        limit = int(batch.leaf.start[first]) + most_bytes
        last = max(first + 1, int(np.searchsorted(ends, limit, side="right")))
        yield slice_batch(batch, batch.start + first, batch.start + last)
        first = last


def check_consecutive(batches: Sequence[EntryBatch]) -> None:
    """Raises ValueError where batches do not follow each other."""
    if any(left.stop != right.start for left, right in pairwise(batches)):
        raise ValueError("batches do not follow each other")


def concat_batches(batches: Sequence[EntryBatch]) -> EntryBatch:
    """One batch of consecutive batches (at least one) of the same log and protocol."""
    first = batches[0]
    if len(batches) == 1:
        return first
    check_consecutive(batches)
    shifts = np.cumsum([0, *(len(batch.data) for batch in batches[:-1])]).tolist()
    return replace(
        first,
        data=b"".join([*(batch.data for batch in batches), PADDING]),
        timestamp_ms=np.concatenate([batch.timestamp_ms for batch in batches]),
        entry_type=np.concatenate([batch.entry_type for batch in batches]),
        leaf=_join([batch.leaf.shifted(by) for batch, by in zip(batches, shifts, strict=True)]),
        cert=_join([batch.cert.shifted(by) for batch, by in zip(batches, shifts, strict=True)]),
        chain=_join([batch.chain.shifted(by) for batch, by in zip(batches, shifts, strict=True)]),
        issuers={key: der for batch in batches for key, der in batch.issuers.items()},
    )


def _join(spans: Sequence[Spans]) -> Spans:
    return Spans(np.concatenate([s.start for s in spans]), np.concatenate([s.stop for s in spans]))
