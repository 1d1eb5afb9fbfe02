"""SIGHUP and the configuration start backfill and merge inside the running service."""

from __future__ import annotations

import signal
from pathlib import Path

from certstream.intervals import Intervals
from certstream.ledger import Ledger, Trust, ledger_beside
from certstream.simulator.faults import Fault, FaultKind
from certstream.simulator.log import SimulatedLog
from tests.archive.archive_support import held
from tests.e2e.archive_service_support import KINDS, archiving, eventually, job, metric, unanswering, url_of
from tests.e2e.command_support import (
    MAIN,
    STAGING,
    archive_options,
    rows_of,
    until_struck,
    with_keys,
)
from tests.e2e.e2e_support import Simulate, StartService


async def test_sighup_fills_staging_and_merges_it(
    tmp_path: Path, start_service: StartService, simulate: Simulate
) -> None:
    log = SimulatedLog("log", kinds={"rfc6962", "static"}, initial=3_000, seed=3)
    server = await simulate(log)
    service = await start_service(archiving(server.infos(), backfill={"staging_path": STAGING, "from_index": 100}))
    await service.until_following(*server.infos())
    log.grow(500)
    urls = [url_of(log, kind) for kind in KINDS]
    await eventually(lambda: all(len(rows_of(tmp_path / MAIN, url)) == 500 for url in urls))
    service.send(signal.SIGHUP)
    merged = await job(service, "merge", "succeeded", "failed")
    filled = (await service.health())["jobs"]["backfill"]
    assert (filled["state"], filled["detail"]["written"], filled["detail"]["failed_ranges"]) == ("succeeded", 5_800, 0)
    assert (merged["state"], merged["detail"]) == ("succeeded", {"inserted": 5_800, "skipped": 0})
    assert not (tmp_path / STAGING).exists()
    assert await metric(service, "certstream_backfill_entries_written_total") == 5_800
    assert await metric(service, "certstream_merge_rows_inserted_total") == 5_800
    assert await metric(service, "certstream_backfill_running") == 0
    assert (await service.stop())[0] == 0
    assert held(tmp_path / MAIN) == {url: list(range(100, 3_500)) for url in urls}


async def test_sighup_without_a_staging_path_writes_the_archive_itself(
    tmp_path: Path, start_service: StartService, simulate: Simulate
) -> None:
    log = SimulatedLog("log", kinds={"static"}, initial=1_000, seed=3)
    server = await simulate(log)
    options = archiving(server.infos(), backfill={"from_index": 0})
    service = await start_service(with_keys(options, server.infos()))
    await service.until_following(*server.infos())
    log.grow(100)
    url = url_of(log, "static")
    await eventually(lambda: len(rows_of(tmp_path / MAIN, url)) == 100)
    service.send(signal.SIGHUP)
    assert (await job(service, "backfill", "succeeded", "failed"))["state"] == "succeeded"
    assert rows_of(tmp_path / MAIN, url) == list(range(1_100))
    ledger = Ledger(ledger_beside(tmp_path / MAIN))
    await eventually(lambda: ledger.read()[url] == Trust(Intervals.of((0, 1_100))))  # the job's, and the sink's
    assert (await service.health())["jobs"]["merge"]["state"] == "never"
    assert [path.name for path in (tmp_path / "data").iterdir()] == ["main"]


