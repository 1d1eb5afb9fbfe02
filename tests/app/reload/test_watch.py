"""Files that change, in all the ways in which files change."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from certstream.app.reload.watch import Watcher, look
from certstream.errors import ConfigError
from tests.e2e.reload_support import rename_over, write

QUICK_S = 0.01
PATIENCE_S = 30.0


def reading(path: Path) -> Watcher[str]:
    return Watcher(lambda: [path], path.read_text, interval_s=QUICK_S)


async def content(watcher: Watcher[str], wanted: str) -> None:
    """Wait until that was read."""
    async with asyncio.timeout(PATIENCE_S):
        while await watcher.next() != wanted:
            pass


async def test_the_file_is_read_at_first_so_that_no_change_before_is_missed(tmp_path: Path) -> None:
    file = tmp_path / "c.yaml"
    file.write_text("one")
    async with reading(file) as watcher:
        await content(watcher, "one")


def remove_and_write(file: Path, text: str) -> None:
    file.unlink()
    file.write_text(text)


@pytest.mark.parametrize("change", [write, rename_over, remove_and_write])
async def test_a_change_is_seen_however_it_is_made(tmp_path: Path, change: Callable[[Path, str], None]) -> None:
    file = tmp_path / "c.yaml"
    file.write_text("one")
    async with reading(file) as watcher:
        await content(watcher, "one")
        for text in ("two", "six", "one"):  # of the same length, and back again
            change(file, text)
            await content(watcher, text)


async def test_a_volume_of_kubernetes_is_seen_when_its_link_is_swapped(tmp_path: Path) -> None:
    for name in ("one", "two"):
        (tmp_path / f"..{name}").mkdir()
        (tmp_path / f"..{name}" / "c.yaml").write_text(name)
    (tmp_path / "..data").symlink_to("..one")
    (tmp_path / "c.yaml").symlink_to("..data/c.yaml")
    async with reading(tmp_path / "c.yaml") as watcher:
        await content(watcher, "one")
        (tmp_path / "..data_tmp").symlink_to("..two")
        (tmp_path / "..data_tmp").replace(tmp_path / "..data")
        await content(watcher, "two")


async def test_a_file_that_is_gone_for_a_moment_is_no_change(tmp_path: Path) -> None:
    file, aside = tmp_path / "c.yaml", tmp_path / "aside"
    file.write_text("one")
    read: list[str] = []
    steps: list[Callable[[], object]] = []

    def nothing() -> None:
        """Between two looks."""

    def paths() -> list[Path]:
        if steps:
            steps.pop(0)()
        return [file]

    def load() -> str:
        read.append(file.read_text())
        return read[-1]

    async with Watcher(paths, load, interval_s=QUICK_S) as watcher:
        await content(watcher, "one")
        steps += [lambda: file.rename(aside), *[nothing] * 5, lambda: aside.rename(file), nothing, nothing, nothing]
        steps.append(lambda: write(file, "two"))
        await content(watcher, "two")
    assert read == ["one", "one", "two"], "read again when it was back, and never while it was away"


async def test_a_file_that_stays_away_is_a_change_and_so_is_its_return(tmp_path: Path) -> None:
    file = tmp_path / "c.yaml"
    file.write_text("one")
    async with reading(file) as watcher:
        await content(watcher, "one")
        file.unlink()
        async with asyncio.timeout(PATIENCE_S):
            with pytest.raises(FileNotFoundError):
                await watcher.next()
        file.write_text("one")
        await content(watcher, "one")


async def test_nothing_is_read_while_the_file_still_changes(tmp_path: Path) -> None:
    file = tmp_path / "c.yaml"
    file.write_text("")
    written = 0
    read: list[str] = []

    def paths() -> list[Path]:  # before each look, as somebody does who writes slowly
        nonlocal written
        if written < 20:
            written += 1
            with file.open("a") as out:
                out.write("x")
        return [file]

    def load() -> str:
        read.append(file.read_text())
        return read[-1]

    async with Watcher(paths, load, interval_s=QUICK_S) as watcher:
        await content(watcher, "x" * 20)
    assert read == ["x" * 20]


async def test_what_loading_raises_is_raised_where_it_is_waited_for_and_ends_nothing(tmp_path: Path) -> None:
    file = tmp_path / "c.yaml"
    file.write_text("bad")

    def load() -> str:
        if (text := file.read_text()) == "bad":
            raise ConfigError("bad")
        return text

    async with Watcher(lambda: [file], load, interval_s=QUICK_S) as watcher, asyncio.timeout(PATIENCE_S):
        with pytest.raises(ConfigError):
            await watcher.next()
        rename_over(file, "good")
        assert await watcher.next() == "good"


async def test_a_file_that_does_not_answer_holds_neither_loop_nor_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file, pipe = tmp_path / "c.yaml", tmp_path / "pipe"
    file.write_text("one")
    os.mkfifo(pipe)
    monkeypatch.setattr("certstream.app.reload.watch._HANGS_S", 0.05)
    reached = asyncio.Event()
    loop = asyncio.get_running_loop()

    def load() -> str:
        loop.call_soon_threadsafe(reached.set)
        return pipe.read_text()  # waits for a writer

    async with Watcher(lambda: [file], load, interval_s=QUICK_S) as watcher, asyncio.timeout(PATIENCE_S):
        assert not watcher.hangs
        await reached.wait()
        while not watcher.hangs:  # noqa: ASYNC110 - it is time that passes
            await asyncio.sleep(0.01)
        pipe.write_text("written at last")
        assert await watcher.next() == "written at last"
        while watcher.hangs:  # noqa: ASYNC110 - likewise
            await asyncio.sleep(0.01)


def test_a_path_that_cannot_be_looked_at_is_told_from_one_that_is_not_there(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    (tmp_path / "circle").symlink_to("circle")
    assert look(tmp_path / "none") is None
    assert look(tmp_path / "file" / "below") is None
    assert isinstance(look(tmp_path / "circle"), int)
