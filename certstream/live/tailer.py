"""Following one log: its head, what is new before it, and at what pace to look."""

from __future__ import annotations

import math
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import aclosing, nullcontext
from dataclasses import dataclass, replace
from typing import Final, Literal, TypeAlias

import structlog

from certstream.client.base import LogClient
from certstream.client.clock import Clock
from certstream.client.waits import Activity
from certstream.ct.types import EntryBatch, LogInfo, TreeHead
from certstream.errors import FetchError, InvalidProofError, LogMisbehaviourError, RateLimitedError
from certstream.live.condition import Condition, TailSettings
from certstream.live.delivery import LogDelivery
from certstream.live.heads import Heads
from certstream.live.parts import publishable_parts
from certstream.live.share import LogShare, ShareSettings
from certstream.metrics import LogMetrics, LogState

Start: TypeAlias = Literal["head", "beginning"] | int
Publish: TypeAlias = Callable[[EntryBatch], Awaitable[None]]
Advance: TypeAlias = Callable[[int, int], None]

PART_BYTES: Final = 4 << 20  # of entries published at a time: their decoding takes memory in proportion

# What a log answers that has no entries where its own head promises some: of a page, of a tile, without a word
_NOT_SERVED: Final = frozenset({"400", "404", "410", "empty"})
_IDLE_FACTOR: Final = 1.5
_PAUSE_SHOWN_S: Final = 5.0  # a shorter pause of the operator is no state of its logs

_EVENTS: Final[dict[LogState, str]] = {
    "starting": "starting to follow log",
    "following": "following log",
    "catching_up": "catching up with log",
    "rate_limited": "log asks for a slower pace",
    "degraded": "log cannot be read, trying again",
    "unhealthy": "log keeps failing, trying again",
    "stopped": "stopped following log",
}

_WELL: Final[frozenset[LogState]] = frozenset({"starting", "following", "catching_up"})

logger: structlog.stdlib.BoundLogger = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class TailStatus:
    """One log as it is followed now."""

    log: LogInfo
    state: LogState
    position: int | None  # next index to read; None before the first tree head
    tree_size: int | None  # of the largest head that is believed; None before the first
    lag_entries: int | None
    lag_s: float | None  # age of the newest entry read: now where more is to be read, else when it was read
    last_success_s: float | None  # Unix time of the last good answer
    last_error: str | None  # of the last failure, also when it is over
    share: LogShare | None = None  # of what the log grew by; None until it is measured


