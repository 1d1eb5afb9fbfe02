from __future__ import annotations

import subprocess
import sys
from hashlib import sha256

import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from certstream.live.dedup import Deduplicator


class Now:
    """A clock that tests set."""

    def __init__(self) -> None:
        self.s = 5.0

    def __call__(self) -> float:
        return self.s


def digests(*numbers: int) -> NDArray[np.uint8]:
    data = b"".join(sha256(str(number).encode()).digest() for number in numbers)
    return np.frombuffer(data, np.uint8).reshape(-1, 32)


def make(capacity: int = 1000, ttl_s: float = 900) -> tuple[Deduplicator, Now]:
    now = Now()
    return Deduplicator(capacity, ttl_s, now), now


def test_what_another_log_showed_is_left_out() -> None:
    dedup, _ = make()
    assert dedup.fresh(digests(1, 2, 3), "a").tolist() == [True, True, True]
    assert dedup.fresh(digests(2, 4, 3), "b").tolist() == [False, True, False]
    assert dedup.fresh(digests(4), "c").tolist() == [False]
    assert len(dedup) == 4


def test_two_entries_of_one_log_both_go_out() -> None:
    dedup, _ = make()
    assert dedup.fresh(digests(1, 1), "a").tolist() == [True, True]
    assert dedup.fresh(digests(1), "a").tolist() == [True]
    assert dedup.fresh(digests(1, 1), "b").tolist() == [False, False]
    assert dedup.fresh(digests(1), "a").tolist() == [True]


def test_after_its_time_a_certificate_is_new_again_and_belongs_to_who_shows_it() -> None:
    dedup, now = make(ttl_s=900)
    dedup.fresh(digests(1), "a")
    now.s += 899
    assert dedup.fresh(digests(1), "b").tolist() == [False]
    now.s += 1
    assert dedup.fresh(digests(1), "b").tolist() == [True]
    assert dedup.fresh(digests(1), "a").tolist() == [False]


def test_showing_it_again_renews_its_time() -> None:
    dedup, now = make(ttl_s=900)
    dedup.fresh(digests(1), "a")
    now.s += 800
    dedup.fresh(digests(1), "a")
    now.s += 800
    assert dedup.fresh(digests(1), "b").tolist() == [False]


def test_digests_that_share_their_first_half_are_told_apart() -> None:
    dedup, _ = make()
    one = np.zeros((1, 32), np.uint8)
    other = one.copy()
    other[0, 8] = 1
    dedup.fresh(one, "a")
    assert dedup.fresh(other, "b").tolist() == [True]
    assert dedup.fresh(one, "b").tolist() == [False]


def test_an_empty_batch_is_none_of_its_business() -> None:
    dedup, _ = make()
    assert dedup.fresh(digests(), "a").tolist() == []
    dedup.fresh(digests(1), "a")
    assert dedup.fresh(digests(), "b").tolist() == []


def test_capacity_bounds_what_is_remembered_and_the_oldest_leave() -> None:
    dedup, _ = make(capacity=100)
    for number in range(1000):
        dedup.fresh(digests(number), "a")
        assert len(dedup) <= 100
    assert dedup.fresh(digests(*range(950, 1000)), "b").tolist() == [False] * 50
    assert dedup.fresh(digests(*range(800)), "b").all()


def test_a_batch_larger_than_the_capacity_is_judged_whole() -> None:
    dedup, _ = make(capacity=10)
    assert dedup.fresh(digests(*range(100)), "a").all()
    assert len(dedup) <= 10
    assert dedup.fresh(digests(*range(96, 100)), "b").tolist() == [False] * 4


def test_a_capacity_of_one_works() -> None:
    dedup, _ = make(capacity=1)
    assert dedup.fresh(digests(1, 2, 3), "a").all()
    assert dedup.fresh(digests(3), "b").tolist() == [False]


FILLED_BY_NOTHING = """
from pathlib import Path
from certstream.live.dedup import Deduplicator
def resident(): return int(Path("/proc/self/statm").read_text().split()[1])
before = resident()
tables = [Deduplicator(1_000_000, 900, lambda: 0.0) for _ in range(8)]
print(resident() - before)
"""


def test_a_table_costs_no_memory_before_something_is_in_it() -> None:
    """In a process of its own: in a heap that others have used, the system has nothing to put off."""
    pages = subprocess.run([sys.executable, "-c", FILLED_BY_NOTHING], check=True, capture_output=True, text=True)
    assert int(pages.stdout) // 8 < 64  # of 4 KiB


@given(
    batches=st.lists(
        st.tuples(st.sampled_from("abc"), st.lists(st.integers(0, 30), max_size=20), st.integers(0, 40)), max_size=30
    )
)
def test_it_agrees_with_a_dictionary(batches: list[tuple[str, list[int], int]]) -> None:
    dedup, now = make(capacity=100_000, ttl_s=60)
    shown: dict[int, tuple[str, float]] = {}
    for log, numbers, pause_s in batches:
        now.s += pause_s
        fresh = [number not in shown or shown[number][0] == log or now.s - shown[number][1] >= 60 for number in numbers]
        assert dedup.fresh(digests(*numbers), log).tolist() == fresh
        shown |= {number: (log, now.s) for number, is_fresh in zip(numbers, fresh, strict=True) if is_fresh}
