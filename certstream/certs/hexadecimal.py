"""Hexadecimal text of whole columns, by table instead of a call per value."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from certstream.ct.types import Int64Array, Spans

_PAIRS = np.frombuffer(bytes(range(256)).hex().upper().encode(), np.uint8).reshape(256, 2)
_UPPER_COLON = np.concatenate([_PAIRS, np.full((256, 1), ord(":"), np.uint8)], axis=1)
_LOWER_COLON = np.frombuffer(_UPPER_COLON.tobytes().lower(), np.uint8).reshape(256, 3)


def colon_hex(rows: NDArray[np.uint8], *, lower: bool = False) -> bytes:
    """(n, k) octets → n texts `AA:BB:…` of 3k - 1 characters, back to back."""
    n, k = rows.shape
    table = _LOWER_COLON if lower else _UPPER_COLON
    return table[rows].reshape(n, 3 * k)[:, : 3 * k - 1].tobytes()


def fixed_slices(text: bytes, width: int) -> list[bytes]:
    """`text` cut into pieces of `width` bytes."""
    return [text[i : i + width] for i in range(0, len(text), width)]


def integer_hex(octets: NDArray[np.uint8], content: Spans) -> list[bytes | None]:
    """Upper hex of the INTEGERs whose content lies at the spans, without leading zero octets; None where start is -1.

    A negative number shows its two's complement octets, as certificates hold them.
    """
    start, stop = content.start.copy(), content.stop
    while len(zero := np.flatnonzero((start >= 0) & (stop - start > 1) & (octets[start] == 0))):
        start[zero] += 1
    length = np.where(start >= 0, stop - start, 0)
    bounds = np.concatenate([[0], np.cumsum(length)])
    text = _PAIRS[octets[_ragged(start, length, bounds)]].tobytes()
    missing = (start < 0).tolist()
    return [
        None if gone else text[2 * a : 2 * b] for gone, (a, b) in zip(missing, pairwise(bounds.tolist()), strict=True)
    ]


def _ragged(start: Int64Array, length: Int64Array, bounds: Int64Array) -> Int64Array:
    """Positions of all octets of n ranges, one range after the other."""
    return np.repeat(start - bounds[:-1], length) + np.arange(bounds[-1])
