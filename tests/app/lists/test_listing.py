from __future__ import annotations

import base64
import json
from collections.abc import AsyncIterator, Sequence
from datetime import datetime
from pathlib import Path

import pytest

from certstream.app.lists.listing import logs_json, logs_text
from certstream.app.lists.sources import APPLE_LIST, GOOGLE_LIST, list_sources, lists_directory, log_selection
from certstream.client.http import FetchSettings, HttpClient
from certstream.client.log_list import ListStatus, LogLists
from certstream.client.log_list_source import ListSource
from certstream.config.log_lists import LogListsConfig
from certstream.ct.log_choice import LogChoice, NamedList, Selection, choose_logs
from certstream.ct.log_list import GOOGLE_LIST_KEY, parse_log_list
from certstream.ct.signatures import spki_of
from certstream.ct.types import LogInfo
from certstream.live.tailer import Start
from certstream.metrics import Metrics
from certstream.terminal import cells_of
from tests.ct.log_list_support import APPLE, DATA, GOOGLE, SIGNER, classic, document, listed, text, tiled

NOW_MS = int(datetime.fromisoformat("2026-08-21T00:00:00Z").timestamp() * 1000)
GOOD = ListStatus("google", "https://h/list.json", True, "89.25", NOW_MS, 7_300.0, 117, None, None)
OWN = LogInfo("my \x1b[31mlog", "https://mine.example.com/", "rfc6962", "me")
HEAD = {"tree_size": 57_634_084, "sha256_root_hash": text(bytes(range(32)))}
INTERVAL = {"start_inclusive": "2026-01-01T00:00:00Z", "end_exclusive": "2026-07-01T00:00:00Z"}
CHOICE = choose_logs(
    [
        NamedList("google", listed(classic(1), classic(2, state={"readonly": {"final_tree_head": HEAD}}))),
        NamedList("apple", listed(tiled(3, temporal_interval=INTERVAL), classic(4, state={"rejected": {}}))),
        NamedList("own", listed(classic(5), classic(6, description=None, mmd=-1))),
    ],
    Selection(exclude_names=("log 5",)),
    NOW_MS,
)


def rows(text: str, title: str) -> list[list[str]]:
    """The cells of one table, its heads first."""
    table = next(part for part in text.split("\n\n") if part.startswith(f"{title}: "))
    lines = table.splitlines()[1:]
    starts = [at for at, c in enumerate(lines[0]) if c != " " and (at == 0 or lines[0][at - 2 : at] == "  ")]
    return [[line[a:b].rstrip() for a, b in zip(starts, [*starts[1:], None], strict=True)] for line in lines]


POSITIONS = {"https://mine.example.com": 0, "https://ct.example.com/2": 1_234}


def test_the_followed_logs_stand_with_state_position_end_and_list() -> None:
    assert rows(logs_text([GOOD], CHOICE, [OWN], POSITIONS), "followed") == [
        ["NAME", "OPERATOR", "KIND", "STATE", "NEXT", "UP TO", "LIST", "URL"],
        ["my ?[31mlog", "me", "rfc6962", "-", "0", "-", "configuration", "https://mine.example.com/"],
        ["Log 1", "Example", "rfc6962", "usable", "-", "-", "google", "https://ct.example.com/1/"],
        ["Log 2", "Example", "rfc6962", "readonly", "1,234", "57,634,084", "google", "https://ct.example.com/2/"],
        ["Log 3", "Example", "static", "usable, interval over", "-", "-", "apple", "https://mon.example.com/3/"],
    ]
    starts: dict[str, Start] = {"https://ct.example.com/1": "beginning", "https://mon.example.com/3": "head"}
    shown = rows(logs_text([GOOD], CHOICE, [OWN], POSITIONS, starts), "followed")
    assert [row[4] for row in shown[1:]] == ["0", "0", "1,234", "head"]
    made = json.loads(logs_json([GOOD], CHOICE, [OWN], POSITIONS))
    assert [each["position"] for each in made["followed"]] == [0, None, 1_234, None]


def test_columns_stand_below_each_other_also_where_names_are_wide() -> None:
    wide = LogInfo("漢字 é", "https://wide.example.com/", "rfc6962", "me")
    shown = logs_text([], LogChoice(), [OWN, wide])
    before = {cells_of(line.partition("https://")[0]) for line in shown.splitlines() if "https://" in line}
    assert len(before) == 1


def test_the_other_logs_stand_with_the_reason() -> None:
    assert rows(logs_text([GOOD], CHOICE), "not followed") == [
        ["NAME", "OPERATOR", "STATE", "LIST", "WHY"],
        ["Log 4", "Example", "rejected", "apple", "is rejected"],
        ["Log 5", "Example", "usable", "own", "excluded by name: log 5"],
        ["https://ct.example.com/6/", "Example", "none", "own", f"mmd is -1, not a whole number from 0 to {10**9}"],
    ]


