"""The state file: what is read, what is written, what a crash, a full disk and a second process leave behind."""

from __future__ import annotations

import asyncio
import errno
import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import structlog
from structlog.testing import capture_logs

from certstream.errors import StateError, StorageError
from certstream.state import LogPosition, StateStore

URL = "https://ct.example.com/2026h1"


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "certstream_state.json"


@contextmanager
def opened(path: Path, **options: Any) -> Iterator[StateStore]:
    store = StateStore(path, **options)
    store.open()
    try:
        yield store
    finally:
        store.close()


def written(path: Path) -> dict[str, Any]:
    document = json.loads(path.read_text())
    assert isinstance(document, dict)
    return document


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


def test_a_log_that_advances_never_goes_back(path: Path) -> None:
    with opened(path) as store:
        store.begin(URL, 10, 20)
        store.advance(URL, 15, 20, 1)
        with pytest.raises(ValueError, match="stands at 15"):
            store.advance(URL, 14, 20, 2)
        with pytest.raises(ValueError, match="followed already"):
            store.begin(URL, 0, 20)
        assert store.position(URL) == LogPosition(15, 20, 1, 10)
        store.rewind(URL, 12)
        assert store.position(URL) == LogPosition(12, 20, 1, 10)


def test_nothing_is_written_while_nothing_changes(path: Path) -> None:
    path.write_text('{"logs": {"a": {"current_index": 1}}}')
    before = path.stat()
    with opened(path) as store:
        store.save()
    after = path.stat()
    assert (before.st_ino, before.st_mtime_ns) == (after.st_ino, after.st_mtime_ns)


