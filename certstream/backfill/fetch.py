"""Reading what is missing of one log, whatever the log does meanwhile."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable
from contextlib import aclosing
from typing import Final, TypeAlias

import structlog

from certstream.backfill.patience import BARREN, HOPELESS, Patience, RetrySettings
from certstream.backfill.planner import LogPlan, WorkItem, joined
from certstream.backfill.result import FailedRange, merged
from certstream.client.base import LogClient
from certstream.client.clock import Clock
from certstream.ct.types import MAX_TREE_SIZE, TILE_WIDTH, EntryBatch, LogInfo, slice_batch
from certstream.errors import FetchError, LogMisbehaviourError, RateLimitedError
from certstream.intervals import Intervals

__all__ = ["Give", "Hold", "LogFetcher", "RetrySettings"]

Give: TypeAlias = Callable[[EntryBatch], Awaitable[None]]
Hold: TypeAlias = Callable[[], Awaitable[None]]

_PAGE: Final = 1024  # entries that one get-entries may be for

logger: structlog.stdlib.BoundLogger = structlog.get_logger(__name__)


class LogFetcher:
    """Gives the missing entries of one log to `give`, each once: `read`, and later `read_again` for what failed.

    What lies between missing entries is fetched where it is less than a request, and not given; but where it is at
    most `bridge` entries it is given too: entries come as runs of consecutive indices, and each run has its cost.

    A failure is retried from where it stands, piece by piece: up to the next multiple of TILE_WIDTH. A piece that
    fails `attempts` times is left out for now, and where many have failed each one that fails once (see Patience). A
    log is down when after some pieces in a row it does not answer for its tree head either, or when all patience is
    used up and it goes on giving nothing: all the rest of it is left out at once. So a dead log takes no time, and
    what one lost keeps nobody from what lies behind it. A 429 is no failure, and waited for as long as it takes.

    What failed is held in memory, in proportion to the pieces that were tried and the gaps in them.
    """

    def __init__(
        self,
        plan: LogPlan,
        client: LogClient,
        give: Give,
        *,
        settings: RetrySettings | None = None,
        hold: Hold | None = None,
        clock: Clock | None = None,
        bridge: int = 0,
        headless: bool = False,
    ) -> None:
        """`headless`: also where none of its tree heads can be believed is the log read, up to what is planned."""
        self._log = plan.log
        self._missing = plan.missing
        self._client = client
        self._give = give
        self._settings = settings or RetrySettings()
        self._hold = hold
        self._clock = clock or Clock()
        self._bridge = bridge
        self._headless = headless
        self._patience = Patience(self._log, self._settings, self._clock)
        self._tried: list[tuple[Intervals, str]] = []  # pieces given up, and why
        self._left_out: list[tuple[Intervals, str]] = []  # what was not asked for because of them
        self._down_at: float | None = None

    @property
    def log(self) -> LogInfo:
        """The log that is read."""
        return self._log

    @property
    def lacking(self) -> Intervals:
        """What was not read by now though it was its turn."""
        return _together([*self._tried, *self._left_out])

    @property
    def failed(self) -> tuple[FailedRange, ...]:
        """The same with the reasons, ascending, adjacent ranges as one."""
        return merged(
            FailedRange(self._log, start, stop, error)
            for missing, error in (*self._tried, *self._left_out)
            for start, stop in missing
        )

    def refuse(self, start: int, stop: int, error: str) -> None:
        """Count what was given of [start, stop) as failed: it is not what it should be."""
        missing = self._missing.within(start, stop)
        if len(missing):
            self._tried.append((missing, error))

    async def read(self) -> None:
        """Read everything that is missing; what fails stands in `failed`."""
        self._patience.begin(self._settings.patience_s)
        await self._read(self._missing, HOPELESS)

    async def read_again(self) -> None:
        """Try once more what failed, what was not itself asked for first; `failed` is then what failed again."""
        left_out, tried = self._left_out, self._tried
        self._left_out, self._tried = [], []
        if self._down_at is not None:
            await self._clock.sleep(max(0.0, self._down_at + self._settings.down_s - self._clock.monotonic()))
            self._down_at = None
        self._patience.begin(self._settings.again_s)
        await self._read(_together(left_out), HOPELESS)
        if self._down_at is None:
            await self._read(_together(tried), None)
        else:
            self._tried += tried

    async def _read(self, wanted: Intervals, most_barren: int | None) -> None:
        self._patience.restart(most_barren)
        readable = await self._readable(wanted)
        for item in LogPlan(self._log, readable).items():
            if self._hold is not None:
                await self._hold()
            failures = self._patience.failures
            position = await self._read_item(item)
            if self._down_at is not None:
                self._leave_out(readable.within(position, MAX_TREE_SIZE), self._tried[-1][1])
                break
            if self._patience.failures == failures:
                self._patience.regain()

    async def _readable(self, wanted: Intervals) -> Intervals:
        """What of it lies in the log's tree; the rest has failed."""
        if not len(wanted):
            return wanted
        size, error = 0, ""
        try:
            size = await self._tree_size(int(wanted.start[0]))
            error = f"{self._log.name}: the log's tree has {size} entries only"
        except (FetchError, LogMisbehaviourError) as exc:
            if self._headless and isinstance(exc, LogMisbehaviourError):
                logger.warning("log is read though no tree head of it holds", log=self._log.name, error=str(exc))
                return wanted
            self._note_down(exc)
            error = str(exc)
        self._leave_out(wanted.within(size, MAX_TREE_SIZE), error)
        return wanted.within(0, size)

    async def _tree_size(self, wanted: int) -> int:
        """How many leaves the log says it has; the client knows from then on how wide the last data tile is."""
        failures = 0
        while True:
            asked_at = self._clock.monotonic()
            try:
                return (await self._client.head()).tree_size
            except RateLimitedError:
                await self._patience.wait_for_pace(self._client.paused_s)
            except (FetchError, LogMisbehaviourError) as exc:
                failures += 1
                self._patience.failed(wanted, exc, self._clock.monotonic() - asked_at)
                if failures >= self._settings.attempts or self._patience.is_spent:
                    raise
                await self._patience.back_off(failures)

    async def _read_item(self, item: WorkItem) -> int:
        """Read the item, or until the log is down; where that ended."""
        for missing in item.stretches():
            position = await self._read_stretch(missing)
            if self._down_at is not None:
                return position
        return item.stop

    async def _read_stretch(self, missing: Intervals) -> int:
        """Likewise what is missing of one stretch."""
        given = joined(missing, self._bridge)
        position, end = int(missing.start[0]), int(missing.stop[-1])
        alone_until = failures = 0
        while position < end:
            before, stop = position, _piece_stop(missing, position) if position < alone_until else end
            position, error = await self._read_range(given, position, stop)
            if position > before:
                failures, position = 0, _next(missing, position)
            if error is None:
                continue
            if isinstance(error, RateLimitedError):
                await self._patience.wait_for_pace(self._client.paused_s)
                continue
            failures += 1
            if failures >= self._patience.attempts and self._is_alone(missing, position, stop):
                position, failures = self._give_up(missing, position, error), 0
                if await self._is_down():
                    self._note_down(error)
                    break
            if self._log.kind == "rfc6962":
                alone_until = position + _PAGE  # one request for many entries fails for each of them
            await self._patience.back_off(failures)
        return position

    async def _read_range(
        self, wanted: Intervals, start: int, stop: int
    ) -> tuple[int, FetchError | LogMisbehaviourError | None]:
        """Give what is wanted of [start, stop); where that ends, and why if that is early."""
        asked_at = self._clock.monotonic()
        try:
            async with aclosing(self._client.batches(start, stop)) as batches:
                async for batch in batches:
                    if batch.start != start:
                        raise RuntimeError(f"{self._log.name}: batch of {batch.start} where {start} is next")
                    self._patience.gave(start)
                    for first, last in wanted.within(start, batch.stop):
                        await self._give(slice_batch(batch, first, last))
                    start = batch.stop
                    asked_at = self._clock.monotonic()
        except (FetchError, LogMisbehaviourError) as exc:
            if not isinstance(exc, RateLimitedError):
                self._patience.failed(start, exc, self._clock.monotonic() - asked_at)
            return start, exc
        return start, None

    def _is_alone(self, missing: Intervals, position: int, stop: int) -> bool:
        """Whether it was the piece at `position` that failed: each data tile is a request of its own."""
        return self._log.kind == "static" or stop <= _piece_stop(missing, position)

    def _give_up(self, missing: Intervals, position: int, error: Exception) -> int:
        """Leave out the piece at `position`; where the next one begins."""
        stop = _piece_stop(missing, position)
        self._tried.append((missing.within(position, stop), str(error)))
        self._patience.gave_up()
        return _next(missing, stop)

    async def _is_down(self) -> bool:
        """Whether the pieces given up in a row say so; asked after each."""
        if self._patience.is_over:
            return True
        if self._patience.barren % BARREN:
            return False
        try:
            await self._client.head()
        except RateLimitedError:
            return False
        except (FetchError, LogMisbehaviourError):
            return True
        return False

    def _note_down(self, error: Exception) -> None:
        self._down_at = self._clock.monotonic()
        logger.warning("log gives no entries, the rest of it is left for now", log=self._log.name, error=str(error))

    def _leave_out(self, missing: Intervals, error: str) -> None:
        if len(missing):
            self._left_out.append((missing, error))


def _together(failed: Iterable[tuple[Intervals, str]]) -> Intervals:
    return Intervals.union_of(missing for missing, _ in failed)


def _piece_stop(missing: Intervals, position: int) -> int:
    """Where what is missing of the piece at `position` ends: before the next multiple of TILE_WIDTH."""
    stop = missing.within(position, position - position % TILE_WIDTH + TILE_WIDTH).end
    return position if stop is None else stop


def _next(missing: Intervals, position: int) -> int:
    """The next missing index, or where they end."""
    first = missing.within(position, MAX_TREE_SIZE).lowest
    return position if first is None else first
