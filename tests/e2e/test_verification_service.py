"""The real service and logs that do not fit what they signed: what goes out, what is kept of it, how it goes on."""

from __future__ import annotations

import asyncio
import base64
import re
import signal
from pathlib import Path
from typing import Final

import pytest

from certstream.ct.edge import TreeEdge
from certstream.simulator.faults import Fault, FaultKind
from certstream.simulator.log import SimulatedLog
from tests.archive.archive_support import held
from tests.e2e.archive_service_support import eventually, metric
from tests.e2e.command_support import MAIN, run
from tests.e2e.e2e_support import PATIENCE_S, Service, Simulate, StartService
from tests.e2e.verification_support import evidence, kinds_of, until_at, until_health, verifying

MODES: Final = ("warn", "enforce")
BOTH: Final = ("log rfc6962", "log static")


@pytest.mark.parametrize("mode", MODES)
async def test_a_wrong_entry_holds_nothing_but_what_it_must(
    mode: str, start_service: StartService, simulate: Simulate
) -> None:
    log = SimulatedLog("log", initial=1_000, seed=1, max_page=256)
    other = SimulatedLog("other", kinds={"rfc6962"}, initial=50, seed=2)
    server = await simulate(log, other)
    options = verifying(server.infos(), mode, batch_size=256)
    options["delta_sink"] = {"enabled": True, "table_path": MAIN, "flush_interval_secs": 1}
    fault = log.corrupt_entry(700)
    service = await start_service(options)
    stands = 1_000 if mode == "warn" else 512
    logs = await until_at(service, stands, *BOTH)
    logs = await until_health(service, lambda logs: all(logs[name]["suspect"] for name in BOTH))
    assert kinds_of(service) == {(name, "wrong_leaf") for name in BOTH}
    assert {tuple(case["range"]) for case in evidence(service)} == {(700, 701)}
    assert {case["heads"][0]["tree_size"] for case in evidence(service)} == {1_000}
    logs = await until_at(service, 50, "other rfc6962")
    assert (logs["other rfc6962"]["suspect"], logs["other rfc6962"]["state"]) == (False, "following")
    for name in BOTH:
        assert logs[name]["verification"] == mode
        assert logs[name]["tainted_entries"] == (mode == "warn")
    if mode == "enforce":
        logs = await until_health(service, lambda logs: all(logs[name]["state"] == "degraded" for name in BOTH))
        assert all("700" in logs[name]["last_error"] for name in BOTH)
    log.faults.remove(fault)
    await until_at(service, 1_000, *BOTH)
    log.grow(100)
    await until_at(service, 1_100, *BOTH)
    found = {log.url(kind).rstrip("/"): list(range(1_100)) for kind in ("rfc6962", "static")}
    await eventually(
        lambda: {url: rows for url, rows in held(service.directory / MAIN).items() if url in found} == found
    )
    await service.stop()


