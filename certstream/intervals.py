"""Sets of indices as sorted, disjoint, half-open intervals: what is archived of a log, and what is missing."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Final

import numpy as np
from numpy.typing import NDArray

from certstream.ct.types import Int64Array

_NONE: Final = np.empty(0, np.int64)


class Intervals:
    """An immutable set of integers in [0, 2^63), as intervals that neither overlap nor touch.

    `start` and `stop` are their borders, ascending; make one by `of`, `from_spans` or `from_indices`. Every operation
    takes time in proportion to the intervals (n log n), never to the integers in them.
    """

    __slots__ = ("start", "stop")

    def __init__(self, start: Int64Array = _NONE, stop: Int64Array = _NONE) -> None:
        self.start = start
        self.stop = stop

    @classmethod
    def of(cls, *spans: tuple[int, int]) -> Intervals:
        """The union of half-open (start, stop) pairs; empty ones count for nothing."""
        pairs = np.array(spans, np.int64).reshape(-1, 2)
        return cls.from_spans(pairs[:, 0], pairs[:, 1])

    @classmethod
    def from_spans(cls, start: Int64Array, stop: Int64Array) -> Intervals:
        """The union of n half-open spans in any order, overlapping or not."""
        some = start < stop
        if not some.all():
            start, stop = start[some], stop[some]
        if (start[1:] < start[:-1]).any():
            order = np.argsort(start, kind="stable")
            start, stop = start[order], stop[order]
        reach = np.maximum.accumulate(stop)
        first = np.ones(len(start), np.bool_)
        first[1:] = start[1:] > reach[:-1]
        last = np.append(first[1:], np.True_)[: len(first)]
        return cls(start[first], reach[last])

    @classmethod
    def from_indices(cls, indices: Int64Array) -> Intervals:
        """The set of these integers, in any order, each any number of times."""
        if (indices[1:] < indices[:-1]).any():
            indices = np.sort(indices)
        breaks = np.flatnonzero(indices[1:] > indices[:-1] + 1)
        start = np.concatenate([indices[:1], indices[breaks + 1]])
        stop = np.concatenate([indices[breaks], indices[-1:]]) + 1
        return cls(start, stop)

    @classmethod
    def union_of(cls, sets: Iterable[Intervals]) -> Intervals:
        """What stands in any of them."""
        known = [one for one in sets if len(one)]
        if len(known) < 2:
            return known[0] if known else cls()
        return cls.from_spans(np.concatenate([s.start for s in known]), np.concatenate([s.stop for s in known]))

    def __len__(self) -> int:
        """The number of intervals."""
        return len(self.start)

    def __iter__(self) -> Iterator[tuple[int, int]]:
        """Each interval as (start, stop), ascending."""
        return iter(zip(self.start.tolist(), self.stop.tolist(), strict=True))

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Intervals):
            return NotImplemented
        return np.array_equal(self.start, other.start) and np.array_equal(self.stop, other.stop)

    __hash__ = None  # type: ignore[assignment]  # compared by value, and holds arrays

    def __repr__(self) -> str:
        shown = ", ".join(f"[{start}, {stop})" for start, stop in list(self)[:8])
        return f"Intervals({shown}{', …' if len(self) > 8 else ''})"

    @property
    def count(self) -> int:
        """The number of integers."""
        return int((self.stop - self.start).sum())

    @property
    def lowest(self) -> int | None:
        """The smallest integer, None of an empty set."""
        return int(self.start[0]) if len(self) else None

    @property
    def end(self) -> int | None:
        """One above the largest integer, None of an empty set."""
        return int(self.stop[-1]) if len(self) else None

    def __or__(self, other: Intervals) -> Intervals:
        """What stands in either."""
        return Intervals.union_of((self, other))

    def __and__(self, other: Intervals) -> Intervals:
        """What stands in both."""
        if not len(self) or not len(other):
            return Intervals()
        # A border of one set inside the other, or two that meet, begins an interval of the intersection.
        start = np.union1d(self.start[other.contains(self.start)], other.start[self.contains(other.start)])
        stop = np.union1d(self.stop[other.contains(self.stop - 1)], other.stop[self.contains(other.stop - 1)])
        return Intervals(start, stop)

    def __sub__(self, other: Intervals) -> Intervals:
        """What stands here and not in the other."""
        if not len(self):
            return self
        low, high = int(self.start[0]), int(self.stop[-1])
        other = other.within(low, high)  # a small set less a large one takes only what lies beside it
        if not len(other):
            return self
        start = np.concatenate([[low], other.stop])
        stop = np.concatenate([other.start, [high]])
        some = start < stop
        return self & Intervals(start[some], stop[some])

    def within(self, start: int, stop: int) -> Intervals:
        """What lies in [start, stop)."""
        first = int(np.searchsorted(self.stop, start, side="right"))
        last = int(np.searchsorted(self.start, stop, side="left"))
        if first >= last:
            return Intervals()
        return Intervals(np.maximum(self.start[first:last], start), np.minimum(self.stop[first:last], stop))

    def contains(self, indices: Int64Array) -> NDArray[np.bool_]:
        """Say of each index whether it stands here."""
        if not len(self):
            return np.zeros(len(indices), np.bool_)
        at = np.searchsorted(self.start, indices, side="right") - 1
        inside: NDArray[np.bool_] = (at >= 0) & (indices < self.stop[at])
        return inside

    def first_gap(self, start: int) -> int:
        """The smallest integer from `start` on that does not stand here."""
        at = int(np.searchsorted(self.start, start, side="right")) - 1
        return max(start, int(self.stop[at])) if at >= 0 else start


def shown_range(start: int, stop: int) -> str:
    """[start, stop), which is not empty, as people read it: its first to its last index."""
    return f"{start:,}" if stop == start + 1 else f"{start:,} to {stop - 1:,}"
