"""Each fault of the simulator, with each protocol, live and by backfill: nothing is lost, doubled or skipped.

All logs are followed by one process, so that each suffers while all others are read beside it.
"""

from __future__ import annotations

import asyncio
import json
import time
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from certstream.evidence import EvidenceStore
from certstream.intervals import Intervals
from certstream.simulator.faults import FaultKind
from certstream.simulator.log import SimulatedLog
from tests.e2e.archive_service_support import eventually, stands_at
from tests.e2e.command_support import MAIN, Command, run, write_state
from tests.e2e.e2e_support import PATIENCE_S, Listener, Service, Simulate, StartService
from tests.e2e.faults_support import (
    EARLY,
    INITIAL,
    RECOVERY_S,
    WRONG,
    Struck,
    archived,
    cases,
    cells,
    forget_peak,
    options_of,
    rss_bytes,
    until_all_struck,
)

BREAKS_ITS_TILE = (
    FaultKind.UNKNOWN_TYPE,
    "static",
)  # read up to the break and not beyond: nothing contradicts the tree
GROWN = 100  # entries at a time; three of them go over the end of a tile
MORE_BYTES = 256 << 20  # that the service may hold on to after all of that: what 64 MiB answers leave in its heap
PEAK_BYTES = 400 << 20  # that it may have needed on top while huge answers and all others came at the same time


def test_no_fault_and_no_protocol_is_forgotten() -> None:
    assert {fault for fault, _ in cells()} == set(FaultKind)
    only = {
        fault: kind for fault, kind in cells() if (fault, "static" if kind == "rfc6962" else "rfc6962") not in cells()
    }
    assert only == {
        FaultKind.SHORT_PAGE: "rfc6962",
        FaultKind.MISSING_PARTIAL: "static",
        FaultKind.MISSING_ISSUER: "static",
    }


def digest_of(log: SimulatedLog, index: int) -> str:
    return sha256(log.entry(index).der).digest().hex(":").upper()


async def until_read(client: Listener, struck: list[Struck]) -> dict[str, float]:
    """Wait until all is streamed; for each log the seconds until its last entry was."""
    begun, read = time.monotonic(), dict[str, float]()

    async def until_log_is_read(each: Struck) -> None:
        await client.until_index(each.name, each.log.tree_size - 1)
        read[each.name] = time.monotonic() - begun

    try:
        async with asyncio.TaskGroup() as group:
            for each in struck:
                group.create_task(until_log_is_read(each), name=each.name)
    except* TimeoutError:
        left = {each.name: client.indices(each.name)[-1:] for each in struck if each.name not in read}
        raise AssertionError(f"not read to the end of the log: {left}") from None
    return read


@pytest.mark.parametrize("mode", ["warn", "enforce"])
async def test_every_entry_is_streamed_once_and_archived_once_through_each_fault(
    start_service: StartService, simulate: Simulate, tmp_path: Path, mode: str
) -> None:
    struck = cases(mode)
    well = [each for each in struck if each.fault is None]
    server = await simulate(*(each.log for each in struck))
    service = await start_service(options_of(server, mode, delta_sink={"enabled": True}))
    await service.until_following(*server.infos())
    async with service.listen() as client:
        for each in struck:
            if each.fault in EARLY:
                each.begin(0)
            each.grow(GROWN)
        await until_read(client, struck)
        before = rss_bytes(service.pid)
        forget_peak(service.pid)
        await suffer(client, struck, well)
        recovered_s = await until_read(client, struck)
        peak, after = rss_bytes(service.pid, "VmHWM"), rss_bytes(service.pid)
        wrong = wrongly_streamed(client, struck)
    assert {name: took_s for name, took_s in recovered_s.items() if took_s > RECOVERY_S} == {}
    assert (peak - before < PEAK_BYTES, after - before < MORE_BYTES) == (True, True), (before, peak, after)
    await eventually(lambda: all(stands_at(service, each.url) == each.log.tree_size for each in struck))
    await check_health(service, well)
    assert set(EvidenceStore(tmp_path / "evidence").suspects(server.infos())) == {
        each.url for each in struck if each.fault in WRONG and (each.fault, each.kind) != BREAKS_ITS_TILE
    }
    await check_coverage(service, struck, wrong, mode)
    await service.stop()
    check_archive(tmp_path, struck, mode, INITIAL)


