"""A backfill that is interrupted or fails: what is there then is whole, and nothing of it is left running."""

from __future__ import annotations

import asyncio
import threading

import pyarrow as pa
import pytest
from structlog.testing import capture_logs

from certstream.backfill.planner import ITEM_ENTRIES, Target, plan
from certstream.backfill.run import BackfillSettings
from certstream.backfill.writer import CommitSettings
from certstream.ct.types import LogKind
from certstream.errors import StorageError
from certstream.intervals import Intervals
from certstream.simulator.faults import Fault, FaultKind
from certstream.simulator.log import SimulatedLog
from tests.backfill.backfill_support import Memory, Run, events, fails, own_tasks, own_threads, planned, signal
from tests.client.reading_support import reading

KINDS: list[LogKind] = ["rfc6962", "static"]


def make_log(initial: int, name: str = "log") -> SimulatedLog:
    return SimulatedLog(name, seed=8, initial=initial, gzip="never")


# interrupted


@pytest.mark.parametrize("kind", KINDS)
async def test_an_interrupted_run_keeps_what_is_in_hand_and_the_next_one_fetches_the_rest(kind: LogKind) -> None:
    logs = [make_log(3 * ITEM_ENTRIES, "first"), make_log(900, "second")]
    targets = [(log.name, log.tree_size) for log in logs]
    async with reading(*logs) as reader:
        run: Run
        held = 0

        async def hold() -> None:
            nonlocal held
            held += 1
            if held == 3:
                run.stop.set()
                await asyncio.Event().wait()

        infos = [log.info(kind) for log in logs]
        run = Run(
            reader,
            plan([Target(info, size, 0) for info, (_, size) in zip(infos, targets, strict=True)]),
            logs,
            hold=hold,
        )
        with capture_logs() as lines:
            result = await run.result()
        there = [run.destination.holds(info) for info in infos]
        assert result.interrupted
        assert not result.failed
        assert result.written == sum(each.count for each in there)
        assert result.written >= ITEM_ENTRIES, "what was fetched is not thrown away"
        assert result.left == result.planned - result.written
        (line,) = events(lines, "backfill interrupted")
        assert (line["done"], line["left"]) == (result.written, result.left)

        rest = plan([Target(info, size, 0, have) for info, (_, size), have in zip(infos, targets, there, strict=True)])
        assert rest.indices == result.left
        again = Run(reader, rest, logs, destination=run.destination)
        last = await again.result()
    assert (last.left, last.interrupted) == (0, False)
    for info, (_, size) in zip(infos, targets, strict=True):
        assert run.destination.holds(info) == Intervals.of((0, size))


async def test_a_run_that_is_stopped_before_it_begins_does_nothing() -> None:
    log = make_log(500)
    async with reading(log) as reader:
        run = Run(reader, planned(log, "static", 500), [log])
        run.stop.set()
        result = await run.result()
    assert (result.interrupted, result.written, result.left) == (True, 0, 500)


async def test_a_stop_in_the_middle_of_a_request_waits_for_no_answer() -> None:
    log = make_log(3_000)
    stalled = log.faults.add(Fault(FaultKind.STALL, on="data-tile", index=2_000))
    async with reading(log) as reader:
        run = Run(reader, planned(log, "static", 3_000), [log])
        task = asyncio.create_task(run.result())
        await log.until(lambda: bool(log.faults.struck[stalled]))
        run.stop.set()
        result = await task
        log.faults.clear()
    assert result.interrupted
    assert run.destination.holds(log.info("static")) == Intervals.of((0, result.written))
    assert result.written in range(0, 256 * 7 + 1, 256)


async def test_a_stop_does_not_wait_for_a_destination_that_hangs() -> None:
    log = make_log(5_000)
    going_on, writing = threading.Event(), asyncio.Event()
    say = signal(writing)

    def hang(rows: pa.RecordBatch) -> None:
        say()
        going_on.wait()

    destination = Memory()
    destination.on_write = hang
    async with reading(log) as reader:
        run = Run(
            reader, planned(log, "static", 5_000), [log], destination=destination,
            settings=BackfillSettings(finish_s=0.2),
        )  # fmt: skip
        task = asyncio.create_task(run.backfill.run(run.stop))
        await writing.wait()
        run.stop.set()
        with capture_logs() as lines:
            result = await task
    assert (result.interrupted, result.written, result.left) == (True, 0, 5_000)
    assert len(events(lines, "what is in hand is not committed in time")) == 1
    assert own_tasks() == []
    going_on.set()
    assert own_threads() == []
    assert (destination.abandoned, destination.pending, destination.visible) == (1, [], [])


