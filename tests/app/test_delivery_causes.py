"""Why a service does not read a log in time: real services, simulated logs that are too slow in one way each."""

from __future__ import annotations

import asyncio
import json
from base64 import b64encode
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import aiohttp
import pytest

from certstream.app.service import Service
from certstream.app.settings import configured_logs
from certstream.config import Config
from certstream.ct.types import LogKind
from certstream.delivery_metrics import DelayCause
from certstream.live.share import ShareSettings
from certstream.serve.health import LogHealth
from certstream.simulator.faults import Fault, FaultKind
from certstream.simulator.log import SimulatedLog
from certstream.simulator.server import SimulatorServer

QUICK = ShareSettings(window_s=2.0, tick_s=0.1, below_s=0.3, unready_s=0.5)
RATE = 400.0
MIN_SHARE = 0.6


@asynccontextmanager
async def following(log: SimulatedLog, kind: LogKind, **ct_log: Any) -> AsyncIterator[Service]:
    """A service that follows the log; it has read the first entries when it is given."""
    async with SimulatorServer([log]):
        key = b64encode(log.spki).decode()
        section = "static_logs" if kind == "static" else "custom_logs"
        options = {"state_file": None, "poll_interval_ms": 50, "partial_tile_wait_secs": 0, **ct_log}
        config = Config.model_validate(
            {
                "host": "127.0.0.1",
                "port": 0,
                "ct_log": {"verification": "off", **options},
                "health": {"min_share": MIN_SHARE},
                section: [{"name": log.name, "url": log.url(kind), "start": log.tree_size, "key": key}],
            }
        )
        service = Service(config, configured_logs(config), share=QUICK)
        stop = asyncio.Event()
        running = asyncio.create_task(service.run(stop))
        try:
            await until(service, lambda health: health.position is not None)
            yield service
        finally:
            stop.set()
            log.faults.clear()
            await running


async def until(service: Service, holds: Callable[[LogHealth], bool]) -> None:
    async with asyncio.timeout(30):
        while not (logs := service.health().logs) or not holds(logs[0]):  # noqa: ASYNC110 - figures tell nobody
            await asyncio.sleep(0.02)


def make_log() -> SimulatedLog:
    return SimulatedLog("log", seed=5, initial=256, rate=RATE, publish_interval_s=0.1)


def stays_late(cause: DelayCause) -> Callable[[LogHealth], bool]:
    """Whether it is, by that cause, at ten looks one after the other."""
    looks: list[bool] = []

    def holds(log: LogHealth) -> bool:
        looks.append(log.share is not None and log.share < 0.7 and log.share_cause == cause)
        return len(looks) >= 10 and all(looks[-10:])

    return holds


CASES: list[tuple[DelayCause, LogKind, dict[str, Any], list[Fault]]] = [
    ("rate_limited", "rfc6962", {"default_operator_rate_limit_ms": 100, "batch_size": 10}, []),
    (
        "rate_limited",
        "static",
        {"default_operator_rate_limit_ms": 2_000},
        [],
    ),
    (
        "page_size",
        "rfc6962",
        {"fetch_concurrency": 1},
        [Fault(FaultKind.SHORT_PAGE, entries=2), Fault(FaultKind.STALL, seconds=0.02, on="get-entries")],
    ),
    (
        "slow_answers",
        "rfc6962",
        {"batch_size": 32, "fetch_concurrency": 1},
        [Fault(FaultKind.STALL, seconds=0.5, on="get-entries")],
    ),
    ("slow_answers", "static", {}, [Fault(FaultKind.STALL, seconds=60, on="data-tile")]),
    (
        "unproven",
        "rfc6962",
        {"verification": "enforce", "retry_initial_delay_ms": 200},
        [Fault(FaultKind.WRONG_LEAF, on="get-entries")],
    ),
    ("not_polled", "rfc6962", {"retry_initial_delay_ms": 200}, [Fault(FaultKind.SERVER_ERROR, on="get-entries")]),
]


@pytest.mark.parametrize(("cause", "kind", "ct_log", "faults"), CASES, ids=[f"{case[0]}-{case[1]}" for case in CASES])
async def test_the_cause_is_named(
    cause: DelayCause, kind: LogKind, ct_log: dict[str, Any], faults: list[Fault]
) -> None:
    log = make_log()
    for fault in faults:
        log.faults.add(fault)
    async with following(log, kind, **ct_log) as service:
        await until(service, stays_late(cause))


async def test_a_log_that_is_read_as_it_grows_has_a_share_of_one() -> None:
    async with following(make_log(), "rfc6962") as service:
        await until(service, lambda log: (log.position or 0) > 256 + RATE and log.share == 1.0)
        assert service.health().logs[0].share_cause is None
        assert service.health().share == 1.0


async def test_the_service_is_ready_again_as_soon_as_the_log_is_read_in_time() -> None:
    log = make_log()
    async with following(log, "rfc6962") as service, aiohttp.ClientSession() as http:

        async def readiness() -> tuple[int, dict[str, Any]]:
            assert service._serving is not None
            async with http.get(f"http://127.0.0.1:{service._serving.port}/health/ready") as answer:
                return answer.status, json.loads(await answer.text())

        async def until_ready(status: int) -> dict[str, Any]:
            async with asyncio.timeout(30):
                while (answer := await readiness())[0] != status:  # noqa: ASYNC110 - likewise
                    await asyncio.sleep(0.02)
            return answer[1]

        assert (await until_ready(200))["status"] == "ready"
        fault = log.faults.add(Fault(FaultKind.SERVER_ERROR, on="get-entries"))
        body = await until_ready(503)
        assert body["share"] < body["min_share"] == MIN_SHARE
        assert [(late["name"], late["cause"]) for late in body["logs"]] == [("log", "not_polled")]
        log.faults.remove(fault)
        assert (await until_ready(200))["logs"] == []
