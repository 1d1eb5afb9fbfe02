"""What the state file holds: positions of logs, what else stands in it, and files that cannot be read."""

from __future__ import annotations

import base64
import json
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from certstream.ct.edge import TreeEdge
from certstream.errors import StateError
from certstream.state import LogPosition, StateStore, read_anchors
from tests.state_support import URL, opened, written


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "certstream_state.json"


def test_positions_survive_closing_and_opening(path: Path) -> None:
    with opened(path) as store:
        store.begin(URL, 1_000, 2_000)
        store.advance(URL, 1_500, 2_100, 1_767_000_000)
    with opened(path) as store:
        assert store.position(URL) == LogPosition(1_500, 2_100, 1_767_000_000, 1_000)
        assert store.position("https://other.example.com/") is None
    assert written(path) == {
        "version": 1,
        "logs": {
            URL: {"current_index": 1_500, "tree_size": 2_100, "last_success": 1_767_000_000, "start_index": 1_000}
        },
    }


def test_a_followed_log_without_a_new_entry_resumes_where_it_began(path: Path) -> None:
    with opened(path) as store:
        store.begin(URL, 1_000, 1_000)
    with opened(path) as store:
        assert store.position(URL) == LogPosition(1_000, 1_000, 0, 1_000)


def test_the_least_file_is_enough(path: Path) -> None:
    path.write_text(json.dumps({"logs": {URL: {"current_index": 1_000}}}))
    with opened(path) as store:
        assert store.position(URL) == LogPosition(1_000, 0, 0, None)


@pytest.mark.parametrize("in_file", [URL, URL + "/"])
@pytest.mark.parametrize("asked", [URL, URL + "/"])
def test_keys_match_with_and_without_trailing_slash(path: Path, in_file: str, asked: str) -> None:
    path.write_text(json.dumps({"version": 1, "logs": {in_file: {"current_index": 7}}}))
    with opened(path) as store:
        store.advance(asked, 8, 9, 10)
        assert store.position(URL) == store.position(URL + "/") == LogPosition(8, 9, 10, None)
    assert list(written(path)["logs"]) == [in_file]


def test_a_new_log_is_written_without_trailing_slash(path: Path) -> None:
    with opened(path) as store:
        store.begin(URL + "/", 5, 5)
    assert list(written(path)["logs"]) == [URL]


def test_the_key_without_slash_goes_before_the_same_with_one(path: Path) -> None:
    path.write_text(json.dumps({"logs": {URL + "/": {"current_index": 9}, URL: {"current_index": 7}}}))
    with opened(path) as store:
        position = store.position(URL + "/")
    assert position is not None
    assert position.current_index == 7


def test_logs_that_nobody_asks_for_and_unknown_fields_are_kept(path: Path) -> None:
    other = {"current_index": 3, "tree_size": 4, "last_success": -0, "verified": {"root": "ab"}}
    before = {
        "version": 1,
        "note": "mine",
        "logs": {"https://old.example/": other, URL: {"current_index": 1, "x": [1]}},
    }
    path.write_text(json.dumps(before))
    with opened(path) as store:
        store.advance(URL, 2, 3, 4)
    after = written(path)
    assert after["note"] == "mine"
    assert after["logs"]["https://old.example/"] == other
    assert after["logs"][URL] == {"current_index": 2, "tree_size": 3, "last_success": 4, "x": [1]}


def test_where_the_archive_of_a_log_begins_is_kept_until_its_table_says_so(path: Path) -> None:
    with opened(path) as store:
        store.begin(URL, 1_000, 2_000)
        assert store.archive_start(URL) is None
        store.set_archive_start(URL + "/", 1_000)
        store.advance(URL, 1_500, 2_100, 7)
    with opened(path) as store:
        assert store.archive_start(URL) == 1_000
        assert store.position(URL) == LogPosition(1_500, 2_100, 7, 1_000)
        store.set_archive_start(URL, None)
        store.set_archive_start("https://other.example.com", None)
    with opened(path) as store:
        assert store.archive_start(URL) is None
    entry = {"current_index": 1_500, "tree_size": 2_100, "last_success": 7, "start_index": 1_000}
    assert written(path) == {"version": 1, "logs": {URL: entry}}


def test_a_log_that_advances_never_goes_back(path: Path) -> None:
    with opened(path) as store:
        store.begin(URL, 10, 20)
        store.advance(URL, 15, 20, 1)
        with pytest.raises(ValueError, match="stands at 15"):
            store.advance(URL, 14, 20, 2)
        with pytest.raises(ValueError, match="followed already"):
            store.begin(URL, 0, 20)
        assert store.position(URL) == LogPosition(15, 20, 1, 10)


def test_nothing_is_written_while_nothing_changes(path: Path) -> None:
    path.write_text('{"logs": {"a": {"current_index": 1}}}')
    before = path.stat()
    with opened(path):
        pass
    after = path.stat()
    assert (before.st_ino, before.st_mtime_ns) == (after.st_ino, after.st_mtime_ns)


