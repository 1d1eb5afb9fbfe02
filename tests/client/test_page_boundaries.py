from __future__ import annotations

from collections.abc import Callable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from certstream.client.pages import RECOVERS_WITHIN, Pages

TREE = 10**9


def by_count(limit: int) -> Callable[[int, int], int]:
    return lambda start, stop: min(stop, start + limit)


def by_boundary(page: int) -> Callable[[int, int], int]:
    return lambda start, stop: min(stop, start - start % page + page)


def trillian(limit: int) -> Callable[[int, int], int]:
    """CTFE with align_getentries: pages of full length are cut at a multiple of it."""

    def answer(start: int, stop: int) -> int:
        if stop - start < limit:
            return stop
        return start + limit - (start + limit) % limit

    return answer


def read(pages: Pages, answer: Callable[[int, int], int], start: int, requests: int) -> list[int]:
    """Lengths of the answers to that many requests, one at a time."""
    lengths = []
    for _ in range(requests):
        stop = pages.stop(start, TREE)
        until = answer(start, stop)
        pages.answered(start, stop, until - start)
        lengths.append(until - start)
        start = until
    return lengths


@pytest.mark.parametrize(
    ("answer", "page"),
    [
        pytest.param(by_boundary(32), 32, id="google"),
        pytest.param(by_boundary(256), 256, id="sectigo"),
        pytest.param(trillian(1000), 1000, id="trillian"),
        pytest.param(by_count(1000), 1000, id="1000-from-anywhere"),
        pytest.param(by_count(1024), 1024, id="all-that-is-asked"),
    ],
)
@pytest.mark.parametrize("start", [0, 1, 1000, 12345, 4096, 999_999, 31, 240])
def test_full_pages_cost_one_request_each_once_the_boundary_is_known(
    answer: Callable[[int, int], int], page: int, start: int
) -> None:
    pages = Pages(1024)
    lengths = read(pages, answer, start, 200)
    assert lengths[40:].count(page) >= 155, "all but the rare probe's remainder"
    assert sum(lengths) >= page * 190


@pytest.mark.parametrize("page", [32, 256])
def test_requests_end_on_the_boundary_that_short_answers_show(page: int) -> None:
    pages = Pages(1024)
    start = 12_345 + sum(read(pages, by_boundary(page), 12_345, 3))
    assert start % page == 0
    assert pages.stop(start, TREE) == start + page
    assert pages.stop(start + 7, TREE) == start + page
    pages.answered(start, start + page, page)
    assert pages.settled


def test_a_request_never_reaches_past_the_end() -> None:
    pages = Pages(1024)
    assert pages.stop(10, 12) == 12
    read(pages, by_boundary(256), 0, 3)
    assert pages.stop(768, 770) == 770


def test_one_odd_short_answer_changes_nothing() -> None:
    pages = Pages(1000)
    pages.answered(5000, 6000, 7)
    assert not pages.settled
    assert pages.stop(5007, TREE) == 6007


def test_a_passing_shortage_is_forgotten() -> None:
    pages = Pages(1024)
    assert read(pages, by_count(3), 1, 10)[-1] == 3
    lengths = read(pages, by_count(1024), 31, 40)
    assert lengths[-1] == 1024


def test_a_refused_page_is_halved_down_to_one_entry_and_grows_again() -> None:
    pages = Pages(1000)
    asked = []
    for _ in range(12):
        stop = pages.stop(77, TREE)
        asked.append(stop - 77)
        pages.refused(77, stop)
    assert asked == [1000, 500, 250, 125, 62, 31, 15, 7, 3, 1, 1, 1]
    assert read(pages, by_count(1000), 77, 60)[-1] == 1000


def test_probing_for_longer_pages_becomes_rare() -> None:
    pages = Pages(1024)
    probes = 0
    start = 0
    for _ in range(20_000):
        stop = pages.stop(start, TREE)
        probes += stop - start > 256
        until = by_boundary(256)(start, stop)
        pages.answered(start, stop, until - start)
        start = until
    assert probes < 60


def test_a_timeout_is_chance_until_it_comes_again() -> None:
    pages = Pages(1000)
    asked = []
    for _ in range(4):
        stop = pages.stop(77, TREE)
        asked.append(stop - 77)
        pages.refused(77, stop, timed_out=True)
    assert asked == [1000, 1000, 500, 250]


def test_timeouts_of_requests_in_flight_together_are_one() -> None:
    pages = Pages(1000)
    for start in (0, 1000, 2000, 3000):
        pages.refused(start, start + 1000, timed_out=True)
    assert pages.stop(0, TREE) == 1000


