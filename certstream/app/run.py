"""The service as a process: what it is asked to follow, until a signal ends it."""

from __future__ import annotations

import asyncio
import resource
from dataclasses import replace
from pathlib import Path
from typing import Final

import structlog
import uvloop

from certstream.app.leaving import leave_in_time
from certstream.app.lists.sources import follows_lists
from certstream.app.service import Service, Wanted
from certstream.app.settings import FollowedLog, configured_logs
from certstream.config import BackfillConfig, Config, LoadedConfig
from certstream.config.log_lists import LogListsConfig
from certstream.signals import Signals

_DRY_RUN: Final = "dry run: connected to no log"

log = structlog.get_logger(__name__)


def run(loaded: LoadedConfig, *, dry_run: bool = False, demo: bool = False) -> int:
    """Run the service until a signal ends it; the exit code.

    Raises ConfigError or StateError where it cannot start.
    """
    raise_open_files_limit()
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(_run_demo(loaded) if demo else _run(loaded, dry_run=dry_run))
    return 0


def raise_open_files_limit() -> None:
    """Let the process open as many files as it may: each client is one, and the usual soft limit is 1,024."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != hard:
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


async def _run(loaded: LoadedConfig, *, dry_run: bool) -> None:
    def wanted(config: Config) -> Wanted:
        return (_without_lists(config), []) if dry_run else (config, configured_logs(config))

    config, logs = wanted(loaded.config)
    if dry_run:
        log.warning(_DRY_RUN)
    elif not logs and not follows_lists(config):
        log.warning(
            "no logs are configured, nothing to stream: name some in custom_logs or static_logs, or let log_lists do it"
        )
    service = Service(config, logs, warnings=(_DRY_RUN,) if dry_run else (), leave=leave_in_time)
    service.reload_from(loaded, wanted)
    with Signals(on_hang_up=service.hang_up) as signals:
        await service.run(signals.stop)


async def _run_demo(loaded: LoadedConfig) -> None:
    from certstream.simulator.demo import demo_logs  # what only the demo needs

    async with demo_logs() as demo:
        followed = [FollowedLog(info, start="beginning", poll_interval_s=0.25) for info in demo.logs]

        def wanted(config: Config) -> Wanted:
            mode = config.ct_log.verification
            return _demo_config(config, demo.directory), [replace(each, verification=mode) for each in followed]

        service = Service(*wanted(loaded.config), warnings=("demo: the logs are simulated",), leave=leave_in_time)
        service.reload_from(loaded, wanted)
        with Signals(on_hang_up=service.hang_up) as signals:
            await service.run(signals.stop)


def _without_lists(config: Config) -> Config:
    return config.model_copy(update={"log_lists": config.log_lists.model_copy(update={"enabled": False})})


def _demo_config(config: Config, directory: Path) -> Config:
    """State and archive in the demo's own directory, and no waiting for tiles that take seconds to fill."""
    state = {"state_file": str(directory / "certstream_state.json"), "partial_tile_wait_secs": 1}
    sink = {"enabled": True, "table_path": str(directory / "archive"), "flush_interval_secs": 5}
    return config.model_copy(
        update={
            "ct_log": config.ct_log.model_copy(update=state),
            "delta_sink": config.delta_sink.model_copy(update=sink),
            "backfill": BackfillConfig(),
            "log_lists": LogListsConfig(enabled=False),
        }
    )
