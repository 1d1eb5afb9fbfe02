"""A change that fails midway, by a mistake of this program, is undone by the configuration that was before."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import yaml

from certstream.app import tailers
from certstream.app.service import Service
from certstream.app.settings import configured_logs, log_client
from certstream.client.base import LogClient, ReadSettings
from certstream.config import Config, load_config
from certstream.serve.health import DeepHealth
from certstream.simulator.log import SimulatedLog
from certstream.simulator.server import SimulatorServer


def put(file: Path, options: dict[str, Any]) -> None:
    """At once, so that no look finds it half written."""
    new = file.with_name("new")
    new.write_text(yaml.safe_dump(options))
    new.replace(file)


@asynccontextmanager
async def serving(file: Path) -> AsyncIterator[Service]:
    def wanted(config: Config) -> Any:
        return config, configured_logs(config)

    loaded = load_config(file, {})
    service = Service(*wanted(loaded.config))
    service.reload_from(loaded, wanted)
    stop = asyncio.Event()
    running = asyncio.create_task(service.run(stop))
    try:
        yield service
    finally:
        stop.set()
        await running


async def until(service: Service, holds: Callable[[DeepHealth], bool]) -> None:
    async with asyncio.timeout(30):
        while not holds(service.health()):  # noqa: ASYNC110 - figures tell nobody
            await asyncio.sleep(0.01)


def is_followed(health: DeepHealth) -> bool:
    return [log.state for log in health.logs] == ["following"] and not health.warnings


async def test_the_log_that_a_failed_change_left_is_followed_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def failing(http: Any, info: Any, issuers: Any, settings: ReadSettings) -> LogClient:
        if settings.batch_size == 7:
            raise ValueError("cannot be read like that")
        return log_client(http, info, issuers, settings)

    monkeypatch.setattr(tailers, "log_client", failing)
    log = SimulatedLog("log", kinds={"rfc6962"}, initial=10, seed=1)
    file = tmp_path / "config.yaml"
    async with SimulatorServer([log]) as server:
        before: dict[str, Any] = {
            "host": "127.0.0.1",
            "port": 0,
            "ct_log": {"state_file": None, "poll_interval_ms": 50},
            "hot_reload": {"enabled": True},
            "log_lists": {"enabled": False},
            "custom_logs": [{"name": "log", "url": info.url} for info in server.infos()],
        }
        put(file, before)
        async with serving(file) as service:
            await until(service, is_followed)
            put(file, {**before, "ct_log": {**before["ct_log"], "batch_size": 7}})
            await until(service, lambda health: "cannot be read like that" in str(health.warnings))
            assert not service.health().logs
            put(file, before)
            await until(service, is_followed)
            log.grow(5)
            await until(service, lambda health: health.logs[0].position == 15)