async def test_a_slow_destination_gets_to_commit_what_it_has_written() -> None:
    log = make_log(9_000)
    stopped, second = threading.Event(), asyncio.Event()
    say = signal(second)

    def second_waits(rows: pa.RecordBatch) -> None:
        if rows["cert_index"][0].as_py():
            say()
            stopped.wait()

    destination = Memory()
    destination.on_write = second_waits
    async with reading(log) as reader:
        run = Run(
            reader, planned(log, "static", 9_000), [log], destination=destination,
            settings=BackfillSettings(finish_s=0.5),
        )  # fmt: skip
        task = asyncio.create_task(run.result())
        await second.wait()
        run.stop.set()
        asyncio.get_running_loop().call_later(0.3, stopped.set)  # past the time for writing, within that for committing
        result = await task
    assert result.interrupted
    assert len(destination.commits) == 1
    assert destination.holds(log.info("static")) == Intervals.of((0, result.written))
    assert 0 < result.written < 9_000


# errors


async def test_a_full_disk_ends_the_run_and_what_was_committed_stays() -> None:
    log = make_log(20_000)
    destination = Memory()
    destination.on_write = fails(after=3)
    async with reading(log) as reader:
        settings = BackfillSettings(commit=CommitSettings(rows=4_096))
        run = Run(reader, planned(log, "static", 20_000), [log], destination=destination, settings=settings)
        with capture_logs() as lines, pytest.raises(StorageError, match="no space left"):
            await run.result()
    assert destination.abandoned == 1
    assert destination.pending == []
    there = destination.holds(log.info("static"))
    assert 0 < there.count < 20_000
    assert there.count == sum(destination.commits)
    (line,) = events(lines, "backfill failed")
    assert line == {
        "error": "StorageError: no space left on device",
        "records_written": there.count,
        "records_skipped": 0,
        "left": 20_000 - there.count,
        "log_level": "error",
    }


async def test_a_commit_that_fails_leaves_nothing_of_its_rows() -> None:
    log = make_log(5_000)
    destination = Memory()

    def broken() -> None:
        raise StorageError("conflict")

    destination.on_commit = broken
    async with reading(log) as reader:
        run = Run(reader, planned(log, "rfc6962", 5_000), [log], destination=destination)
        with pytest.raises(StorageError, match="conflict"):
            await run.result()
    assert (destination.abandoned, destination.pending, destination.visible) == (1, [], [])


async def test_what_cannot_even_be_abandoned_is_a_warning_beside_the_error() -> None:
    log = make_log(5_000)

    class Lost(Memory):
        def abandon(self) -> None:
            raise StorageError("gone")

    destination = Lost()
    destination.on_write = fails(after=1)
    async with reading(log) as reader:
        run = Run(reader, planned(log, "static", 5_000), [log], destination=destination)
        with capture_logs() as lines, pytest.raises(StorageError, match="no space left"):
            await run.result()
    warnings = events(lines, "what was written and not committed could not be removed")
    assert warnings == [{"error": "gone", "log_level": "warning"}]


async def test_an_error_of_another_part_ends_everything_and_is_raised_as_it_is() -> None:
    log = make_log(3 * ITEM_ENTRIES)
    held = 0

    async def hold() -> None:
        nonlocal held
        held += 1
        if held == 2:
            raise ZeroDivisionError("a mistake")

    async with reading(log) as reader:
        run = Run(reader, planned(log, "static", log.tree_size), [log], hold=hold)
        with pytest.raises(ZeroDivisionError, match="a mistake"):
            await run.result()
    assert run.destination.pending == []


async def test_cancelling_a_run_leaves_nothing_that_is_not_committed() -> None:
    log = make_log(20_000)
    writing = asyncio.Event()
    destination = Memory()
    destination.on_write = signal(writing)
    async with reading(log) as reader:
        run = Run(reader, planned(log, "static", 20_000), [log], destination=destination)
        task = asyncio.create_task(run.result())
        await writing.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
    assert (destination.abandoned, destination.pending, destination.visible) == (1, [], [])
