"""What is archived, verified and missing: told by the running service, and by the command beside it or without it."""

from __future__ import annotations

import asyncio
import json
import os
import signal
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from certstream.archive.table import Table
from certstream.ct.types import LogInfo
from certstream.intervals import Intervals
from certstream.ledger import Ledger, Trust, ledger_beside
from certstream.simulator.log import SimulatedLog
from tests.e2e.archive_service_support import KINDS, archiving, eventually, url_of
from tests.e2e.command_support import MAIN, STAGING, archive_options, fill, run, snapshot_of, with_keys, write_state
from tests.e2e.e2e_support import PATIENCE_S, Service, Simulate, StartService

LOG = "https://log.example/2026h2"


def of(document: dict[str, Any], url: str) -> dict[str, Any]:
    (found,) = (log for log in document["logs"] if log["url"] == url)
    return dict(found)


async def eventually_told(service: Service, url: str, **wanted: list[list[int]]) -> dict[str, Any]:
    """Ask the service until it says that."""
    async with asyncio.timeout(PATIENCE_S):
        while True:
            status, text = await service.get("/coverage")
            assert status == 200
            told = of(json.loads(text), url)
            if all(told[kind]["intervals"] == intervals for kind, intervals in wanted.items()):
                return told
            await asyncio.sleep(0.1)


async def test_the_service_and_the_command_beside_it_say_what_is_verified(
    tmp_path: Path, start_service: StartService, simulate: Simulate
) -> None:
    logs = [SimulatedLog(f"log-{kind}", kinds={kind}, initial=300, seed=3, unparseable=0.05) for kind in KINDS]
    server = await simulate(*logs)
    options = with_keys(archiving(server.infos()), server.infos())
    for section in ("custom_logs", "static_logs"):
        options[section][0]["start"] = 0
    urls = [url_of(log, kind) for log, kind in zip(logs, KINDS, strict=True)]

    def verified(stop: int) -> bool:
        return all(list(verified_in(tmp_path, url)) == [(0, stop)] for url in urls)

    service = await start_service(options)
    await eventually(partial(verified, 300))
    everything = [[0, 300]]
    told = [await eventually_told(service, url, archived=everything, verified=everything) for url in urls]
    command = await run(tmp_path, options, "--coverage", "--json")
    assert command.code == 0
    shown = [of(json.loads(command.stdout), url) for url in urls]
    for found in (*told, *shown):
        assert [found[each]["intervals"] for each in ("archived", "verified")] == [everything, everything]
        assert [found[each]["count"] for each in ("unverified", "tainted", "missing", "dropped")] == [0, 0, 0, 0]
        assert found["unparseable"]["count"] > 0
    assert [each["unparseable"] for each in told] == [each["unparseable"] for each in shown]
    for log in logs:
        log.grow(50)
    await eventually(partial(verified, 350))
    await service.stop()
    for log in logs:
        log.grow(25)
    await service.start()
    await eventually(partial(verified, 375))


async def test_after_a_kill_nothing_is_verified_that_is_not_archived(
    tmp_path: Path, start_service: StartService, simulate: Simulate
) -> None:
    log = SimulatedLog("log", kinds={"static"}, initial=300, seed=3)
    server, url = await simulate(log), url_of(log, "static")
    options = with_keys(archiving(server.infos(), delta_sink={"batch_size": 100}), server.infos())
    options["static_logs"][0]["start"] = 0
    service, unverified = await start_service(options), 0
    for _ in range(2):
        await eventually(partial(verifies, tmp_path, url, log.tree_size - unverified))
        before = log.tree_size
        log.grow(400)
        await eventually(partial(more_archived, tmp_path, before))
        service.send(signal.SIGKILL)
        await service.exit_code()
        found = await run(tmp_path, options, "--coverage", "--json")
        document = of(json.loads(found.stdout), url)
        verified = verified_in(tmp_path, url)
        assert (
            document["verified"]["count"] == verified.count >= before - unverified
        )  # all of it of rows that are there
        assert document["tainted"]["count"] == 0
        unverified = document["unverified"]["count"]  # what the kill came before
        await service.start()
    await eventually(partial(verifies, tmp_path, url, log.tree_size - unverified))


