from __future__ import annotations

from collections import Counter
from dataclasses import replace
from datetime import datetime
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from certstream.ct.log_choice import (
    LogChanges,
    LogChoice,
    NamedList,
    Selection,
    choose_logs,
    compare_choices,
    find_log,
)
from certstream.ct.log_list import LogList, parse_log_list
from certstream.ct.signatures import log_id
from certstream.ct.types import LogInfo
from tests.ct.log_list_support import APPLE, GOOGLE, classic, listed, spki, text, tiled

NOW_MS = int(datetime.fromisoformat("2026-08-21T00:00:00Z").timestamp() * 1000)
ROOT = text(bytes(32))


def state(name: str) -> dict[str, Any]:
    return {name: {"final_tree_head": {"tree_size": 7, "sha256_root_hash": ROOT}} if name == "readonly" else {}}


def choice(*lists: LogList, configured: tuple[LogInfo, ...] = (), now_ms: int = NOW_MS, **selection: Any) -> LogChoice:
    named = [NamedList(name, logs) for name, logs in zip(("google", "apple", "own"), lists, strict=False)]
    return choose_logs(named, Selection(**selection), now_ms, configured)


def names(chosen: LogChoice) -> list[str]:
    return [each.log.name for each in chosen.chosen]


def reasons(chosen: LogChoice) -> dict[str, str]:
    return {each.name: each.reason for each in chosen.omitted}


def test_of_the_real_lists_google_decides_and_apple_adds_what_google_does_not_know() -> None:
    real = choice(parse_log_list(GOOGLE), parse_log_list(APPLE))
    assert Counter((each.source, each.log.state) for each in real.chosen) == {
        ("google", "usable"): 37, ("google", "pending"): 16, ("google", "qualified"): 6, ("google", "readonly"): 2,
        ("apple", "usable"): 4,
    }  # fmt: skip
    assert [each.log.operator for each in real.chosen if each.source == "apple"] == ["Cloudflare"] * 4
    assert Counter(each.reason for each in real.omitted) == {
        "is rejected": 122,
        "is retired": 3,
        "is of type test: read only where its whole name is included": 24,
        "is of type monitoring_only: read only where its whole name is included": 13,
        "has no state: read only where its whole name is included": 2,
    }
    assert "Google 'Argon2026h1' log" not in names(real)  # which Google rejects and Apple's list has as usable


def test_what_an_earlier_list_says_of_a_log_holds() -> None:
    google, apple = listed(classic(1, state=state("rejected"))), listed(classic(1), classic(2))
    both = choice(google, apple)
    assert names(both) == ["Log 2"]
    assert [(each.name, each.source, each.reason) for each in both.omitted] == [("Log 1", "google", "is rejected")]


def test_a_log_at_the_url_of_an_earlier_lists_log_is_not_added() -> None:
    both = choice(listed(classic(1)), listed(classic(2, url="https://CT.example.com/1")))
    assert names(both) == ["Log 1"]
    assert reasons(both) == {"Log 2": "has the URL of Log 1, which goes before it"}


def test_a_log_with_the_name_of_an_earlier_one_gets_its_url_into_its_name() -> None:
    twice = choice(listed(classic(1)), listed(classic(2, description="Log 1")), listed(tiled(3, description="Log 1")))
    assert names(twice) == ["Log 1", "Log 1 (ct.example.com/2)", "Log 1 (mon.example.com/3)"]
    assert [each.info.name for each in twice.chosen] == names(twice)


def test_names_stay_unique_where_a_list_tries_to_take_one_away() -> None:
    squatting = listed(classic(1, description="Log 2 (ct.example.com/2)"), classic(3, description="Log 2"))
    assert names(choice(squatting, listed(classic(2)))) == ["Log 2 (ct.example.com/2)", "Log 2", "Log 2 (2)"]


def test_a_name_does_not_depend_on_whether_the_log_before_it_is_read() -> None:
    for each in ("usable", "rejected"):
        both = choice(listed(classic(1, state=state(each))), listed(classic(2, description="Log 1")))
        assert names(both)[-1] == "Log 1 (ct.example.com/2)"


