"""Backfill and merge inside the running service: started by SIGHUP, at the start or now and then, one at a time."""

from __future__ import annotations

import asyncio
import sys
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Final

import structlog

from certstream.app.backfill import (
    Ceiling,
    Tables,
    chosen_logs,
    fill,
    held,
    say_starting,
    survey,
    write_settings,
)
from certstream.app.lists.sources import follows_lists
from certstream.app.merge import MergeOutcome, merge_staging
from certstream.app.settings import backfill_fetch_settings
from certstream.app.threads import in_thread
from certstream.app.until_stop import finished
from certstream.app.verification.verifying import Verifying
from certstream.archive.coverage import LookCancelledError
from certstream.archive.merge.staging import check_staging
from certstream.backfill.buffer import RunSize
from certstream.backfill.planner import select
from certstream.backfill.result import Result
from certstream.backfill.run import BackfillSettings
from certstream.client.http import HttpClient
from certstream.config import Config
from certstream.ct.types import LogInfo
from certstream.errors import CertstreamError
from certstream.metrics import Metrics
from certstream.progress import Progress
from certstream.serve.health import JobHealth, JobState

# Beside live reading, which waits for the interpreter as long as a run is decoded; and ending with the service
_SETTINGS: Final = BackfillSettings(run=RunSize(2048, 8 << 20), buffer_bytes=16 << 20, finish_s=2.5)

log = structlog.get_logger(__name__)


def job_logs(config: Config, logs: Sequence[LogInfo]) -> Sequence[LogInfo]:
    """The logs of a backfill in the service.

    Raises ConfigError where `backfill.logs` names none, though not while log lists are followed: they may bring some.
    """
    text = config.backfill.logs
    if text is not None and follows_lists(config):
        return select(logs, text)
    return chosen_logs(logs, text, "backfill.logs")


