"""Upkeep of the archive: now and then beside the service, in a process of its own, or once by hand."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, Final

import structlog

from certstream.app.backfill import write_settings
from certstream.app.threads import in_thread
from certstream.archive.commit import Committer
from certstream.archive.upkeep.process import run_upkeep
from certstream.archive.upkeep.upkeep import Upkeep, UpkeepResult, UpkeepSettings
from certstream.archive_metrics import ArchiveMetrics
from certstream.config import Config, MaintenanceConfig
from certstream.errors import CertstreamError
from certstream.serve.health import JobHealth

_FIRST_S: Final = 300  # after the start: a service restarted more often than the interval is maintained as well

log = structlog.get_logger(__name__)


def upkeep_settings(maintenance: MaintenanceConfig) -> UpkeepSettings:
    """What is rewritten and kept, from the configuration."""
    return UpkeepSettings(
        quiet_s=maintenance.quiet_secs,
        target_file_bytes=maintenance.target_file_bytes,
        retention_hours=maintenance.retention_hours,
        keep_days=maintenance.keep_days,
    )


async def maintained(config: Config, main: Path, stop: asyncio.Event) -> bool:
    """Do one pass in this process; False where `stop` cut it short. Raises StorageError."""
    log.info("maintenance mode starting", table_path=str(main))
    started = time.monotonic()
    upkeep = Upkeep(Committer(main, settings=write_settings(config)), upkeep_settings(config.maintenance))
    result = await in_thread(upkeep.run, stop)
    event = "maintenance complete" if result.complete else "maintenance interrupted"
    log.info(event, **_figures(result), elapsed_s=round(time.monotonic() - started, 1))
    return result.complete


def _figures(result: UpkeepResult) -> dict[str, Any]:
    return {name: value for name, value in asdict(result).items() if name != "complete"}


class UpkeepTask:
    """Passes at intervals, the first one at most five minutes after the start."""

    def __init__(
        self,
        main: Path,
        config: Config,
        metrics: ArchiveMetrics,
        *,
        clock: Callable[[], float] = time.time,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        self._main = main
        self._config = config
        self._metrics = metrics
        self._clock = clock
        self._sleep = sleep
        self._health = JobHealth()

    def health(self) -> JobHealth:
        """How the newest pass went."""
        return self._health

    async def run(self) -> None:
        """Do passes until cancelled, if they are on. A failing one is logged, and tried again at the next interval."""
        interval_s = self._config.maintenance.interval_secs
        pause_s = min(interval_s, _FIRST_S)
        while self._config.maintenance.enabled:
            await self._sleep(pause_s)
            await self._pass()
            pause_s = interval_s

    async def _pass(self) -> None:
        metrics = self._metrics
        self._health = JobHealth("running", self._clock())
        metrics.maintenance_running.set(1)
        try:
            result = await run_upkeep(
                self._main, upkeep_settings(self._config.maintenance), write=write_settings(self._config)
            )
        except Exception as exc:
            metrics.maintenance_last_failure_timestamp_seconds.set(self._clock())
            self._health = replace(self._health, state="failed", ended_s=self._clock(), error=str(exc))
            if isinstance(exc, CertstreamError):
                log.error("maintenance failed", error=str(exc))  # noqa: TRY400 -- no bug, no trace
            else:  # nothing of upkeep ends the service
                log.exception("maintenance crashed")
        else:
            metrics.maintenance_last_success_timestamp_seconds.set(self._clock())
            metrics.maintenance_files_rewritten.inc(result.files_rewritten)
            figures = _figures(result)
            self._health = replace(self._health, state="succeeded", ended_s=self._clock(), detail=figures)
            if any(figures.values()):
                log.info("maintenance complete", **figures)
        finally:
            metrics.maintenance_running.set(0)
