"""A backfill writes what is planned, within its bounds, and says what it does."""

from __future__ import annotations

import asyncio
import threading
from datetime import UTC, datetime
from typing import Any

import pyarrow as pa
import pytest
from structlog.testing import capture_logs

from certstream.backfill.buffer import RunSize
from certstream.backfill.planner import ITEM_ENTRIES, Plan, Target, plan
from certstream.backfill.run import Backfill, BackfillSettings
from certstream.backfill.writer import CommitSettings
from certstream.certs.arrow import SCHEMA
from certstream.ct.types import LogKind
from certstream.errors import StorageError
from certstream.intervals import Intervals
from certstream.metrics import Metrics
from certstream.simulator.faults import Fault, FaultKind
from certstream.simulator.log import SimulatedLog
from tests.backfill.backfill_support import Memory, Run, events, fails, once, own_threads, planned, signal
from tests.client.reading_support import reading

KINDS: list[LogKind] = ["rfc6962", "static"]


def make_log(initial: int, name: str = "log") -> SimulatedLog:
    return SimulatedLog(name, seed=8, initial=initial, gzip="never")


# done


@pytest.mark.parametrize("kind", KINDS)
async def test_rows_hold_what_the_log_has(kind: LogKind) -> None:
    log = make_log(700)
    async with reading(log) as reader:
        _, destination = await once(reader, log, kind, 700)
        seen = datetime.fromtimestamp(reader.time.clock.wall(), UTC)
    assert all(rows.schema.names == SCHEMA.names for rows in destination.visible)
    for row in destination.rows():
        entry = log.entry(row["cert_index"])
        assert row["as_der"] == entry.der
        assert len(row["chain"]) == len(entry.chain)
        assert (row["seen"], row["seen_date"]) == (seen, seen.strftime("%Y-%m-%d"))
        assert (row["source_name"], row["source_url"]) == ("log", log.info(kind).base_url)


async def test_small_pages_are_decoded_together() -> None:
    log = SimulatedLog("log", seed=8, initial=10_000, max_page=32)
    async with reading(log) as reader:
        _, destination = await once(reader, log, "rfc6962", 10_000)
    assert [rows.num_rows for rows in destination.visible] == [4_096, 4_096, 1_808]


async def test_large_entries_are_decoded_in_parts() -> None:
    settings = BackfillSettings(run=RunSize(size_bytes=500_000))
    log = SimulatedLog("log", seed=8, initial=1_000, max_page=32)
    async with reading(log) as reader:
        _, destination = await once(reader, log, "rfc6962", 1_000, settings=settings)
    assert destination.indices(log.info("rfc6962")) == list(range(1_000))
    assert max(sum(map(len, rows["as_der"].to_pylist())) for rows in destination.visible) < 500_000
    assert 5 < len(destination.visible) < 20


async def test_all_logs_are_read_and_each_is_counted() -> None:
    logs = [make_log(1_000 * i, f"log{i}") for i in range(1, 4)]
    async with reading(*logs) as reader:
        targets = [Target(log.info("static"), log.tree_size, 0) for log in logs]
        done = Target(make_served("done"), 50, 0, Intervals.of((0, 50)))
        run = Run(reader, plan([*targets, done]), logs)
        result = await run.result()
    assert (result.planned, result.written, result.skipped, result.left) == (6_000, 6_000, 0, 0)
    assert (result.logs_done, result.logs_failed, result.interrupted) == (3, 0, False)
    for log in logs:
        assert run.destination.holds(log.info("static")) == Intervals.of((0, log.tree_size))


def make_served(name: str) -> Any:
    log = make_log(1, name)
    log.base_url = f"http://127.0.0.1:9/{name}"
    return log.info("static")


async def test_nothing_to_do_is_said_and_touches_nothing() -> None:
    destination = Memory()

    def client(log: object) -> Any:
        raise AssertionError("no log is asked")

    with capture_logs() as lines:
        result = await Backfill(Plan((), ()), client=client, destination=destination).run(asyncio.Event())
    assert (result.planned, result.left, result.interrupted, result.failed) == (0, 0, False, ())
    assert (destination.commits, destination.abandoned, own_threads()) == ([], 0, [])
    assert events(lines, "nothing to backfill") == [{"log_level": "info"}]


async def test_rows_that_were_archived_meanwhile_are_counted_as_skipped() -> None:
    log = make_log(1_000)
    async with reading(log) as reader:
        destination = Memory(archived=Intervals.of((100, 300)))
        result, _ = await once(reader, log, "static", 1_000, destination=destination)
    assert (result.written, result.skipped, result.left, result.logs_done) == (800, 200, 0, 1)


# commits


async def test_a_commit_holds_no_more_rows_than_it_may() -> None:
    log = make_log(9_000)
    async with reading(log) as reader:
        settings = BackfillSettings(commit=CommitSettings(rows=5_000))
        _, destination = await once(reader, log, "static", 9_000, settings=settings)
    assert max(destination.commits) <= 5_000
    assert sum(destination.commits) == 9_000
    assert len(destination.commits) <= 3


