"""Buckets, bursts and windows by a clock that stands still; and counts of clients."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from certstream.serve.access import Bucket, ConnectionLimits, RateLimits, Tier, rate_limits
from certstream.serve.limits import LONGEST_WAIT_S, ConnectionCounter, RateLimiter

ADDRESS = b"\xc0\x00\x02\x01"


class StoppedClock:
    """Time that passes when it is told to."""

    def __init__(self) -> None:
        self.now_s = 1_000_000.0

    def __call__(self) -> float:
        return self.now_s


def limits(
    capacity: float = 5,
    refill: float = 1,
    burst: float = 0,
    *,
    window_s: float = 60,
    requests: int = 1_000_000,
    burst_window_s: float = 10,
) -> RateLimits:
    free = Bucket(capacity, refill, burst)
    buckets: dict[Tier, Bucket] = {"free": free, "standard": Bucket(50, 10, 0), "premium": Bucket(500, 100, 0)}
    return rate_limits(buckets, window_s, requests, burst_window_s)


@pytest.fixture
def clock() -> StoppedClock:
    return StoppedClock()


@pytest.fixture
def limiter(clock: StoppedClock) -> RateLimiter:
    return RateLimiter(clock)


def passed(limiter: RateLimiter, rates: RateLimits, tries: int, tier: Tier = "free", address: bytes = ADDRESS) -> int:
    return sum(limiter.wait_s(address, tier, rates) == 0 for _ in range(tries))


def test_a_bucket_lets_its_capacity_through_and_then_what_comes_back(limiter: RateLimiter, clock: StoppedClock) -> None:
    rates = limits(capacity=5, refill=0.5)
    assert passed(limiter, rates, 20) == 5
    assert limiter.wait_s(ADDRESS, "free", rates) == 2
    clock.now_s += 6
    assert passed(limiter, rates, 20) == 3
    clock.now_s += 1_000
    assert passed(limiter, rates, 20) == 5


def test_what_is_told_to_wait_goes_through_after_that(limiter: RateLimiter, clock: StoppedClock) -> None:
    rates = limits(capacity=3, refill=0.3, burst=2, window_s=7, requests=4, burst_window_s=4)
    for _ in range(200):
        wait_s = limiter.wait_s(ADDRESS, "free", rates)
        if wait_s:
            clock.now_s += wait_s
            assert limiter.wait_s(ADDRESS, "free", rates) == 0
        clock.now_s += 0.1


def test_an_empty_bucket_has_a_burst_that_comes_back_with_its_window(limiter: RateLimiter, clock: StoppedClock) -> None:
    rates = limits(capacity=2, refill=0, burst=3, burst_window_s=10)
    assert passed(limiter, rates, 20) == 5
    assert limiter.wait_s(ADDRESS, "free", rates) == 10
    clock.now_s += 9.9
    assert passed(limiter, rates, 20) == 0
    assert limiter.wait_s(ADDRESS, "free", rates) == 1
    clock.now_s += 0.1
    assert passed(limiter, rates, 20) == 3


def test_the_window_counts_all_that_went_through(limiter: RateLimiter, clock: StoppedClock) -> None:
    clock.now_s = 60_000.0  # where a fixed window begins
    rates = limits(capacity=1_000, refill=1_000, window_s=60, requests=10)
    assert passed(limiter, rates, 50) == 10
    wait_s = limiter.wait_s(ADDRESS, "free", rates)
    assert wait_s == 66  # one of ten has left it 6 s after the window ended
    clock.now_s += 65
    assert passed(limiter, rates, 50) == 0
    clock.now_s += 1
    assert passed(limiter, rates, 50) == 1
    clock.now_s += 120
    assert passed(limiter, rates, 50) == 10


@given(st.lists(st.floats(0, 30), min_size=1, max_size=200), st.integers(1, 20))
def test_no_more_than_a_bucket_and_its_refill_goes_through_in_any_time(steps: list[float], capacity: int) -> None:
    clock = StoppedClock()
    limiter = RateLimiter(clock)
    rates = limits(capacity=capacity, refill=0.5)
    began_s, count = clock.now_s, 0
    for step in steps:
        clock.now_s += step
        count += passed(limiter, rates, 3)
        assert count <= capacity + (clock.now_s - began_s) * 0.5 + 1e-6


@given(st.lists(st.tuples(st.floats(0, 200), st.integers(1, 15)), min_size=1, max_size=60))
def test_no_fixed_window_lets_more_through_than_it_may(steps: list[tuple[float, int]]) -> None:
    clock = StoppedClock()
    limiter = RateLimiter(clock)
    rates = limits(capacity=1_000, refill=1_000, window_s=60, requests=7)
    counts: dict[int, int] = {}
    for step, tries in steps:
        clock.now_s += step
        window = math.floor(clock.now_s / 60)
        counts[window] = counts.get(window, 0) + passed(limiter, rates, tries)
    assert max(counts.values()) <= 7


def test_tiers_and_addresses_have_limits_of_their_own(limiter: RateLimiter) -> None:
    rates = limits(capacity=5)
    assert passed(limiter, rates, 100) == 5
    assert passed(limiter, rates, 100, "standard") == 50
    assert passed(limiter, rates, 1_000, "premium") == 500
    assert passed(limiter, rates, 100) == 0
    assert passed(limiter, rates, 100, address=b"\xc0\x00\x02\x02") == 5


def test_limits_that_change_hold_at_once(limiter: RateLimiter, clock: StoppedClock) -> None:
    assert passed(limiter, limits(capacity=100), 10) == 10
    assert passed(limiter, limits(capacity=5), 100) == 5
    clock.now_s += 8
    assert passed(limiter, limits(capacity=100, refill=2), 100) == 16
    assert passed(limiter, limits(capacity=100, window_s=7, requests=1), 100) == 0


def test_where_nothing_may_go_through_the_wait_is_a_day(limiter: RateLimiter) -> None:
    assert limiter.wait_s(ADDRESS, "free", limits(capacity=0, burst=0)) == LONGEST_WAIT_S
    assert limiter.wait_s(ADDRESS, "free", limits(capacity=0.5, refill=9)) == LONGEST_WAIT_S


def test_at_its_bound_the_table_forgets_who_has_not_asked_for_longest(clock: StoppedClock) -> None:
    limiter = RateLimiter(clock, most_addresses=100)
    rates = limits(capacity=1)
    for number in range(100):
        assert limiter.wait_s(b"%d" % number, "free", rates) == 0
    assert limiter.wait_s(b"0", "free", rates) > 0
    assert limiter.wait_s(b"new", "free", rates) == 0
    assert len(limiter) == 100
    assert limiter.wait_s(b"0", "free", rates) > 0
    assert limiter.wait_s(b"1", "free", rates) == 0  # which asked longest ago, and was forgotten
    assert len(limiter) == 100


def test_whose_limits_are_full_again_is_forgotten_when_others_come(clock: StoppedClock) -> None:
    limiter = RateLimiter(clock)
    rates = limits(capacity=600, refill=1)
    for number in range(1_000):
        limiter.wait_s(b"%d" % number, "free", rates)
    clock.now_s += 599
    limiter.wait_s(b"a", "free", rates)
    assert len(limiter) == 1_001
    clock.now_s += 2
    for number in range(600):
        limiter.wait_s(b"b%d" % number, "free", rates)
    assert len(limiter) == 601


def test_clients_are_counted_in_all_and_by_address() -> None:
    counter = ConnectionCounter()
    limits = ConnectionLimits(total=3, per_address=2)
    for address in (b"a", b"a", b"b"):
        assert counter.refusal(address, limits) is None
        counter.enter(address)
    assert counter.refusal(b"c", limits) == "connections"
    counter.leave(b"b")
    assert counter.refusal(b"a", limits) == "address_connections"
    assert counter.refusal(b"b", limits) is None
    counter.leave(b"a")
    assert counter.refusal(b"a", limits) is None


def test_an_address_whose_last_client_left_is_forgotten() -> None:
    counter = ConnectionCounter()
    for number in range(100):
        counter.enter(b"%d" % (number // 2))
    assert len(counter) == 50
    for number in range(99):
        counter.leave(b"%d" % (number // 2))
    assert len(counter) == 1


def test_those_who_came_before_a_limit_count_too() -> None:
    counter = ConnectionCounter()
    for _ in range(5):
        assert counter.refusal(b"a", ConnectionLimits()) is None
        counter.enter(b"a")
    assert counter.refusal(b"a", ConnectionLimits(per_address=5)) == "address_connections"
    assert counter.refusal(b"b", ConnectionLimits(total=5)) == "connections"
    for _ in range(5):
        counter.leave(b"a")
    assert counter.refusal(b"a", ConnectionLimits(1, 1)) is None
