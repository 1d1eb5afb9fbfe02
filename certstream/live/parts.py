"""How much of a batch is published at a time."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from certstream.ct.static_ct import split_fingerprints
from certstream.ct.types import EntryBatch, cut_batch, slice_batch


def publishable_parts(batch: EntryBatch, most_bytes: int) -> Iterator[EntryBatch]:
    """The batch in consecutive parts of at most `most_bytes`, or of one entry where that is larger.

    The issuers that a static-ct entry names count too, each time: messages of the full stream repeat them, so that an
    entry of 2 KB may make one of megabytes.
    """
    for part in cut_batch(batch, most_bytes):
        yield from _cut_by_issuers(part, most_bytes)


def _cut_by_issuers(batch: EntryBatch, most_bytes: int) -> Iterator[EntryBatch]:
    ends = np.cumsum(_issuer_bytes(batch)) if batch.issuers else np.zeros(len(batch), np.int64)
    first = 0
    while first < len(batch):
        before = int(ends[first - 1]) if first else 0
        last = max(first + 1, int(np.searchsorted(ends, before + most_bytes, side="right")))
        yield slice_batch(batch, batch.start + first, batch.start + last)
        first = last


def _issuer_bytes(batch: EntryBatch) -> list[int]:
    """Bytes of the issuers that each entry names."""
    chains = batch.chain.slices(batch.data)
    sizes = {
        chain: sum(len(batch.issuers.get(print_, b"")) for print_ in split_fingerprints(chain)) for chain in set(chains)
    }
    return [sizes[chain] for chain in chains]
