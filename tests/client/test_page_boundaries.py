from __future__ import annotations

from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from certstream.client.pages import Pages

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
    assert probes < 40


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
