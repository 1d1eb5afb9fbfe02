"""The running service tells how its archive stands: looked at seldom, and in a thread."""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from structlog.testing import capture_logs

from certstream.app.backfill import Ceiling, Tables
from certstream.app.coverage.report import CoverageReport
from certstream.app.coverage.watch import CoverageWatch
from certstream.ct.types import LogInfo
from certstream.errors import StorageError
from certstream.intervals import Intervals
from certstream.ledger import Ledger, Trust, ledger_beside
from certstream.metrics import Metrics
from tests.archive.archive_support import log_info
from tests.archive.merge_support import A, B, fill_indices

LOG, OTHER = log_info(0), log_info(1)


class Times:
    """A clock that is set, and waits that end when they are told to."""

    def __init__(self) -> None:
        self.now = 0.0
        self.waits: asyncio.Queue[float] = asyncio.Queue()
        self.go = asyncio.Event()

    async def sleep(self, delay_s: float) -> None:
        self.waits.put_nowait(delay_s)
        await self.go.wait()
        self.go.clear()


@pytest.fixture
def times() -> Times:
    return Times()


@pytest.fixture
def metrics() -> Metrics:
    return Metrics()


@pytest.fixture
def watch(tmp_path: Path, times: Times, metrics: Metrics) -> CoverageWatch:
    return watched(tmp_path, times, metrics, lambda: [LOG, OTHER])


def watched(
    root: Path, times: Times, metrics: Metrics, logs: Callable[[], list[LogInfo]], patience_s: float = 30.0
) -> CoverageWatch:
    return CoverageWatch(
        Tables(root, None),
        metrics.archive.coverage,
        logs=logs,
        ceilings=lambda: {A: Ceiling(30, 0)},
        missing=lambda url: Intervals.of((40, 42)) if url == A else Intervals(),
        clock=lambda: times.now,
        sleep=times.sleep,
        patience_s=patience_s,
    )


def shown(metrics: Metrics) -> dict[str, str]:
    """The coverage of LOG's and OTHER's series, by name and log."""
    lines = metrics.exposition().decode().splitlines()
    found = (line.rpartition(" ") for line in lines if line.startswith("certstream_archive_"))
    return {name.removeprefix("certstream_archive_"): value for name, _, value in found}


async def at_once() -> None:
    return


async def test_an_answer_is_given_again_for_some_seconds(tmp_path: Path, watch: CoverageWatch, times: Times) -> None:
    fill_indices(tmp_path, range(10))
    first = await watch.json()
    fill_indices(tmp_path, range(10, 20))
    times.now = 1.0
    assert await watch.json() is first
    times.now = 3.0
    (log, other) = json.loads(await watch.json())["logs"]
    assert (log["archived"]["count"], log["missing"]["intervals"]) == (20, [[20, 30], [40, 42]])
    assert (other["archived"]["count"], other["missing"]) == (0, None)


async def test_an_answer_is_as_old_as_the_beginning_of_its_look(
    tmp_path: Path, watch: CoverageWatch, times: Times, monkeypatch: pytest.MonkeyPatch
) -> None:
    fill_indices(tmp_path, range(10))
    report = watch._reader.report

    def slow(*them: Any) -> CoverageReport:
        times.now += 5.0
        return report(*them)

    monkeypatch.setattr(watch._reader, "report", slow)
    task = asyncio.create_task(watch.run(at_once))
    await times.waits.get()
    fill_indices(tmp_path, range(10, 20))
    assert json.loads(await watch.json())["logs"][0]["archived"]["count"] == 20
    task.cancel()


async def test_many_who_ask_at_once_get_one_look(
    tmp_path: Path, watch: CoverageWatch, monkeypatch: pytest.MonkeyPatch
) -> None:
    fill_indices(tmp_path, range(10))
    looks: list[str] = []
    report = watch._reader.report

    def noting(*them: Any) -> CoverageReport:
        looks.append(threading.current_thread().name)
        return report(*them)

    monkeypatch.setattr(watch._reader, "report", noting)
    answers = await asyncio.gather(*(watch.json() for _ in range(20)))
    assert len(set(map(id, answers))) == 1
    assert len(looks) == 1
    assert looks != [threading.main_thread().name]


async def test_the_metrics_follow_the_table(
    tmp_path: Path, watch: CoverageWatch, times: Times, metrics: Metrics
) -> None:
    fill_indices(tmp_path, range(20))
    Ledger(ledger_beside(tmp_path)).note({A: Trust(Intervals.of((0, 15)), Intervals.of((15, 16)))})
    task = asyncio.create_task(watch.run(at_once))
    assert await times.waits.get() == 60.0
    assert {name: value for name, value in shown(metrics).items() if LOG.name in name} == {
        'entries{log="log0"}': "20.0",
        'verified_entries{log="log0"}': "15.0",
        'tainted_entries{log="log0"}': "1.0",
        'unparseable_entries{log="log0"}': "2.0",
        'dropped_entries{log="log0"}': "0.0",
        'missing_entries{log="log0"}': "12.0",
    }
    assert shown(metrics)['missing_entries{log="log1"}'] == "NaN"
    fill_indices(tmp_path, range(20, 30))
    times.go.set()
    await times.waits.get()
    assert shown(metrics)['entries{log="log0"}'] == "30.0"
    task.cancel()