class Tailer:
    """Follows one log from `position`, or from where `start` says if that is None.

    Each batch goes to `publish`; once that returned, `advance(position, tree_size)` is called, as it is whenever the
    tree's size changes. Nothing else moves the position: no failure, no tree head. `tree_size` is what the last run
    knew, shown until the first head comes. `signed_heads`: the client gives none whose signature it has not verified.
    What `publish` and `advance` raise ends `run`; running again goes on with the same batch.
    """

    def __init__(
        self,
        client: LogClient,
        *,
        publish: Publish,
        advance: Advance,
        metrics: LogMetrics,
        position: int | None = None,
        tree_size: int = 0,
        start: Start = "head",
        signed_heads: bool = False,
        settings: TailSettings | None = None,
        share: ShareSettings | None = None,
        clock: Clock | None = None,
    ) -> None:
        self._client = client
        self._waits = client.waits
        self._publish = publish
        self._advance = advance
        self._metrics = metrics
        self._settings = settings or TailSettings()
        self._clock = clock or Clock()
        self._delivery = LogDelivery(client.log, self._waits, metrics, self._clock, self._patient(share))
        self._condition = Condition(self._settings)
        self._position = position
        self._start = start
        self._heads = Heads(tree_size, signed=signed_heads)
        self._head_is_smaller = False
        self._poll_s = self._settings.poll_interval_s
        self._state: LogState = "starting"
        self._newest_s: float | None = None  # timestamp of the newest entry read, Unix seconds
        self._age_s: float | None = None  # of that entry when it was read
        self._last_success_s: float | None = None
        self._last_error: str | None = None
        self._is_reading = False  # entries, since the head of this round
        self._publishing = False
        self._stopping = False
        metrics.lag_seconds.set_function(self._lag_or_unknown_s)  # at each scrape: it grows while a log is stuck

    @property
    def log(self) -> LogInfo:
        """The log that is followed."""
        return self._client.log

    def status(self) -> TailStatus:
        """Say how the log is doing."""
        known = self._position is not None and (self._last_success_s is not None or self._heads.tree_size > 0)
        return TailStatus(
            log=self.log,
            state="rate_limited" if self._state in _WELL and self._is_paused() else self._state,
            position=self._position,
            tree_size=self._heads.tree_size if known else None,
            lag_entries=self._lag_entries() if known else None,
            lag_s=self._lag_s(),
            last_success_s=self._last_success_s,
            last_error=self._last_error,
            share=self._delivery.now,
        )

    def measure(self, busy: float) -> None:
        """Look at what is read in time, see LogDelivery."""
        self._delivery.measure(busy)

    def stop(self) -> bool:
        """Begin nothing more. True where a batch is being published, after which `run` returns; else cancel `run`."""
        self._stopping = True
        return self._publishing

    def crashed(self, error: Exception) -> None:
        """Note that `run` ended by an error that no log is to blame for."""
        self._last_error = f"{type(error).__name__}: {error}"
        self._metrics.error("Crash")
        self._condition.failed(misbehaved=True)
        self._note_state()

    async def run(self) -> None:
        """Follow the log until `stop`."""
        try:
            while not self._stopping:
                delay_s, activity = await self._attempt()
                self._note_state()
                if not self._stopping:
                    with nullcontext() if activity is None else self._waits.on(activity):
                        await self._clock.sleep(delay_s)
        finally:
            if self._stopping:
                self._set_state("stopped")

    async def _attempt(self) -> tuple[float, Activity | None]:
        """One round; the seconds to wait after it, and what for where it failed."""
        if self._is_paused():
            self._condition.limited()
            self._note_state()
        try:
            return await self._round(), None
        except RateLimitedError as exc:
            self._last_error = str(exc)
            self._condition.limited()
            return self._settings.poll_interval_s, "limited"  # and then the operator's pace holds
        except (FetchError, LogMisbehaviourError) as exc:
            self._last_error = str(exc)
            self._metrics.error(type(exc).__name__)
            self._condition.failed(misbehaved=isinstance(exc, LogMisbehaviourError))
            delay_s = self._clock.backoff(
                self._condition.attempts, self._settings.retry_initial_s, self._condition.backoff_max_s
            )
            return delay_s, self._held_back_by(exc)

    def _held_back_by(self, error: FetchError | LogMisbehaviourError) -> Activity:
        """What the wait after a failed attempt is for."""
        if isinstance(error, InvalidProofError):
            return "unproven"
        is_refused = isinstance(error, FetchError) and error.status in _NOT_SERVED
        return "not_served" if is_refused and self._is_reading else "backing_off"

    async def _round(self) -> float:
        """Look at the head and read what may be read, up to `round_entries`; the seconds to wait after it."""
        self._is_reading = False
        with self._waits.on("reading"):
            head = await self._client.head()
        grew = self._take_head(head)
        position = self._position
        assert position is not None
        readable = self._client.readable(position, self._heads.tree_size)
        self._delivery.seen(readable.stop, position)
        stop = min(readable.stop, position - position % self._settings.round_entries + self._settings.round_entries)
        self._condition.catching_up = readable.stop - position > self._settings.catching_up_entries
        if position < stop:
            self._note_state()
            await self._read(position, stop)
        self._condition.completed()
        if stop < readable.stop:
            return 0.0
        delay_s = self._next_poll(active=grew or position < stop)
        return delay_s if readable.wait_s is None else min(delay_s, readable.wait_s)

    def _take_head(self, head: TreeHead) -> bool:
        """Learn from the head how long the tree is; whether it grew."""
        self._last_success_s = self._clock.wall()
        known = self._heads.tree_size
        given_up = self._heads.take(head.tree_size, self._position, self._clock.monotonic())
        if given_up is not None:
            self._note_given_up(given_up)
        self._note_smaller_head(head)
        self._note_beyond(head)
        self._note_timestamp(head)
        size = self._heads.tree_size
        if not self._begin() and size != known:
            self._moved()
        self._set_gauges()
        return size > known

    def _begin(self) -> bool:
        """Decide where to start, if that is open still; whether it was."""
        if self._position is not None:
            return False
        starts = {"head": self._heads.tree_size, "beginning": 0}
        self._position = starts[self._start] if isinstance(self._start, str) else self._start
        self._moved()
        return True

    def _note_timestamp(self, head: TreeHead) -> None:
        """Keep when the newest head was signed; a frontend that lags says nothing of it, nor a head without time."""
        if head.timestamp_ms and head.tree_size == self._heads.tree_size:
            self._metrics.head_timestamp_seconds.set(head.timestamp_ms / 1000)

    def _note_smaller_head(self, head: TreeHead) -> None:
        # Frontends of one log lag behind each other; the next look mostly meets another one.
        known, before = self._heads.tree_size, self._head_is_smaller
        self._head_is_smaller = head.tree_size < known
        if self._head_is_smaller:
            self._metrics.error("SmallerTreeHead")
            if not before:
                logger.debug("log gave a smaller tree head", log=self.log.name, size=head.tree_size, known=known)

    def _note_given_up(self, tree_size: int) -> None:
        known = self._heads.tree_size
        self._metrics.error("TreeHeadGivenUp")
        self._last_error = f"{self.log.name}: a tree head of {tree_size} entries, and after it only heads up to {known}"
        logger.warning("log's larger tree head is given up", log=self.log.name, given_up=tree_size, tree_size=known)

    def _note_beyond(self, head: TreeHead) -> None:
        """Say it once when the position turns out to lie beyond the tree."""
        before, self._condition.beyond = self._condition.beyond, self._heads.beyond
        if self._heads.beyond and not before:
            self._metrics.error("PositionBeyondTree")
            self._last_error = (
                f"{self.log.name}: position {self._position} is beyond the log's tree of {head.tree_size} entries: "
                f"if the log was created anew, or the state file or its `start` is wrong, stop the service, remove "
                f"{self.log.base_url} from the state file or correct `start`, and start it again"
            )

    async def _read(self, start: int, stop: int) -> None:
        self._is_reading = True
        async with aclosing(self._client.batches(start, stop)) as batches:
            while (batch := await self._next(batches)) is not None:
                for part in publishable_parts(batch, PART_BYTES):
                    await self._hand_over(part)
                    if self._stopping:
                        return

    async def _next(self, batches: AsyncGenerator[EntryBatch, None]) -> EntryBatch | None:
        with self._waits.on("reading"):
            return await anext(batches, None)

    async def _hand_over(self, batch: EntryBatch) -> None:
        if self._stopping:  # a batch that is begun is finished, so none is begun
            return
        if batch.start != self._position:
            raise RuntimeError(f"{self.log.name}: batch of {batch.start} where {self._position} is next")
        self._publishing = True
        try:
            with self._waits.on("publishing"):
                await self._publish(batch)
        finally:
            self._publishing = False
        self._position = batch.stop
        self._delivery.read(batch.stop)
        self._note_entries(batch)
        self._moved()
        self._condition.progressed()
        self._note_state()

    def _note_entries(self, batch: EntryBatch) -> None:
        now_s = self._last_success_s = self._clock.wall()
        self._metrics.entries.inc(len(batch))
        self._newest_s = float(batch.timestamp_ms[-1]) / 1000
        self._age_s = max(0.0, now_s - self._newest_s)

    def _moved(self) -> None:
        assert self._position is not None
        self._advance(self._position, self._heads.tree_size)
        self._set_gauges()

    def _patient(self, share: ShareSettings | None) -> ShareSettings:
        """A log that is looked at once a minute, say, is not missed before that."""
        share = share or ShareSettings()
        longest_s = max(self._settings.poll_interval_s, self._settings.idle_poll_max_s)
        return replace(share, unseen_s=max(share.unseen_s, 2 * longest_s))

    def _set_gauges(self) -> None:
        self._metrics.position.set(self._position or 0)
        self._metrics.tree_size.set(self._heads.tree_size)
        self._metrics.lag_entries.set(self._lag_entries())

    def _lag_entries(self) -> int:
        return max(0, self._heads.tree_size - (self._position or 0))

    def _lag_s(self) -> float | None:
        if self._newest_s is None or self._position is None or self._position >= self._heads.tree_size:
            return self._age_s
        return max(0.0, self._clock.wall() - self._newest_s)

    def _lag_or_unknown_s(self) -> float:
        lag_s = self._lag_s()
        return math.nan if lag_s is None else lag_s

    def _is_paused(self) -> bool:
        return self._client.paused_s >= _PAUSE_SHOWN_S

    def _next_poll(self, *, active: bool) -> float:
        shortest = self._settings.poll_interval_s
        longest = max(shortest, self._settings.idle_poll_max_s)
        self._poll_s = shortest if active else min(self._poll_s * _IDLE_FACTOR, longest)
        return self._poll_s

    def _note_state(self) -> None:
        self._set_state(self._condition.state)

    def _set_state(self, state: LogState) -> None:
        if state == self._state:
            return
        self._state = state
        self._metrics.state(state)
        bad = state in ("degraded", "unhealthy")
        say = logger.warning if bad else logger.info
        why: dict[str, object] = {"error": self._last_error} if bad else {}
        if state == "rate_limited":  # itself, or another log of the operator
            why = {"operator": self.log.operator, "paused_s": round(self._client.paused_s, 1)}
        say(_EVENTS[state], log=self.log.name, url=self.log.base_url, state=state, position=self._position, **why)
