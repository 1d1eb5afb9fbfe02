"""Makes entries from a seed and their index alone: any run of them, at any time, the same bytes.

The work of a run is done for all its entries at once: records of templates side by side in one
buffer, then the bytes of each entry written over the marks.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from functools import cache
from hashlib import sha256
from itertools import accumulate
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from certstream.ct.types import Int64Array
from certstream.simulator import templates
from certstream.simulator.certificates import LABEL
from certstream.simulator.entries import LogEntry, Records
from certstream.simulator.templates import Template

Uint64Array: TypeAlias = NDArray[np.uint64]
Timestamps: TypeAlias = Callable[[Int64Array], Int64Array]

_TIMESTAMP_AT = 3  # in a record: after 0x00, version and leaf_type
_CERTIFICATE_AT = 16  # of an X.509 entry: after timestamp, entry_type and u24 length too
_ALPHABET = np.frombuffer(b"abcdefghijklmnopqrstuvwxyz234567", np.uint8)
_LABEL_SHIFTS = np.arange(45, -1, -5, dtype=np.uint64)  # ten characters of 5 bits
_LABEL_MASK = np.uint64((1 << 50) - 1)
_LABEL_STEP = np.uint64(0x2545F4914F6CD)  # odd, so that 2**50 labels come before one returns


class _Marks:
    """Where one mark stands in each template: offsets of all, and where each template's begin."""

    def __init__(self, records: list[bytes], mark: bytes) -> None:
        found = [templates.occurrences(record, mark) for record in records]
        self.width = np.arange(len(mark))
        self.counts = np.array([len(each) for each in found])
        self.first = np.concatenate(([0], np.cumsum(self.counts)[:-1]))
        self.offsets = np.array([at for each in found for at in each])

    def write(
        self, buffer: NDArray[np.uint8], start: Int64Array, chosen: Int64Array, values: NDArray[np.uint8]
    ) -> None:
        """Write `values[i]` wherever the mark stands in the record of template `chosen[i]` at `start[i]`."""
        counts = self.counts[chosen]
        owner = np.repeat(np.arange(len(chosen)), counts)
        nth = np.arange(len(owner)) - np.repeat(np.cumsum(counts) - counts, counts)
        at = start[owner] + self.offsets[self.first[chosen][owner] + nth]
        buffer[at[:, None] + self.width] = values[owner]


class _Library:
    """All templates as records, with or without room for the leaf index."""

    def __init__(self, *, leaf_index: bool) -> None:
        self.templates = templates.parseable() + templates.unparseable()
        both = [template.record(leaf_index=leaf_index) for template in self.templates]
        self.records = [record for record, _ in both]
        self.leaf_stops = np.array([stop for _, stop in both])
        self.lengths = np.array([len(record) for record in self.records])
        self.chains = [templates.chain_vector(template.chain) for template in self.templates]
        self.fingerprints = [templates.fingerprints_vector(template.chain) for template in self.templates]
        self.serials, self.labels = (_Marks(self.records, mark) for mark in templates.MARKS)


@cache
def _library(leaf_index: bool) -> _Library:
    return _Library(leaf_index=leaf_index)


@cache
def issuers() -> dict[bytes, bytes]:
    """Every certificate that stands in a chain, by its SHA-256."""
    every = templates.parseable() + templates.unparseable()
    return {sha256(der).digest(): der for template in every for der in template.chain}


def shape_names() -> tuple[str, ...]:
    """The shapes that a Generator can be restricted to."""
    return tuple(dict.fromkeys(template.shape for template in templates.parseable()))