@pytest.mark.parametrize("mode", MODES)
async def test_a_log_with_another_tree_than_before_is_suspect_until_its_files_are_gone(
    mode: str, start_service: StartService, simulate: Simulate
) -> None:
    log = SimulatedLog("log", initial=600, seed=3)
    server = await simulate(log)
    service = await start_service(verifying(server.infos(), mode))
    async with service.listen() as listener:
        await until_at(service, 600, *BOTH)
        fork = log.faults.add(Fault(FaultKind.FORK, index=300))
        log.grow(300)
        await until_health(service, lambda logs: all(logs[name]["suspect"] for name in BOTH))
        assert {kind for _, kind in kinds_of(service)} <= {"inconsistent", "wrong_root"}
        if mode == "warn":
            logs = await until_at(service, 900, *BOTH)
            assert all(logs[name]["tainted_entries"] for name in BOTH)
        else:
            logs = await until_health(service, lambda logs: all(logs[name]["state"] == "degraded" for name in BOTH))
            assert all(logs[name]["position"] == 600 for name in BOTH)
        log.faults.remove(fork)
        await until_at(service, 900, *BOTH)
        log.grow(100)
        logs = await until_at(service, 1_000, *BOTH)
        await asyncio.gather(*(listener.until_index(name, 999) for name in BOTH))
        first = {name: listener.indices(name)[0] for name in BOTH}
        assert all(listener.indices(name) == list(range(first[name], 1_000)) for name in BOTH)
    assert all(logs[name]["suspect"] for name in BOTH)
    assert await metric(service, "certstream_log_suspect") == 2
    assert await metric(service, "certstream_evidence_total") >= 2
    assert len([line for line in (await service.health())["warnings"] if "is suspect" in line]) == 2
    for path in (service.directory / "evidence").iterdir():
        path.unlink()
    await until_health(service, lambda logs: not any(logs[name]["suspect"] for name in BOTH))
    assert await metric(service, "certstream_log_suspect") == 0
    assert (await service.health())["warnings"] == []
    await service.until(lambda line: line["event"] == "log is suspect no more, the evidence is gone")


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize(
    ("fault", "kind"),
    [(Fault(FaultKind.WRONG_SIGNATURE), "signature"), (Fault(FaultKind.OTHER_ROOT), "two_roots")],
    ids=["signature", "two_roots"],
)
async def test_heads_that_do_not_fit_are_not_used(
    mode: str, fault: Fault, kind: str, start_service: StartService, simulate: Simulate
) -> None:
    log = SimulatedLog("log", initial=600, seed=4)
    server = await simulate(log)
    service = await start_service(verifying(server.infos(), mode))
    async with service.listen() as listener:
        await until_at(service, 600, *BOTH)
        log.faults.add(fault)
        logs = await until_health(service, lambda logs: all(logs[name]["suspect"] for name in BOTH))
        assert kinds_of(service) == {(name, kind) for name in BOTH}
        assert {logs[name]["position"] for name in BOTH} == {600}
        log.faults.remove(fault)
        log.grow(50)
        logs = await until_at(service, 650, *BOTH)
        await asyncio.gather(*(listener.until_index(name, 649) for name in BOTH))
        assert all(listener.indices(name)[-50:] == list(range(600, 650)) for name in BOTH)
        assert {logs[name]["tainted_entries"] for name in BOTH} == {0}


async def test_the_edge_outlives_a_restart_so_that_no_proof_is_asked_for(
    start_service: StartService, simulate: Simulate
) -> None:
    log = SimulatedLog("log", initial=600, seed=5)
    server = await simulate(log)
    service = await start_service(verifying(server.infos(), "warn"))
    await until_at(service, 600, *BOTH)
    assert (await service.stop())[0] == 0
    tree = TreeEdge().extended(b"".join(log.tree.leaf(index) for index in range(600)))
    for info in server.infos():
        assert base64.b64decode(service.state["logs"][info.base_url]["edge"]) == tree.to_bytes()
    log.grow(100)
    log.endpoints.clear()
    await service.start()
    await until_at(service, 700, *BOTH)
    assert set(log.endpoints) <= {"get-sth", "get-entries", "checkpoint", "data-tile", "issuer"}
    assert evidence(service) == []
    assert (await service.stop())[0] == 0
    assert base64.b64decode(service.state["logs"][server.infos()[0].base_url]["edge"])[:8] == (700).to_bytes(8)


async def test_without_verification_no_edge_is_kept_and_nothing_is_found(
    start_service: StartService, simulate: Simulate
) -> None:
    log = SimulatedLog("log", initial=600, seed=5)
    server = await simulate(log)
    log.corrupt_entry(300)
    service = await start_service(verifying(server.infos(), "off"))
    logs = await until_at(service, 600, *BOTH)
    assert {(logs[name]["verification"], logs[name]["suspect"]) for name in BOTH} == {("off", False)}
    await service.stop()
    assert all("edge" not in entry for entry in service.state["logs"].values())
    assert evidence(service) == []