def test_no_path_keeps_positions_in_memory_only(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    store = StateStore(None)
    store.open()
    store.begin(URL, 1, 1)
    store.close()
    assert store.position(URL) == LogPosition(1, 1, 0, 1)
    assert list(tmp_path.iterdir()) == []


BROKEN = [
    b"",
    b'{"version": 1, "logs": {',
    b"\xff\xfe",
    b"[]",
    b"null",
    b'{"version": 2, "logs": {}}',
    b'{"version": true, "logs": {}}',
    b'{"version": "1", "logs": {}}',
    b'{"logs": []}',
    b'{"logs": {"a": 1}}',
    b'{"logs": {"a": {"current_index": -1}}}',
    b'{"logs": {"a": {"current_index": "7"}}}',
    b'{"logs": {"a": {"current_index": 7.5}}}',
    b'{"logs": {"a": {"current_index": true}}}',
    b'{"logs": {"a": {"current_index": null}}}',
    b'{"logs": {"a": {"current_index": 9223372036854775808}}}',
    b'{"logs": {"a": {"current_index": 1, "tree_size": "many"}}}',
    b'{"logs": {"a": {"current_index": 1, "start_index": -3}}}',
    b'{"logs": {"a": {"current_index": 1, "archive_start": "0"}}}',
]


@pytest.mark.parametrize("content", BROKEN)
def test_an_unreadable_file_stops_the_start_and_stays_as_it_is(path: Path, content: bytes) -> None:
    path.write_bytes(content)
    with pytest.raises(StateError, match=r"no readable previous generation.*state_recovery: fresh") as caught:
        StateStore(path).open()
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)
    assert path.read_bytes() == content
    path.unlink()
    with opened(path):  # and the lock is free again
        pass


@pytest.mark.parametrize("content", BROKEN)
def test_an_unreadable_file_starts_fresh_where_that_is_asked_for_and_is_kept_aside(path: Path, content: bytes) -> None:
    path.write_bytes(content)
    with capture_logs() as logs, opened(path, recovery="fresh") as store:
        assert store.position("a") is None
        store.begin(URL, 1, 2)
    assert written(path)["logs"] == {URL: {"current_index": 1, "tree_size": 2, "last_success": 0, "start_index": 1}}
    (kept,) = path.parent.glob("*.unreadable-*")
    assert kept.read_bytes() == content
    assert [line["log_level"] for line in logs] == ["warning"]
    assert logs[0]["kept"] == str(kept)


EDGE = TreeEdge().extended(bytes(range(32)) * 3)


def test_the_edge_of_a_position_survives_closing_and_opening(path: Path) -> None:
    with opened(path) as store:
        store.begin(URL, 3, 10)
        store.set_edge(URL, EDGE)
    assert written(path)["logs"][URL]["edge"] == base64.b64encode(EDGE.to_bytes()).decode()
    with opened(path) as store:
        assert store.edge(URL + "/") == EDGE
        store.advance(URL, 3, 11, 0)
        assert store.edge(URL) == EDGE


def test_the_edge_of_another_position_is_not_kept(path: Path) -> None:
    with opened(path) as store:
        store.begin(URL, 3, 10)
        store.set_edge(URL, EDGE)
        store.advance(URL, 4, 10, 0)
        assert store.edge(URL) is None
        store.set_edge(URL, EDGE)
        assert store.edge(URL) is None
    assert "edge" not in written(path)["logs"][URL]


@pytest.mark.parametrize(
    "edge",
    ["", "not base64!", 7, None, ["x"], base64.b64encode(b"\0" * 9).decode(), base64.b64encode(bytes(8)).decode()],
)
def test_an_edge_that_does_not_fit_is_discarded_and_nothing_else(path: Path, edge: object) -> None:
    path.write_text(json.dumps({"logs": {URL: {"current_index": 3, "edge": edge}}}))
    with opened(path) as store:
        assert store.edge(URL) is None
        assert store.position(URL) == LogPosition(3, 0, 0, None)
        store.set_edge(URL, None)
        assert store.edge(URL) is None


def test_no_edge_is_kept_of_a_log_that_is_not_followed(path: Path) -> None:
    with opened(path) as store:
        store.set_edge(URL, EDGE)
        assert store.edge(URL) is None
        assert store.position(URL) is None


def test_the_longest_proven_edge_is_kept_wherever_the_position_is(path: Path) -> None:
    with opened(path) as store:
        store.begin(URL, 3, 3)
        store.set_edge(URL, EDGE)
        store.set_anchor(URL, EDGE)
        assert store.anchor(URL) == EDGE
    assert "anchor" not in written(path)["logs"][URL]  # once is enough
    with opened(path) as store:
        store.advance(URL, 5, 5, 0)
        store.set_anchor(URL, EDGE)
    with opened(path) as store:
        assert (store.edge(URL), store.anchor(URL)) == (None, EDGE)
        store.set_anchor(URL, None)
        assert store.anchor(URL) is None
    assert "anchor" not in written(path)["logs"][URL]


def test_the_anchors_are_read_without_the_lock(path: Path) -> None:
    text = base64.b64encode(EDGE.to_bytes()).decode()
    logs = {URL + "/": {"current_index": 3, "edge": text}, "https://other.example": {"current_index": 4, "edge": text}}
    path.write_text(json.dumps({"logs": {**logs, "https://more.example": {"current_index": 9, "anchor": text}}}))
    with opened(path):
        assert read_anchors(path) == {URL: EDGE, "https://more.example": EDGE}
    assert read_anchors(path.with_name("none.json")) == {}
