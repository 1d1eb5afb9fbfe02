"""What the real process tells a service manager, and that a hung event loop falls silent."""

from __future__ import annotations

import asyncio
import re
import signal
from pathlib import Path

import pytest

from certstream.simulator.log import SimulatedLog
from tests.e2e.e2e_support import PATIENCE_S, Simulate, StartService, options_for
from tests.e2e.manager_support import Manager, start_hanging_service

WATCHDOG_S = 1.0


def is_ready(lines: list[str]) -> bool:
    return "READY=1" in lines


@pytest.mark.parametrize("abstract", [False, True], ids=["path", "abstract name"])
async def test_it_is_ready_once_its_ports_answer_although_no_log_does(
    start_service: StartService, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, *, abstract: bool
) -> None:
    unreachable = {"name": "gone", "url": "http://127.0.0.1:1/log/"}
    with Manager(tmp_path, abstract=abstract) as manager:
        monkeypatch.setenv("NOTIFY_SOCKET", manager.address)
        service = await start_service({"custom_logs": [unreachable]})
        ready = await manager.until(is_ready)
        assert (await service.get("/health"))[0] == 200
        assert "STATUS=reading 0 of 1 logs, 0 entries behind, 0 clients" in ready
        before, after = manager.told[:-1], manager.told[-1]
        assert before  # more time is asked for from the first moment on, and no more once it has started
        assert all("EXTEND_TIMEOUT_USEC=60000000" in lines and "STATUS=starting" in lines for lines in before)
        assert not any(line.startswith(("EXTEND_TIMEOUT_USEC", "WATCHDOG")) for line in after)
        assert (await service.stop())[0] == 0
        assert "STATUS=stopping" in await manager.until(lambda lines: "STOPPING=1" in lines)


async def test_its_status_names_logs_lag_and_clients(
    start_service: StartService, simulate: Simulate, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    server = await simulate(SimulatedLog("log", kinds={"rfc6962", "static"}, initial=10, seed=1))
    with Manager(tmp_path) as manager:
        for name, value in manager.environment(WATCHDOG_S).items():
            monkeypatch.setenv(name, value)
        service = await start_service(options_for(server.infos()))
        await service.until_following(*server.infos())
        async with service.listen():
            await manager.until(lambda lines: "STATUS=reading 2 of 2 logs, 0 entries behind, 1 clients" in lines)


async def test_a_hung_event_loop_no_longer_feeds_the_watchdog_and_says_where_it_hangs(tmp_path: Path) -> None:
    with Manager(tmp_path) as manager:
        process = await start_hanging_service(tmp_path, manager.environment(WATCHDOG_S))
        try:
            await manager.until(is_ready)
            for _ in range(3):
                assert "WATCHDOG=1" in await manager.next(WATCHDOG_S)
            process.send_signal(signal.SIGUSR1)
            async with asyncio.timeout(PATIENCE_S):
                await manager.until_silent(2 * WATCHDOG_S)
            process.send_signal(signal.SIGABRT)  # as systemd does then
            async with asyncio.timeout(PATIENCE_S):
                _, stderr = await process.communicate()
        finally:
            if process.returncode is None:
                process.kill()
                await process.wait()
    assert process.returncode == -signal.SIGABRT
    assert re.search(rb"Current thread .*most recent call first.*\n.* in <lambda>", stderr)


async def test_a_manager_that_cannot_be_told_is_a_warning(
    start_service: StartService, monkeypatch: pytest.MonkeyPatch
) -> None:
    address = "/nobody/listens/here"
    monkeypatch.setenv("NOTIFY_SOCKET", address)
    service = await start_service({})
    assert (await service.get("/health"))[0] == 200
    assert (await service.stop())[0] == 0
    (warning,) = [line for line in service.lines if line.get("address") == address]
    assert (warning["level"], warning["error"]) == ("warning", "No such file or directory")
