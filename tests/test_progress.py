"""Progress is shown on a terminal without harm to log lines, and logged elsewhere."""

from __future__ import annotations

import asyncio
import io
import logging
import os
import re
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import TextIO

import pytest
from structlog.testing import capture_logs

from certstream.progress import DRAW_INTERVAL_S, LOG_INTERVAL_S, Progress
from tests.screen_support import Screen, Time


@pytest.fixture
def screen(monkeypatch: pytest.MonkeyPatch) -> Iterator[Screen]:
    monkeypatch.setenv("TERM", "xterm")
    one = Screen()
    yield one
    one.close()


@contextmanager
def running(progress: Progress) -> Iterator[None]:
    task = asyncio.get_running_loop().create_task(progress.run())
    try:
        yield
    finally:
        task.cancel()
        progress.close()


@contextmanager
def logging_to(stream: TextIO) -> Iterator[logging.Logger]:
    """The root logger as the service has it."""
    root = logging.getLogger()
    before, level = root.handlers, root.level
    handler = logging.StreamHandler(stream)
    root.handlers = [handler]
    root.setLevel(logging.INFO)
    try:
        yield root
        assert handler.stream is stream, "logging is as it was"
    finally:
        root.handlers = before
        root.setLevel(level)


# on a terminal


async def test_each_total_has_a_line_with_a_bar_a_rate_and_the_time_left(screen: Screen) -> None:
    time = Time()
    progress = Progress("backfill", {"Argon": 1_000, "Tiles 1": 4_000}, screen.stream, time)
    with running(progress):
        await time.pass_(0)
        progress.advance("Argon", 500)
        progress.advance("Tiles 1", 100)
        await time.pass_(10)
        lines = screen.lines()
    assert [re.sub(r"\[[#.]*\]", "[]", line) for line in lines] == [
        "Argon    []   50 %         50/s   0:00:10",
        "Tiles 1  []    2 %         10/s   0:06:30",
        "backfill: 600 of 5,000 entries, 12 %, 60/s, 0:01:13 left",
        "",
    ]
    bars = [re.findall(r"[#.]+", line)[0] for line in lines[:2]]
    assert len(bars[0]) == len(bars[1])
    assert bars[0].count("#") == len(bars[0]) // 2


async def test_it_is_drawn_in_place_and_not_too_often(screen: Screen) -> None:
    time = Time()
    progress = Progress("merge", {"rows": 100}, screen.stream, time, unit="rows")
    with running(progress):
        for _ in range(40):
            progress.advance("rows", 1)
            await time.pass_(DRAW_INTERVAL_S)
        lines = screen.lines()
    assert len(lines) == 3
    assert lines[1].startswith("merge: 40 of 100 rows, 40 %")
    assert set(time.slept) == {DRAW_INTERVAL_S}
    assert DRAW_INTERVAL_S >= 0.25


async def test_what_nothing_moves_has_no_time_left(screen: Screen) -> None:
    progress = Progress("backfill", {"a": 10}, screen.stream, Time())
    with running(progress):
        await asyncio.sleep(0)
        lines = screen.lines()
    assert lines[1] == "backfill: 0 of 10 entries, 0 %, 0/s, -:--:-- left"


async def test_the_rate_is_that_of_the_last_seconds(screen: Screen) -> None:
    time = Time()
    progress = Progress("backfill", {"a": 10_000_000}, screen.stream, time)
    with running(progress):
        await time.pass_(0)
        for step in (1_000, 10):
            for _ in range(60):
                progress.advance("a", step)
                await time.pass_(1)
        lines = screen.lines()
    assert " 10/s" in lines[1]


async def test_log_lines_stand_whole_above_it(screen: Screen) -> None:
    time = Time()
    progress = Progress("backfill", {"a": 10, "b": 10}, screen.stream, time)
    with logging_to(screen.stream) as log:
        log.info("before")
        with running(progress):
            await time.pass_(0)
            for i in range(3):
                progress.advance("a", 1)
                log.info("line %d of several", i)
                log.info("two\nlines")
                await time.pass_(1)
            lines = screen.lines()
        log.info("after")
    said = ["before"]
    for i in range(3):
        said += [f"line {i} of several", "two", "lines"]
    assert lines[: len(said)] == said
    assert [line.split()[0] for line in lines[len(said) : -1]] == ["a", "b", "backfill:"]
    end = screen.lines()
    assert end[: len(said)] == said
    assert [line.split()[0] for line in end[len(said) : -1]] == ["a", "b", "backfill:", "after"]