def test_configured_logs_are_not_chosen_again_and_keep_their_names() -> None:
    own = (
        LogInfo("Log 3", "https://CT.example.com/1", "rfc6962", "op"),
        LogInfo("b", "https://elsewhere.example.com/", "rfc6962", "op", log_id=log_id(spki(2))),
    )
    chosen = choice(listed(classic(1), classic(2), classic(3)), configured=own)
    assert names(chosen) == ["Log 3 (ct.example.com/3)"]
    assert reasons(chosen) == dict.fromkeys(["Log 1", "Log 2"], "is named in the configuration")


@pytest.mark.parametrize("name", ["usable", "qualified", "pending"])
def test_usable_qualified_and_pending_logs_are_read_without_end(name: str) -> None:
    assert [each.stop for each in choice(listed(classic(1, state=state(name)))).chosen] == [None]


def test_a_readonly_log_is_read_up_to_its_final_tree_head() -> None:
    assert [each.stop for each in choice(listed(classic(1, state=state("readonly")))).chosen] == [7]


@pytest.mark.parametrize("name", ["retired", "rejected"])
def test_retired_and_rejected_logs_are_not_read_even_where_named(name: str) -> None:
    chosen = choice(listed(classic(1, state=state(name))), include_names=("Log 1",), include_states=(name,))
    assert (names(chosen), reasons(chosen)) == ([], {"Log 1": f"is {name}"})


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"state": None}, "has no state"),
        ({"log_type": "test"}, "is of type test"),
        ({"log_type": "monitoring_only", "state": None}, "is of type monitoring_only"),
        ({"log_type": "of tomorrow"}, "is of type of tomorrow"),
    ],
)
def test_a_log_for_tests_or_without_state_is_read_only_where_it_is_named_whole(
    changes: dict[str, Any], why: str
) -> None:
    logs = listed(classic(1, **changes))
    reason = {"Log 1": f"{why}: read only where its whole name is included"}
    assert reasons(choice(logs)) == reason
    assert reasons(choice(logs, include_names=("log", "example"))) == reason
    assert names(choice(logs, include_names=("LOG 1",))) == ["Log 1"]
    assert names(choice(logs, include_names=("https://ct.example.com/1",))) == ["Log 1"]


def test_a_prod_log_with_a_state_needs_no_naming() -> None:
    assert names(choice(listed(classic(1, log_type="prod")))) == ["Log 1"]


def test_a_log_whose_interval_is_over_is_polled_once_a_minute_and_no_other() -> None:
    interval = {"start_inclusive": "2026-01-01T00:00:00Z", "end_exclusive": "2026-08-21T00:00:00Z"}
    logs = listed(classic(1, temporal_interval=interval), classic(2))
    assert [each.poll_interval_s for each in choice(logs).chosen] == [60.0, None]
    assert [each.poll_interval_s for each in choice(logs, now_ms=NOW_MS - 1).chosen] == [None, None]


OPERATED = [("Ärger & Co", 1), ("Beta", 2)]


@pytest.mark.parametrize(
    ("selection", "chosen", "reason"),
    [
        ({"include_operators": ("ärger",)}, ["Log 1"], "not among the included operators"),
        ({"exclude_operators": ("ETA",)}, ["Log 1"], "excluded by operator: ETA"),
        ({"include_names": ("nothing", "g 1")}, ["Log 1"], "not among the included names"),
        ({"include_names": ("EXAMPLE.com/1",)}, ["Log 1"], "not among the included names"),
        ({"exclude_names": ("log 2",)}, ["Log 1"], "excluded by name: log 2"),
        ({"include_states": ("Usable",)}, ["Log 1"], "not among the included states"),
        ({"exclude_states": ("pending",)}, ["Log 1"], "excluded by state: pending"),
        ({"exclude_states": ("pend",)}, ["Log 1", "Log 2"], None),
        ({"include_names": ("log",), "exclude_names": ("2",)}, ["Log 1"], "excluded by name: 2"),
        ({"include_operators": ("beta",), "include_names": ("log 1",)}, [], "not among the included names"),
    ],
)
def test_logs_are_included_and_excluded_by_operator_name_and_state(
    selection: dict[str, Any], chosen: list[str], reason: str | None
) -> None:
    first, second = (listed(classic(number), operator=operator) for operator, number in OPERATED)
    second = replace(second, logs=(replace(second.logs[0], state="pending"),))
    made = choice(first, second, **selection)
    assert names(made) == chosen
    assert reasons(made).get("Log 2") == reason


