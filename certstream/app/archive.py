"""The archive beside the streams: the sink, reading again what it misses, backfills, upkeep.

Loaded only where the archive is on: streaming alone needs none of its libraries.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import AsyncExitStack
from functools import partial
from typing import Final, Self

import structlog

from certstream.app.backfill import (
    Ceiling,
    Tables,
    retry_settings,
    write_settings,
)
from certstream.app.coverage.watch import CoverageWatch
from certstream.app.jobs import Jobs, job_logs
from certstream.app.reread import Rereader
from certstream.app.settings import backfill_fetch_settings, log_client
from certstream.app.upkeep import UpkeepTask
from certstream.app.verification.proven import ProvenRows
from certstream.app.verification.verifying import Verifying
from certstream.archive.commit import Committer
from certstream.archive.merge.staging import check_staging
from certstream.archive.shown import shown_entries
from certstream.archive.sink.sink import Sink
from certstream.archive.sink.standing import SinkSettings
from certstream.archive.storage import local_path
from certstream.client.base import LogClient, ReadSettings
from certstream.client.clock import Clock
from certstream.client.http import HttpClient
from certstream.client.issuers import IssuerCache
from certstream.config import Config, DeltaSinkConfig
from certstream.ct.types import EntryBatch, LogInfo
from certstream.metrics import Metrics
from certstream.serve.health import ArchiveHealth, JobHealth
from certstream.state import StateStore

_CRASHED_S: Final = 30.0
_JOBS_END_S: Final = 3.0  # that a backfill or merge has for its end; what takes longer is left behind
_HUNG_S: Final = 60.0  # that a commit may take, or twice the interval of commits, until it counts as a failure
_KNOWN_S: Final = 30.0  # that a backfill waits for the archived positions of the logs

logger: structlog.stdlib.BoundLogger = structlog.get_logger(__name__)


async def _at_once() -> None:
    """Wait for nothing."""


class ArchiveParts:
    """Everything that the archive adds to the service; `async with` opens and closes it.

    `run` does the work but that of `jobs`, which begins on opening; closing commits the rows in hand.
    """

    def __init__(
        self,
        config: Config,
        logs: Sequence[LogInfo],
        state: StateStore,
        metrics: Metrics,
        proven: ProvenRows,
        verifying: Verifying,
        *,
        live_first: Callable[[], Awaitable[None]],
        settled: Callable[[], Awaitable[None]] = _at_once,
    ) -> None:
        """`proven` is told which rows are committed; `verifying` says how what is read for the archive is verified. A
        backfill waits for `settled`: the logs are known then.

        Raises ConfigError where a table may not lie where it is configured.
        """
        main = local_path(config.delta_sink.table_path, "delta_sink.table_path")
        path = config.backfill.staging_path
        staging = None if path is None else local_path(path, "backfill.staging_path")
        if staging is not None:
            check_staging(main, staging)
        self.tables = [main] if staging is None else [main, staging]
        self._config = config
        self._settled = settled
        self._logs = logs
        self._state = state
        self._clock = Clock()
        self.sink = Sink(
            Committer(main, settings=write_settings(config)),
            sink_settings(config.delta_sink),
            metrics.archive,
            on_begun=lambda log: state.set_archive_start(log.base_url, None),
            on_committed=proven.committed,
        )
        self._http = HttpClient(backfill_fetch_settings(config.ct_log, config.backfill), metrics)
        self._issuers = IssuerCache(self._http)
        self._rereader = Rereader(
            self.sink,
            self._client,
            retry_settings(config.ct_log),
            hold=live_first,
            verification=partial(verifying.of, self._http),
            rows=proven,
            altered=verifying.altered,
        )
        self.jobs = Jobs(
            config,
            Tables(main, staging),
            logs,
            metrics,
            verifying,
            ready=self._known,
            ceilings=self._ceilings,
            hold=live_first,
        )
        self._upkeep = UpkeepTask(main, config, metrics.archive)
        self.coverage = CoverageWatch(
            Tables(main, staging),
            metrics.archive.coverage,
            logs=lambda: self._logs,
            ceilings=self._ceilings,
            missing=self.sink.missing,
        )
        self._parts = AsyncExitStack()
        self._working: asyncio.Task[None] | None = None  # on what is asked of `jobs`
        self._group: asyncio.TaskGroup | None = None  # while `run` runs
        self._rereading: dict[LogInfo, asyncio.Task[None]] = {}

    def heed(self, stop: asyncio.Event) -> None:
        """Let the opening of these parts wait for nothing once `stop` is set. Say so before."""
        self.sink.heed(stop)

    def expect(self, logs: Sequence[LogInfo]) -> None:
        """Begin with these logs. Say so before."""
        self._logs = logs
        self.jobs.apply(self._config, logs)

    async def __aenter__(self) -> Self:
        """Open the table. Raises TableError where it is not ours to continue."""
        async with AsyncExitStack() as parts:
            parts.callback(self._rereader.close)
            await parts.enter_async_context(self._http)
            await parts.enter_async_context(self.sink)
            self._parts = parts.pop_all()
        for log in self._logs:
            self._resume(log)
        self._working = asyncio.create_task(self._again_and_again(self.jobs.run), name="jobs")
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.finish()

    async def finish(self) -> None:
        """Commit the rows in hand, and let a backfill or merge end; each in its time, and only once `run` ended."""
        self.jobs.stop()
        self.coverage.close()
        waits: list[Awaitable[object]] = [self._parts.aclose()]
        if self._working is not None:
            waits.append(asyncio.wait([self._working], timeout=_JOBS_END_S))
        await asyncio.gather(*waits)

    async def before(self, batch: EntryBatch) -> None:
        """Wait, before a log's first batch is streamed, until the archive of the log has a beginning."""
        await self.sink.begin(batch.log, batch.start)

    async def run(self) -> None:
        """Archive, read again and keep up, until cancelled."""
        async with asyncio.TaskGroup() as group:
            group.create_task(self._again_and_again(self.sink.run), name="archive:sink")
            group.create_task(self._again_and_again(self._upkeep.run), name="archive:upkeep")
            watch = partial(self.coverage.run, self.sink.attempted)
            group.create_task(self._again_and_again(watch), name="archive:coverage")
            self._group = group
            for log in self._logs:
                self._reread(log)

    def _reread(self, log: LogInfo) -> None:
        if self._group is not None:
            work = self._again_and_again(partial(self._rereader.run, log))
            self._rereading[log] = self._group.create_task(work, name=f"archive:reread:{log.name}")

    async def _again_and_again(self, work: Callable[[], Awaitable[None]]) -> None:
        """No bug of the archive's ends the streams: what crashes is begun again after a while."""
        while True:
            try:
                return await work()
            except Exception:
                logger.exception("a part of the archive crashed, it is started again", after_s=_CRASHED_S)
                await self._clock.sleep(_CRASHED_S)

    def check(self, config: Config, logs: Sequence[LogInfo]) -> None:
        """Raises ConfigError where no service would start with these."""
        job_logs(config, logs)

    def apply(self, config: Config, logs: Sequence[LogInfo]) -> None:
        """Archive these logs from now on, and read again and backfill as configured; only after `check`.

        A log that is not among them, or was another one until now, is not streamed at this moment. A backfill that runs
        goes on with the logs that it began with, but at the pace that holds now.
        """
        known, self._config, self._logs = self._logs, config, logs
        self._http.apply(backfill_fetch_settings(config.ct_log, config.backfill))
        self._rereader.apply(retry_settings(config.ct_log))
        self.jobs.apply(config, logs)
        for log in known:
            if log not in logs:
                self._leave(log)
        for log in logs:
            if log not in known:
                self._resume(log)
                self._reread(log)

    def _leave(self, log: LogInfo) -> None:
        if log in self._rereading:
            self._rereading.pop(log).cancel()
        self.sink.leave(log.base_url)

    def _resume(self, log: LogInfo) -> None:
        """Something of a log that was followed before may be missing."""
        position = self._state.position(log.base_url)
        if position is not None:
            self.take_up(log, position.current_index)

    def take_up(self, log: LogInfo, index: int) -> None:
        """A log is followed from `index` on; until the table says where its archive begins, the state file does."""
        noted = self._state.archive_start(log.base_url)
        first = index if noted is None else min(noted, index)
        self._state.set_archive_start(log.base_url, first)
        self.sink.take_up(log, index, first)

    async def _known(self) -> None:
        """Wait until the archived positions of all logs are known; not for ever, a log may not answer."""
        await self._settled()
        waits = [asyncio.ensure_future(self.sink.wait_archived(log.base_url)) for log in self._logs]
        try:
            if waits:
                await asyncio.wait(waits, timeout=_KNOWN_S)
        finally:
            for wait in waits:
                wait.cancel()

    def _ceilings(self) -> Mapping[str, Ceiling]:
        """What is below a log's archived position is a backfill's; all from there on is the sink's.

        Where that position is wrong, it is where this service began.
        """
        ceilings: dict[str, Ceiling] = {}
        for log in self._logs:
            base, position = self.sink.base(log.base_url), self._state.position(log.base_url)
            if base is not None:
                ceilings[log.base_url] = Ceiling(base, None if position is None else position.start_index)
        return ceilings

    def _client(self, log: LogInfo) -> LogClient:
        reading = ReadSettings(self._config.ct_log.batch_size, self._config.backfill.fetch_concurrency)
        return log_client(self._http, log, self._issuers, reading)

    def shown(self, log: LogInfo, start: int, stop: int) -> Mapping[int, tuple[str, str]]:
        """What the archived rows [start, stop) of a log show, see shown_entries. It blocks; raises StorageError."""
        return shown_entries(self.tables[0], log.base_url, start, stop)

    def health(self) -> ArchiveHealth:
        """How the archive is doing."""
        status = self.sink.status()
        return ArchiveHealth(
            state=status.state,
            last_error=status.last_error,
            last_commit_s=status.last_commit_s,
            buffered_rows=status.buffered_rows,
            buffered_bytes=status.buffered_bytes,
            lag_entries=status.lag_entries,
            free_disk_bytes=status.free_disk_bytes,
        )

    def job_health(self) -> Mapping[str, JobHealth]:
        """How the newest backfill, merge and pass of upkeep went."""
        return {**self.jobs.health(), "maintenance": self._upkeep.health()}


def sink_settings(sink: DeltaSinkConfig) -> SinkSettings:
    """When the sink commits, from the configuration."""
    return SinkSettings(
        sink.batch_size,
        sink.flush_interval_secs,
        sink.buffer_bytes,
        hung_after_s=max(_HUNG_S, 2.0 * sink.flush_interval_secs),
    )
