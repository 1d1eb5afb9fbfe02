"""Reading what is missing of one log, whatever the log does meanwhile."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable
from contextlib import aclosing
from dataclasses import dataclass
from typing import Final, TypeAlias

import structlog

from certstream.backfill.planner import LogPlan, WorkItem
from certstream.backfill.result import FailedRange, merged
from certstream.client.base import LogClient
from certstream.client.clock import Clock
from certstream.ct.types import MAX_TREE_SIZE, TILE_WIDTH, EntryBatch, LogInfo
from certstream.errors import FetchError, LogMisbehaviourError, RateLimitedError
from certstream.intervals import Intervals

Give: TypeAlias = Callable[[EntryBatch], Awaitable[None]]
Hold: TypeAlias = Callable[[], Awaitable[None]]

_BARREN: Final = 3  # pieces in a row without an entry, after which the log is asked whether it is there at all
_RATE_LIMITED_S: Final = 1.0  # wait after a 429 at least

logger: structlog.stdlib.BoundLogger = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class RetrySettings:
    """How patient a backfill is with a log."""

    attempts: int = 3  # in a row without an entry, until a piece is given up for now
    initial_s: float = 1.0  # wait after the first of them; doubles
    max_s: float = 30.0
    patience_s: float = 300.0  # with a log that answers, but gives no entry
    down_s: float = 30.0  # until a log that was down is asked for the rest once more


class LogFetcher:
    """Gives the missing entries of one log to `give`, each once: `read`, and later `read_again` for what failed.

    A failure is retried from where it stands, piece by piece: up to the next multiple of TILE_WIDTH. A piece that
    fails `attempts` times is left out for now, and after three in a row each one that fails once. A log is down when
    it does not answer for its tree head either then, or has given no entry for `patience_s`: all the rest of it is
    left out at once. So a dead log takes no time, and what one lost keeps nobody from what lies behind it.
    A 429 is no failure, and waited for as long as it takes.

    What failed is held in memory, in proportion to the pieces that were tried.
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
    ) -> None:
        self._log = plan.log
        self._missing = plan.missing
        self._client = client
        self._give = give
        self._settings = settings or RetrySettings()
        self._hold = hold
        self._clock = clock or Clock()
        self._tried: list[FailedRange] = []  # pieces given up
        self._left_out: list[FailedRange] = []  # what was not asked for because of them
        self._barren = 0  # pieces given up since the last entry
        self._barren_since = 0.0  # when the first of them was
        self._down_at: float | None = None

    @property
    def log(self) -> LogInfo:
        """The log that is read."""
        return self._log

    @property
    def failed(self) -> tuple[FailedRange, ...]:
        """What was not read by now though it was its turn, ascending, adjacent ranges as one."""
        return merged([*self._tried, *self._left_out])

    async def read(self) -> None:
        """Read everything that is missing; what fails stands in `failed`."""
        await self._read(self._missing)

    async def read_again(self) -> None:
        """Try once more what failed, what was not itself asked for first; `failed` is then what failed again."""
        left_out, tried = self._left_out, self._tried
        self._left_out, self._tried = [], []
        if self._down_at is not None:
            await self._clock.sleep(max(0.0, self._down_at + self._settings.down_s - self._clock.monotonic()))
            self._down_at = None
        await self._read(_spans(left_out))
        if self._down_at is None:
            await self._read(_spans(tried))
        else:
            self._tried += tried

    async def _read(self, wanted: Intervals) -> None:
        self._barren = 0
        readable = await self._readable(wanted)
        for item in LogPlan(self._log, readable).items():
            if self._hold is not None:
                await self._hold()
            position = await self._read_item(item)
            if self._down_at is not None:
                self._leave_out(readable.within(position, MAX_TREE_SIZE), self._tried[-1].error)
                break

    async def _readable(self, wanted: Intervals) -> Intervals:
        """What of it lies in the log's tree; the rest has failed."""
        if not len(wanted):
            return wanted
        size, error = 0, ""
        try:
            size = await self._tree_size()
            error = f"{self._log.name}: the log's tree has {size} entries only"
        except (FetchError, LogMisbehaviourError) as exc:
            self._note_down(exc)
            error = str(exc)
        self._leave_out(wanted.within(size, MAX_TREE_SIZE), error)
        return wanted.within(0, size)

    async def _tree_size(self) -> int:
        """How many leaves the log says it has; the client knows from then on how wide the last data tile is."""
        failures = 0
        while True:
            try:
                return (await self._client.head()).tree_size
            except RateLimitedError:
                await self._wait_for_pace()
            except (FetchError, LogMisbehaviourError):
                failures += 1
                if failures >= self._settings.attempts:
                    raise
                await self._back_off(failures)

    async def _read_item(self, item: WorkItem) -> int:
        """Read the item, or until the log is down; where that ended."""
        position, failures, in_pieces = item.start, 0, False
        while position < item.stop:
            before, stop = position, _piece_stop(position, item) if in_pieces else item.stop
            position, error = await self._read_range(position, stop)
            if position > before:
                failures = self._barren = 0
            if error is None:
                continue
            if isinstance(error, RateLimitedError):
                await self._wait_for_pace()
                continue
            in_pieces = True  # one request for many entries fails for each of them
            failures += 1
            if failures >= self._attempts and stop <= _piece_stop(position, item):
                position, failures = self._give_up(position, item, error), 0
                if await self._is_down():
                    self._note_down(error)
                    break
            if failures or self._barren >= _BARREN:
                await self._back_off(max(failures, 1))
        return position

    async def _read_range(self, start: int, stop: int) -> tuple[int, FetchError | LogMisbehaviourError | None]:
        """Give the entries of [start, stop); where they end, and why if that is early."""
        try:
            async with aclosing(self._client.batches(start, stop)) as batches:
                async for batch in batches:
                    if batch.start != start:
                        raise RuntimeError(f"{self._log.name}: batch of {batch.start} where {start} is next")
                    await self._give(batch)
                    start = batch.stop
        except (FetchError, LogMisbehaviourError) as exc:
            return start, exc
        return start, None

    @property
    def _attempts(self) -> int:
        """That the next piece gets: one where those before it gave nothing with more."""
        return 1 if self._barren >= _BARREN else self._settings.attempts

    def _give_up(self, position: int, item: WorkItem, error: Exception) -> int:
        """Leave out the piece at `position`; where the next one begins."""
        stop = _piece_stop(position, item)
        self._tried.append(FailedRange(self._log, position, stop, str(error)))
        if not self._barren:
            self._barren_since = self._clock.monotonic()
        self._barren += 1
        return stop

    async def _is_down(self) -> bool:
        """Whether the pieces given up in a row say so; asked after each."""
        if self._barren % _BARREN:
            return False
        if self._clock.monotonic() - self._barren_since >= self._settings.patience_s:
            return True
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

    def _leave_out(self, ranges: Intervals, error: str) -> None:
        self._left_out += [FailedRange(self._log, start, stop, error) for start, stop in ranges]

    async def _wait_for_pace(self) -> None:
        await self._clock.sleep(max(self._client.paused_s, _RATE_LIMITED_S))
        self._barren_since = self._clock.monotonic()

    async def _back_off(self, failures: int) -> None:
        await self._clock.sleep(self._clock.backoff(failures, self._settings.initial_s, self._settings.max_s))


def _spans(ranges: Iterable[FailedRange]) -> Intervals:
    return Intervals.of(*((each.start, each.stop) for each in ranges))


def _piece_stop(position: int, item: WorkItem) -> int:
    """The next multiple of TILE_WIDTH, or the end of the item."""
    return min(item.stop, position - position % TILE_WIDTH + TILE_WIDTH)
