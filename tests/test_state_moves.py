"""The position of a log of a log list goes along to another URL."""

from __future__ import annotations

from pathlib import Path

from certstream.state import StateStore

A, B, C = "https://a.example", "https://b.example", "https://c.example"


def begun(url: str = A, log_id: str = "id", index: int = 7) -> StateStore:
    state = StateStore(None)
    state.settle(url, log_id, ())
    state.begin(url, 5, 10)
    state.advance(url, index, 20, 1)
    state.set_archive_start(url, 5)
    return state


def test_a_log_at_its_url_stays_there() -> None:
    state = begun()
    assert state.settle(A, "id", ()) is None
    assert (state.position(A) or 0) != 0


def test_a_log_at_another_url_takes_its_position_along_and_begins_an_archive_there() -> None:
    state = begun()
    assert state.settle(f"{B}/", "id", ()) == A
    moved = state.position(B)
    assert moved is not None
    assert (moved.current_index, moved.tree_size, moved.start_index) == (7, 20, 7)
    assert state.archive_start(B) is None
    assert state.position(A) is None


def test_of_a_log_that_is_read_there_as_well_nothing_moves() -> None:
    state = begun()
    assert state.settle(B, "id", [f"{A}/"]) is None
    assert state.position(A) is not None
    assert state.position(B) is None


def test_another_log_moves_nothing_and_a_position_that_is_there_is_not_overwritten() -> None:
    state = begun()
    assert state.settle(B, "other", ()) is None
    state.begin(C, 1, 1)
    assert state.settle(C, "id", ()) is None
    moved = state.position(C)
    assert moved is not None
    assert moved.current_index == 1


def test_of_several_urls_the_furthest_position_moves() -> None:
    state = begun()
    state.begin(B, 9, 9)
    assert state.settle(B, "id", ()) is None
    assert state.settle(C, "id", ()) == B


def test_it_moves_back_and_is_known_over_a_restart(tmp_path: Path) -> None:
    path = tmp_path / "state.json"
    state = StateStore(path)
    state.open()
    state.settle(A, "id", ())
    state.begin(A, 3, 3)
    state.close()
    again = StateStore(path)
    again.open()
    assert again.settle(B, "id", ()) == A
    assert again.settle(A, "id", ()) == B
    again.close()
    last = StateStore(path)
    last.open()
    assert last.position(A) is not None
    assert last.position(B) is None
    last.close()
