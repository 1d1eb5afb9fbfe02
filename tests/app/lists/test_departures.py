"""Logs that are read to their last head are known over a restart."""

from __future__ import annotations

import base64
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from certstream.app.lists.departures import Departures
from certstream.app.settings import FollowedLog
from certstream.ct.log_list import FinalTreeHead
from certstream.ct.types import LogInfo, LogKind
from certstream.simulator.log import SimulatedLog
from certstream.state import StateStore

ALL = "all of them"
ROOT = base64.b64encode(bytes(32)).decode()
LOG = SimulatedLog("log")


def leaving(kind: LogKind) -> FollowedLog:
    origin = "log.example" if kind == "static" else None
    info = LogInfo("a log", f"https://{kind}.example/", kind, "operator", LOG.spki, LOG.log_id, origin)
    return FollowedLog(info, start="beginning", verification="enforce", mmd_s=60, leaving=True)


@pytest.mark.parametrize("final", [None, FinalTreeHead(700, bytes(range(32)))])
@pytest.mark.parametrize("kind", ["rfc6962", "static"])
def test_they_are_kept_with_all_that_reading_them_needs(
    tmp_path: Path, kind: LogKind, final: FinalTreeHead | None
) -> None:
    log = replace(leaving(kind), final=final)
    state = StateStore(tmp_path / "state.json")
    state.open()
    Departures(state).keep([log], ALL)
    state.close()
    again = StateStore(tmp_path / "state.json")
    again.open()
    try:
        assert Departures(again).known(ALL, "enforce") == {LOG.log_id: log}
        assert Departures(again).known("others", "enforce") == {}, "a changed selection takes logs out at once"
        Departures(again).keep([], ALL)
        assert Departures(again).known(ALL, "enforce") == {}
    finally:
        again.close()


def test_where_none_ever_left_the_state_file_says_nothing() -> None:
    state = StateStore(None)
    Departures(state).keep([], ALL)
    assert state.member("leaving_logs") is None


@pytest.mark.parametrize(
    "damaged",
    [
        None, [], "text", {"wanted": ALL}, {"wanted": ALL, "logs": {}}, {"wanted": ALL, "logs": [None, 1, {}]},
    ],
)  # fmt: skip
def test_what_is_not_of_that_shape_is_no_log(damaged: Any) -> None:
    state = StateStore(None)
    state.set_member("leaving_logs", damaged)
    assert Departures(state).known(ALL, "warn") == {}


@pytest.mark.parametrize(
    "change",
    [
        {"key": "!"}, {"key": "bm8ga2V5"}, {"kind": "other"}, {"origin": 1}, {"url": None}, {"url": "file:///x"},
        {"name": 1}, {"final": 700}, {"final": {"tree_size": -1, "root_hash": ROOT}}, {"final": {"tree_size": 7}},
        {"final": {"tree_size": 7, "root_hash": ROOT[4:]}}, {"final": {"tree_size": True, "root_hash": ROOT}},
        {"final": {"tree_size": 7, "root_hash": "!"}},
    ],
)  # fmt: skip
def test_a_damaged_entry_is_no_log_and_others_are(change: dict[str, Any]) -> None:
    state = StateStore(None)
    Departures(state).keep([leaving("static"), leaving("static")], ALL)
    member = state.member("leaving_logs")
    member["logs"][1] |= change  # the last one of an id would count
    assert list(Departures(state).known(ALL, "enforce").values()) == [leaving("static")]
