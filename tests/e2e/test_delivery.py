"""Every entry of a growing log arrives exactly once and in order, over restarts, crashes and faults."""

from __future__ import annotations

import asyncio
import json
import signal
from hashlib import sha256
from pathlib import Path
from typing import Any

import pybase64
import pytest

from certstream.ct.types import LogKind
from certstream.simulator.entries import RawEntry, entries_of_tile
from certstream.simulator.faults import Fault, FaultKind
from certstream.simulator.log import SimulatedLog
from tests.e2e.e2e_support import PATIENCE_S, Simulate, StartService, options_for

DATA = Path(__file__).parent.parent / "data"
KINDS: list[LogKind] = ["rfc6962", "static"]


@pytest.mark.parametrize("kind", KINDS)
async def test_growing_log_arrives_whole_over_a_graceful_restart(
    start_service: StartService, simulate: Simulate, kind: LogKind
) -> None:
    log = SimulatedLog("log", kinds={kind}, initial=300, seed=3)
    server = await simulate(log)
    service = await start_service(options_for(server.infos()))
    name = f"log {kind}"
    await service.until_following(*server.infos())
    async with service.listen() as client:
        for count in (1, 200, 55, 700):
            log.grow(count)
            await client.until_index(name, log.tree_size - 1)
        before = client.indices(name)
        code, seconds = await service.stop()
        await asyncio.wait_for(client.ended.wait(), PATIENCE_S)
        assert client.connection.close_code == 1001
    assert (code, seconds < 2) == (0, True)
    assert before == list(range(300, log.tree_size))
    entry = service.state["logs"][log.url(kind).rstrip("/")]
    assert entry["current_index"] == log.tree_size
    assert entry["start_index"] == 300

    outage = log.faults.add(Fault(FaultKind.UNAVAILABLE))
    grown = log.tree_size
    log.grow(400)
    await service.start()
    async with service.listen() as client:
        log.faults.remove(outage)
        await client.until_index(name, log.tree_size - 1)
        assert client.indices(name) == list(range(grown, log.tree_size))


@pytest.mark.parametrize("kind", KINDS)
async def test_crash_repeats_at_most_what_was_not_saved_and_skips_nothing(
    start_service: StartService, simulate: Simulate, kind: LogKind
) -> None:
    log = SimulatedLog("log", kinds={kind}, initial=100, seed=4)
    server = await simulate(log)
    service = await start_service(options_for(server.infos()))
    name = f"log {kind}"
    await service.until_following(*server.infos())
    url = log.url(kind).rstrip("/")
    async with service.listen() as client:
        log.grow(500)
        await client.until_index(name, 599)
        async with asyncio.timeout(PATIENCE_S):
            while service.state["logs"][url]["current_index"] < 600:  # noqa: ASYNC110 - a file tells nobody
                await asyncio.sleep(0.01)
        for _ in range(10):
            log.grow(64)
            await client.until_index(name, log.tree_size - 1)
        service.send(signal.SIGKILL)
        await service.exit_code()
        before = client.indices(name)
    outage = log.faults.add(Fault(FaultKind.SERVER_ERROR))
    saved = service.state["logs"][url]["current_index"]
    assert before == list(range(100, log.tree_size))
    assert 600 <= saved <= log.tree_size
    await service.start()
    async with service.listen() as client:
        log.faults.remove(outage)
        log.grow(64)
        await client.until_index(name, log.tree_size - 1)
        assert client.indices(name) == list(range(saved, log.tree_size))


# What test_fault_matrix has one case of. Each strikes twice, and those that cost no seconds by chance as well.
ANSWERS: dict[str, dict[str, Any]] = {
    "429-date": {"kind": FaultKind.RATE_LIMITED, "retry_after_s": 1, "retry_after_date": True},
    "429-bare": {"kind": FaultKind.RATE_LIMITED},
    "400": {"kind": FaultKind.STATUS, "status": 400},
    "404": {"kind": FaultKind.STATUS, "status": 404},
}
CHANCE = 0.3