async def test_a_signal_during_a_backfill_ends_the_service_and_the_next_finishes_it(
    tmp_path: Path, start_service: StartService, simulate: Simulate
) -> None:
    log = SimulatedLog("log", kinds={"static"}, initial=30_000, seed=3)
    server = await simulate(log)
    service = await start_service(archiving(server.infos(), backfill={"staging_path": STAGING, "from_index": 0}))
    await service.until_following(*server.infos())
    stuck = log.faults.add(Fault(FaultKind.STALL, on="data-tile", index=20_480))
    url = url_of(log, "static")
    log.grow(10)
    await eventually(lambda: len(rows_of(tmp_path / MAIN, url)) == 10)
    service.send(signal.SIGHUP)
    await until_struck(log, stuck)
    service.send(signal.SIGHUP)
    await service.until(lambda line: line["event"] == "backfill runs already, this signal starts none")
    code, seconds = await service.stop(signal.SIGINT)
    assert (code, seconds < 5) == (0, True)
    there = rows_of(tmp_path / STAGING, url)
    assert there == list(range(len(there)))
    assert rows_of(tmp_path / MAIN, url) == list(range(30_000, 30_010))
    log.faults.remove(stuck)
    await service.start()
    await service.until_following(*server.infos())
    service.send(signal.SIGHUP)
    assert (await job(service, "merge", "succeeded", "failed"))["state"] == "succeeded"
    assert rows_of(tmp_path / MAIN, url) == list(range(30_010))
    assert not (tmp_path / STAGING).exists()


async def test_staging_is_left_for_inspection_where_that_is_wanted(
    tmp_path: Path, start_service: StartService, simulate: Simulate
) -> None:
    log = SimulatedLog("log", kinds={"static"}, initial=500, seed=3)
    server = await simulate(log)
    backfill = {"staging_path": STAGING, "from_index": 0, "merge_after": False, "on_start": True, "interval_secs": 60}
    service = await start_service(archiving(server.infos(), backfill=backfill))
    await service.until_following(*server.infos())
    await job(service, "backfill", "succeeded", "failed")
    service.send(signal.SIGHUP)
    await eventually(lambda: rows_of(tmp_path / STAGING, url_of(log, "static")) == list(range(500)))
    assert (await service.health())["jobs"]["merge"]["state"] == "never"


async def test_without_an_archive_sighup_is_logged_and_nothing_else(
    tmp_path: Path, start_service: StartService, simulate: Simulate
) -> None:
    server = await simulate(SimulatedLog("log", kinds={"static"}, initial=10, seed=3))
    service = await start_service(archive_options(server.infos()))
    service.send(signal.SIGHUP)
    await service.until(lambda line: line["event"] == "the archive is off, this signal starts nothing")
    assert ((await service.health())["archive"], (await service.stop())[0]) == (None, 0)
    assert not (tmp_path / "data").exists()


async def test_only_the_logs_that_the_configuration_names_are_backfilled(
    tmp_path: Path, start_service: StartService, simulate: Simulate
) -> None:
    log = SimulatedLog("log", kinds={"rfc6962", "static"}, initial=600, seed=3)
    server = await simulate(log)
    backfill = {"staging_path": STAGING, "from_index": 0, "logs": "log RFC"}
    service = await start_service(archiving(server.infos(), backfill=backfill))
    await service.until_following(*server.infos())
    service.send(signal.SIGHUP)
    assert (await job(service, "merge", "succeeded", "failed"))["state"] == "succeeded"
    assert held(tmp_path / MAIN) == {url_of(log, "rfc6962"): list(range(600))}
    assert (await service.stop())[0] == 0
    service.options = archiving(server.infos(), backfill={"logs": "argon"})
    await service.start(serving=False)
    assert await service.exit_code() == 1
    assert "backfill.logs: no log has 'argon' in its name or URL" in service.lines[-1]["event"]


async def test_a_staging_disk_that_hangs_holds_up_nobody_else(
    tmp_path: Path, start_service: StartService, simulate: Simulate
) -> None:
    log = SimulatedLog("log", kinds={"static"}, initial=300, seed=3)
    server = await simulate(log)
    service = await start_service(archiving(server.infos(), backfill={"staging_path": STAGING, "from_index": 0}))
    await service.until_following(*server.infos())
    async with unanswering(tmp_path / "data/.staging.certstream-lock") as asked, service.listen() as client:
        service.send(signal.SIGHUP)
        await asked.wait()
        log.grow(50)
        await client.until_index("log static", 349)
        assert (await service.health())["jobs"]["backfill"]["state"] == "never"
    assert (await job(service, "merge", "succeeded", "failed"))["state"] == "succeeded"
    assert (await service.stop())[0] == 0
    assert held(tmp_path / MAIN) == {url_of(log, "static"): list(range(350))}
