"""The real service reads again what it could not prove: compared with what went out, and never streamed twice."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest

from certstream.app.verification import recheck
from certstream.app.verification.recheck import DIFFERS
from certstream.intervals import Intervals
from certstream.ledger import Ledger, ledger_beside
from certstream.simulator.faults import Fault, FaultKind
from certstream.simulator.log import SimulatedLog
from tests.archive.archive_support import held
from tests.e2e.archive_service_support import eventually
from tests.e2e.command_support import MAIN
from tests.e2e.e2e_support import PATIENCE_S, Service, Simulate, StartService
from tests.e2e.in_process_support import InProcess, work_in
from tests.e2e.verification_support import kinds_of, until_at, until_health, verifying

BOTH = ("log rfc6962", "log static")


async def until_tainted(service: Service, *wanted: tuple[str, int, int, str]) -> None:
    """Wait until /health/deep lists exactly these."""

    def listed(health: dict[str, Any]) -> set[tuple[str, int, int, str]]:
        return {(each["log"], each["start"], each["stop"], each["error"]) for each in health["tainted"]}

    async with asyncio.timeout(PATIENCE_S):
        while listed(await service.health()) != {*wanted}:  # noqa: ASYNC110
            await asyncio.sleep(0.05)


async def test_what_was_sent_wrong_once_stays_listed_and_after_a_restart_the_archives_rows_speak_for_it(
    start_service: StartService, simulate: Simulate
) -> None:
    log = SimulatedLog("log", initial=1_000, seed=1, max_page=256)
    server = await simulate(log)
    options = verifying(server.infos(), "warn", batch_size=256)
    options["delta_sink"] = {"enabled": True, "table_path": MAIN, "flush_interval_secs": 1}
    for endpoint in ("get-entries", "data-tile"):
        log.faults.add(Fault(FaultKind.WRONG_LEAF, on=endpoint, index=700, times=1))  # a millisecond later
    service = await start_service(options)
    await until_at(service, 1_000, *BOTH)
    await until_tainted(service, *((name, 700, 701, DIFFERS) for name in BOTH))
    urls = [log.url(kind).rstrip("/") for kind in ("rfc6962", "static")]
    rows = {url: list(range(1_000)) for url in urls}
    await eventually(lambda: held(service.directory / MAIN) == rows)
    ledger = Ledger(ledger_beside(service.directory / MAIN))
    await eventually(lambda: all(ledger.read()[url].tainted == Intervals.of((700, 701)) for url in urls))
    assert "certstream_entries_published_total 2000.0" in (await service.get("/metrics"))[1]
    await service.stop()

    await service.start()  # the hashes of what went out are forgotten; the rows are those of the proven entry
    await until_health(service, lambda logs: all(logs[name]["tainted_entries"] == 0 for name in BOTH))
    await until_tainted(service)
    everything = Intervals.of((0, 1_000))
    await eventually(lambda: all(ledger.read()[url].verified == everything for url in urls))
    assert "certstream_entries_published_total 0.0" in (await service.get("/metrics"))[1]
    assert held(service.directory / MAIN) == rows
    assert kinds_of(service) == {(name, "wrong_leaf") for name in BOTH}  # that it was sent is not forgotten
    await service.stop()


async def test_what_is_in_another_tree_than_what_was_proven_stays_tainted_as_long_as_the_log_shows_that_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, simulate: Simulate
) -> None:
    work_in(tmp_path, monkeypatch)
    monkeypatch.setattr(recheck, "_LOOK_S", 0.2)
    monkeypatch.setattr(recheck, "_FIRST_S", 0.5)
    log = SimulatedLog("log", initial=600, seed=3)
    server = await simulate(log)
    options = verifying(server.infos(), "warn")
    options["delta_sink"] = {"enabled": True, "table_path": MAIN, "flush_interval_secs": 1}
    async with InProcess(tmp_path, options, ()) as service:
        await until_at(service, 600, *BOTH)
        fork = log.faults.add(Fault(FaultKind.FORK, index=300))
        log.grow(300)
        await until_at(service, 900, *BOTH)
        await until_read_again(service)
        await service.stop()
        await service.start()  # what was proven lies behind the position, and is the measure all the same
        log.grow(50)
        await until_at(service, 950, *BOTH)
        health = await until_read_again(service)
        assert {each["tainted_entries"] for each in health["logs"]} == {350}
        assert {kind for _, kind in kinds_of(service)} == {"inconsistent"}
        log.faults.remove(fork)
        log.grow(50)
        await until_at(service, 1_000, *BOTH)
        await until_health(service, lambda logs: all(logs[name]["tainted_entries"] == 0 for name in BOTH))
        urls = [log.url(kind).rstrip("/") for kind in ("rfc6962", "static")]
        await eventually(lambda: held(service.directory / MAIN) == {url: list(range(1_000)) for url in urls})
        await service.stop()


async def until_read_again(service: Service) -> dict[str, Any]:
    """Wait until what is tainted of both logs was read again, and is tainted still; what /health/deep says."""
    async with asyncio.timeout(PATIENCE_S):
        while True:
            health = await service.health()
            if {each["log"] for each in health["tainted"] if "is not consistent with" in each["error"]} == {*BOTH}:
                return health
            await asyncio.sleep(0.05)