class Jobs:
    """Runs backfills, each followed by a merge where it went through staging."""

    def __init__(
        self,
        config: Config,
        tables: Tables,
        logs: Sequence[LogInfo],
        metrics: Metrics,
        verifying: Verifying,
        *,
        ready: Callable[[], Awaitable[None]],
        ceilings: Callable[[], Mapping[str, Ceiling]],
        hold: Callable[[], Awaitable[None]],
        clock: Callable[[], float] = time.time,
    ) -> None:
        """`ceilings` gives the logs' archived positions, once `ready` returned; `hold` is awaited before each piece of
        work. Raises ConfigError where `backfill.logs` names no log."""
        self._config = config
        self._tables = tables
        self._logs = job_logs(config, logs)
        self._metrics = metrics
        self._verifying = verifying
        self._ready = ready
        self._ceilings = ceilings
        self._hold = hold
        self._clock = clock
        self._asked = asyncio.Event()
        self._running = False
        self._stop = asyncio.Event()
        self._progress: Progress | None = None  # of the backfill that runs
        self._http: HttpClient | None = None  # likewise
        self._health = {"backfill": JobHealth(), "merge": JobHealth()}

    def apply(self, config: Config, logs: Sequence[LogInfo]) -> None:
        """Take these from the next backfill on; one that runs takes their pace. Raises ConfigError as at first."""
        self._logs = job_logs(config, logs)
        self._config = config
        if self._http is not None:
            self._http.apply(backfill_fetch_settings(config.ct_log, config.backfill))

    def health(self) -> Mapping[str, JobHealth]:
        """How the newest backfill and the newest merge went, or how far they are."""
        health = dict(self._health)
        if self._progress is not None:
            backfill = health["backfill"]
            health["backfill"] = replace(backfill, detail={**backfill.detail, "done": self._progress.done})
        return health

    def ask(self) -> None:
        """Start a backfill, unless one runs."""
        if self._running or self._asked.is_set():
            log.info("backfill runs already, this signal starts none")
            return
        self._asked.set()

    def stop(self) -> None:
        """End what runs soon, cleanly, and start nothing more; `run` returns then."""
        self._stop.set()
        self._asked.set()

    async def run(self) -> None:
        """Do what is asked for, until `stop`."""
        options = self._config.backfill
        if options.on_start:
            self._asked.set()
        while not self._stop.is_set():
            await self._wait(options.interval_secs)
            self._running = True
            self._asked.clear()
            try:
                if not self._stop.is_set():
                    await self._round()
            finally:
                self._running = False

    async def _wait(self, interval_s: int | None) -> None:
        try:
            async with asyncio.timeout(interval_s):
                await self._asked.wait()
        except TimeoutError:
            pass  # it is time

    async def _round(self) -> None:
        """A backfill and a merge. No failure of theirs ends the service."""
        tables = self._tables
        try:
            if tables.staging is not None:
                await asyncio.to_thread(check_staging, tables.main, tables.staging)
            async with held(tables.staging):
                filled = await self._backfill()
        except LookCancelledError:
            self._health["backfill"] = replace(self._health["backfill"], state="interrupted", ended_s=self._clock())
            return
        except Exception as exc:  # noqa: BLE001 -- no failure of a job ends the service
            self._failed("backfill", exc)
            return
        if tables.staging is None or filled.interrupted or not self._config.backfill.merge_after:
            return
        try:
            await self._merge()
        except Exception as exc:  # noqa: BLE001 -- no failure of a job ends the service
            self._failed("merge", exc)

    async def _backfill(self) -> Result:
        options, tables = self._config.backfill, self._tables
        say_starting(tables, options.from_index)
        self._started("backfill")
        await finished(self._ready(), self._stop)
        look = partial(survey, tables, self._logs, self._ceilings(), options.from_index)
        surveyed = await in_thread(look, self._stop)
        plan = surveyed.plan
        self._detail("backfill", planned=plan.indices)
        self._progress = Progress("backfill", plan.totals(), sys.stderr, live=False)
        try:
            result = await fill(
                self._config,
                surveyed,
                tables,
                self._stop,
                metrics=self._metrics,
                verifying=self._verifying,
                outcome=self._metrics.archive,
                progress=self._progress,
                hold=self._hold,
                settings=_SETTINGS,
                opened=self._opened,
            )
        finally:
            self._progress = self._http = None
        self._detail("backfill", written=result.written, failed_ranges=len(result.failed), left=result.left)
        error = f"{len(result.failed)} ranges could not be fetched, or not proven" if result.failed else None
        state: JobState = "interrupted" if result.interrupted else "failed" if result.failed else "succeeded"
        self._health["backfill"] = replace(self._health["backfill"], state=state, ended_s=self._clock(), error=error)
        return result

    def _opened(self, http: HttpClient) -> None:
        self._http = http

    async def _merge(self) -> None:
        tables, metrics = self._tables, self._metrics.archive
        assert tables.staging is not None
        log.info("merge mode starting", staging_path=str(tables.staging), table_path=str(tables.main))
        self._started("merge")
        self._detail("merge", inserted=0, skipped=0)
        metrics.merge_running.set(1)
        try:
            outcome = await merge_staging(
                tables.main,
                tables.staging,
                self._stop,
                write_settings(self._config),
                stream=sys.stderr,
                live=False,
                settled=self._settled,
            )
        finally:
            metrics.merge_running.set(0)
        done = outcome is not MergeOutcome.INTERRUPTED
        if done:
            metrics.merge_last_success_timestamp_seconds.set(self._clock())
        state: JobState = "succeeded" if done else "interrupted"
        self._health["merge"] = replace(self._health["merge"], state=state, ended_s=self._clock())

    def _settled(self, inserted: int, skipped: int) -> None:
        """Count rows that a merge settled, in its thread."""
        metrics, detail = self._metrics.archive, self._health["merge"].detail
        metrics.merge_rows_inserted.inc(inserted)
        metrics.merge_rows_skipped.inc(skipped)
        self._detail("merge", inserted=int(detail["inserted"]) + inserted, skipped=int(detail["skipped"]) + skipped)

    def _started(self, job: str) -> None:
        self._health[job] = JobHealth("running", self._clock())

    def _detail(self, job: str, **figures: int) -> None:
        health = self._health[job]
        self._health[job] = replace(health, detail={**health.detail, **figures})

    def _failed(self, job: str, exc: Exception) -> None:
        metrics = self._metrics.archive
        gauges = {
            "backfill": metrics.backfill_last_failure_timestamp_seconds,
            "merge": metrics.merge_last_failure_timestamp_seconds,
        }
        now = self._clock()
        gauges[job].set(now)
        health = self._health[job]
        started = health.started_s if health.state == "running" else now
        self._health[job] = replace(health, state="failed", started_s=started, ended_s=now, error=str(exc))
        if isinstance(exc, CertstreamError):
            log.error(f"{job} failed", error=str(exc))
        else:
            log.exception(f"{job} crashed")