@pytest.mark.parametrize("mode", MODES)
async def test_a_crash_costs_no_entry_and_no_trust(mode: str, start_service: StartService, simulate: Simulate) -> None:
    log = SimulatedLog("log", initial=3_000, seed=6, max_page=256)
    server = await simulate(log)
    options = verifying(server.infos(), mode, verification_max_unproven_entries=512, batch_size=256)
    options["delta_sink"] = {"enabled": True, "table_path": MAIN, "flush_interval_secs": 1}
    service = await start_service(options)
    for size in (3_000, 5_000):
        await until_health(service, lambda logs, at=size: any((logs[n]["position"] or 0) >= at - 2_000 for n in BOTH))  # type: ignore[misc]
        await service.stop(signal.SIGKILL)
        log.grow(2_000)
        await service.start()
    await until_at(service, 7_000, *BOTH)
    found = {info.base_url: list(range(7_000)) for info in server.infos()}
    await eventually(lambda: held(service.directory / MAIN) == found)
    assert evidence(service) == []
    await service.stop()


async def test_enforcement_begins_while_the_service_runs(start_service: StartService, simulate: Simulate) -> None:
    log = SimulatedLog("log", initial=600, seed=7)
    server = await simulate(log)
    options = verifying(server.infos(), "warn")
    options["hot_reload"] = {"enabled": True}
    service = await start_service(options)
    async with service.listen() as listener:
        await until_at(service, 600, *BOTH)
        _rewrite(service, verification="enforce")
        await until_health(service, lambda logs: {logs[name]["verification"] for name in BOTH} == {"enforce"})
        fault = log.corrupt_entry(620)
        log.grow(100)
        await until_health(service, lambda logs: all(logs[name]["state"] == "degraded" for name in BOTH))
        log.faults.remove(fault)
        logs = await until_at(service, 700, *BOTH)
        await asyncio.gather(*(listener.until_index(name, 699) for name in BOTH))
        assert all(listener.indices(name)[-100:] == list(range(600, 700)) for name in BOTH)
        assert {logs[name]["tainted_entries"] for name in BOTH} == {0}


def _rewrite(service: Service, **ct_log: str) -> None:
    path = service.directory / "config.yaml"
    text = path.read_text()
    for name, value in ct_log.items():
        assert f"{name}: warn" in text
        text = text.replace(f"{name}: warn", f"{name}: {value}")
    path.write_text(text)


async def test_the_demo_verifies_its_logs(start_service: StartService) -> None:
    service = await start_service({}, "--demo")
    logs = await until_health(service, lambda logs: all((log["position"] or 0) >= 100 for log in logs.values()))
    assert {(log["verification"], log["suspect"], log["tainted_entries"]) for log in logs.values()} == {
        ("warn", False, 0)
    }
    async with asyncio.timeout(PATIENCE_S):
        while len(await _verified_positions(service)) < 2:  # noqa: ASYNC110 - a metric tells nobody
            await asyncio.sleep(0.05)


async def _verified_positions(service: Service) -> list[float]:
    """Those above 0, NaN stands for none."""
    _, text = await service.get("/metrics")
    found = re.findall(r"^certstream_log_verified_position\{[^}]*\} (\S+)$", text, re.MULTILINE)
    return [float(value) for value in found if float(value) >= 100]


async def test_a_log_without_a_key_is_read_unverified_or_refused(
    tmp_path: Path, start_service: StartService, simulate: Simulate
) -> None:
    log = SimulatedLog("log", kinds={"rfc6962"}, initial=60, seed=8)
    server = await simulate(log)
    options = verifying(server.infos(), "warn")
    del options["custom_logs"][0]["key"]
    service = await start_service(options)
    logs = await until_at(service, 60, "log rfc6962")
    assert logs["log rfc6962"]["verification"] == "unverified"
    line = await service.until(lambda line: line["event"].startswith("logs are read unverified"))
    assert line["logs"] == "log rfc6962"
    assert await metric(service, "certstream_log_unverified") == 1
    assert (await service.stop())[0] == 0
    options["custom_logs"][0]["verification"] = "enforce"
    refused = await run(tmp_path, options)
    assert refused.code == 1
    said = " ".join(line["event"] + str(line) for line in refused.lines)
    assert "log rfc6962" in said
    assert "verification: off" in said