def struck_by(log: SimulatedLog, answer: dict[str, Any]) -> list[Fault]:
    """Put a fault into a log."""
    faults = [Fault(**answer, times=2)]
    if answer["kind"] != FaultKind.RATE_LIMITED:
        faults.append(Fault(**answer, probability=CHANCE))
    return [log.faults.add(each) for each in faults]


@pytest.mark.parametrize("kind", KINDS)
async def test_every_entry_arrives_once_whatever_the_pages_and_refusals_are(
    start_service: StartService, simulate: Simulate, kind: LogKind
) -> None:
    logs = {name: SimulatedLog(name, kinds={kind}, initial=10, seed=number) for number, name in enumerate(ANSWERS)}
    if kind == "rfc6962":
        logs["page-32"] = SimulatedLog("page-32", kinds={kind}, initial=10, seed=100, page_boundary=32)
        logs["page-256"] = SimulatedLog("page-256", kinds={kind}, initial=10, seed=101, page_boundary=256)
    logs["healthy"] = SimulatedLog("healthy", kinds={kind}, initial=10, seed=102)
    server = await simulate(*logs.values())
    service = await start_service(options_for(server.infos()))
    await service.until_following(*server.infos())
    async with service.listen() as client:
        faults = {name: struck_by(logs[name], answer) for name, answer in ANSWERS.items()}
        for _ in range(3):
            for log in logs.values():
                log.grow(290)
            await client.until_index(f"healthy {kind}", logs["healthy"].tree_size - 1)
        for log in logs.values():
            await client.until_index(f"{log.name} {kind}", log.tree_size - 1)
        for log in logs.values():
            assert client.indices(f"{log.name} {kind}") == list(range(10, log.tree_size)), log.name
    for name, added in faults.items():
        assert logs[name].faults.struck[added[0]] == 2, name
    if kind == "static":
        repeated = [path for path, count in logs["healthy"].requests.items() if "tile/data" in path and count > 1]
        assert repeated == []
    health = {log["name"]: log for log in (await service.health())["logs"]}
    assert health[f"healthy {kind}"]["state"] == "following"
    assert health[f"healthy {kind}"]["last_error"] is None


async def test_issuer_that_is_never_found_does_not_hold_the_log(
    start_service: StartService, simulate: Simulate
) -> None:
    log = SimulatedLog("log", kinds={"static"}, initial=5, seed=3)
    log.faults.add(Fault(FaultKind.MISSING_ISSUER))
    server = await simulate(log)
    service = await start_service(options_for(server.infos()))
    await service.until_following(*server.infos())
    async with service.listen("/full-stream") as client:
        log.grow(20)
        await client.until_index("log static", 24)
    assert client.indices("log static") == list(range(5, 25))
    for message in client.messages["log static"]:
        digests = [sha256(der).digest().hex(":").upper() for der in log.entry(message["cert_index"]).chain]
        assert message["chain"] == [{"sha256": digest} for digest in digests]
    assert 'certstream_decode_failures_total{kind="chain"}' in (await service.get("/metrics"))[1]


async def test_wrong_leaf_and_unknown_type_are_entries_like_others(
    start_service: StartService, simulate: Simulate
) -> None:
    log = SimulatedLog("odd", kinds={"rfc6962"}, initial=5, seed=9, unparseable=0.3)
    log.faults.add(Fault(FaultKind.UNKNOWN_TYPE, index=20))
    log.corrupt_entry(30)
    server = await simulate(log)
    service = await start_service(options_for(server.infos()))
    await service.until_following(*server.infos())
    async with service.listen("/full-stream") as client:
        log.grow(100)
        await client.until_index("odd rfc6962", 104)
        messages = client.messages["odd rfc6962"]
    assert [message["cert_index"] for message in messages] == list(range(5, 105))
    assert messages[15]["update_type"] == "Unknown"
    for message in messages:
        entry = log.entry(message["cert_index"])
        if message["cert_index"] not in (20, 30):
            assert pybase64.b64decode(message["leaf_cert"]["as_der"]) == entry.der
            assert message["leaf_cert"]["all_domains"] == list(entry.all_domains)
            assert len(message["chain"]) == len(entry.chain)


