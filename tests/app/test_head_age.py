"""What an alert compares the age of a log's newest head with is there from the log's beginning on."""

from __future__ import annotations

import asyncio
from base64 import b64encode

from certstream.app.service import Service
from certstream.app.settings import configured_logs
from certstream.config import Config
from certstream.simulator.log import SimulatedLog
from certstream.simulator.server import SimulatorServer

NAMES = ("mmd", "head_timestamp")


async def test_the_maximum_merge_delay_of_a_log_is_shown_while_it_is_followed() -> None:
    log = SimulatedLog("log", seed=3, initial=20)
    async with SimulatorServer([log]):
        followed = {"name": "log", "url": log.url("rfc6962"), "key": b64encode(log.spki).decode()}
        config = Config.model_validate(
            {"host": "127.0.0.1", "port": 0, "ct_log": {"state_file": None}, "custom_logs": [followed]}
        )
        service, stop = Service(config, configured_logs(config)), asyncio.Event()
        running = asyncio.create_task(service.run(stop))
        async with asyncio.timeout(30):
            while not (logs := service.health().logs) or logs[0].position is None:  # noqa: ASYNC110 - nobody is told
                await asyncio.sleep(0.02)
        registry = service._metrics.registry
        shown = {name: registry.get_sample_value(f"certstream_log_{name}_seconds", {"log": "log"}) for name in NAMES}
        stop.set()
        await running
    assert shown["mmd"] == 86_400
    assert (shown["head_timestamp"] or 0) > 0