def test_a_refused_rest_of_a_tree_does_not_make_pages_tiny_but_shrinks_until_it_is_given() -> None:
    pages = Pages(1000)
    pages.refused(980, 1000)
    assert pages.stop(980, TREE) == 1012
    asked = []
    for _ in range(5):
        stop = pages.stop(980, 1000)
        asked.append(stop - 980)
        pages.refused(980, stop)
    assert asked == [20, 10, 5, 2, 1]


def test_a_refusal_leaves_the_boundary_known() -> None:
    pages = Pages(1024)
    start = 12_345 + sum(read(pages, by_boundary(256), 12_345, 3))
    pages.refused(start, start + 256)
    assert [pages.stop(start, TREE), pages.stop(start + 200, TREE)] == [start + 128, start + 256]


def test_pages_of_a_length_that_is_refused_are_asked_for_rarely() -> None:
    """A log that answers 403 to more than 300 entries: each probe costs a failure."""
    pages = Pages(1024)
    start = refusals = answers = 0
    while answers < 10_000:
        stop = pages.stop(start, TREE)
        if stop - start > 300:
            pages.refused(start, stop)
            refusals += 1
        else:
            pages.answered(start, stop, stop - start)
            start, answers = stop, answers + 1
    assert refusals < 25
    assert start > 256 * 9_900


def test_the_patience_of_bad_times_is_forgotten_in_good_ones() -> None:
    pages = Pages(1024)
    start = sum(read(pages, by_count(100), 1, 20_000))
    start += sum(read(pages, by_count(1024), start, RECOVERS_WITHIN))
    for _ in range(4):
        pages.refused(start, pages.stop(start, TREE))
    assert pages.stop(start, TREE) == start + 64
    assert read(pages, by_count(1024), start, 20)[-1] == 1024


def full_page(start: int, most: int, boundary: int) -> int:
    """Where an answer ends that gives all that the log ever gives."""
    return min(start + most, start - start % boundary + boundary) if boundary else start + most


def mishap(pages: Pages, kind: str, size: int, start: int, most: int, boundary: int) -> int:
    """Let something happen to the next requests; the position after it."""
    stop = pages.stop(start, start + size if kind == "tail" else TREE)
    if kind in ("refused", "timeout"):
        pages.refused(start, stop, timed_out=kind == "timeout")
        return start
    for _ in range(size if kind == "good" else 1):
        stop = pages.stop(start, start + size if kind == "tail" else TREE)
        until = min(full_page(start, most, boundary), stop, start + size if kind == "short" else TREE)
        pages.answered(start, stop, until - start)
        start = until
    return start


@settings(deadline=None)
@given(
    start=st.integers(0, 10**6),
    most=st.integers(1, 2000),
    max_page=st.integers(1, 1024),
    boundary=st.sampled_from([0, 32, 256, 1024]),
    mishaps=st.lists(
        st.tuples(
            st.sampled_from(["refused", "timeout", "short", "tail", "good"]),
            st.sampled_from([1, 7, 8, 16, 32, 100, 128, 1024]) | st.integers(1, 2000),
        ),
        max_size=40,
    ),
)
def test_whatever_went_wrong_a_well_behaved_log_is_soon_back_at_its_full_pages(
    start: int, most: int, max_page: int, boundary: int, mishaps: list[tuple[str, int]]
) -> None:
    pages = Pages(max_page)
    for kind, size in mishaps:
        start = mishap(pages, kind, size, start, most, boundary)
    for _ in range(RECOVERS_WITHIN):
        start = mishap(pages, "good", 1, start, most, boundary)
    begin_full = start
    for _ in range(400):
        start = mishap(pages, "good", 1, start, most, boundary)
    best, position = 0, begin_full
    while position < start:
        position, best = full_page(position, min(most, max_page), boundary), best + 1
    assert best * 1.05 + 10 >= 400, "requests of the same entries, at the fewest"


@given(
    start=st.integers(0, 10**6),
    counts=st.lists(st.integers(1, 2000), max_size=50),
    max_page=st.integers(1, 2000),
    length=st.integers(1, 5000),
)
def test_every_request_asks_for_something_inside_the_range(
    start: int, counts: list[int], max_page: int, length: int
) -> None:
    pages = Pages(max_page)
    end = start + length
    for count in counts:
        stop = pages.stop(start, end)
        assert start < stop <= min(end, start + max_page)
        pages.answered(start, stop, count)
