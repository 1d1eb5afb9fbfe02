"""The service where modes of verification meet: of one log and of all, changed while it runs, with jobs and lists."""

from __future__ import annotations

import asyncio
import json
import signal
from collections.abc import AsyncIterator, Mapping
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web

from certstream.app.verification import recheck
from certstream.ct.types import LogKind
from certstream.errors import ConfigError
from certstream.intervals import Intervals
from certstream.ledger import Ledger, Trust, ledger_beside
from certstream.live import heads
from certstream.simulator.faults import Fault, FaultKind
from certstream.simulator.log import SimulatedLog
from tests.client.log_list_support import Publisher, publishing
from tests.e2e.archive_service_support import archiving, eventually, job, metric, stands_at, url_of
from tests.e2e.command_support import MAIN, STAGING, rows_of, with_keys
from tests.e2e.e2e_support import PATIENCE_S, Service, Simulate, StartService
from tests.e2e.in_process_support import InProcess, work_in
from tests.e2e.log_list_support import entry, listing, readonly
from tests.e2e.reload_support import ON, edit
from tests.e2e.verification_support import evidence, exchanged, kinds_of, until_at, until_health, verifying

SIZE = 1_000
WRONG = 700  # an entry that is not the one in the tree


@pytest.fixture
async def begin(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[StartService]:
    """Start a service in this process, which ends with the test."""
    work_in(tmp_path, monkeypatch)
    async with AsyncExitStack() as stack:

        async def start(options: Mapping[str, Any]) -> Service:
            return await stack.enter_async_context(InProcess(tmp_path, options, ()))

        yield start


@pytest.fixture
async def publisher() -> AsyncIterator[Publisher]:
    async with publishing() as publisher:
        yield publisher


def own_mode(options: dict[str, Any], name: str, mode: str) -> dict[str, Any]:
    """The same configuration with a mode of its own for that log."""
    for log in (*options["custom_logs"], *options["static_logs"]):
        if log["name"] == name:
            log["verification"] = mode
    return options


@pytest.mark.parametrize(("every", "own"), [("off", "enforce"), ("enforce", "warn")])
async def test_a_logs_own_mode_goes_before_that_of_all_logs(
    begin: StartService, simulate: Simulate, every: str, own: str
) -> None:
    log = SimulatedLog("log", initial=SIZE, seed=1, max_page=256)
    server = await simulate(log)
    log.corrupt_entry(WRONG)
    options = own_mode(verifying(server.infos(), every, batch_size=256), "log rfc6962", own)
    service = await begin(options)
    held, gone = ("log rfc6962", "log static") if own == "enforce" else ("log static", "log rfc6962")
    logs = await until_at(service, SIZE, gone)
    wrong = {held} if every == "off" else {held, gone}
    logs = await until_health(service, lambda logs: {name for name in logs if logs[name]["suspect"]} == wrong)
    logs = await until_health(service, lambda logs: logs[held]["state"] == "degraded")
    assert logs[held]["position"] == 512
    modes = {name: found["verification"] for name, found in logs.items()}
    assert modes == {"log rfc6962": own, "log static": every}
    assert kinds_of(service) == {(name, "wrong_leaf") for name in wrong}


async def test_the_jobs_of_the_service_prove_each_log_by_its_own_mode(
    tmp_path: Path, begin: StartService, simulate: Simulate
) -> None:
    log = SimulatedLog("log", initial=SIZE, seed=2)
    server = await simulate(log)
    backfill = {"staging_path": STAGING, "from_index": 0, "on_start": True}
    options = archiving(server.infos(), ct_log={"verification": "enforce"}, backfill=backfill)
    options = own_mode(with_keys(options, server.infos()), "log rfc6962", "off")
    fault = log.faults.add(Fault(FaultKind.WRONG_LEAF, index=WRONG))
    service = await begin(options)
    assert (await job(service, "backfill", "succeeded", "failed"))["state"] == "failed"
    assert (await job(service, "merge", "succeeded", "failed"))["state"] == "succeeded"
    assert log.faults.struck[fault]
    parts = [[0, WRONG], [WRONG + 1, SIZE]]
    wanted = {"archived": parts, "verified": parts, "missing": [[WRONG, WRONG + 1]]}
    async with asyncio.timeout(PATIENCE_S):  # an answer of before the merge is given for a while
        told = await coverage(service)
        while {kind: told["log static"][kind]["intervals"] for kind in wanted} != wanted:
            await asyncio.sleep(0.05)
            told = await coverage(service)
    found = {kind: told["log rfc6962"][kind]["count"] for kind in ("archived", "verified", "tainted", "missing")}
    assert found == {"archived": SIZE, "verified": 0, "tainted": 0, "missing": 0}
    assert rows_of(tmp_path / MAIN, url_of(log, "rfc6962")) == list(range(SIZE))
    assert {name for name, _ in kinds_of(service)} == {"log static"}


async def test_the_jobs_of_the_service_prove_nothing_in_another_tree_than_the_one_that_is_followed(
    tmp_path: Path, start_service: StartService, simulate: Simulate
) -> None:
    log = SimulatedLog("log", kinds={"static"}, initial=600, seed=7)
    server = await simulate(log)
    options = archiving(server.infos(), ct_log={"verification": "enforce"}, backfill={"from_index": 0})
    service = await start_service(with_keys(options, server.infos()))
    await service.until_following(*server.infos())
    log.grow(20)
    await eventually(lambda: rows_of(tmp_path / MAIN, url_of(log, "static")) == list(range(600, 620)))
    log.faults.add(Fault(FaultKind.FORK, index=300))  # signed, and right in itself
    log.grow(100)
    service.send(signal.SIGHUP)
    assert (await job(service, "backfill", "succeeded", "failed"))["state"] == "failed"
    assert rows_of(tmp_path / MAIN, url_of(log, "static")) == list(range(600, 620))
    assert kinds_of(service) == {("log static", "inconsistent")}


async def test_what_went_out_unproven_is_proven_when_the_service_stops(
    tmp_path: Path, begin: StartService, simulate: Simulate
) -> None:
    log = SimulatedLog("log", kinds={"rfc6962"}, initial=SIZE, seed=8, max_page=64)
    server = await simulate(log)
    stuck = log.faults.add(Fault(FaultKind.STALL, on="get-entries", index=WRONG))
    options = verifying(server.infos(), "warn", batch_size=64)
    options["delta_sink"] = {"enabled": True, "table_path": MAIN, "flush_interval_secs": 1}
    service, url, there = await begin(options), url_of(log, "rfc6962"), WRONG - WRONG % 64
    await eventually(lambda: rows_of(tmp_path / MAIN, url) == list(range(there)))  # fewer than are proven at a time
    ledger = Ledger(ledger_beside(tmp_path / MAIN))
    assert ledger.read() == {}
    assert (await service.stop())[0] == 0
    log.faults.remove(stuck)
    assert ledger.read() == {url: Trust(Intervals.of((0, there)))}


async def coverage(service: Service) -> dict[str, dict[str, Any]]:
    """What GET /coverage says of each log, by name."""
    return {log["name"]: log for log in json.loads((await service.get("/coverage"))[1])["logs"]}


async def test_another_tree_is_accepted_by_turning_verification_off_and_on_again(
    begin: StartService, simulate: Simulate
) -> None:
    log = SimulatedLog("log", kinds={"static"}, initial=600, seed=3)
    server = await simulate(log)
    options = {**verifying(server.infos(), "enforce"), **ON}
    service = await begin(options)
    async with service.listen() as listener:
        await until_at(service, 600, "log static")
        log.faults.add(Fault(FaultKind.FORK, index=300))
        log.grow(100)
        await until_health(service, lambda logs: logs["log static"]["state"] == "degraded")
        await edit(service, {**options, "ct_log": {**options["ct_log"], "verification": "off"}})
        logs = await until_at(service, 700, "log static")
        assert logs["log static"]["verification"] == "off"
        for path in (service.directory / "evidence").iterdir():
            path.unlink()
        await edit(service, options)
        log.grow(100)
        logs = await until_at(service, 800, "log static")
        assert (logs["log static"]["verification"], logs["log static"]["tainted_entries"]) == ("enforce", 0)
        await listener.until_index("log static", 799)
    indices = listener.indices("log static")
    assert indices == list(range(indices[0], 800))
    assert evidence(service) == []


async def test_what_was_proven_is_the_measure_again_once_a_key_that_was_not_known_is_known(
    begin: StartService, simulate: Simulate
) -> None:
    log = SimulatedLog("log", kinds={"static"}, initial=600, seed=9)
    server = await simulate(log)
    options = verifying(server.infos(), "enforce")
    service = await begin(options)
    await until_at(service, 600, "log static")
    assert (await service.stop())[0] == 0
    without = [{**each, "key": None} for each in options["static_logs"]]
    service.options = {**options, "static_logs": without, "ct_log": {**options["ct_log"], "verification": "warn"}}
    log.grow(50)
    await service.start()
    assert (await until_at(service, 650, "log static"))["log static"]["verification"] == "unverified"
    assert (await service.stop())[0] == 0
    service.options = options
    log.faults.add(Fault(FaultKind.FORK, index=300))
    log.grow(50)
    await service.start()
    logs = await until_health(service, lambda logs: logs["log static"]["suspect"])
    assert (logs["log static"]["position"], kinds_of(service)) == (650, {("log static", "inconsistent")})


@pytest.mark.parametrize("kind", ["rfc6962", "static"])
@pytest.mark.parametrize("mode", ["enforce", "off"])
async def test_exchanged_precertificates_are_marked_where_anything_is_verified_and_go_out_all_the_same(
    tmp_path: Path, begin: StartService, simulate: Simulate, kind: LogKind, mode: str
) -> None:
    log, altered = exchanged(kind)
    server = await simulate(log)
    options = verifying(server.infos(), mode)
    options["delta_sink"] = {"enabled": True, "table_path": MAIN, "flush_interval_secs": 1}
    service = await begin(options)
    name, marked = f"log {kind}", altered if mode == "enforce" else []
    await until_at(service, 300, name)
    await eventually(lambda: rows_of(tmp_path / MAIN, url_of(log, kind)) == list(range(300)))
    (health,) = (await service.health())["logs"]
    assert (health["suspect"], health["tainted_entries"]) == (False, 0), "that is no fault of the log"
    assert await metric(service, "certstream_altered_precertificates_total") == len(marked)
    assert (await service.stop())[0] == 0
    known = Ledger(ledger_beside(tmp_path / MAIN)).read().get(url_of(log, kind), Trust())
    assert known.altered == Intervals.of(*((index, index + 1) for index in marked))
    assert sorted(case["range"][0] for case in evidence(service)) == marked


async def test_a_readonly_log_with_another_final_root_is_not_read_under_enforce_and_others_are(
    begin: StartService, simulate: Simulate, publisher: Publisher
) -> None:
    ended, right, other = (SimulatedLog(name, initial=270, seed=at) for at, name in enumerate(("bad", "ok", "other")))
    await simulate(ended, right, other)
    publisher.publish(entry(other))
    options = {**listing(publisher, ct_log={"verification": "enforce"}), **ON}
    service = await begin(options)
    await eventually(lambda: stands_at(service, url_of(other, "rfc6962")) == 270)
    publisher.publish(
        entry(other), readonly(ended, 270, bytes(32), "static"), readonly(right, 270, right.tree.root(270))
    )
    options["log_lists"]["refresh_interval_secs"] = 61  # another interval makes it look before its time
    await edit(service, options)
    await eventually(lambda: stands_at(service, url_of(right, "rfc6962")) == 270)
    logs = await until_health(service, lambda logs: logs["bad"]["suspect"] and logs["bad"]["state"] == "degraded")
    assert "another root than that of its final tree head" in logs["bad"]["last_error"]
    assert (logs["bad"]["position"], logs["ok"]["suspect"]) == (None, False)
    assert kinds_of(service) == {("bad", "two_roots")}
    assert ended.endpoints["data-tile"] == ended.endpoints["partial-tile"] == 0


async def test_a_key_that_only_a_list_has_is_that_of_the_kept_list_and_without_it_enforce_does_not_start(
    begin: StartService, simulate: Simulate, publisher: Publisher
) -> None:
    log = SimulatedLog("log", kinds={"static"}, initial=300)
    await simulate(log)
    publisher.publish(entry(log, "static"))
    options = listing(publisher)
    options["static_logs"] = [{"name": "mine", "url": log.url("static"), "verification": "enforce"}]
    service = await begin(options)
    await eventually(lambda: stands_at(service, url_of(log, "static")) == 300)
    assert (await service.stop())[0] == 0
    log.grow(100)
    publisher.publish(entry(log, "static"), version="2.0")
    publisher.signature = b"of something else"
    await service.start()
    await eventually(lambda: stands_at(service, url_of(log, "static")) == 400)
    (health,) = (await service.health())["logs"]
    assert (health["verification"], health["suspect"]) == ("enforce", False)
    assert (await service.stop())[0] == 0
    for path in (service.directory / "log_lists").iterdir():
        path.unlink()
    publisher.answers = [lambda: web.Response(status=404)]
    with pytest.raises(ConfigError, match=r"mine .*no log list that can be had knows it"):
        await service.start()
    assert stands_at(service, url_of(log, "static")) == 400


async def test_under_enforce_no_more_entries_wait_for_their_proof_than_configured(
    begin: StartService, simulate: Simulate
) -> None:
    log = SimulatedLog("log", kinds={"rfc6962"}, initial=SIZE, seed=4, max_page=64)
    server = await simulate(log)
    stuck = log.faults.add(Fault(FaultKind.STALL, on="get-entries", index=WRONG))
    options = verifying(server.infos(), "enforce", verification_max_unproven_entries=256, batch_size=64)
    service = await begin(options)
    await until_at(service, WRONG - WRONG % 64, "log rfc6962")  # a quarter of them is proven at a time
    log.faults.remove(stuck)
    await until_at(service, SIZE, "log rfc6962")


async def test_what_is_tainted_is_read_again_in_pieces_of_what_may_be_unproven(
    begin: StartService, simulate: Simulate, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(recheck, "_LOOK_S", 0.1)
    log = SimulatedLog("log", kinds={"static"}, initial=600, seed=5)
    server = await simulate(log)
    service = await begin(verifying(server.infos(), "warn", verification_max_unproven_entries=256))
    await until_at(service, 600, "log static")
    log.faults.add(Fault(FaultKind.FORK, index=300))
    log.grow(300)
    await until_at(service, 900, "log static")
    pieces: list[tuple[int, int]] = []
    async with asyncio.timeout(PATIENCE_S):
        while pieces != [(600, 856), (856, 900)]:
            tainted = (await service.health())["tainted"]
            pieces = [(each["start"], each["stop"]) for each in tainted if "is not consistent" in each["error"]]
            await asyncio.sleep(0.05)


@pytest.mark.parametrize("mode", ["warn", "off"])
async def test_smaller_heads_are_followed_where_no_signature_says_what_the_log_has(
    begin: StartService, simulate: Simulate, monkeypatch: pytest.MonkeyPatch, mode: str
) -> None:
    monkeypatch.setattr(heads, "CREDIBLE_S", 0.0)
    log = SimulatedLog("log", kinds={"rfc6962"}, initial=600, seed=6)
    server = await simulate(log)
    service = await begin(verifying(server.infos(), mode, retry_max_delay_ms=50))
    await until_at(service, 600, "log rfc6962")
    log.faults.add(Fault(FaultKind.SERVER_ERROR, on="get-entries"))
    log.grow(300)
    await until_health(service, lambda logs: logs["log rfc6962"]["tree_size"] == 900)
    log.faults.add(Fault(FaultKind.SMALLER_TREE, entries=100))
    before = log.endpoints["get-sth"]
    await eventually(lambda: log.endpoints["get-sth"] > before + heads.CREDIBLE_HEADS + 1)
    believed = (await service.health())["logs"][0]["tree_size"]
    assert believed == (900 if mode == "warn" else 800)
    log.faults.clear()
    await until_at(service, 900, "log rfc6962")