def test_entries_that_cannot_be_used_are_named_with_their_reason() -> None:
    made = choice(listed(classic(1), classic(2, key=text(spki(3)))))
    assert [(each.name, each.source, each.state) for each in made.omitted] == [("Log 2", "google", None)]
    assert reasons(made) == {"Log 2": "log_id is not the SHA-256 of key"}


def test_a_configured_log_is_found_by_its_id_or_else_by_its_url_in_whatever_state() -> None:
    lists = [
        NamedList("google", listed(classic(1, state=state("rejected")), tiled(2))),
        NamedList("apple", listed(classic(1, description="another word"), classic(3))),
    ]

    def found(url: str, key: int | None = None) -> str | None:
        info = LogInfo("own", url, "rfc6962", "op", log_id=None if key is None else log_id(spki(key)))
        log = find_log(lists, info)
        return None if log is None else log.name

    assert found("https://CT.example.com:443/1") == "Log 1"
    assert found("https://mon.example.com/2/") == "Log 2"
    assert found("https://log.example.com/2/") is None
    assert found("https://elsewhere.example.com/", key=3) == "Log 3"
    assert found("https://ct.example.com/1/", key=4) is None  # another log than the one that is expected there


def test_a_choice_is_compared_by_log_id() -> None:
    before = choice(listed(classic(1), classic(2), classic(3)))
    after = choice(listed(classic(4), classic(3, url="https://moved.example.com/"), classic(1)))
    changes = compare_choices(before, after)
    assert [each.log.name for each in changes.added] == ["Log 4"]
    assert [each.log.name for each in changes.removed] == ["Log 2"]
    assert [(old.log.url, new.log.url) for old, new in changes.changed] == [
        ("https://ct.example.com/3/", "https://moved.example.com/")
    ]
    assert changes
    assert not compare_choices(after, after)
    assert compare_choices(after, after) == LogChanges()


def test_a_log_whose_interval_ends_changes_though_its_list_does_not() -> None:
    interval = {"start_inclusive": "2026-01-01T00:00:00Z", "end_exclusive": "2026-08-21T00:00:00Z"}
    logs = listed(classic(1, temporal_interval=interval), classic(2))
    changes = compare_choices(choice(logs, now_ms=NOW_MS - 1), choice(logs))
    assert [(old.log.name, old.poll_interval_s, new.poll_interval_s) for old, new in changes.changed] == [
        ("Log 1", None, 60.0)
    ]


def test_an_operator_is_spelled_as_the_first_list_spells_it() -> None:
    both = choice(listed(classic(1), operator="Beta"), listed(classic(2), operator="BETA"))
    assert [each.log.operator for each in both.chosen] == ["Beta", "Beta"]


def test_a_log_that_its_list_retires_is_removed_and_one_that_becomes_readonly_changes() -> None:
    before = choice(listed(classic(1), classic(2)))
    after = choice(listed(classic(1, state=state("retired")), classic(2, state=state("readonly"))))
    changes = compare_choices(before, after)
    assert [each.log.name for each in changes.removed] == ["Log 1"]
    assert [(old.stop, new.stop) for old, new in changes.changed] == [(None, 7)]


@given(st.lists(st.lists(st.tuples(st.integers(1, 6), st.integers(1, 6), st.integers(1, 3)), min_size=1), max_size=3))
def test_no_two_chosen_logs_share_id_name_or_url(lists: list[list[tuple[int, int, int]]]) -> None:
    """Each log: its key, its URL, its name."""
    made = choice(
        *(
            listed(*(classic(key, url=f"https://h/{url}", description=f"n{name}") for key, url, name in logs))
            for logs in lists
        )
    )
    for values in (
        [each.log.log_id for each in made.chosen],
        [each.log.url for each in made.chosen],
        [each.log.name for each in made.chosen],
    ):
        assert len(set(values)) == len(values)