async def test_log_lines_of_other_threads_stand_whole_as_well(screen: Screen) -> None:
    time = Time()
    progress = Progress("backfill", {"a": 1_000}, screen.stream, time)
    with logging_to(screen.stream) as log, running(progress):
        await time.pass_(0)

        def say(name: str) -> None:
            for i in range(20):
                log.info("%s %d", name, i)

        threads = [threading.Thread(target=say, args=(name,)) for name in ("x", "y")]
        for thread in threads:
            thread.start()
        for _ in range(20):
            progress.advance("a", 1)
            await time.pass_(DRAW_INTERVAL_S)
        for thread in threads:
            thread.join()
        lines = screen.lines()
    assert sorted(lines[:40]) == sorted(f"{name} {i}" for name in ("x", "y") for i in range(20))
    assert len(lines) == 43


async def test_text_without_an_end_of_line_is_not_drawn_over(screen: Screen) -> None:
    time = Time()
    progress = Progress("backfill", {"a": 10}, screen.stream, time)
    with logging_to(screen.stream) as log, running(progress):
        await time.pass_(0)
        (handler,) = log.handlers
        assert isinstance(handler, logging.StreamHandler)
        handler.stream.write("half a ")
        await time.pass_(1)
        handler.stream.write("line\n")
        lines = screen.lines()
    assert lines[0] == "half a line"
    assert len(lines) == 4


@pytest.mark.parametrize(("columns", "rows"), [(80, 6), (30, 24), (10, 4), (80, 2), (3, 3)])
async def test_it_fits_into_the_terminal(screen: Screen, columns: int, rows: int) -> None:
    screen.resize(columns, rows)
    time = Time()
    names = [f"A log with quite a long name {i}" for i in range(9)]
    progress = Progress("backfill", dict.fromkeys(names, 1_000), screen.stream, time)
    with running(progress):
        await time.pass_(0)
        for _ in range(3):
            progress.advance(names[7], 20)
            progress.advance(names[4], 10)
            await time.pass_(1)
        lines = screen.lines()
    assert len(lines) <= rows
    assert max(map(len, lines)) < columns
    if columns == 80 and rows == 6:
        assert [line[:30] for line in lines[:2]] == [names[7], names[4]], "the busiest first"
        assert lines[3] == "and 6 more"
        assert lines[4].startswith("backfill: 90 of 9,000")


async def test_a_terminal_that_becomes_narrower_is_left_clean(screen: Screen) -> None:
    time = Time()
    progress = Progress("backfill", {"a": 10, "b": 10}, screen.stream, time)
    with logging_to(screen.stream) as log, running(progress):
        await time.pass_(0)
        screen.resize(40, 24)
        log.info("narrower")
        await time.pass_(1)
        lines = screen.lines()
    assert "narrower" in lines
    assert len(lines) - lines.index("narrower") == 5


async def test_names_of_any_kind_keep_the_columns(screen: Screen) -> None:
    time = Time()
    progress = Progress("backfill", {"日本のログ": 10, "a\x1b[2Jb": 10, "plain": 10}, screen.stream, time)
    with running(progress):
        await time.pass_(0)
        lines = screen.lines()
    assert lines[1].startswith("a?[2Jb      [")
    assert lines[0].startswith("日本のログ  [")
    assert lines[2].startswith("plain       [")


async def test_the_last_state_stays_and_lines_follow_below(screen: Screen) -> None:
    time = Time()
    progress = Progress("backfill", {"a": 10}, screen.stream, time)
    with running(progress):
        await time.pass_(0)
        progress.advance("a", 10)
    screen.stream.write("the next line\n")
    lines = screen.lines()
    assert "100 %" in lines[0]
    assert lines[1].startswith("backfill: 10 of 10 entries, 100 %")
    assert lines[2:] == ["the next line", ""]
    progress.close()
    assert screen.lines() == lines, "closing twice changes nothing"


