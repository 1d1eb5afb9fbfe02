from __future__ import annotations

import pytest

from certstream.live.condition import Condition, TailSettings


def answered(**settings: int) -> Condition:
    condition = Condition(TailSettings(**settings))
    condition.completed()
    return condition


def state(condition: Condition) -> str:
    return condition.state


def fail(condition: Condition, times: int) -> None:
    for _ in range(times):
        condition.failed(misbehaved=False)


def test_a_log_is_starting_until_it_answers() -> None:
    condition = Condition(TailSettings())
    assert state(condition) == "starting"
    condition.limited()
    assert state(condition) == "rate_limited"
    condition.completed()
    assert state(condition) == "following"
    condition.catching_up = True
    assert state(condition) == "catching_up"


def test_attempts_make_a_failure_and_failures_a_state() -> None:
    condition = answered(retry_max_attempts=3, unhealthy_threshold=5)
    fail(condition, 2)
    assert state(condition) == "following"
    fail(condition, 1)
    assert state(condition) == "degraded"
    fail(condition, 11)
    assert state(condition) == "degraded"
    fail(condition, 1)
    assert state(condition) == "unhealthy"


def test_progress_between_failures_is_no_row_of_failures() -> None:
    condition = answered(retry_max_attempts=1, unhealthy_threshold=2)
    for _ in range(10):
        fail(condition, 1)
        condition.progressed()
    assert state(condition) == "degraded", "it keeps failing, but never twice in a row"
    condition.progressed()
    assert state(condition) == "following"


@pytest.mark.parametrize("needed", [1, 2, 5])
def test_successes_in_a_row_make_a_log_healthy(needed: int) -> None:
    condition = answered(retry_max_attempts=1, unhealthy_threshold=1, healthy_threshold=needed)
    fail(condition, 1)
    assert state(condition) == "unhealthy"
    for _ in range(needed - 1):
        condition.completed()
    assert state(condition) == "unhealthy"
    condition.completed()
    assert state(condition) == "following"
    assert condition.attempts == 0


def test_misbehaviour_marks_at_once() -> None:
    condition = answered(retry_max_attempts=100)
    condition.failed(misbehaved=True)
    assert state(condition) == "degraded"


def test_429_neither_causes_nor_hides_trouble() -> None:
    condition = answered(retry_max_attempts=1)
    condition.limited()
    assert condition.attempts == 0
    assert state(condition) == "rate_limited"
    fail(condition, 1)
    condition.limited()
    assert state(condition) == "degraded"


def test_the_backoff_is_bounded_by_half_a_minute_and_by_the_probe_interval() -> None:
    condition = answered(retry_max_attempts=1, unhealthy_threshold=1, health_check_interval_s=20, retry_max_s=900)
    assert condition.backoff_max_s == 30
    fail(condition, 1)
    assert condition.backoff_max_s == 20