async def test_logs_of_one_name_are_counted_together(tmp_path: Path, times: Times, metrics: Metrics) -> None:
    fill_indices(tmp_path, range(20))
    fill_indices(tmp_path, range(5), log_url=B)
    watch = watched(tmp_path, times, metrics, lambda: [LOG, replace(OTHER, name=LOG.name)])
    task = asyncio.create_task(watch.run(at_once))
    await times.waits.get()
    assert shown(metrics)['entries{log="log0"}'] == "25.0"
    task.cancel()


async def test_an_archive_that_never_answers_is_looked_at_all_the_same(
    tmp_path: Path, watch: CoverageWatch, times: Times, metrics: Metrics, monkeypatch: pytest.MonkeyPatch
) -> None:
    fill_indices(tmp_path, range(20))
    monkeypatch.setattr("certstream.app.coverage.watch._INTERVAL_S", 0.01)
    task = asyncio.create_task(watch.run(asyncio.Event().wait))
    async with asyncio.timeout(10):
        await times.waits.get()
    assert shown(metrics)['entries{log="log0"}'] == "20.0"
    task.cancel()


async def test_logs_that_are_followed_no_more_are_shown_no_more(tmp_path: Path, times: Times, metrics: Metrics) -> None:
    fill_indices(tmp_path, range(20))
    fill_indices(tmp_path, range(5), log_url=B)
    followed = [LOG, OTHER]
    watch = watched(tmp_path, times, metrics, lambda: followed)
    task = asyncio.create_task(watch.run(at_once))
    await times.waits.get()
    assert shown(metrics)['entries{log="log1"}'] == "5.0"
    followed.pop()
    times.go.set()
    await times.waits.get()
    assert 'entries{log="log1"}' not in shown(metrics)
    assert shown(metrics)['entries{log="log0"}'] == "20.0"
    task.cancel()


async def test_what_cannot_be_told_any_more_is_shown_no_more_and_said_once(
    tmp_path: Path, watch: CoverageWatch, times: Times, metrics: Metrics
) -> None:
    fill_indices(tmp_path, range(20))
    task = asyncio.create_task(watch.run(at_once))
    await times.waits.get()
    assert shown(metrics)['entries{log="log0"}'] == "20.0"
    (tmp_path / "_delta_log").rename(tmp_path / "aside")
    (tmp_path / "_delta_log").write_text("no directory")
    with capture_logs() as lines:
        for _ in range(2):
            times.go.set()
            await times.waits.get()
    assert set(shown(metrics).values()) == {"NaN"}
    assert [line["event"] for line in lines if line["log_level"] == "warning"] == [
        "coverage of the archive cannot be told, it is looked at again each minute"
    ]
    (tmp_path / "_delta_log").unlink()
    (tmp_path / "aside").rename(tmp_path / "_delta_log")
    times.go.set()
    await times.waits.get()
    assert shown(metrics)['entries{log="log0"}'] == "20.0"
    task.cancel()


async def test_nobody_waits_for_a_hung_disk_and_one_thread_does(
    tmp_path: Path, times: Times, metrics: Metrics, monkeypatch: pytest.MonkeyPatch
) -> None:
    fill_indices(tmp_path, range(20))
    watch = watched(tmp_path, times, metrics, lambda: [LOG], patience_s=0.05)
    begun, answers = threading.Event(), threading.Event()
    looks: list[str] = []
    report = watch._reader.report

    def hung(*them: Any) -> CoverageReport:
        looks.append(threading.current_thread().name)
        begun.set()
        answers.wait()
        return report(*them)

    monkeypatch.setattr(watch._reader, "report", hung)
    for _ in range(2):
        with pytest.raises(StorageError, match=r"the archive does not answer within 0\.05 s"):
            await watch.json()
        assert await asyncio.to_thread(begun.wait, 10)  # a thread may take its time to start
    assert len(looks) == 1
    answers.set()
    async with asyncio.timeout(10):
        while True:
            try:
                answer = await watch.json()
                break
            except StorageError:
                continue
    assert json.loads(answer)["logs"][0]["archived"]["count"] == 20


async def test_a_table_that_cannot_be_read_is_looked_at_again(
    tmp_path: Path, watch: CoverageWatch, times: Times, metrics: Metrics
) -> None:
    (tmp_path / "_delta_log").mkdir()
    (tmp_path / "_delta_log" / f"{0:020}.json").write_text("no JSON")
    task = asyncio.create_task(watch.run(at_once))
    await times.waits.get()
    with pytest.raises(StorageError):
        await watch.json()
    assert set(shown(metrics).values()) == {"NaN"}
    (tmp_path / "_delta_log" / f"{0:020}.json").unlink()
    (tmp_path / "_delta_log").rmdir()
    fill_indices(tmp_path, range(3))
    times.go.set()
    await times.waits.get()
    assert shown(metrics)['entries{log="log0"}'] == "3.0"
    task.cancel()


async def test_a_look_that_goes_on_ends_when_the_service_does(tmp_path: Path, watch: CoverageWatch) -> None:
    fill_indices(tmp_path, [1, 3])
    watch.close()
    with pytest.raises(StorageError, match="the service ends"):
        await watch.json()