async def suffer(client: Listener, struck: list[Struck], well: list[Struck]) -> None:
    """All faults at the same time, over two growths that the logs which are well give all the same; then none."""
    for each in struck:
        each.begin(each.log.tree_size + GROWN // 2)
        each.grow(GROWN)
    await until_read(client, well)
    await until_all_struck(struck)
    for each in struck:
        each.grow(GROWN)
    await until_read(client, well)
    for each in struck:
        each.log.faults.clear()
        each.grow(GROWN)


def wrongly_streamed(client: Listener, struck: list[Struck]) -> dict[str, list[int]]:
    """By URL the indices of entries that are not those of the log; that all were streamed, once, holds for all."""
    wrong = {}
    for each in struck:
        assert client.indices(each.name) == list(range(INITIAL, each.log.tree_size)), each.name
        messages = client.messages[each.name]
        wrong[each.url] = [message["cert_index"] for message in messages if not is_true(each.log, message)]
        assert each.fault in WRONG or not wrong[each.url], each.name
    return wrong


async def check_coverage(service: Service, struck: list[Struck], wrong: dict[str, list[int]], mode: str) -> None:
    """What was wrong was not streamed, or it is known that it is not proven; nothing is missing."""
    coverage = json.loads((await service.get("/coverage"))[1])
    logs = {log["url"]: log for log in coverage["logs"]}
    for each in struck:
        log = logs[each.url]
        assert log["archived"]["intervals"] == [[INITIAL, each.log.tree_size]], each.name
        assert log["missing"]["count"] == 0
        verified = Intervals.of(*log["verified"]["intervals"])
        assert not any(verified.contains(np.array(wrong[each.url], np.int64))), each.name
        if mode == "enforce":
            assert wrong[each.url] == []
            assert verified == Intervals.of((INITIAL, each.log.tree_size)), each.name


def is_true(log: SimulatedLog, message: dict[str, Any]) -> bool:
    entry = log.entry(message["cert_index"])
    seen = (message["leaf_cert"]["sha256"], message["submission_timestamp"])
    return seen == (digest_of(log, entry.index), entry.timestamp_ms / 1000)


async def check_health(service: Service, well: list[Struck]) -> None:
    names = {each.name for each in well}
    async with asyncio.timeout(PATIENCE_S):
        while True:
            states = {log["name"]: log["state"] for log in (await service.health())["logs"]}
            if {states[name] for name in names} == {"following"}:
                return
            await asyncio.sleep(0.1)


def check_archive(directory: Path, struck: list[Struck], mode: str, first: int) -> None:
    found = archived(directory / MAIN)
    assert sorted(found) == sorted(each.url for each in struck)
    for each in struck:
        rows = found[each.url]
        assert [index for index, _ in rows] == list(range(first, each.log.tree_size)), each.name
        if mode == "enforce" or each.fault not in WRONG:
            assert [digest for _, digest in rows] == [digest_of(each.log, index) for index, _ in rows], each.name


@pytest.mark.parametrize("mode", ["warn", "enforce"])
async def test_every_entry_is_backfilled_once_through_each_fault(simulate: Simulate, tmp_path: Path, mode: str) -> None:
    struck = cases(mode, 3 * GROWN + INITIAL)
    server = await simulate(*(each.log for each in struck))
    write_state(tmp_path, {each.url: each.log.tree_size for each in struck}, start_index=0)
    options = options_of(server, mode)
    for each in struck:
        each.begin(INITIAL + GROWN)
    async with Command(tmp_path, options, ("--backfill",)) as command:
        await until_all_struck(struck)
        for each in struck:
            each.log.faults.clear()
        begun = time.monotonic()
        await command.ended()
    took_s = time.monotonic() - begun
    again = await run(tmp_path, options, "--backfill")
    assert (again.code, took_s < RECOVERY_S) == (0, True), again.lines
    check_archive(tmp_path, struck, mode, 0)