def verified_in(directory: Path, url: str) -> Intervals:
    return Ledger(ledger_beside(directory / MAIN)).read().get(url, Trust()).verified


def verifies(directory: Path, url: str, count: int) -> bool:
    return verified_in(directory, url).count == count


def more_archived(directory: Path, rows: int) -> bool:
    return rows_archived(directory) > rows


def rows_archived(directory: Path) -> int:
    snapshot = Table(directory / MAIN).open()
    return 0 if snapshot is None else snapshot.rows or 0


async def test_the_table_of_an_archive_and_its_staging(tmp_path: Path) -> None:
    fill(tmp_path / MAIN, LOG, range(100, 200))
    fill(tmp_path / STAGING, LOG, range(150, 300))
    Ledger(ledger_beside(tmp_path / MAIN)).note({LOG: Trust(Intervals.of((100, 150)))})
    write_state(tmp_path, {LOG: 400}, start_index=50)
    options = archive_options([LogInfo("log", LOG, "rfc6962", "operator")])
    options["custom_logs"][0]["name"] = "argon"
    before = snapshot_of(tmp_path / MAIN)
    done = await run(tmp_path, options, "--coverage", "--staging-path", STAGING)
    assert done.code == 0
    assert done.stdout.startswith(
        f"argon  {LOG}\n"
        "  archived                 100  100 to 199\n"
        "  staged                   100  200 to 299\n"
        "  verified                  50  100 to 149\n"
        "  unverified               150  150 to 299\n"
    )
    assert "  missing                  150  50 to 99, 300 to 399\n" in done.stdout
    now = snapshot_of(tmp_path / MAIN)
    assert {path: stat for path, stat in now.items() if path in before} == before
    assert {path.partition("/")[0] for path in now.keys() - before.keys()} <= {"_certstream"}
    chosen = await run(tmp_path, options, "--coverage", "--logs", "nowhere")
    assert (chosen.code, chosen.stdout) == (1, "")
    assert chosen.lines[-1]["event"] == "--logs: no log that is configured or archived has 'nowhere' in its name or URL"


async def test_a_table_that_is_not_there_is_named(tmp_path: Path) -> None:
    nothing = await run(tmp_path, archive_options([]), "--coverage", "--staging-path", "./nowhere")
    assert nothing.code == 0
    assert nothing.only("archive does not exist, nothing is archived")["table_path"].endswith("/" + MAIN)
    fill(tmp_path / MAIN, LOG, range(10))
    mistyped = await run(tmp_path, archive_options([]), "--coverage", "--staging-path", "./nowhere")
    assert mistyped.only("staging table does not exist, nothing is staged")["staging_path"].endswith("/nowhere")
    assert "archive does not exist" not in str(mistyped.lines)
    assert "archived                  10  0 to 9" in mistyped.stdout
    assert not (tmp_path / "nowhere").exists()


@pytest.mark.parametrize("broken", ["_delta_log/00000000000000000001.json", "_certstream/dropped.json"])
async def test_what_cannot_be_read_is_exit_1(tmp_path: Path, broken: str) -> None:
    fill(tmp_path / MAIN, LOG, range(10))
    (tmp_path / MAIN / "_certstream").mkdir(exist_ok=True)
    (tmp_path / MAIN / broken).write_text("broken")
    done = await run(tmp_path, archive_options([]), "--coverage")
    assert (done.code, done.stdout) == (1, "")
    assert broken.partition("/")[0] in done.lines[-1]["event"]


@pytest.mark.skipif(os.geteuid() != 0, reason="needs another user's table")
async def test_root_does_not_look_at_another_users_archive(tmp_path: Path) -> None:
    fill(tmp_path / MAIN, LOG, range(10))
    os.chown(tmp_path / MAIN, 12_345, 12_345)
    done = await run(tmp_path, archive_options([]), "--coverage")
    assert done.code == 1
    assert "sudo -u '#12345' certstream --coverage" in done.lines[-1]["event"]
