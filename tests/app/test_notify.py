"""What a service manager is told, in the words of sd_notify(3)."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from certstream.app.notify import ServiceManager, status_line
from certstream.metrics import LogState
from certstream.serve.health import ArchiveHealth, ArchiveState, LogHealth, assess
from tests.e2e.manager_support import Manager


def log_health(state: LogState, lag_entries: int | None) -> LogHealth:
    return LogHealth("log", "https://log.example/", "static", "operator", state, 1, 1, lag_entries, None, None, None)


def archive_health(state: ArchiveState) -> ArchiveHealth:
    return ArchiveHealth(state, None, None, 0, 0, 0, None)


def test_logs_that_do_not_answer_are_not_read_and_lag_is_that_of_all_logs() -> None:
    logs = [
        log_health("following", 5),
        log_health("catching_up", 1_000),
        log_health("rate_limited", 20),
        log_health("degraded", 300),
        log_health("unhealthy", None),
        log_health("starting", None),
    ]
    health = assess(logs, version="1", uptime_s=1)
    assert status_line(health, 1_200) == "reading 3 of 6 logs, 1,325 entries behind, 1,200 clients"


@pytest.mark.parametrize(("state", "end"), [("healthy", "2 clients"), ("failing", "2 clients; the archive fails")])
def test_an_archive_is_named_where_it_fails(state: ArchiveState, end: str) -> None:
    health = assess([log_health("following", 0)], version="1", uptime_s=1, archive=archive_health(state))
    assert status_line(health, 2).endswith(end)


async def test_a_manager_without_room_learns_later_that_the_service_is_ready(tmp_path: Path) -> None:
    with Manager(tmp_path) as manager:
        environment = {**manager.environment(watchdog_s=0.1)}
        async with ServiceManager.of(environment, lambda: "fine") as told:
            manager.fill()
            told.ready()
            ready = await manager.until(lambda lines: "READY=1" in lines)
            following = await manager.next()
    assert ready == ["READY=1", "STATUS=fine", "WATCHDOG=1"]
    assert following == ["STATUS=fine", "WATCHDOG=1"]


async def test_a_service_that_ends_while_it_starts_asks_for_no_more_time(tmp_path: Path) -> None:
    with Manager(tmp_path) as manager:
        async with ServiceManager.of(manager.environment(watchdog_s=0.1), lambda: "fine") as told:
            told.stopping()
            assert await manager.next() == ["STOPPING=1", "STATUS=stopping", "WATCHDOG=1"]
            assert await manager.next() == ["STATUS=stopping", "WATCHDOG=1"]


async def test_without_a_manager_nothing_happens() -> None:
    tasks = asyncio.all_tasks()
    async with ServiceManager.of({"WATCHDOG_USEC": "1000"}, lambda: "fine") as told:
        told.ready()
        told.stopping()
        assert asyncio.all_tasks() == tasks


@pytest.mark.parametrize("address", ["notify", "vsock:2:1234"])
async def test_an_address_of_another_kind_is_a_warning(address: str) -> None:
    with capture_logs() as lines:
        async with ServiceManager.of({"NOTIFY_SOCKET": address}, lambda: "fine") as told:
            told.ready()
    assert [(line["log_level"], line["address"]) for line in lines] == [("warning", address)]


@pytest.mark.parametrize("ours", [True, False])
async def test_a_watchdog_that_waits_for_another_process_is_none_of_ours(tmp_path: Path, *, ours: bool) -> None:
    with Manager(tmp_path) as manager:
        environment = {**manager.environment(watchdog_s=1), "WATCHDOG_PID": str(os.getpid() if ours else 1)}
        async with ServiceManager.of(environment, lambda: "fine"):
            assert ("WATCHDOG=1" in await manager.next()) == ours


@pytest.mark.parametrize("usec", ["", "0", "-1", "1e6", "٤٢"])
async def test_a_watchdog_of_no_length_is_none(tmp_path: Path, usec: str) -> None:
    with Manager(tmp_path) as manager:
        async with ServiceManager.of({**manager.environment(), "WATCHDOG_USEC": usec}, lambda: "fine") as told:
            told.ready()
            assert await manager.until(lambda lines: "READY=1" in lines) == ["READY=1", "STATUS=fine"]
