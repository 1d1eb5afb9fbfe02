"""Shares by hand: a log that grows and is read by numbers, on a clock of the test's."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from certstream.client.waits import ACTIVITIES, Activity, Spent
from certstream.delivery_metrics import DELAY_CAUSES, DelayCause
from certstream.live.share import LogShare, Share, ShareSettings, share_of_all

SETTINGS = ShareSettings()  # as the service has it: ten minutes, a tick of 10 s


@dataclass
class Log:
    """A log, and what of it is read; a step is a tick."""

    share: Share = field(default_factory=lambda: Share(SETTINGS))
    now_s: float = 1_000.0
    size: int = 1_000
    position: int = 1_000
    seconds: dict[Activity, float] = field(default_factory=lambda: dict.fromkeys(ACTIVITIES, 0.0))
    wished: int = 0
    given: int = 0

    def __post_init__(self) -> None:
        self.head()

    @property
    def spent(self) -> Spent:
        return Spent(dict(self.seconds), self.wished, self.given)

    def head(self) -> None:
        self.share.seen(self.size, self.position, self.now_s, self.spent)

    def step(self, grows: int = 0, reads: int = 0, *, seen: bool = True, busy: float = 0.0, **spent: float) -> LogShare:
        self.now_s += 10
        self.size += grows
        if seen:
            self.head()
        self.position = min(self.size, self.position + reads)
        self.share.read(self.position)
        for activity, seconds in spent.items():
            self.seconds[activity] += seconds  # type: ignore[index]
        share = self.share.tick(self.now_s, self.spent, busy)
        assert share is not None
        return share

    def steps(self, count: int, *args: int, **spent: Any) -> LogShare:
        for _ in range(count):
            share = self.step(*args, **spent)
        return share


def test_nothing_is_known_before_the_first_head() -> None:
    share = Share(SETTINGS)
    assert share.tick(1_000, Log().spent, 0.0) is None
    assert share.now is None


def test_a_log_that_does_not_grow_has_a_share_of_one() -> None:
    assert Log().steps(100) == LogShare(1.0, None, 0.0, 0)


def test_a_log_that_is_read_as_it_grows_has_a_share_of_one() -> None:
    share = Log().steps(100, 50, 50)
    assert (share.share, share.cause, share.late) == (1.0, None, 0)
    assert share.growth == pytest.approx(60 * 50)


def test_entries_count_as_late_only_when_they_were_not_read_by_the_tick_after_the_next() -> None:
    log = Log()
    assert log.step(100, 0).share == 1.0
    assert log.step(0, 100).share == 1.0
    log.step(100, 0)
    assert log.step(0, 0).share == 0.5
    assert log.step(0, 100).share == 1.0


def test_of_a_log_that_is_read_at_half_its_growth_the_share_is_one_half() -> None:
    share = Log().steps(200, 100, 50, reading=10, answering=10)
    assert share.share == pytest.approx(0.5, abs=0.01)
    assert share.cause == "slow_answers"
    assert share.late == 199 * 100 - 200 * 50  # what came since the last tick is not late yet


def test_of_a_log_that_is_not_read_at_all_the_share_is_none() -> None:
    share = Log().steps(100, 100, 0, backing_off=10)
    assert (share.share, share.cause) == (0.0, "not_polled")


def test_catching_up_counts_as_one_however_much_is_left() -> None:
    log = Log(position=0, size=1_000_000)
    share = log.steps(70, 100, 400, reading=10, answering=10)
    assert (share.share, share.cause) == (1.0, None)
    assert share.late > 900_000


def test_what_is_caught_up_with_is_forgiven() -> None:
    log = Log()
    log.steps(30, 100, 0, backing_off=10)
    assert log.share.now is not None
    assert log.share.now.share == 0.0
    assert log.step(100, 10_000).share == 1.0


def test_what_lies_before_the_window_does_not_count() -> None:
    log = Log()
    log.steps(30, 100, 0, backing_off=10)
    assert log.steps(30, 100, 100).share == pytest.approx(0.5, abs=0.02)
    assert log.steps(31, 100, 100).share == 1.0


def test_a_log_whose_heads_do_not_come_is_taken_to_grow_as_before() -> None:
    log = Log()
    log.steps(60, 100, 100)
    assert log.steps(5, seen=False, backing_off=10).share == 1.0
    share = log.steps(61, seen=False, backing_off=10)
    assert share.share == pytest.approx(0.0, abs=0.05)
    assert share.cause == "not_polled"
    assert share.growth == pytest.approx(6_000, rel=0.1)


def test_after_heads_that_did_not_come_the_true_size_counts() -> None:
    log = Log()
    log.steps(60, 100, 100)
    log.steps(120, seen=False, backing_off=10)
    assert log.step(0, 0).share == 0.0  # the estimate is a tick old still
    assert log.step(0, 0) == LogShare(1.0, None, 0.0, 0)


def test_a_leap_between_the_first_two_heads_says_nothing_of_the_pace() -> None:
    log = Log()
    log.now_s, log.size = log.now_s + 1, log.size + 1_000
    log.head()
    log.steps(2, 0, 1_000)
    assert log.steps(60, seen=False, backing_off=10).growth == pytest.approx(0, abs=1_000)


def test_a_log_at_rest_stays_at_rest_while_it_cannot_be_reached() -> None:
    log = Log()
    log.steps(60)
    assert log.steps(60, seen=False, backing_off=10).share == 1.0


def test_a_head_far_too_large_does_no_harm_once_it_is_given_up() -> None:
    log = Log()
    log.steps(30, 100, 100)
    size, log.size = log.size, 10**9
    assert log.steps(3, reading=10, answering=10).share < 0.01
    log.size = size
    log.head()
    assert log.steps(2, 100, 100).share == 1.0


CAUSES: list[tuple[DelayCause, float, dict[str, float]]] = [
    ("rate_limited", 0.0, {"reading": 9, "pacing": 30, "answering": 3}),
    ("rate_limited", 0.0, {"limited": 6, "reading": 4, "answering": 4}),
    ("slow_answers", 0.0, {"reading": 9, "pacing": 3, "answering": 30}),
    ("slow_answers", 0.3, {"reading": 10, "answering": 40}),
    ("cpu", 0.9, {"reading": 10, "answering": 40}),
    ("cpu", 0.3, {"reading": 4, "answering": 4, "publishing": 6}),
    ("archive", 0.3, {"reading": 2, "answering": 2, "publishing": 8, "archive": 7}),
    ("unproven", 0.0, {"reading": 10, "proving": 7, "answering": 10}),
    ("unproven", 0.0, {"reading": 3, "answering": 3, "unproven": 7}),
    ("not_served", 0.0, {"reading": 2, "answering": 2, "not_served": 8}),
    ("not_polled", 0.0, {"reading": 2, "answering": 2, "backing_off": 8}),
    ("not_polled", 0.0, {}),
]


@pytest.mark.parametrize(("cause", "busy", "spent"), CAUSES)
def test_the_cause_is_what_the_time_went_into(cause: DelayCause, busy: float, spent: dict[str, float]) -> None:
    assert Log().steps(30, 100, 40, busy=busy, **spent).cause == cause


def test_every_cause_can_be_found() -> None:
    assert {cause for cause, _, _ in CAUSES} | {"page_size"} == set(DELAY_CAUSES)


@pytest.mark.parametrize(
    ("wished", "given", "cause"),
    [
        (1_000, 32, "page_size"),  # pages of 1,000 would be 30 times as fast
        (1_000, 400, "page_size"),  # and of 1,000 instead of 400 enough
        (1_000, 700, "slow_answers"),  # not even whole pages would be
        (1_000, 1_000, "slow_answers"),
    ],
)
def test_small_pages_are_to_blame_where_whole_ones_would_be_enough(wished: int, given: int, cause: DelayCause) -> None:
    log = Log()
    for _ in range(60):
        log.wished += wished
        log.given += given
        share = log.step(100, 50, reading=10, answering=10)
    assert share.cause == cause


def test_small_pages_are_not_to_blame_where_longer_ones_would_not_be_enough() -> None:
    log = Log()
    for _ in range(60):
        log.wished += 1_000
        log.given += 250
        share = log.step(1_000, 100, reading=10, answering=10)
    assert (round(share.share, 1), share.cause) == (0.1, "slow_answers")


def test_the_cause_is_of_the_time_in_which_entries_became_late() -> None:
    log = Log()
    log.steps(50, 100, 100, reading=9, answering=9)  # all was well: these answers held nothing back
    share = log.steps(10, 100, 0, reading=10, pacing=10)
    assert share.cause == "rate_limited"
    assert share.share == pytest.approx(0.85, abs=0.02)


def test_of_two_causes_the_one_counts_that_cost_more_entries() -> None:
    log = Log()
    log.steps(20, 100, 50, backing_off=10)
    share = log.steps(10, 1_000, 0, reading=10, pacing=10)
    assert share.cause == "rate_limited"


def test_of_all_logs_together_each_counts_by_its_growth() -> None:
    quick, slow, idle = LogShare(1.0, None, 900.0, 0), LogShare(0.0, "cpu", 100.0, 5), LogShare(1.0, None, 0.0, 0)
    assert share_of_all([quick, slow, idle]) == pytest.approx(0.9)
    assert share_of_all([idle]) == 1.0
    assert share_of_all([]) == 1.0


STEPS = st.lists(st.tuples(st.integers(0, 500), st.integers(0, 500), st.booleans()), min_size=1, max_size=150)


@given(STEPS, st.integers(0, 5_000))
def test_a_share_is_always_between_none_and_all_and_has_a_cause_when_it_is_not_all(
    steps: list[tuple[int, int, bool]], backlog: int
) -> None:
    log = Log(size=1_000 + backlog)
    for grows, reads, seen in steps:
        share = log.step(grows, reads, seen=seen, reading=10, answering=10)
        assert 0 <= share.share <= 1
        assert (share.cause is None) == (share.share == 1)
        assert 0 <= share.in_time <= share.growth


@given(STEPS)
def test_what_is_read_by_each_tick_is_never_late(steps: list[tuple[int, int, bool]]) -> None:
    log = Log()
    for grows, _, _ in steps:
        assert log.step(grows, grows).share == 1.0


@given(STEPS)
def test_within_one_window_the_share_is_entries_read_over_entries_due(steps: list[tuple[int, int, bool]]) -> None:
    log = Log()
    start, due = log.position, log.size
    for grows, reads, _ in steps[:60]:
        due = log.size
        share = log.step(grows, reads)
    growth, read = due - start, min(log.position, due) - start
    assert share.share == pytest.approx(read / growth if growth else 1.0)


def test_the_window_holds_a_bounded_number_of_ticks() -> None:
    log = Log()
    log.steps(1_000, 100, 50, reading=10)
    assert len(log.share._ticks) <= 62
