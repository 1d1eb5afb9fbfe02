"""The parts of the archive take up what changes while they run."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from certstream.app.archive import ArchiveParts
from certstream.app.verification.proven import ProvenRows
from certstream.app.verification.verifying import Verifying
from certstream.config import Config
from certstream.ct.types import LogInfo
from certstream.errors import ConfigError
from certstream.metrics import Metrics
from certstream.simulator.log import SimulatedLog
from certstream.simulator.server import SimulatorServer
from certstream.state import StateStore
from tests.archive.archive_support import held, log_info
from tests.archive.sink_support import positions

OFF = Verifying(lambda _log: "off", lambda _case: None)


async def at_once() -> None:
    """Live reading holds nothing up here."""


def config(root: Path, **sections: Any) -> Config:
    sink = {"enabled": True, "table_path": str(root)}
    return Config.model_validate({"delta_sink": sink, "log_lists": {"enabled": False}, **sections})


@asynccontextmanager
async def working(settings: Config, logs: list[LogInfo], state: StateStore) -> AsyncIterator[ArchiveParts]:
    parts = ArchiveParts(settings, logs, state, Metrics(), ProvenRows(None), OFF, live_first=at_once)
    async with parts:
        running = asyncio.create_task(parts.run())
        try:
            yield parts
        finally:
            running.cancel()
            await asyncio.gather(running, return_exceptions=True)


async def until(what: Callable[[], bool]) -> None:
    async with asyncio.timeout(30):
        while not what():  # noqa: ASYNC110 - figures tell nobody
            await asyncio.sleep(0.01)


def rereading() -> set[str]:
    names = (task.get_name() for task in asyncio.all_tasks() if not task.cancelling())
    return {name.rpartition(":")[2] for name in names if name.startswith("archive:reread:")}


async def test_a_backfill_that_runs_goes_on_at_the_pace_that_holds_now(tmp_path: Path) -> None:
    log = SimulatedLog("log", kinds={"rfc6962"}, initial=300, seed=1)
    state = StateStore(None)
    slow = {"default_operator_rate_limit_ms": 600_000, "batch_size": 100}
    async with SimulatorServer([log]):
        info = log.info("rfc6962")
        state.begin(info.base_url, 300, 300)
        async with working(config(tmp_path, ct_log=slow, backfill={"from_index": 0}), [info], state) as parts:
            parts.jobs.ask()
            await until(lambda: log.endpoints.total() == 1)
            parts.apply(config(tmp_path, ct_log={"batch_size": 100}, backfill={"from_index": 0}), [info])
            await until(lambda: parts.jobs.health()["backfill"].state == "succeeded")
    assert held(tmp_path) == {info.base_url: list(range(300))}


async def test_what_is_read_again_is_read_at_the_pace_that_holds_now(tmp_path: Path) -> None:
    log = SimulatedLog("log", kinds={"rfc6962"}, initial=300, seed=1)
    state = StateStore(None)
    slow = {"default_operator_rate_limit_ms": 600_000, "batch_size": 100}
    async with SimulatorServer([log]):
        info = log.info("rfc6962")
        state.begin(info.base_url, 300, 300)
        state.set_archive_start(info.base_url, 0)  # streamed and not archived, all of it
        async with working(config(tmp_path, ct_log=slow), [info], state) as parts:
            await until(lambda: log.endpoints.total() == 1)
            parts.apply(config(tmp_path, ct_log={"batch_size": 100}), [info])
            await until(lambda: parts.sink.missing(info.base_url).count == 0)
    assert held(tmp_path) == {info.base_url: list(range(300))}


async def test_logs_come_and_go_with_what_reads_them_again(tmp_path: Path) -> None:
    a, b = log_info(0), log_info(1)
    state = StateStore(None)
    state.begin(b.base_url, 7, 7)
    settings = config(tmp_path)
    async with working(settings, [a], state) as parts:
        await until(lambda: rereading() == {"log0"})
        parts.apply(settings, [a, b])
        await until(lambda: parts.sink.archived(b.base_url) == 7)
        assert rereading() == {"log0", "log1"}
        parts.apply(settings, [b])
        assert rereading() == {"log1"}
        parts.apply(settings, [])
        assert rereading() == set()
        assert parts.sink.archived(b.base_url) is None
    assert positions(tmp_path, a.base_url, b.base_url) == [None, 7]


def test_logs_that_no_backfill_could_be_of_are_refused(tmp_path: Path) -> None:
    settings = config(tmp_path, backfill={"logs": "log0"})
    parts = ArchiveParts(
        settings, [log_info(0)], StateStore(None), Metrics(), ProvenRows(None), OFF, live_first=at_once
    )
    parts.check(settings, [log_info(0), log_info(1)])
    with pytest.raises(ConfigError, match=r"backfill\.logs: no log has 'log0'"):
        parts.check(settings, [log_info(1)])


async def test_a_backfill_that_waits_for_a_log_leaves_nothing_behind(tmp_path: Path) -> None:
    never_read = log_info(7)
    async with working(config(tmp_path), [never_read], StateStore(None)) as parts:
        parts.jobs.ask()
        await until(lambda: bool(waiting_for_archived()))
    assert not waiting_for_archived()


def waiting_for_archived() -> list[asyncio.Task[Any]]:
    return [task for task in asyncio.all_tasks() if "wait_archived" in repr(task.get_coro())]