async def test_broken_tile_gives_what_comes_before_the_break_and_no_other_log_notices(
    start_service: StartService, simulate: Simulate
) -> None:
    broken = SimulatedLog("broken", kinds={"static"}, initial=256, seed=5)
    sound = SimulatedLog("sound", kinds={"static"}, initial=256, seed=6)
    fault = broken.faults.add(Fault(FaultKind.UNKNOWN_TYPE, index=300))
    server = await simulate(broken, sound)
    service = await start_service(options_for(server.infos()))
    await service.until_following(*server.infos())
    async with service.listen() as client:
        broken.grow(300)
        sound.grow(300)
        await client.until_index("broken static", 299)
        await client.until_index("sound static", 555)
        await service.until(lambda line: line.get("log") == "broken static" and line.get("state") == "degraded")
        assert client.indices("broken static") == list(range(256, 300))
        broken.faults.remove(fault)
        await client.until_index("broken static", 555)
        assert client.indices("broken static") == list(range(256, 556))
        assert client.indices("sound static") == list(range(256, 556))


@pytest.mark.parametrize("kind", KINDS)
async def test_real_entries_served_as_a_log_arrive_whole(
    start_service: StartService, simulate: Simulate, kind: LogKind
) -> None:
    cases = json.loads((DATA / "ct_entries.json").read_text())
    entries = [RawEntry(*(pybase64.b64decode(case[key]) for key in ("leaf_input", "extra_data"))) for case in cases]
    log = SimulatedLog("real", kinds={kind}, entries=entries)
    server = await simulate(log)
    outage = log.faults.add(Fault(FaultKind.UNAVAILABLE))
    service = await start_service(options_for(server.infos(), start="beginning"))
    async with service.listen("/full-stream") as client:
        log.faults.remove(outage)
        await client.until_index(f"real {kind}", 19)
    for message, case in zip(client.messages[f"real {kind}"], cases, strict=True):
        expected = json.loads(case["expected_full"])["data"]
        for key in ("update_type", "leaf_cert", "chain", "submission_timestamp"):
            assert message[key] == expected[key]


async def test_real_tile_served_as_a_log_arrives_whole(start_service: StartService, simulate: Simulate) -> None:
    tile = (DATA / "tiles" / "data-000").read_bytes()
    names = [json.loads(line).get("DNS", []) for line in (DATA / "tiles" / "names-000").read_text().splitlines()]
    log = SimulatedLog("tile", kinds={"static"}, entries=entries_of_tile(tile))
    server = await simulate(log)
    outage = log.faults.add(Fault(FaultKind.UNAVAILABLE))
    service = await start_service(options_for(server.infos(), start="beginning"))
    async with service.listen("/full-stream") as full, service.listen("/domains-only") as domains:
        log.faults.remove(outage)
        await full.until_index("tile static", 255)
        await domains.until(lambda: len(domains.domains) == 256)
    for message, wanted, listed in zip(full.messages["tile static"], names, domains.domains, strict=True):
        assert set(wanted) <= set(message["leaf_cert"]["all_domains"])
        assert message["leaf_cert"]["all_domains"] == listed
        assert pybase64.b64decode(message["leaf_cert"]["as_der"]) == log.entry(message["cert_index"]).der
    assert full.indices("tile static") == list(range(256))


async def test_certificate_in_two_logs_is_streamed_once(start_service: StartService, simulate: Simulate) -> None:
    first = SimulatedLog("first", kinds={"rfc6962"}, seed=7)
    second = SimulatedLog("second", kinds={"rfc6962"}, seed=7)
    server = await simulate(first, second)
    service = await start_service(options_for(server.infos()))
    await service.until_following(*server.infos())
    async with service.listen() as client:
        first.grow(100)
        await client.until_index("first rfc6962", 99)
        second.grow(101)
        await client.until_index("second rfc6962", 100)
        assert client.indices("first rfc6962") == list(range(100))
        assert client.indices("second rfc6962") == [100]
    assert "certstream_duplicates_filtered_total 100.0" in (await service.get("/metrics"))[1]