def test_no_path_keeps_positions_in_memory_only(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    store = StateStore(None)
    store.open()
    store.begin(URL, 1, 1)
    store.save()
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


def test_the_previous_generation_is_kept_and_offered(path: Path) -> None:
    with opened(path) as store:
        store.begin(URL, 1, 2)
        store.save()
        store.advance(URL, 2, 2, 3)
    previous = path.with_name(path.name + ".prev")
    assert written(previous)["logs"][URL]["current_index"] == 1
    path.write_text("broken")
    with pytest.raises(StateError, match=r"\.prev of \d{4}-.* is readable \(1 logs\): copy it over the file"):
        StateStore(path).open()
    previous.replace(path)
    with opened(path) as store:
        assert store.position(URL) == LogPosition(1, 2, 0, 1)


def test_the_previous_generation_is_copied_where_files_cannot_be_linked(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise OSError(errno.EPERM, "Operation not permitted")

    monkeypatch.setattr(os, "link", refuse)
    with opened(path) as store:
        store.begin(URL, 1, 2)
        store.save()
        store.advance(URL, 2, 2, 3)
    assert written(path)["logs"][URL]["current_index"] == 2
    assert written(path.with_name(path.name + ".prev"))["logs"][URL]["current_index"] == 1


def test_a_missing_file_beside_a_previous_generation_is_said(path: Path) -> None:
    path.with_name(path.name + ".prev").write_text('{"logs": {}}')
    with capture_logs() as logs, opened(path):
        pass
    assert [line["event"] for line in logs] == ["no state file, but a previous generation of one"]


def test_a_file_behind_a_symbolic_link_is_replaced_where_it_lies(path: Path, tmp_path: Path) -> None:
    real = tmp_path / "elsewhere" / "state.json"
    real.parent.mkdir()
    path.symlink_to(real)
    with opened(path) as store:
        store.begin(URL, 1, 1)
    assert path.is_symlink()
    assert written(real)["logs"][URL]["current_index"] == 1


def test_a_directory_that_does_not_exist_yet_is_made(tmp_path: Path) -> None:
    path = tmp_path / "var" / "lib" / "state.json"
    with opened(path) as store:
        store.begin(URL, 1, 1)
    assert written(path)["logs"]


def test_a_path_that_cannot_be_locked_stops_the_start(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(StateError, match="cannot be locked"):
        StateStore(tmp_path / "file" / "state.json").open()


def _child(code: str, *arguments: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", code, *arguments],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


_HOLD = """
import sys
from pathlib import Path
from certstream.state import StateStore
store = StateStore(Path(sys.argv[1])); store.open(); print("open", flush=True); sys.stdin.readline(); store.close()
"""


def test_a_second_process_on_the_same_file_is_told_who_holds_it(path: Path) -> None:
    with _child(_HOLD, str(path)) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "open\n"
        with pytest.raises(StateError, match=rf"in use by process {holder.pid} on \S+ since \d{{4}}-"):
            StateStore(path).open()
        holder.communicate("\n", timeout=10)
    with opened(path) as store:
        store.begin(URL, 1, 1)


def test_the_lock_of_a_killed_process_is_free(path: Path) -> None:
    with _child(_HOLD, str(path)) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "open\n"
        holder.kill()
    with opened(path) as store:
        store.begin(URL, 1, 1)
    assert written(path)["logs"][URL]["current_index"] == 1


_DIE_BETWEEN_WRITE_AND_RENAME = """
import os, signal, sys
from pathlib import Path
from certstream.state import StateStore
store = StateStore(Path(sys.argv[1])); store.open(); store.advance(sys.argv[2], 2, 2, 2)
point, rename = sys.argv[3], Path.replace
def die(self, target):
    if self.name.endswith(point):
        os.kill(os.getpid(), signal.SIGKILL)
    return rename(self, target)
Path.replace = die
store.save()
"""


@pytest.mark.parametrize("point", [".prev.tmp", "json.tmp"])
def test_a_process_killed_between_write_and_rename_leaves_the_old_state(path: Path, point: str) -> None:
    with opened(path) as store:
        store.begin(URL, 1, 1)
    with _child(_DIE_BETWEEN_WRITE_AND_RENAME, str(path), URL, point) as process:
        _, errors = process.communicate(timeout=10)
    assert process.returncode == -signal.SIGKILL, errors
    assert path.with_name(path.name + ".tmp").exists()
    with opened(path) as store:
        assert store.position(URL) == LogPosition(1, 1, 0, 1)
        store.advance(URL, 3, 3, 3)
    assert written(path)["logs"][URL]["current_index"] == 3


def test_a_reader_beside_a_writer_always_finds_a_whole_state(path: Path) -> None:
    with opened(path) as store:
        store.begin(URL, 0, 0)
        store.save()
        done = threading.Event()
        seen: list[int] = []

        def read() -> None:
            while not done.is_set():
                seen.append(written(path)["logs"][URL]["current_index"])

        reader = threading.Thread(target=read)
        reader.start()
        for index in range(1, 200):
            store.advance(URL, index, index, index)
            store.save()
        done.set()
        reader.join()
    assert seen == sorted(seen)
    assert len(set(seen)) > 1


async def test_running_saves_a_change_at_once_and_the_next_ones_together(path: Path) -> None:
    store = StateStore(path, save_interval_s=0.01)
    writes: list[bytes] = []
    enough = asyncio.Event()
    loop = asyncio.get_running_loop()
    assert store._file is not None
    write = store._file.write

    def watch(content: bytes) -> None:
        write(content)
        writes.append(content)
        if json.loads(content)["logs"][URL]["current_index"] == 100:
            loop.call_soon_threadsafe(enough.set)

    store._file.write = watch  # type: ignore[method-assign]
    async with store:
        store.begin(URL, 0, 0)
        running = asyncio.create_task(store.run())
        for index in range(101):
            store.advance(URL, index, index, index)
        await asyncio.wait_for(enough.wait(), 10)
        running.cancel()
        await asyncio.wait([running])
    assert len(writes) == 1
    assert written(path)["logs"][URL]["current_index"] == 100


async def test_running_saves_no_more_than_once_in_an_interval(path: Path) -> None:
    store = StateStore(path, save_interval_s=3_600)
    saved = asyncio.Event()
    loop = asyncio.get_running_loop()
    assert store._file is not None
    write = store._file.write

    def watch(content: bytes) -> None:
        write(content)
        loop.call_soon_threadsafe(saved.set)

    store._file.write = watch  # type: ignore[method-assign]
    async with store:
        running = asyncio.create_task(store.run())
        store.begin(URL, 0, 0)
        await asyncio.wait_for(saved.wait(), 10)
        saved.clear()
        store.advance(URL, 1, 1, 1)
        for _ in range(50):
            await asyncio.sleep(0)
        assert not saved.is_set()
        assert written(path)["logs"][URL]["current_index"] == 0
        running.cancel()
        await asyncio.wait([running])
    assert written(path)["logs"][URL]["current_index"] == 1  # the last save is that of closing


async def test_closing_saves_the_newest_state_after_a_save_that_was_cancelled(path: Path) -> None:
    store = StateStore(path)
    entered, leave = threading.Event(), threading.Event()
    assert store._file is not None
    write = store._file.write

    def slow(content: bytes) -> None:
        entered.set()
        assert leave.wait(10)
        write(content)

    store._file.write = slow  # type: ignore[method-assign]
    async with store:
        running = asyncio.create_task(store.run())
        store.begin(URL, 1, 1)
        await asyncio.to_thread(entered.wait, 10)
        running.cancel()
        await asyncio.wait([running])
        store.advance(URL, 2, 2, 2)
        asyncio.get_running_loop().call_soon(leave.set)
    assert written(path)["logs"][URL]["current_index"] == 2


def test_a_save_that_fails_leaves_the_old_file_and_the_change_to_be_saved(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with opened(path) as store:
        store.begin(URL, 1, 1)
        store.save()
        store.advance(URL, 2, 2, 2)
        with monkeypatch.context() as full:
            full.setattr(os, "fsync", _no_space)
            with pytest.raises(StorageError, match="No space left"):
                store.save()
        assert written(path)["logs"][URL]["current_index"] == 1
        store.save()
    assert written(path)["logs"][URL]["current_index"] == 2


def _no_space(_: int) -> None:
    raise OSError(errno.ENOSPC, "No space left on device")


async def test_a_full_disk_is_said_once_and_the_service_saves_again_when_there_is_room(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    structlog.reset_defaults()
    store = StateStore(path, save_interval_s=0.001)
    attempts = 0
    tried, saved = asyncio.Event(), asyncio.Event()
    loop = asyncio.get_running_loop()
    room = threading.Event()
    sync = os.fsync

    def fsync(fd: int) -> None:
        nonlocal attempts
        if not room.is_set():
            attempts += 1
            if attempts == 3:
                loop.call_soon_threadsafe(tried.set)
            _no_space(fd)
        sync(fd)
        loop.call_soon_threadsafe(saved.set)

    monkeypatch.setattr(os, "fsync", fsync)
    with capture_logs() as logs:
        async with store:
            running = asyncio.create_task(store.run())
            store.begin(URL, 1, 1)
            await asyncio.wait_for(tried.wait(), 10)
            assert store.save_error is not None
            assert "No space left" in store.save_error
            room.set()
            await asyncio.wait_for(saved.wait(), 10)
            running.cancel()
            await asyncio.wait([running])
    assert [line["event"] for line in logs] == ["state cannot be saved, trying again", "state is saved again"]
    assert store.save_error is None
    assert written(path)["logs"][URL]["current_index"] == 1
