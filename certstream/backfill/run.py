"""A backfill from its plan to its result: fetching, decoding and writing at the same time."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable, Coroutine, Iterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final, Protocol

import numpy as np
import structlog

from certstream.archive_metrics import ArchiveMetrics
from certstream.backfill.buffer import EntryBuffer, RunSize
from certstream.backfill.destination import Destination, Written
from certstream.backfill.fetch import Hold, LogFetcher, RetrySettings
from certstream.backfill.planner import LogPlan, Plan
from certstream.backfill.proofs import Proofs
from certstream.backfill.report import BackfillReport, Report
from certstream.backfill.result import FailedRange, Result
from certstream.backfill.thread import WorkThread
from certstream.backfill.verify import LogVerifier, Verification
from certstream.backfill.writer import CommitSettings, Writer
from certstream.certs.batch import CertificateBatch, decode_together
from certstream.client.base import LogClient
from certstream.client.clock import Clock
from certstream.client.range_proofs import Unproven
from certstream.ct.types import EntryBatch, LogInfo
from certstream.errors import StorageError
from certstream.intervals import Intervals
from certstream.ledger import Trust
from certstream.progress import Progress

if TYPE_CHECKING:
    import pyarrow as pa

# Of finish_s: for decoding and writing what was fetched, and for committing it; the rest is for cleaning up
_DRAIN_SHARE: Final = 0.5
_COMMIT_SHARE: Final = 0.4
_BRIDGE: Final = 128  # entries between missing ones that are decoded with them: fewer than a batch of its own costs

logger: structlog.stdlib.BoundLogger = structlog.get_logger(__name__)


class Altered(Protocol):
    """Who is told of precertificates that are not their leaves'. Called in the event loop; nothing raises."""

    @property
    def compares(self) -> Callable[[LogInfo], bool]:
        """Whether precertificates of a log are compared."""

    def altered(self, batch: CertificateBatch, rows: Sequence[int]) -> None:
        """Rows of a batch, at least one, are not their leaves'."""


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

    What `verification` gives for a log is done with its entries before they are decoded; None: they are believed.
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
        verification: Callable[[LogInfo], Verification | None] = lambda _log: None,
        altered: Altered | None = None,
        report: Report | None = None,
    ) -> None:
        self._plan = plan
        self._report = report or BackfillReport()
        self._settings = settings = settings or BackfillSettings()
        self._progress = progress
        self._metrics = metrics
        self._hold = hold
        self._clock = clock or Clock()
        self._altered = altered
        self._begun_at = self._clock.monotonic()
        self._buffer = EntryBuffer(settings.buffer_bytes, settings.run)
        self._decoder = WorkThread("backfill-decode")
        self._writer = Writer(destination, settings.commit, on_write=self._wrote, on_commit=self._committed)
        self._verifiers: dict[str, LogVerifier] = {}
        self._missing = {log.log.base_url: log.missing for log in plan.logs}
        busy = [log for log in plan.logs if log.indices]
        self._fetchers = {log.log.base_url: self._fetcher(log, client(log.log), verification(log.log)) for log in busy}
        self._proofs = Proofs(
            self._buffer,
            self._verifiers,
            wanted=self._missing.__getitem__,
            refuse=self._refuse,
            piece_bytes=settings.run.size_bytes,
            lane_bytes=settings.buffer_bytes // max(1, 2 * len(busy) - 1),  # one alone may fill the buffer
        )
        self._there: Counter[str] = Counter()  # rows committed, by base_url
        self._done = Written(0, 0)  # all together
        self._tried_again = False
        self._interrupted = False

    def _fetcher(self, log: LogPlan, client: LogClient, verification: Verification | None) -> LogFetcher:
        headless = False
        if verification is not None:
            verifier = LogVerifier(client, verification, self._settings.retry, self._clock)
            self._verifiers[log.log.base_url] = verifier
            client, headless = verifier.client, not verifier.enforces
        return LogFetcher(
            log,
            client,
            self._give,
            settings=self._settings.retry,
            hold=self._hold,
            clock=self._clock,
            bridge=_BRIDGE,
            headless=headless,
        )

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
                proving = group.create_task(self._proofs.run(), name="backfill:prove")
                decoding = group.create_task(self._decode(), name="backfill:decode")
                write = group.create_task(self._writer.run(), name="backfill:write")
                beside = [group.create_task(self._heed(stop, fetch, (proving, decoding), write), name="backfill:stop")]
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
        self,
        stop: asyncio.Event,
        fetch: asyncio.Task[None],
        between: Sequence[asyncio.Task[None]],
        write: asyncio.Task[None],
    ) -> None:
        """Once `stop` is set, end everything: with what is in hand where that is quick, else without."""
        await stop.wait()
        finish_s = self._settings.finish_s
        self._interrupted = fetch.cancel()
        _, late = await asyncio.wait([write], timeout=finish_s * _DRAIN_SHARE)
        if late:
            self._interrupted = True
            for task in between:
                task.cancel()
            await asyncio.wait(between)
            self._writer.end_now()
            _, late = await asyncio.wait([write], timeout=finish_s * _COMMIT_SHARE)
        if late:
            write.cancel()
            logger.warning("what is in hand is not committed in time", rows=self._writer.pending, finish_s=finish_s)

    async def _fetch(self) -> None:
        """Read all logs, and then what failed once more."""
        fetchers = self._fetchers.values()
        try:
            await _together([(each.log, each.read) for each in fetchers])
            if any(verifier.enforces for verifier in self._verifiers.values()):
                await self._buffer.emptied()  # what is not proven has failed as well
            failing = [each for each in fetchers if len(each.lacking)]
            if failing:
                logger.info("trying again what failed", ranges=sum(len(each.lacking) for each in failing))
            await _together([(each.log, each.read_again) for each in failing])
            self._tried_again = True
        finally:
            self._buffer.close()

    async def _give(self, batch: EntryBatch) -> None:
        await self._proofs.room(batch.log)
        await self._buffer.put(batch)

    def _refuse(self, log: LogInfo, unproven: Sequence[Unproven]) -> None:
        for each in unproven:
            self._fetchers[log.base_url].refuse(each.start, each.stop, each.error)

    async def _decode(self) -> None:
        while (piece := await self._proofs.take()) is not None:
            if len(piece.wanted):
                compares = self._altered is not None and self._altered.compares(piece.log)
                work = self._decoder.run(_rows, piece.batches, self._clock.wall(), piece.wanted, compares)
                decoded, rows, altered = await work
                trust = Trust(piece.trust.verified, piece.trust.tainted, self._marked(decoded, altered, piece.wanted))
                del decoded
                await self._writer.put(piece.log, rows, trust)
            if piece.done is not None:
                self._buffer.release(piece.done)
            del piece  # megabytes, while the next one is waited for
        await self._writer.end()

    def _marked(self, decoded: CertificateBatch, altered: Sequence[int], wanted: Intervals) -> Intervals:
        """The indices of those rows that are wanted, after saying so."""
        if self._altered is None or not altered:
            return Intervals()
        indices = np.array(altered, np.int64) + decoded.start
        kept = wanted.contains(indices)
        if kept.any():
            self._altered.altered(decoded, np.array(altered, np.int64)[kept].tolist())
        return Intervals.from_indices(indices[kept])

    def _wrote(self, log: LogInfo, rows: int) -> None:
        if self._progress is not None:
            self._progress.advance(log.name, rows)

    def _committed(self, rows: Counter[str], written: Written) -> None:
        self._there += rows
        self._done += written
        if self._metrics is not None:
            self._metrics.backfill_entries_written.inc(written.inserted)
            self._metrics.backfill_entries_skipped.inc(written.skipped)

    def _begin(self) -> None:
        self._begun_at = self._clock.monotonic()
        self._report.planned(self._plan)
        if self._metrics is not None:
            self._metrics.backfill_running.set(1)
            self._metrics.backfill_entries_planned.set(self._plan.indices)

    def _end(self) -> None:
        if self._progress is not None:
            self._progress.close()
        if self._metrics is not None:
            self._metrics.backfill_running.set(0)
            self._metrics.backfill_failed_ranges.set(len(self._failed()))

    def _failed(self) -> tuple[FailedRange, ...]:
        if not self._tried_again:
            return ()
        return tuple(failed for fetcher in self._fetchers.values() for failed in fetcher.failed)

    def _result(self) -> Result:
        failed = self._failed()
        return Result(
            planned=self._plan.indices,
            written=self._done.inserted,
            skipped=self._done.skipped,
            failed=failed,
            logs_done=sum(0 < each.indices == self._there[each.log.base_url] for each in self._plan.logs),
            logs_failed=len({each.log.base_url for each in failed}),
            interrupted=self._interrupted,
            left=self._plan.indices - self._there.total(),
            elapsed_s=self._clock.monotonic() - self._begun_at,
            verified=self._done.verified,
            tainted=self._done.tainted,
        )

    def _note(self, result: Result) -> None:
        self._report.ended(result)
        if self._metrics is not None and not result.interrupted:
            failure, success = (
                self._metrics.backfill_last_failure_timestamp_seconds,
                self._metrics.backfill_last_success_timestamp_seconds,
            )
            outcome = failure if result.failed else success
            outcome.set(self._clock.wall())

    def _note_error(self, error: BaseException) -> None:
        self._report.failed(self._result(), error)
        if self._metrics is not None:
            self._metrics.backfill_last_failure_timestamp_seconds.set(self._clock.wall())


async def _together(work: Sequence[tuple[LogInfo, Callable[[], Coroutine[None, None, None]]]]) -> None:
    """Do it for all logs at the same time."""
    async with asyncio.TaskGroup() as group:
        for log, read in work:
            group.create_task(read(), name=f"backfill:{log.name}")


def _rows(
    batches: list[EntryBatch], seen_s: float, wanted: Intervals, compares: bool
) -> tuple[CertificateBatch, pa.RecordBatch, list[int]]:
    """What is decoded, the rows of those entries that are wanted (what lies between may have come along), and which
    rows of all have altered precertificates, where that is asked for."""
    decoded = decode_together(batches, seen_s)
    altered = decoded.altered_precertificates() if compares else []
    rows = decoded.to_arrow(shared_chains=True)
    if wanted.count == len(decoded):
        return decoded, rows, altered
    import pyarrow as pa

    return decoded, rows.filter(pa.array(wanted.contains(np.arange(decoded.start, decoded.stop)))), altered


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
