"""A backfill from its plan to its result: fetching, decoding and writing at the same time."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable, Coroutine, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

import numpy as np
import structlog

from certstream.archive_metrics import ArchiveMetrics
from certstream.backfill.buffer import EntryBuffer, RunSize
from certstream.backfill.destination import Destination, Written
from certstream.backfill.fetch import Hold, LogFetcher, RetrySettings
from certstream.backfill.planner import Plan
from certstream.backfill.report import log_error, log_plan, log_result
from certstream.backfill.result import FailedRange, Result
from certstream.backfill.thread import WorkThread
from certstream.backfill.writer import CommitSettings, Writer
from certstream.certs.batch import decode_together
from certstream.client.base import LogClient
from certstream.client.clock import Clock
from certstream.ct.types import EntryBatch, LogInfo, batch_bytes, cut_batch
from certstream.errors import StorageError
from certstream.intervals import Intervals
from certstream.progress import Progress

if TYPE_CHECKING:
    import pyarrow as pa

# Of finish_s: for decoding and writing what was fetched, and for committing it; the rest is for cleaning up
_DRAIN_SHARE: Final = 0.5
_COMMIT_SHARE: Final = 0.4
_BRIDGE: Final = 128  # entries between missing ones that are decoded with them: fewer than a batch of its own costs

logger: structlog.stdlib.BoundLogger = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class BackfillSettings:
    """How a backfill goes about its work."""

    retry: RetrySettings = field(default_factory=RetrySettings)
    commit: CommitSettings = field(default_factory=CommitSettings)
    run: RunSize = field(default_factory=RunSize)  # that is decoded together
    buffer_bytes: int = 24 << 20  # of fetched entries that wait for decoding
    finish_s: float = 5.0  # that a run which is stopped may take for what it has in hand


class Backfill:
    """One run of a plan; `run` it once.

    In memory are at most `buffer_bytes` of entries, what three batches take while they are decoded and written, and
    what the clients have in flight: where one part is slower, the others wait for it.
    """

    def __init__(
        self,
        plan: Plan,
        *,
        client: Callable[[LogInfo], LogClient],
        destination: Destination,
        settings: BackfillSettings | None = None,
        progress: Progress | None = None,
        metrics: ArchiveMetrics | None = None,
        hold: Hold | None = None,
        clock: Clock | None = None,
    ) -> None:
        self._plan = plan
        self._settings = settings = settings or BackfillSettings()
        self._progress = progress
        self._metrics = metrics
        self._clock = clock or Clock()
        self._begun_at = self._clock.monotonic()
        self._buffer = EntryBuffer(settings.buffer_bytes, settings.run)
        self._decoder = WorkThread("backfill-decode")
        self._writer = Writer(destination, settings.commit, on_write=self._wrote, on_commit=self._committed)
        self._fetchers = [
            LogFetcher(
                log,
                client(log.log),
                self._buffer.put,
                settings=settings.retry,
                hold=hold,
                clock=self._clock,
                bridge=_BRIDGE,
            )
            for log in plan.logs
            if log.indices
        ]
        self._missing = {log.log.base_url: log.missing for log in plan.logs}
        self._there: Counter[str] = Counter()  # rows committed, by base_url
        self._written = self._skipped = 0
        self._failed: tuple[FailedRange, ...] = ()
        self._interrupted = False

    async def run(self, stop: asyncio.Event) -> Result:
        """Fetch what is planned, until done or `stop`; `hold` is awaited before each work item.

        Raises StorageError where the destination fails: what was committed before stays, nothing else is there.
        """
        self._begin()
        error: BaseException | None = None
        try:
            await self._work(stop)
        except BaseExceptionGroup as group:
            error = _first(group)
        finally:
            self._end()
        if error is not None:
            self._note_error(error)
            raise error
        result = self._result()
        self._note(result)
        return result

    async def _work(self, stop: asyncio.Event) -> None:
        clean_up_s = self._settings.finish_s
        try:
            async with asyncio.TaskGroup() as group:
                fetch = group.create_task(self._fetch(), name="backfill:fetch")
                decoding = group.create_task(self._decode(), name="backfill:decode")
                write = group.create_task(self._writer.run(), name="backfill:write")
                beside = [group.create_task(self._heed(stop, fetch, decoding, write), name="backfill:stop")]
                if self._progress is not None:
                    beside.append(group.create_task(self._progress.run(), name="backfill:progress"))
                await asyncio.wait([write])
                for task in beside:
                    task.cancel()
            clean_up_s *= 1 - _DRAIN_SHARE - _COMMIT_SHARE
        finally:
            await self._decoder.close(clean_up_s)
            await self._writer.close(clean_up_s)

    async def _heed(
        self, stop: asyncio.Event, fetch: asyncio.Task[None], decoding: asyncio.Task[None], write: asyncio.Task[None]
    ) -> None:
        """Once `stop` is set, end everything: with what is in hand where that is quick, else without."""
        await stop.wait()
        finish_s = self._settings.finish_s
        self._interrupted = fetch.cancel()
        _, late = await asyncio.wait([write], timeout=finish_s * _DRAIN_SHARE)
        if late:
            self._interrupted = True
            decoding.cancel()
            await asyncio.wait([decoding])
            self._writer.end_now()
            _, late = await asyncio.wait([write], timeout=finish_s * _COMMIT_SHARE)
        if late:
            write.cancel()
            logger.warning("what is in hand is not committed in time", rows=self._writer.pending, finish_s=finish_s)

    async def _fetch(self) -> None:
        """Read all logs, and then what failed once more."""
        try:
            await _together([(each.log, each.read) for each in self._fetchers])
            failing = [each for each in self._fetchers if len(each.lacking)]
            if failing:
                logger.info("trying again what failed", ranges=sum(len(each.lacking) for each in failing))
            await _together([(each.log, each.read_again) for each in failing])
            self._failed = tuple(each for fetcher in failing for each in fetcher.failed)
        finally:
            self._buffer.close()

    async def _decode(self) -> None:
        while (run := await self._buffer.take()) is not None:
            seen_s = self._clock.wall()
            for part in _parts(run.batches, self._settings.run.size_bytes):
                log = part[0].log
                wanted = self._missing[log.base_url].within(part[0].start, part[-1].stop)
                if len(wanted):
                    rows = await self._decoder.run(_rows, part, seen_s, wanted)
                    await self._writer.put(log, rows)
            self._buffer.release(run)
        await self._writer.end()

    def _wrote(self, log: LogInfo, rows: int) -> None:
        if self._progress is not None:
            self._progress.advance(log.name, rows)

    def _committed(self, rows: Counter[str], written: Written) -> None:
        self._there += rows
        self._written += written.inserted
        self._skipped += written.skipped
        if self._metrics is not None:
            self._metrics.backfill_entries_written.inc(written.inserted)
            self._metrics.backfill_entries_skipped.inc(written.skipped)

    def _begin(self) -> None:
        self._begun_at = self._clock.monotonic()
        log_plan(self._plan)
        if self._metrics is not None:
            self._metrics.backfill_running.set(1)
            self._metrics.backfill_entries_planned.set(self._plan.indices)

    def _end(self) -> None:
        if self._progress is not None:
            self._progress.close()
        if self._metrics is not None:
            self._metrics.backfill_running.set(0)
            self._metrics.backfill_failed_ranges.set(len(self._failed))

    def _result(self) -> Result:
        return Result(
            planned=self._plan.indices,
            written=self._written,
            skipped=self._skipped,
            failed=self._failed,
            logs_done=sum(0 < each.indices == self._there[each.log.base_url] for each in self._plan.logs),
            logs_failed=len({each.log.base_url for each in self._failed}),
            interrupted=self._interrupted,
            left=self._plan.indices - self._there.total(),
            elapsed_s=self._clock.monotonic() - self._begun_at,
        )

    def _note(self, result: Result) -> None:
        log_result(result)
        if self._metrics is not None and not result.interrupted:
            failure, success = (
                self._metrics.backfill_last_failure_timestamp_seconds,
                self._metrics.backfill_last_success_timestamp_seconds,
            )
            outcome = failure if result.failed else success
            outcome.set(self._clock.wall())

    def _note_error(self, error: BaseException) -> None:
        log_error(self._result(), error)
        if self._metrics is not None:
            self._metrics.backfill_last_failure_timestamp_seconds.set(self._clock.wall())


async def _together(work: Sequence[tuple[LogInfo, Callable[[], Coroutine[None, None, None]]]]) -> None:
    """Do it for all logs at the same time."""
    async with asyncio.TaskGroup() as group:
        for log, read in work:
            group.create_task(read(), name=f"backfill:{log.name}")


def _parts(batches: Iterable[EntryBatch], most_bytes: int) -> Iterator[list[EntryBatch]]:
    """The batches together, or in several parts where their entries are uncommonly large."""
    part: list[EntryBatch] = []
    held_bytes = 0
    for batch in (each for whole in batches for each in cut_batch(whole, most_bytes)):
        size_bytes = batch_bytes(batch)
        if part and held_bytes + size_bytes > most_bytes:
            yield part
            part, held_bytes = [], 0
        part.append(batch)
        held_bytes += size_bytes
    if part:
        yield part


def _rows(batches: list[EntryBatch], seen_s: float, wanted: Intervals) -> pa.RecordBatch:
    """The rows of those entries that are wanted: what lies between them may have come along."""
    decoded = decode_together(batches, seen_s)
    rows = decoded.to_arrow(shared_chains=True)
    if wanted.count == len(decoded):
        return rows
    import pyarrow as pa

    return rows.filter(pa.array(wanted.contains(np.arange(decoded.start, decoded.stop))))


def _first(group: BaseExceptionGroup[BaseException]) -> BaseException:
    """The destination's error if there is one, else any."""
    leaves = list(_leaves(group))
    return next((each for each in leaves if isinstance(each, StorageError)), leaves[0])


def _leaves(error: BaseException) -> Iterator[BaseException]:
    if isinstance(error, BaseExceptionGroup):
        for each in error.exceptions:
            yield from _leaves(each)
    else:
        yield error
