"""The live sink: what is streamed is committed to the table soon after, and never stops for the table.

    take → buffer → flush in the sink's thread: files, then one commit with the positions that they move

Of each followed log the sink knows the archived position (in the table) and the streamed one. What lies between them
and is neither in the table nor in the buffer is `missing`, and to be read again from the log: what an earlier run had
streamed and not committed, or what was let go because the table could not be written for long.
"""

from __future__ import annotations

import asyncio
import math
import random
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Final, Self, TypeVar, TypeVarTuple

import structlog

from certstream.archive.commit import Committer
from certstream.archive.sink.buffer import Buffer, PackedRows, pack
from certstream.archive.sink.condition import Condition
from certstream.archive.sink.flush import Flush, Flushed, Flusher, OnCommitted, nobody_told
from certstream.archive.sink.standing import ArchivedLog, ArchivedLogs, SinkSettings, SinkStatus
from certstream.archive_metrics import ArchiveMetrics
from certstream.certs.batch import CertificateBatch
from certstream.ct.types import LogInfo
from certstream.errors import StorageError, TableError
from certstream.intervals import Intervals

_SAVE_INTERVAL_S: Final = 600.0  # between two times that the coverage is remembered: it grows with each flush

T = TypeVar("T")
Ts = TypeVarTuple("Ts")

logger: structlog.stdlib.BoundLogger = structlog.get_logger(__name__)