async def test_written_rows_are_committed_in_time_though_no_more_come() -> None:
    log = make_log(ITEM_ENTRIES + 100)
    committed = asyncio.Event()
    held = 0

    async def hold() -> None:
        nonlocal held
        held += 1
        if held == 2:
            await committed.wait()

    destination = Memory()
    destination.on_commit = signal(committed)
    async with reading(log) as reader:
        gaps = planned(log, "static", log.tree_size, Intervals.of((100, ITEM_ENTRIES)))
        settings = BackfillSettings(commit=CommitSettings(interval_s=0.01))
        result = await Run(reader, gaps, [log], destination=destination, settings=settings, hold=hold).result()
    assert destination.commits == [100, 100]
    assert result.left == 0


# bounds


@pytest.mark.parametrize("kind", KINDS)
async def test_fetching_waits_for_a_destination_that_is_slower(kind: LogKind) -> None:
    """Counted in entries that were asked for: those in the buffer, in decoding, in writing and in flight."""
    log = make_log(24_000)
    buffer_bytes = 1 << 20
    ahead: list[int] = []
    written = 0

    def look(rows: pa.RecordBatch) -> None:
        nonlocal written
        fetched = 256 * log.endpoints["data-tile"] if kind == "static" else 1_000 * log.endpoints["get-entries"]
        ahead.append(fetched - written)
        threading.Event().wait(0.01)
        written += rows.num_rows

    destination = Memory()
    destination.on_write = look
    async with reading(log) as reader:
        settings = BackfillSettings(buffer_bytes=buffer_bytes)
        result, _ = await once(reader, log, kind, 24_000, destination=destination, settings=settings)
    assert result.left == 0
    entry_bytes = 1_300  # at least
    assert max(ahead) <= buffer_bytes // entry_bytes + 4 * 2_048 + 5 * 1_024


# what is said


async def test_the_plan_and_the_outcome_are_logged() -> None:
    log, lame = make_log(2_000), make_log(30_000, "lame")
    async with reading(log, lame) as reader:
        for tile in range(0, 100, 2):
            lame.faults.add(Fault(FaultKind.STATUS, status=404, on="data-tile", index=256 * tile))
        skipped = make_served("skipped")
        targets = [
            Target(log.info("static"), 2_000, 0, Intervals.of((500, 700))),
            Target(lame.info("static"), 30_000, 0),
            Target(skipped, None, None),
        ]
        run = Run(reader, plan(targets), [log, lame])
        with capture_logs() as lines:
            result = await run.result()
    assert events(lines, "log is skipped: no position of it is known yet") == [
        {"log": "skipped", "url": skipped.base_url, "log_level": "warning"}
    ]
    assert events(lines, "backfill of log planned")[0] == {
        "log": "log",
        "url": log.info("static").base_url,
        "ranges": 2,
        "items": 1,
        "indices": 1_800,
        "log_level": "info",
    }
    assert events(lines, "backfill planned") == [{"ranges": 3, "items": 4, "indices": 31_800, "log_level": "info"}]
    failed = events(lines, "range failed, it stays missing")
    assert [(line["log"], line["start"], line["stop"]) for line in failed] == [
        ("lame", 512 * i, 512 * i + 256) for i in range(20)
    ]
    assert "404" in failed[0]["error"]
    assert events(lines, "more ranges failed, they stay missing") == [
        {"log": "lame", "ranges": 30, "indices": 30 * 256, "log_level": "warning"}
    ]
    (line,) = events(lines, "backfill complete")
    assert line["records_written"] == result.written == 31_800 - 50 * 256
    assert (line["records_skipped"], line["logs_done"], line["logs_failed"]) == (0, 1, 1)
    assert line["elapsed_s"] == pytest.approx(result.elapsed_s, abs=0.1)
    assert line["entries_per_s"] == pytest.approx(result.written / result.elapsed_s, abs=1)
    assert lines[-1]["event"] == "backfill complete"


class Figures:
    """The archive's metrics, and what they show of backfills."""

    def __init__(self) -> None:
        self._metrics = Metrics()
        self.archive = self._metrics.archive

    def __getitem__(self, name: str) -> float:
        return self._metrics.registry.get_sample_value(f"certstream_backfill_{name}") or 0.0


async def test_metrics_show_a_run_and_its_outcome() -> None:
    log = make_log(1_000)
    figures = Figures()
    during: list[tuple[float, float]] = []

    async def hold() -> None:
        during.append((figures["running"], figures["entries_planned"]))

    async with reading(log) as reader:
        await once(
            reader,
            log,
            "static",
            1_000,
            destination=Memory(archived=Intervals.of((0, 100))),
            metrics=figures.archive,
            hold=hold,
        )
        assert during == [(1, 1_000)]
        assert (figures["running"], figures["entries_written_total"], figures["entries_skipped_total"]) == (0, 900, 100)
        assert figures["last_success_timestamp_seconds"] == pytest.approx(reader.time.clock.wall())
        assert (figures["failed_ranges"], figures["last_failure_timestamp_seconds"]) == (0, 0)

        log.faults.add(Fault(FaultKind.STATUS, status=404, on="data-tile", index=0))
        await once(reader, log, "static", 1_000, metrics=figures.archive)
        assert figures["failed_ranges"] == 1
        assert figures["last_failure_timestamp_seconds"] == pytest.approx(reader.time.clock.wall())

        destination = Memory()
        destination.on_write = fails(after=0)
        with pytest.raises(StorageError):
            await once(reader, log, "static", 1_000, metrics=figures.archive, destination=destination)
        assert figures["running"] == 0
        assert figures["last_failure_timestamp_seconds"] == pytest.approx(reader.time.clock.wall())
