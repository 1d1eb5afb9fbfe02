"""Hexadecimal text of whole columns, in one call instead of one per value."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from certstream.ct.types import Int64Array, Spans

_USUAL_OCTETS = 64  # of an INTEGER; RFC 5280 §4.1.2.2 allows 20


def colon_hex(rows: NDArray[np.uint8], *, lower: bool = False) -> bytes:
    """(n, k) octets → n texts `AA:BB:…` of 3k - 1 characters, back to back."""
    n, k = rows.shape
    text = rows.tobytes().hex(":")
    octets = np.frombuffer(f"{text if lower else text.upper()}:".encode(), np.uint8)
    return octets[: 3 * n * k].reshape(n, 3 * k)[:, : 3 * k - 1].tobytes()


def fixed_slices(text: bytes, width: int) -> list[bytes]:
    """`text` cut into pieces of `width` bytes."""
    return [text[i : i + width] for i in range(0, len(text), width)]


def integer_hex(octets: NDArray[np.uint8], content: Spans) -> list[bytes | None]:
    """Upper hex of the INTEGERs whose content lies at the spans, without leading zero octets; None where start is -1.

    A negative number shows its two's complement octets, as certificates hold them.
    """
    start, stop = content
    zero = (start >= 0) & (stop - start > 1) & (octets[start] == 0)
    start = start + zero  # of a positive number whose highest bit is set
    there = start >= 0
    odd = there & ((stop - start > _USUAL_OCTETS) | ((stop - start > 1) & (octets[start] == 0)))
    length = np.where(there & ~odd, stop - start, 0)
    bounds = np.concatenate([[0], np.cumsum(length)])
    text = octets[_ragged(start, length, bounds)].tobytes().hex().upper().encode()
    found = [
        text[2 * a : 2 * b] if here else None
        for here, (a, b) in zip(there.tolist(), pairwise(bounds.tolist()), strict=True)
    ]
    for row in np.flatnonzero(odd).tolist():
        found[row] = (octets[start[row] : stop[row]].tobytes().lstrip(b"\0") or b"\0").hex().upper().encode()
    return found


def _ragged(start: Int64Array, length: Int64Array, bounds: Int64Array) -> Int64Array:
    """Positions of all octets of n ranges, one range after the other."""
    return np.repeat(start - bounds[:-1], length) + np.arange(bounds[-1])