class Generator:
    """An endless run of entries. No two have the same certificate.

    `unparseable` (0 to 1) is the share of certificates that nothing can be read of; the rest are of
    `shapes`, by default of all, by weight. Certificates follow from `seed` and index alone, so two
    logs of one seed hold the same; leaves hold the timestamp and, if `leaf_index`, the index as well.
    """

    def __init__(
        self,
        seed: int,
        timestamps: Timestamps,
        *,
        leaf_index: bool,
        unparseable: float = 0.0,
        shapes: Collection[str] | None = None,
    ) -> None:
        self._library = _library(leaf_index)
        self._timestamps = timestamps
        self._leaf_index = leaf_index
        self._key = np.uint64(int.from_bytes(sha256(f"certstream simulator {seed}".encode()).digest()[:8]))
        self._cumulative = _cumulative_weights(unparseable, shapes)

    def records(self, start: int, stop: int) -> Records:
        """Entries [start, stop)."""
        library, index = self._library, np.arange(start, stop)
        chosen = self._choose(index)
        picked = chosen.tolist()
        buffer = bytearray().join([library.records[number] for number in picked])
        stops = np.cumsum(library.lengths[chosen])
        starts = stops - library.lengths[chosen]
        self._write(np.frombuffer(buffer, np.uint8), starts, chosen, index)
        return Records(
            start,
            bytes(buffer),
            starts.tolist(),
            (starts + library.leaf_stops[chosen]).tolist(),
            stops.tolist(),
            [library.chains[number] for number in picked],
            [library.fingerprints[number] for number in picked],
        )

    def entry(self, index: int) -> LogEntry:
        """One entry with the truth about it."""
        records = self.records(index, index + 1)
        numbers = np.array([index])
        template = self._library.templates[int(self._choose(numbers)[0])]
        label = self._label(numbers).tobytes().decode()
        return LogEntry(
            index,
            int(self._timestamps(numbers)[0]),
            template.entry_type,
            records.leaf_input(0),
            records.extra_data(0),
            records.tile_leaf(0),
            self._submitted(template, records),
            template.chain,
            template.shape,
            _labelled(template.common_name, label) if template.common_name else None,
            tuple(_labelled(each, label) for each in template.names),
            template.is_ca,
        )

    def _submitted(self, template: Template, records: Records) -> bytes:
        if template.submitted:
            return records.data[records.leaf_stop[0] + 3 :]
        return records.data[_CERTIFICATE_AT : _CERTIFICATE_AT + len(template.certificate)]

    def _choose(self, index: Int64Array) -> Int64Array:
        drawn = _mixed(index.astype(np.uint64) ^ ~self._key) >> np.uint64(11)
        return np.searchsorted(self._cumulative, drawn / float(1 << 53), side="right")

    def _label(self, index: Int64Array) -> NDArray[np.uint8]:
        number = (index.astype(np.uint64) * _LABEL_STEP + self._key) & _LABEL_MASK
        labels: NDArray[np.uint8] = _ALPHABET[(number[:, None] >> _LABEL_SHIFTS) & np.uint64(31)]
        return labels

    def _write(self, buffer: NDArray[np.uint8], start: Int64Array, chosen: Int64Array, index: Int64Array) -> None:
        library = self._library
        library.serials.write(buffer, start, chosen, _big_endian(_mixed(index.astype(np.uint64) + self._key)))
        library.labels.write(buffer, start, chosen, self._label(index))
        eight = np.arange(8)
        buffer[start[:, None] + _TIMESTAMP_AT + eight] = _big_endian(self._timestamps(index))
        if self._leaf_index:
            at = (start + library.leaf_stops[chosen] - 5)[:, None]
            buffer[at + eight[:5]] = _big_endian(index)[:, 3:]


def _labelled(text: str, label: str) -> str:
    return text.replace(LABEL, label)


def _cumulative_weights(unparseable: float, shapes: Collection[str] | None) -> NDArray[np.float64]:
    """Bounds between the templates' parts of [0, 1)."""
    if not 0 <= unparseable <= 1:
        raise ValueError(f"the share of unparseable entries is 0 to 1, not {unparseable}")
    unknown = set(shapes or ()) - set(shape_names())
    if unknown:
        raise ValueError(f"unknown shapes: {', '.join(sorted(unknown))}")
    good = [each.weight if not shapes or each.shape in shapes else 0.0 for each in templates.parseable()]
    bad = [each.weight for each in templates.unparseable()]
    shares = [each * (1 - unparseable) / sum(good) for each in good] + [each * unparseable / sum(bad) for each in bad]
    bounds = np.array(list(accumulate(shares)))
    last = max(number for number, share in enumerate(shares) if share)
    bounds[last:] = 1.0  # the sum, however it was rounded
    return bounds


def _mixed(number: Uint64Array) -> Uint64Array:
    """A bijection that looks random: the finaliser of splitmix64 (Steele, Lea, Flood 2014)."""
    number = number * np.uint64(0x9E3779B97F4A7C15)
    number = (number ^ number >> np.uint64(30)) * np.uint64(0xBF58476D1CE4E5B9)
    number = (number ^ number >> np.uint64(27)) * np.uint64(0x94D049BB133111EB)
    return number ^ number >> np.uint64(31)


def _big_endian(numbers: Int64Array | Uint64Array) -> NDArray[np.uint8]:
    """Each number as a row of 8 bytes."""
    return np.ascontiguousarray(numbers).astype(">u8").view(np.uint8).reshape(-1, 8)