@pytest.mark.parametrize(
    ("status", "cells"),
    [
        (GOOD, ["117", "89.25", "2026-08-21 00:00 UTC", "2 h ago", "yes", "https://h/list.json", ""]),
        (
            ListStatus("own", "own.json", False, "", None, 0.0, 3, "own.json: \x1b gone", None),
            ["3", "-", "-", "0 s ago", "no", "own.json", "? gone"],
        ),
        (
            ListStatus("apple", "a", False, "5", None, 90_000.0, 3, None, "google"),
            ["3", "5", "-", "1 d ago", "no", "a", "waits for google"],
        ),
        (
            ListStatus("google", "a", True, "", None, None, 0, "no", None),
            ["0", "-", "-", "-", "yes", "a", "no"],
        ),
    ],
)
def test_each_list_stands_with_its_age_and_trouble(status: ListStatus, cells: list[str]) -> None:
    trouble = ListStatus("trouble", "b", False, "", None, 61.0, 1, "some", None)  # so that the column is there
    assert rows(logs_text([status, trouble], CHOICE), "log lists")[1] == [status.name, *cells]


def test_where_nothing_is_left_out_there_is_no_table_of_it() -> None:
    choice = choose_logs([NamedList("own", listed(classic(1)))], Selection(), NOW_MS)
    assert "not followed" not in logs_text([], choice)
    assert "log lists" not in logs_text([], choice)


def test_programs_get_the_same_and_what_verifies_the_logs() -> None:
    made = json.loads(logs_json([GOOD], CHOICE, [OWN]))
    assert [each["name"] for each in made["lists"]] == ["google"]
    assert [(each["list"], each["state"]) for each in made["followed"]] == [
        ("configuration", None), ("google", "usable"), ("google", "readonly"), ("apple", "usable"),
    ]  # fmt: skip
    assert len({tuple(each) for each in made["followed"]}) == 1  # the same members in each
    readonly, over = made["followed"][2:]
    assert (readonly["stop"], base64.b64decode(readonly["final_root_hash"])) == (57_634_084, bytes(range(32)))
    assert base64.b64decode(over["key"]) == CHOICE.chosen[2].log.key
    assert (over["origin"], over["poll_interval_s"]) == ("log.example.com/3", 60.0)
    assert [each["reason"] for each in made["not_followed"]] == [each.reason for each in CHOICE.omitted]


@pytest.fixture
async def http() -> AsyncIterator[HttpClient]:
    async with HttpClient(FetchSettings(), Metrics()) as http:
        yield http


async def test_the_real_lists_are_shown_with_every_log_once(http: HttpClient) -> None:
    google = ListSource("google", str(DATA / "all_logs_list.json"), str(DATA / "all_logs_list.sig"), GOOGLE_LIST_KEY)
    apple = ListSource("apple", str(DATA / "apple_current_log_list.json"), needs="google")
    lists = LogLists(http, [google, apple], Selection(), directory=None)
    choice = await lists.start()
    shown = logs_text(lists.statuses(), choice)
    logs = {each.log_id for body in (GOOGLE, APPLE) for each in parse_log_list(body).logs}
    assert len(rows(shown, "followed")[1:]) + len(rows(shown, "not followed")[1:]) == len(logs)


def named(sources: Sequence[ListSource]) -> list[tuple[str, str | None]]:
    return [(each.name, each.needs) for each in sources]


def test_google_goes_first_then_apple_then_the_configured_lists() -> None:
    own = {"name": "own", "location": "a", "signature": "b", "key": text(spki_of(SIGNER))}
    file = {"name": "file", "location": "c", "unsigned": True}
    config = LogListsConfig.model_validate({"lists": [own, file]})
    sources = list(list_sources(config))
    assert named(sources) == [("google", None), ("apple", "google"), ("own", None), ("file", None)]
    assert sources[:2] == [GOOGLE_LIST, APPLE_LIST]
    assert GOOGLE_LIST.key == GOOGLE_LIST_KEY
    assert [(each.location, each.signature, each.key) for each in sources[2:]] == [
        ("a", "b", spki_of(SIGNER)),
        ("c", None, None),
    ]


async def test_apples_list_stands_for_itself_where_googles_is_off(http: HttpClient, tmp_path: Path) -> None:
    (tmp_path / "apple.json").write_bytes(document(classic(1)))
    (source,) = list_sources(LogListsConfig(google=False))
    assert source == APPLE_LIST
    here = ListSource(source.name, str(tmp_path / "apple.json"), needs=source.needs)
    assert len((await LogLists(http, [here], Selection(), directory=None).start()).chosen) == 1


def test_the_selection_is_the_configured_one() -> None:
    texts = {f"{way}_{what}": (f"{way} {what}",) for way in ("include", "exclude") for what in ("operators", "names")}
    states = {"include_states": ("usable", "readonly"), "exclude_states": ("readonly",)}
    config = LogListsConfig.model_validate({**texts, **states})
    assert log_selection(config) == Selection(**texts, **states)


def test_the_last_good_lists_are_kept_beside_the_state_file() -> None:
    assert lists_directory("data/certstream_state.json") == Path("data/log_lists")
    assert lists_directory(None) is None