class Sink:
    """Commits the rows that it takes, from a thread of its own, while `run` runs.

    `async with` opens and closes it. The buffer holds at most `buffer_bytes` and a batch. While the table cannot be
    written, it keeps the rows, tries again at growing intervals, and at the bound lets go of all rows that wait.
    All methods but `pack` belong to the event loop.
    """

    def __init__(
        self,
        committer: Committer,
        settings: SinkSettings,
        metrics: ArchiveMetrics,
        *,
        on_begun: Callable[[LogInfo], object] = lambda _log: None,
        on_committed: OnCommitted = nobody_told,
        wall: Callable[[], float] = time.time,
        chance: Callable[[], float] = random.random,
    ) -> None:
        """Commit through `committer`, which then belongs to the sink's thread; `chance` is in [0, 1).

        `on_begun` is called once for each log, when the table can be relied on for where its archive stands.
        """
        self._settings = settings
        self._metrics = metrics
        self._on_begun = on_begun
        self._wall = wall
        self._condition = Condition(settings, metrics, chance)
        self._flusher = Flusher(committer, on_committed)
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="archive")
        self._logs = ArchivedLogs(metrics)
        self._buffer = Buffer(settings.buffer_bytes)
        self._changed = asyncio.Event()  # something may be due
        self._turn = asyncio.Event()  # set, and replaced, after each attempt to commit
        self._stop = asyncio.Event()
        self._opening: asyncio.Task[None] | None = None
        self._flushing: asyncio.Task[None] | None = None
        self._waiting_since = 0.0  # of the event loop's clock, like all times but `wall`
        self._crowded = False  # rows that are read again wait for room
        self._save_at = 0.0
        self._last_commit_s: float | None = None
        self._free_bytes: int | None = None
        metrics.buffered_rows.set_function(lambda: self._buffer.rows)
        metrics.buffered_bytes.set_function(lambda: self._buffer.size_bytes)

    async def __aenter__(self) -> Self:
        """Look at the table. Raises TableError where it is not ours to continue; any other failure is tried again.

        A table that does not answer is waited for `begin_wait_s`, or until what `heed` named is set.
        """
        try:
            await self._open()
        except TableError:
            self._thread.shutdown(wait=False)
            raise
        except StorageError as exc:
            self._condition.failed(exc)
        except asyncio.CancelledError:
            self._thread.shutdown(wait=False, cancel_futures=True)
            raise
        return self

    def heed(self, stop: asyncio.Event) -> None:
        """Wait no longer for a table to open once `stop` is set. Say so before it is opened."""
        self._stop = stop

    async def _open(self) -> None:
        self._opening = asyncio.create_task(self._in_thread(self._flusher.open), name="archive open")
        stopped = asyncio.create_task(self._stop.wait())
        try:
            done, _ = await asyncio.wait(
                [self._opening, stopped], timeout=self._settings.begin_wait_s, return_when=asyncio.FIRST_COMPLETED
            )
        finally:
            stopped.cancel()
        if self._opening not in done:
            self._opening.add_done_callback(lambda opening: opening.cancelled() or opening.exception())
            raise StorageError("the table cannot be opened in time")
        self._opening.result()

    async def __aexit__(self, *_: object) -> None:
        """Commit what is there, as far as time allows; the rest is read again at the next start."""
        try:
            async with asyncio.timeout(self._settings.close_wait_s):
                await self._finish()
        except TimeoutError:
            pass
        finally:
            self._thread.shutdown(wait=False, cancel_futures=True)
        if self._buffer.rows:
            logger.warning(
                "not all rows could be archived before the end, they are read again at the next start",
                rows=self._buffer.rows,
                error=self._condition.last_error,
            )

    async def _finish(self) -> None:
        if self._opening is None or not self._opening.done():
            return
        if self._flushing is not None:
            await asyncio.shield(self._flushing)
        while self._buffer.waiting_rows or self._is_beginning:
            await self._attempt(rows=True)
            if self.is_failing:
                return
        await self._in_thread(self._flusher.save_coverage)

    async def run(self) -> None:
        """Commit what is taken, until cancelled. Raises nothing."""
        while True:
            await self._until_due()
            await self._attempt(rows=bool(self._condition.failures) or self._rows_due_at() <= self._now())

    # What is streamed

    def take_up(self, log: LogInfo, index: int, first: int | None = None) -> None:
        """Take up a log, whose entries are streamed from `index` on; without effect for one that is taken up.

        Where the table knows no position of it, the archive begins at `first`, at most and by default `index`. What
        lies between the position and `index` was streamed before and is `missing`: so take up a log that was read
        before at once, not only when it has new entries. Until `on_begun`, where the archive begins is only known
        here: remember `first`.
        """
        self._logs.come_again(self._log(log, index, first), log)

    def leave(self, url: str) -> None:
        """A log is streamed no more. What is in the buffer is committed still; what else is missing stays so."""
        if (log := self._logs.get(url)) is not None:
            log.leave(self.missing(url).count)
            if self._flushing is None:
                self._logs.forget_left(self._buffer.held)

    async def begin(self, log: LogInfo, index: int) -> None:
        """Take up a log, and wait until its beginning is committed. Cheap where it is: call it before each batch.

        Where that takes longer than `begin_wait_s` since the log was taken up, or the archive fails, it is committed
        later.
        """
        known = self._log(log, index)
        if known.archived is not None or self._now() >= known.waits_until:
            return
        try:
            async with asyncio.timeout_at(known.waits_until):
                while known.archived is None and not self.is_failing:
                    await self._turn.wait()
        except TimeoutError:
            logger.warning("archive takes long, log is streamed before its archive begins", log=log.name, index=index)

    def pack(self, batch: CertificateBatch) -> PackedRows | None:
        """The rows of a batch, for `take`; costly, and may be called in any thread.

        None of a batch without entries, and of one whose rows cannot be made: that is logged, and it will be missing.
        """
        try:
            return pack(batch) if len(batch) else None
        except Exception:
            logger.exception("rows cannot be made", log=batch.log.name, start=batch.start, stop=batch.stop)
            return None

    def take(self, rows: PackedRows | None) -> None:
        """Take rows that are streamed at this moment. At the bound, what waits is let go of, to be read again."""
        if rows is None:
            return
        log = self._log(rows.log, rows.start)
        log.streamed = max(log.streamed, rows.stop)
        lane = self._buffer.live
        if not lane.has_room(rows):
            self._condition.let_go(lane.let_go())
        self._add(lane.add, rows)

    # What is read again

    def missing(self, url: str) -> Intervals:
        """What is to be read again of a log: streamed, and neither archived, dropped on purpose nor in the buffer."""
        log = self._logs.get(url)
        if log is None or log.archived is None or log.is_left:
            return Intervals()
        return log.open() - self._buffer.held(url)

    async def wait_archived(self, url: str) -> None:
        """Wait until the archived position of a log is known."""
        while self.archived(url) is None:
            await self._turn.wait()

    async def wait_missing(self, url: str) -> Intervals:
        """Wait until something is missing of a log and the archive works; what that is, at least one index."""
        while True:
            if not self.is_failing and len(missing := self.missing(url)):
                return missing
            await self._turn.wait()

    async def take_again(self, rows: PackedRows) -> None:
        """Take rows that were read again, for the archive only, once it works and there is room for them.

        They have room of their own: no live row is let go of for them. What is taken is `missing` no more.
        """
        lane = self._buffer.again
        while self.is_failing or not lane.has_room(rows):
            if not self.is_failing:
                self._crowded = True
                self._changed.set()
            await self._turn.wait()
        self._metrics.entries_reread.inc(len(rows))
        self._add(lane.add, rows)

    # How it stands

    @property
    def is_failing(self) -> bool:
        """Whether the last attempt to commit failed, or one hangs."""
        return self._condition.is_failing

    def archived(self, url: str) -> int | None:
        """The archived position of a log, None where the table was not asked yet."""
        log = self._logs.get(url)
        return log.archived if log else None

    def base(self, url: str) -> int | None:
        """Up to where a log is a backfill's: what is streamed from there on is the sink's. None as `archived`.

        It is the archived position, but where the table has one that is wrong.
        """
        log = self._logs.get(url)
        return log.base if log else None

    def streamed(self, url: str) -> int | None:
        """The index after the last one that was taken of a log, or where it began; None of a log never begun."""
        log = self._logs.get(url)
        return log.streamed if log else None

    def status(self) -> SinkStatus:
        """Say how the archive is doing."""
        return SinkStatus(
            state="failing" if self.is_failing else "healthy",
            last_error=self._condition.last_error,
            last_commit_s=self._last_commit_s,
            buffered_rows=self._buffer.rows,
            buffered_bytes=self._buffer.size_bytes,
            lag_entries=sum(log.open().count for log in self._logs.values()),
            free_disk_bytes=self._free_bytes,
        )

    async def attempted(self) -> SinkStatus:
        """Wait until the next attempt to commit is over, successful or not; how the archive is doing then."""
        await self._turn.wait()
        return self.status()

    # Committing

    def _log(self, info: LogInfo, index: int, first: int | None = None) -> ArchivedLog:
        url = info.base_url
        if url not in self._logs:
            first = index if first is None else first
            self._logs.add(ArchivedLog(info, first, index, self._now() + self._settings.begin_wait_s))
            self._changed.set()
        return self._logs[url]

    def _add(self, add: Callable[[PackedRows], None], rows: PackedRows) -> None:
        if not self._buffer.waiting_rows:
            self._waiting_since = self._now()
            self._changed.set()
        add(rows)
        if self._is_full:
            self._changed.set()

    @property
    def _is_full(self) -> bool:
        """Whether as much waits as is to be committed at once."""
        return self._buffer.waiting_rows >= self._settings.batch_rows or self._buffer.fills_a_draw

    @property
    def _is_beginning(self) -> bool:
        return any(log.archived is None for log in self._logs.values())

    def _rows_due_at(self) -> float:
        if not self._buffer.waiting_rows:
            return float("inf")
        at_once = self._crowded or self._is_full
        return 0.0 if at_once else self._waiting_since + self._settings.flush_interval_s

    async def _until_due(self) -> None:
        while True:
            self._changed.clear()
            failed = self._condition.failures > 0
            due_at = self._condition.retry_at if failed else 0.0 if self._is_beginning else self._rows_due_at()
            if due_at <= self._now():
                return
            try:
                async with asyncio.timeout_at(None if due_at == float("inf") else due_at):
                    await self._changed.wait()
            except TimeoutError:
                continue

    async def _attempt(self, *, rows: bool) -> None:
        """Commit once, or wait for the commit that goes on; cancelling this cancels neither."""
        if self._flushing is None:
            self._flushing = asyncio.create_task(self._flush(rows=rows), name="archive flush")
        await asyncio.shield(self._flushing)

    async def _flush(self, *, rows: bool) -> None:
        # Of all logs, not only those with new rows: the table may be another one than at the last commit.
        starts = {url: log.first for url, log in self._logs.items()}
        limits = {url: log.streamed for url, log in self._logs.items()}
        flush = Flush(self._buffer.draw() if rows else [], starts, limits)
        self._crowded = self._crowded and not rows
        try:
            with self._condition.watched():
                await self._commit(flush)
                await self._look_after()
        finally:
            self._flushing = None
            self._logs.forget_left(self._buffer.held)
            self._turn.set()
            self._turn = asyncio.Event()

    async def _commit(self, flush: Flush) -> None:
        began = self._now()
        try:
            flushed = await self._in_thread(self._flusher.flush, flush)
        except StorageError as exc:
            self._buffer.put_back()
            self._condition.failed(exc)
        else:
            self._buffer.settle()
            self._succeeded(flush, flushed, self._now() - began)

    def _succeeded(self, flush: Flush, flushed: Flushed, took_s: float) -> None:
        self._condition.worked(self._buffer.rows)
        self._last_commit_s = self._wall()
        self._metrics.rows_written.inc(flushed.inserted)
        if flush.parts:
            self._metrics.flushes.inc()
            self._metrics.flush_seconds.observe(took_s)
        for url, position in flushed.positions.items():
            self._settled(self._logs[url], position, flushed.settled[url])

    def _settled(self, log: ArchivedLog, position: int, settled: Intervals) -> None:
        taken_up, was_doubted = log.archived is None, log.is_doubted
        log.settle(position, settled)
        self._metrics.log(log.info.name).position.set(position)
        if taken_up:
            log.announce(self.missing(log.info.base_url).count)
        if (taken_up or was_doubted) and not log.is_doubted:
            self._on_begun(log.info)

    async def _look_after(self) -> None:
        """What is done now and then, after a commit or a failure."""
        self._free_bytes = await self._in_thread(self._flusher.free_bytes)
        self._metrics.free_disk_bytes.set(math.nan if self._free_bytes is None else self._free_bytes)
        if self._now() >= self._save_at and not self._condition.failures:
            self._save_at = self._now() + _SAVE_INTERVAL_S
            await self._in_thread(self._flusher.save_coverage)

    async def _in_thread(self, work: Callable[[*Ts], T], *args: *Ts) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._thread, work, *args)

    @staticmethod
    def _now() -> float:
        return asyncio.get_running_loop().time()
