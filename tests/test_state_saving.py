"""How the state is saved: when, and what a crash, a full disk and a second process leave behind."""

from __future__ import annotations

import asyncio
import errno
import os
import signal
import subprocess
import sys
import threading
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import structlog
from structlog.testing import capture_logs

from certstream.errors import StateError
from certstream.state import LogPosition, StateStore
from tests.state_support import URL, opened, written


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "certstream_state.json"


def test_the_previous_generation_is_kept_and_offered(path: Path) -> None:
    with opened(path) as store:
        store.begin(URL, 1, 2)
    with opened(path) as store:
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
    with opened(path) as store:
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
store.close()
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
    done = threading.Event()
    seen: list[int] = []

    def read() -> None:
        while not done.is_set():
            seen.append(written(path)["logs"][URL]["current_index"])

    reader = threading.Thread(target=read)
    reader.start()
    for index in range(1, 200):
        with opened(path) as store:
            store.advance(URL, index, index, index)
    done.set()
    reader.join()
    assert seen == sorted(seen)
    assert len(set(seen)) > 1


class Pauses:
    """The sleeps of a store: each goes on until the test ends it."""

    def __init__(self) -> None:
        self._begun: asyncio.Queue[float] = asyncio.Queue()
        self._over: asyncio.Queue[None] = asyncio.Queue()

    async def __call__(self, seconds: float) -> None:
        self._begun.put_nowait(seconds)
        await self._over.get()

    async def begun(self) -> float:
        """Wait for the next one to begin; return how long it was to be (s)."""
        async with asyncio.timeout(10):
            return await self._begun.get()

    def end(self) -> None:
        self._over.put_nowait(None)


@asynccontextmanager
async def running(path: Path) -> AsyncIterator[tuple[StateStore, Pauses]]:
    """A store that saves by itself, and its pauses."""
    pauses = Pauses()
    async with StateStore(path, sleep=pauses) as store:
        task = asyncio.create_task(store.run())
        try:
            yield store, pauses
        finally:
            task.cancel()
            await asyncio.wait([task])


async def test_running_saves_what_changed_at_once_and_what_changes_then_after_a_second(path: Path) -> None:
    async with running(path) as (store, pauses):
        store.begin(URL, 0, 0)
        assert await pauses.begun() == 1.0
        assert written(path)["logs"][URL]["current_index"] == 0
        for index in (1, 2):
            store.advance(URL, index, index, index)
            pauses.end()
            assert await pauses.begun() == 1.0
            assert written(path)["logs"][URL]["current_index"] == index


async def test_running_saves_changes_of_a_second_together(path: Path) -> None:
    async with running(path) as (store, pauses):
        store.begin(URL, 0, 0)
        await pauses.begun()
        for index in range(101):
            store.advance(URL, index, index, index)
        pauses.end()
        await pauses.begun()
        assert written(path)["logs"][URL]["current_index"] == 100
        assert written(path.with_name(path.name + ".prev"))["logs"][URL]["current_index"] == 0


async def test_closing_saves_what_changed_since_the_last_save(path: Path) -> None:
    async with running(path) as (store, pauses):
        store.begin(URL, 0, 0)
        await pauses.begun()
        store.advance(URL, 1, 1, 1)
        assert written(path)["logs"][URL]["current_index"] == 0
    assert written(path)["logs"][URL]["current_index"] == 1


async def test_closing_saves_the_newest_state_after_a_save_that_was_cancelled(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    entered, leave = threading.Event(), threading.Event()
    sync = os.fsync

    def slow_at_first(fd: int) -> None:
        if not entered.is_set():
            entered.set()
            assert leave.wait(10)
        sync(fd)

    monkeypatch.setattr(os, "fsync", slow_at_first)
    async with running(path) as (store, _):
        store.begin(URL, 1, 1)
        assert await asyncio.to_thread(entered.wait, 10)
        store.advance(URL, 2, 2, 2)
        asyncio.get_running_loop().call_later(0.1, leave.set)  # a save that did not wait would be done by then
    assert written(path)["logs"][URL]["current_index"] == 2
    assert written(path.with_name(path.name + ".prev"))["logs"][URL]["current_index"] == 1


def test_a_last_save_that_fails_is_logged_and_leaves_the_old_file_and_no_lock(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with opened(path) as store:
        store.begin(URL, 1, 1)
    with monkeypatch.context() as full, capture_logs() as logs, opened(path) as store:
        full.setattr(os, "fsync", _no_space)
        store.advance(URL, 2, 2, 2)
    assert [line["event"] for line in logs] == ["state cannot be saved"]
    assert "No space left" in logs[0]["error"]
    with opened(path) as store:
        assert store.position(URL) == LogPosition(1, 1, 0, 1)


def _no_space(_: int) -> None:
    raise OSError(errno.ENOSPC, "No space left on device")


async def test_a_full_disk_is_said_once_and_the_service_saves_again_when_there_is_room(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    structlog.reset_defaults()
    with capture_logs() as logs:
        async with running(path) as (store, pauses):
            with monkeypatch.context() as full:
                full.setattr(os, "fsync", _no_space)
                store.begin(URL, 1, 1)
                for _ in range(3):
                    await pauses.begun()
                    assert store.save_error is not None
                    assert "No space left" in store.save_error
                    pauses.end()
                await pauses.begun()
            pauses.end()
            await pauses.begun()
            assert store.save_error is None
            assert written(path)["logs"][URL]["current_index"] == 1
    assert [line["event"] for line in logs] == ["state cannot be saved", "state is saved again"]