async def test_a_terminal_that_goes_away_ends_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "xterm")
    ours, theirs = os.openpty()
    stream = os.fdopen(theirs, "w")
    time = Time()
    progress = Progress("backfill", {"a": 10}, stream, time)
    task = asyncio.create_task(progress.run())
    await time.pass_(0)
    os.close(ours)
    for _ in range(3):
        await time.pass_(DRAW_INTERVAL_S)
    assert not task.done()
    task.cancel()
    progress.close()
    with suppress(OSError):  # of what is still in its buffer
        stream.close()


# elsewhere


def no_terminal(screen: Screen, monkeypatch: pytest.MonkeyPatch) -> tuple[TextIO, bool]:
    return io.StringIO(), True


def dumb(screen: Screen, monkeypatch: pytest.MonkeyPatch) -> tuple[TextIO, bool]:
    monkeypatch.setenv("TERM", "dumb")
    return screen.stream, True


def not_wanted(screen: Screen, monkeypatch: pytest.MonkeyPatch) -> tuple[TextIO, bool]:
    return screen.stream, False


@pytest.mark.parametrize("where", [no_terminal, dumb, not_wanted])
async def test_elsewhere_it_is_a_line_in_the_log_every_ten_seconds(
    screen: Screen,
    monkeypatch: pytest.MonkeyPatch,
    where: Callable[[Screen, pytest.MonkeyPatch], tuple[TextIO, bool]],
) -> None:
    stream, live = where(screen, monkeypatch)
    time = Time()
    progress = Progress("merge", {"a": 1_000, "b": 3_000}, stream, time, unit="rows", live=live)
    with capture_logs() as lines, running(progress):
        await time.pass_(0)
        assert lines == []
        progress.advance("a", 400)
        await time.pass_(LOG_INTERVAL_S)
        progress.advance("b", 600)
        await time.pass_(LOG_INTERVAL_S)
    figures = {"event": "merge progress", "log_level": "info", "total": 4_000}
    assert lines == [
        {**figures, "done": 400, "rows_per_s": 40, "remaining_s": 90},
        {**figures, "done": 1_000, "rows_per_s": 60, "remaining_s": 50},
    ]
    assert screen.lines() == [""]
    assert LOG_INTERVAL_S == 10


async def test_nothing_done_yet_is_logged_without_a_guess() -> None:
    time = Time()
    progress = Progress("backfill", {"a": 10}, io.StringIO(), time)
    with capture_logs() as lines, running(progress):
        await time.pass_(0)
        await time.pass_(LOG_INTERVAL_S)
    assert [(line["entries_per_s"], line["remaining_s"]) for line in lines] == [(0, None)]


async def test_what_came_to_a_halt_is_said_to_stand_still() -> None:
    time = Time()
    progress = Progress("backfill", {"a": 1_000_000}, io.StringIO(), time)
    with capture_logs() as lines, running(progress):
        await time.pass_(0)
        for _ in range(16):
            progress.advance("a", 5_000)
            await time.pass_(LOG_INTERVAL_S)
        halted = len(lines)
        for _ in range(3):
            await time.pass_(LOG_INTERVAL_S)
    assert (lines[halted - 1]["entries_per_s"], lines[halted - 1]["remaining_s"]) == (500, 1_840)
    assert [(line["entries_per_s"], line["remaining_s"]) for line in lines[halted:]] == [(0, None)] * 3


async def test_a_rate_does_not_jump_with_each_redrawing(screen: Screen) -> None:
    time = Time()
    progress = Progress("backfill", {"a": 1_000_000}, screen.stream, time)
    with running(progress):
        await time.pass_(0)
        for second in range(60):
            progress.advance("a", 300 if second % 3 == 0 else 0)
            await time.pass_(1)
        assert " 100/s" in screen.lines()[1]
        for _ in range(16):
            await time.pass_(1)
        assert " 0/s, -:--:-- left" in screen.lines()[1]
