"""Where the logs of the lists begin."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from certstream.app.lists.beginnings import Beginnings
from certstream.ct.log_choice import ChosenLog, NamedList, Selection, choose_logs
from certstream.state import StateStore
from tests.ct.log_list_support import classic, listed

ALL = "all of them"


def chosen(*numbers: int, source: str = "google") -> tuple[ChosenLog, ...]:
    return choose_logs([NamedList(source, listed(*map(classic, numbers)))], Selection(), 0).chosen


def starts(found: Mapping[bytes, str]) -> list[str]:
    return list(found.values())


def test_the_first_look_begins_at_the_heads_and_what_appears_later_at_0() -> None:
    beginnings = Beginnings(StateStore(None))
    assert starts(beginnings.of(chosen(1, 2), ["google"], ALL)) == ["head", "head"]
    assert starts(beginnings.of(chosen(1, 3, 2), ["google"], ALL)) == ["head", "beginning", "head"]
    assert starts(beginnings.of(chosen(3), ["google"], ALL)) == ["beginning"]


def test_another_wish_and_another_list_bring_logs_that_did_not_appear() -> None:
    beginnings = Beginnings(StateStore(None))
    beginnings.of(chosen(1), ["google"], ALL)
    assert starts(beginnings.of(chosen(1, 2), ["google"], "more of them")) == ["head", "head"]
    both = (*chosen(1), *chosen(3, source="apple"))
    assert starts(beginnings.of(both, ["google", "apple"], "more of them")) == ["head", "head"]
    late = (*both, *chosen(4, source="apple"))
    assert starts(beginnings.of(late, ["google", "apple"], "more of them")) == ["head", "head", "beginning"]


def test_a_log_that_was_not_reached_at_the_first_look_keeps_its_beginning_while_it_is_gone() -> None:
    beginnings = Beginnings(StateStore(None))
    beginnings.of(chosen(1, 2), ["google"], ALL)
    beginnings.of(chosen(1), ["google"], ALL)
    assert starts(beginnings.of(chosen(1, 2), ["google"], ALL)) == ["head", "head"]


def test_it_is_known_over_a_restart(tmp_path: Path) -> None:
    path = tmp_path / "state.json"
    with_state = StateStore(path)
    with_state.open()
    Beginnings(with_state).of(chosen(1), ["google"], ALL)
    with_state.close()
    again = StateStore(path)
    again.open()
    try:
        assert starts(Beginnings(again).of(chosen(1, 2), ["google"], ALL)) == ["head", "beginning"]
    finally:
        again.close()


@pytest.mark.parametrize(
    "member", [None, 7, [], {"looked_at": 7, "starts": []}, {"looked_at": [7], "wanted": [], "starts": {"x": "y"}}]
)
def test_what_is_no_memory_counts_as_none(member: Any) -> None:
    state = StateStore(None)
    state.set_member("log_lists", member)
    assert starts(Beginnings(state).of(chosen(1), ["google"], ALL)) == ["head"]
