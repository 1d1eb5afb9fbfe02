"""`certstream --list-logs` as a user runs it."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import json
import signal
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web

from certstream.app.lists.departures import Departures
from certstream.app.lists.listed_logs import wish_of
from certstream.app.settings import FollowedLog
from certstream.config import Config
from certstream.ct.types import LogInfo
from certstream.state import StateStore
from tests.client.log_list_support import Publisher, publishing
from tests.ct.log_list_support import Raw, classic, tiled
from tests.e2e.command_support import Command, run, write_state
from tests.e2e.e2e_support import PATIENCE_S
from tests.e2e.log_list_support import listing

REJECTED: Raw = {"rejected": {"timestamp": "2026-01-01T00:00:00Z"}}
FLAG = "--list-logs"


def publish(publisher: Publisher) -> None:
    publisher.publish(classic(1), tiled(2), classic(3, state=REJECTED), version="7.5")


async def test_it_shows_what_is_followed_from_where_and_why_others_are_not(tmp_path: Path) -> None:
    async with publishing() as publisher:
        publish(publisher)
        write_state(tmp_path, {"https://ct.example.com/1": 12_345})
        shown = await run(tmp_path, listing(publisher), FLAG)
        listed = await run(tmp_path, listing(publisher), FLAG, "--json")
    assert (shown.code, listed.code) == (0, 0)
    assert "followed: 2" in shown.stdout
    assert "https://ct.example.com/1/" in shown.stdout
    assert "12,345" in shown.stdout
    (new,) = [line for line in shown.stdout.splitlines() if line.startswith("Log 2 ")]
    assert new.split()[5] == "head", "it is the first look at the list"
    assert "is rejected" in shown.stdout
    document = json.loads(listed.stdout)
    assert [(log["name"], log["kind"], log["state"], log["list"]) for log in document["followed"]] == [
        ("Log 1", "rfc6962", "usable", "ours"),
        ("Log 2", "static", "usable", "ours"),
    ]
    assert [log["position"] for log in document["followed"]] == [12_345, None]
    assert [(log["name"], log["reason"]) for log in document["not_followed"]] == [("Log 3", "is rejected")]
    assert [(each["name"], each["version"], each["signed"]) for each in document["lists"]] == [("ours", "7.5", True)]
    assert not (tmp_path / "log_lists").exists(), "what is kept is the service's"


async def test_a_log_that_no_list_has_any_more_is_shown_until_it_is_read(tmp_path: Path) -> None:
    async with publishing() as publisher:
        publish(publisher)
        options = listing(publisher)
        key = base64.b64decode(classic(9)["key"])
        info = LogInfo("Log 9", "https://ct.example.com/9/", "rfc6962", "o", key, hashlib.sha256(key).digest())
        with closing(StateStore(tmp_path / "certstream_state.json")) as state:
            state.open()
            state.begin(info.base_url, 5, 1_010)
            Departures(state).keep([FollowedLog(info, start="beginning")], wish_of(Config.model_validate(options)))
        shown = await run(tmp_path, options, FLAG)
        document = json.loads((await run(tmp_path, options, FLAG, "--json")).stdout)
        with closing(StateStore(tmp_path / "certstream_state.json")) as state:
            state.open()
            state.advance(info.base_url, 1_010, 1_010, 1)
        after = json.loads((await run(tmp_path, options, FLAG, "--json")).stdout)
    (line,) = [line for line in shown.stdout.splitlines() if line.startswith("Log 9 ")]
    assert line.split()[2:] == ["o", "rfc6962", "left", "5", "1,010", "-", "https://ct.example.com/9/"]
    left = document["followed"][-1]
    assert [left[name] for name in ("name", "state", "list", "position", "stop")] == ["Log 9", "left", None, 5, 1_010]
    assert len({tuple(each) for each in document["followed"]}) == 1  # the same members in each
    assert [log["name"] for log in after["followed"]] == ["Log 1", "Log 2"]


async def test_a_protocol_that_is_off_is_named_as_the_reason(tmp_path: Path) -> None:
    async with publishing() as publisher:
        publish(publisher)
        options = listing(publisher, ct_log={"static_ct_enabled": False})
        document = json.loads((await run(tmp_path, options, FLAG, "--json")).stdout)
    assert [log["name"] for log in document["followed"]] == ["Log 1"]
    reasons = {log["name"]: log["reason"] for log in document["not_followed"]}
    assert reasons["Log 2"] == "ct_log.static_ct_enabled is off"


async def test_configured_logs_are_shown_with_the_key_that_a_list_knows(tmp_path: Path) -> None:
    async with publishing() as publisher:
        publish(publisher)
        options = listing(publisher, log_lists={"enabled": None})
        log = {"name": "mine", "url": "https://ct.example.com/3"}
        document = json.loads((await run(tmp_path, {**options, "custom_logs": [log]}, FLAG, "--json")).stdout)
    (followed,) = document["followed"]
    assert (followed["name"], followed["list"], followed["key"]) == ("mine", "configuration", classic(3)["key"])
    assert document["not_followed"] == []


async def test_with_no_list_at_all_it_says_why_and_is_exit_1(tmp_path: Path) -> None:
    async with publishing() as publisher:
        publisher.answers = [lambda: web.Response(status=404)]
        ended = await run(tmp_path, listing(publisher), FLAG)
        assert ended.code == 1
        assert "404" in ended.only("log list cannot be had")["error"]
        assert "404" in ended.stdout
        assert any("No log list can be had" in line["event"] for line in ended.lines)
        log = {"name": "mine", "url": "https://ct.example.com/3", "key": classic(3)["key"]}
        publisher.answers = [lambda: web.Response(status=404)]
        options = {**listing(publisher, log_lists={"enabled": True}), "custom_logs": [log]}
        assert (await run(tmp_path, options, FLAG)).code == 0


@pytest.mark.parametrize("lists", [{"enabled": False}, {"google": False, "apple": False}])
async def test_without_logs_and_lists_it_says_so_and_is_exit_1(tmp_path: Path, lists: dict[str, Any]) -> None:
    ended = await run(tmp_path, {"log_lists": lists}, FLAG)
    assert (ended.code, ended.stdout) == (1, "")
    assert any("no log list is asked" in line["event"] for line in ended.lines)


async def test_a_signal_ends_it_while_a_list_is_waited_for(tmp_path: Path) -> None:
    async with publishing() as publisher:
        publish(publisher)
        publisher.signature = b"of something else"  # it is fetched again after a while
        async with Command(tmp_path, listing(publisher), [FLAG]) as command:
            async with asyncio.timeout(PATIENCE_S):
                await publisher.requested.wait()
            command.send(signal.SIGTERM)
            ended = await command.ended()
    assert (ended.code, ended.stdout) == (1, "")
