"""Interval sets do what sets of integers do."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from certstream.intervals import Intervals

SPANS = st.lists(st.tuples(st.integers(0, 40), st.integers(0, 40)), max_size=8)
TOP = 2**63 - 1


def members(intervals: Intervals) -> set[int]:
    return {i for start, stop in intervals for i in range(start, stop)}


def of_spans(spans: list[tuple[int, int]]) -> set[int]:
    return {i for start, stop in spans for i in range(start, stop)}


@given(SPANS)
def test_a_union_of_spans_is_sorted_and_neither_overlaps_nor_touches(spans: list[tuple[int, int]]) -> None:
    intervals = Intervals.of(*spans)
    assert members(intervals) == of_spans(spans)
    assert all(start < stop for start, stop in intervals)
    assert (intervals.start[1:] > intervals.stop[:-1]).all()
    assert intervals.count == len(of_spans(spans))


@given(SPANS, SPANS)
def test_union_intersection_and_difference_are_those_of_sets(
    a: list[tuple[int, int]], b: list[tuple[int, int]]
) -> None:
    left, right = Intervals.of(*a), Intervals.of(*b)
    for got, wanted in (
        (left | right, of_spans(a) | of_spans(b)),
        (left & right, of_spans(a) & of_spans(b)),
        (left - right, of_spans(a) - of_spans(b)),
    ):
        assert members(got) == wanted
        assert got == Intervals.from_indices(np.array(sorted(wanted), np.int64))


@given(SPANS, st.integers(0, 45), st.integers(0, 45))
def test_within_cuts_at_both_ends(spans: list[tuple[int, int]], start: int, stop: int) -> None:
    assert members(Intervals.of(*spans).within(start, stop)) == of_spans(spans) & set(range(start, stop))


@given(SPANS, st.integers(0, 45))
def test_first_gap_is_the_next_index_that_is_missing(spans: list[tuple[int, int]], start: int) -> None:
    have = of_spans(spans)
    assert Intervals.of(*spans).first_gap(start) == next(i for i in range(start, 100) if i not in have)


@given(SPANS)
def test_contains_says_so_for_each_index(spans: list[tuple[int, int]]) -> None:
    indices = np.arange(45)
    assert Intervals.of(*spans).contains(indices).tolist() == [i in of_spans(spans) for i in range(45)]


@given(st.lists(st.integers(0, 60)))
def test_indices_in_any_order_and_number_make_the_set(indices: list[int]) -> None:
    assert members(Intervals.from_indices(np.array(indices, np.int64))) == set(indices)


@pytest.mark.parametrize(
    ("intervals", "lowest", "end"), [(Intervals(), None, None), (Intervals.of((3, 5), (9, 10)), 3, 10)]
)
def test_lowest_and_end_are_the_borders_of_all(intervals: Intervals, lowest: int | None, end: int | None) -> None:
    assert (intervals.lowest, intervals.end) == (lowest, end)


def test_the_largest_positions_are_held() -> None:
    top = Intervals.of((TOP - 2, TOP))
    assert (top | Intervals.of((0, 1))).count == 3
    assert (Intervals.of((0, TOP)) - top).end == TOP - 2


def test_sets_are_equal_by_what_they_hold() -> None:
    assert Intervals.of((0, 2), (2, 4)) == Intervals.of((0, 4))
    assert Intervals.of((0, 2)) != Intervals.of((0, 3))
    assert Intervals.of((0, 2)) != "[0, 2)"
