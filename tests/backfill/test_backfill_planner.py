"""What is missing is found, and cut into pieces."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from certstream.backfill.planner import ITEM_ENTRIES, LogPlan, Plan, Target, WorkItem, joined, plan, select
from certstream.ct.types import TILE_WIDTH, LogInfo
from certstream.intervals import Intervals

LOG = LogInfo("Argon", "https://ct.example/argon/", "rfc6962", "Example")
OTHER = LogInfo("Tiles 1", "https://mon.tiles.example/2026h1/", "static", "Tiles")

SPANS = st.lists(st.tuples(st.integers(0, 30), st.integers(0, 30)), max_size=5)
MAYBE = st.none() | st.integers(0, 30)


def members(intervals: Intervals) -> set[int]:
    return {index for start, stop in intervals for index in range(start, stop)}


def items(gaps: Intervals) -> list[WorkItem]:
    return list(LogPlan(LOG, gaps).items())


def only(target: Target, from_index: int | None = None) -> Intervals:
    return plan([target], from_index=from_index).logs[0].missing


@given(SPANS, SPANS, st.integers(0, 30), MAYBE, MAYBE)
def test_the_plan_is_what_sets_of_indices_say(
    have: list[tuple[int, int]],
    removed: list[tuple[int, int]],
    ceiling: int,
    start_index: int | None,
    from_index: int | None,
) -> None:
    archived, dropped = Intervals.of(*have), Intervals.of(*removed)
    missing = only(Target(LOG, ceiling, start_index, archived, dropped), from_index)
    known = [min(members(archived) or members(dropped), default=None), start_index]
    lower = min((index for index in known if index is not None), default=0) if from_index is None else from_index
    assert members(missing) == set(range(lower, ceiling)) - members(archived) - members(dropped)


@pytest.mark.parametrize(
    ("archived", "start_index", "lower"),
    [
        (Intervals(), None, 0),
        (Intervals(), 40, 40),
        (Intervals.of((50, 60)), None, 50),
        (Intervals.of((50, 60)), 40, 40),
        (Intervals.of((50, 60)), 55, 50),
    ],
)
def test_catching_up_begins_where_the_archive_of_the_log_began(
    archived: Intervals, start_index: int | None, lower: int
) -> None:
    assert only(Target(LOG, 100, start_index, archived)) == Intervals.of((lower, 100)) - archived


def test_historical_begins_where_it_is_told_also_below_the_archive_and_above_its_gaps() -> None:
    target = Target(LOG, 100, 70, Intervals.of((50, 60), (70, 80)))
    assert only(target, 10) == Intervals.of((10, 50), (60, 70), (80, 100))
    assert only(target, 75) == Intervals.of((80, 100))
    assert only(target, 200) == Intervals()


def test_what_was_dropped_on_purpose_is_not_fetched_again() -> None:
    dropped = Intervals.of((0, 40))
    assert only(Target(LOG, 100, 0, Intervals.of((40, 90)), dropped)) == Intervals.of((90, 100))
    assert only(Target(LOG, 100, None, Intervals(), Intervals.of((30, 40)))) == Intervals.of((40, 100))
    assert only(Target(LOG, 100, None, Intervals(), dropped), 0) == Intervals.of((40, 100))


def test_logs_without_a_ceiling_are_skipped_and_those_without_gaps_are_not() -> None:
    result = plan([Target(LOG, 10, 0, Intervals.of((0, 10))), Target(OTHER, None, None)])
    assert [each.log for each in result.logs] == [LOG]
    assert (result.indices, result.item_count, result.ranges, result.totals()) == (0, 0, 0, {})
    assert result.skipped == (OTHER,)


def test_totals_add_up_by_name() -> None:
    twin = LogInfo("Argon", "https://ct.example/argon-2/", "rfc6962", "Example")
    result = plan([Target(LOG, 10, 0), Target(OTHER, 5, 0), Target(twin, 3, 0)])
    assert result.totals() == {"Argon": 13, "Tiles 1": 5}
    assert (result.indices, result.ranges) == (18, 3)


@given(st.lists(st.tuples(st.integers(0, 60_000), st.integers(0, 60_000)), max_size=6))
def test_items_hold_the_gaps_in_order_and_are_cut_at_tiles(spans: list[tuple[int, int]]) -> None:
    gaps = Intervals.of(*spans)
    found = items(gaps)
    assert Intervals.union_of(item.missing for item in found) == gaps
    assert sum(item.missing.count for item in found) == gaps.count
    assert len(found) == LogPlan(LOG, gaps).item_count
    windows = [item.start // ITEM_ENTRIES for item in found]
    assert windows == sorted(set(windows)), "ascending, none twice"
    assert windows == [(item.stop - 1) // ITEM_ENTRIES for item in found]
    assert ITEM_ENTRIES % TILE_WIDTH == 0


def test_a_gap_becomes_full_items_and_its_two_ends() -> None:
    assert [(item.start, item.stop) for item in items(Intervals.of((300, 21_000)))] == [
        (300, ITEM_ENTRIES),
        (ITEM_ENTRIES, 2 * ITEM_ENTRIES),
        (2 * ITEM_ENTRIES, 21_000),
    ]


def test_all_gaps_of_a_window_are_one_item() -> None:
    gaps = Intervals.of((0, 1), (7, 300), (10_239, 10_241), (30_000, 30_001))
    assert items(gaps) == [
        WorkItem(LOG, Intervals.of((0, 1), (7, 300), (10_239, 10_240))),
        WorkItem(LOG, Intervals.of((10_240, 10_241))),
        WorkItem(LOG, Intervals.of((30_000, 30_001))),
    ]


@given(st.lists(st.tuples(st.integers(0, 40_000), st.integers(0, 40_000)), max_size=6), st.integers(0, 40_000))
def test_filling_a_part_never_makes_more_items(spans: list[tuple[int, int]], filled: int) -> None:
    gaps = Intervals.of(*spans)
    left = gaps - Intervals.of((filled, filled + 5_000))
    assert LogPlan(LOG, left).item_count <= LogPlan(LOG, gaps).item_count


def test_an_item_is_read_in_one_go_but_for_tiles_of_which_nothing_is_missing() -> None:
    missing = Intervals.of((0, 1), (255, 256), (300, 310), (600, 1_100), (1_535, 1_536), (2_048, 2_100))
    (item,) = items(missing)
    assert list(item.stretches()) == [
        Intervals.of((0, 1), (255, 256), (300, 310), (600, 1_100), (1_535, 1_536)),
        Intervals.of((2_048, 2_100)),
    ]
    (whole,) = items(Intervals.of((300, 5_000)))
    assert list(whole.stretches()) == [Intervals.of((300, 5_000))]


@given(SPANS, st.integers(0, 10))
def test_what_is_joined_has_no_small_holes(spans: list[tuple[int, int]], hole: int) -> None:
    gaps = Intervals.of(*spans)
    together = joined(gaps, hole)
    assert gaps - together == Intervals()
    inner = [(stop, start) for (_, stop), (start, _) in pairwise(together)]
    assert all(start - stop > hole for stop, start in inner)
    assert all(stop - start <= hole for start, stop in together - gaps)


def lots(count: int) -> Intervals:
    start = np.arange(count, dtype=np.int64) * 20_000
    return Intervals(start, start + 15_000)


@pytest.mark.parametrize(
    ("archived", "ceiling", "expected"),
    [(Intervals(), 10**9, 97_657), (Intervals(), 10**13, 976_562_500), (lots(100_000), 2 * 10**9, 148_433)],
    ids=["a billion", "ten trillion", "a hundred thousand gaps"],
)
def test_plans_are_of_any_size(archived: Intervals, ceiling: int, expected: int) -> None:
    result = plan([Target(LOG, ceiling, 0, archived)])
    count, indices = result.item_count, result.indices
    first = next(result.logs[0].items())
    assert (count, indices) == (expected, ceiling - archived.count)
    assert first.start == archived.first_gap(0)


def test_a_million_scattered_gaps_are_planned_and_cut() -> None:
    every_other = np.arange(10**6, dtype=np.int64) * 2
    result = plan([Target(LOG, 2 * 10**6, 0, Intervals(every_other + 1, every_other + 2))])
    found = list(result.logs[0].items())
    stretches = [stretch for item in found for stretch in item.stretches()]
    assert (result.indices, result.ranges, result.item_count) == (10**6, 10**6, 196)
    assert len(found) == len(stretches) == 196


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("argon", [LOG]),
        ("ARGON", [LOG]),
        ("example", [LOG, OTHER]),
        ("tiles 1", [OTHER]),
        ("/2026H1/", [OTHER]),
        ("x ", []),
    ],
)
def test_logs_are_chosen_by_a_part_of_name_or_url(text: str, found: list[LogInfo]) -> None:
    assert list(select([LOG, OTHER], text)) == found


def test_a_plan_of_nothing_is_empty() -> None:
    assert plan([]) == Plan((), ())
