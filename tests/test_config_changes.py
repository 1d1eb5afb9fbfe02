"""What differs between two configurations, and one with some options of another."""

from __future__ import annotations

from typing import Any

from certstream.config import Config
from certstream.config.changes import Change, changes, with_options_of
from certstream.config.environment import OPTIONS

LOG = {"name": "a", "url": "https://a.example/"}


def config(**options: Any) -> Config:
    return Config.model_validate(options)


def test_each_option_that_differs_is_told_with_both_values() -> None:
    before = config(port=1, ct_log={"batch_size": 7, "state_file": None})
    after = config(port=2, ct_log={"batch_size": 7, "state_file": "x"})
    assert [str(change) for change in changes(before, after)] == ["port: 1 → 2", 'ct_log.state_file: null → "x"']
    assert changes(before, before) == []


def test_secrets_are_told_apart_and_not_shown() -> None:
    found = changes(config(auth={"tokens": ["hunter2"]}), config(auth={"tokens": ["hunter3", "hunter4"]}))
    assert found == [Change("auth.tokens", "***", "***")]
    urls = changes(config(), config(ct_logs_url="https://user:hunter5@example.com/"))
    assert "hunter" not in str(urls)


def test_a_change_of_one_log_is_a_change_of_its_list() -> None:
    (change,) = changes(config(custom_logs=[LOG]), config(custom_logs=[{**LOG, "batch_size": 9}]))
    assert change.path == "custom_logs"
    assert '"https://a.example/"' in change.before
    assert changes(config(custom_logs=[LOG]), config(custom_logs=[LOG])) == []


def test_options_are_taken_over_one_by_one() -> None:
    base = config(port=1, ct_log={"batch_size": 7, "poll_interval_ms": 70})
    other = config(port=2, ct_log={"batch_size": 8, "poll_interval_ms": 80}, custom_logs=[LOG])
    taken = with_options_of(base, other, lambda option: option.path in ("ct_log.batch_size", "custom_logs"))
    assert [change.path for change in changes(base, taken)] == ["ct_log.batch_size", "custom_logs"]
    assert [change.path for change in changes(taken, other)] == ["port", "ct_log.poll_interval_ms"]
    assert (base.port, base.ct_log.batch_size) == (1, 7)


def test_taking_over_all_or_nothing_gives_the_one_or_the_other() -> None:
    base, other = config(port=1), config(dedup={"enabled": False}, static_logs=[LOG])
    assert with_options_of(base, other, lambda _option: True) == other
    assert with_options_of(base, other, lambda _option: False) == base
    assert len(OPTIONS) > 80
