"""The pace of requests to one operator, shared by all of its logs.

There is none until one is configured or the operator refuses (429) more than now and then. Then a token bucket holds:
a refusal halves its rate, time without one raises it again, up to what is configured, or until it stands clear of what
the operator refused. A 429 that comes now and then, at whatever pace, is waited out and no more: to slow down for it
would end where nothing is read. A Retry-After holds all requests to the operator.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager, nullcontext
from dataclasses import dataclass, field
from typing import Final

from certstream.client.clock import Clock
from certstream.client.waits import Waits

MIN_RATE_PER_S: Final = 0.1
MAX_PAUSE_S: Final = 600.0  # a longer Retry-After is cut: no answer silences an operator for good
FIRST_PAUSE_S: Final = 1.0  # after a 429 that does not say how long; doubles with each further one
MAX_UNASKED_PAUSE_S: Final = 30.0
RECOVERY_S: Final = 10.0  # without a 429, until the rate rises by RECOVERY_FACTOR
RECOVERY_FACTOR: Final = 1.25
RELEASE_FACTOR: Final = 4.0  # an unconfigured limit ends at this multiple of the rate that was refused
_SPORADIC_SHARE: Final = 0.12  # of the last _OUTCOMES answers
_OUTCOMES: Final = 100
_BURST_S: Final = 0.5  # the bucket holds what this time brings, at least one token
_MEASURED_S: Final = 2.0  # that the refused rate is measured over: idle polls before it say nothing
_MEASURED: Final = 4096  # requests in that time that are counted at most


@dataclass(frozen=True, slots=True)
class PaceSettings:
    """Limits that the operator of this service sets."""

    rates_per_s: Mapping[str, float | None] = field(default_factory=dict)  # by operator name; None: no limit
    default_rate_per_s: float | None = None  # of operators not named; None: no limit
    # Requests at a time to one operator, for all its logs together. Fewer than the logs that read at the same time
    # times ReadSettings.fetch_concurrency let that have no effect; see also FetchSettings.prefetch.
    in_flight: int = 16
    sporadic: int = 3  # 429s that do not slow the pace, beyond a small share of the last answers

    def rate_of(self, operator: str) -> float | None:
        """The limit of requests per second to that operator, None for no limit."""
        return self.rates_per_s.get(operator, self.default_rate_per_s)


class Slots:
    """A semaphore whose size may change. A smaller one holds once that many more have left than came."""

    def __init__(self, size: int) -> None:
        self._semaphore = asyncio.Semaphore(size)
        self._size = size
        self._excess = 0  # that are to leave without making room

    async def __aenter__(self) -> None:
        await self._semaphore.acquire()

    async def __aexit__(self, *_: object) -> None:
        self._leave()

    def resize(self, size: int) -> None:
        """Let `size` in from now on; nobody who is in has to leave."""
        self._excess += max(0, self._size - size)
        for _ in range(size - self._size):
            self._leave()
        self._size = size

    def _leave(self) -> None:
        if self._excess:
            self._excess -= 1
        else:
            self._semaphore.release()


class Pacer:
    """Admits requests to one operator, first come first served, at most `in_flight` at a time."""

    def __init__(self, settings: PaceSettings, operator: str, clock: Clock) -> None:
        self._operator = operator
        self._configured = settings.rate_of(operator)
        self._clock = clock
        self._sporadic = settings.sporadic
        self._slots = Slots(settings.in_flight)
        self._queue = asyncio.Lock()
        self._waiting: asyncio.Future[None] | None = None  # of the first in the queue, for its time
        self._rate = self._configured
        self._refused = 0.0  # requests per second when the last 429 came
        self._tokens = 1.0
        self._filled_at = self._changed_at = clock.monotonic()
        self._resume_at = self._refused_at = self._slowed_at = float("-inf")
        self._refusals = 0  # 429s since the last answer that was none
        self._admitted: deque[float] = deque(maxlen=_MEASURED)
        self._outcomes: deque[bool] = deque(maxlen=_OUTCOMES)  # of the last answers: whether it was a 429

    @property
    def rate_per_s(self) -> float | None:
        """The rate that holds now, None for no limit."""
        return self._rate

    @property
    def paused_s(self) -> float:
        """Seconds until requests go out again, as a 429 asked for; 0 when none is being waited for."""
        return max(0.0, self._resume_at - self._clock.monotonic())

    def apply(self, settings: PaceSettings) -> None:
        """Hold these limits from now on, for those too that wait. What a 429 slowed down is sped up by time alone."""
        is_slowed = self._rate is not None and self._rate != self._configured
        before, self._configured = self._rate, settings.rate_of(self._operator)
        self._rate = self._configured
        if is_slowed and before is not None:
            self._rate = before if self._configured is None else min(before, self._configured)
        self._sporadic = settings.sporadic
        self._slots.resize(settings.in_flight)
        if self._waiting is not None:
            self._waiting.cancel()

    @asynccontextmanager
    async def turn(self, waits: Waits | None = None) -> AsyncIterator[float]:
        """Wait for a turn and hold one slot; gives the time of admission, which `limited` and `answered` want back.

        What the pace takes is counted in `waits`; waiting for a slot is not, it waits for the answers to others.
        """
        async with self._slots:
            with nullcontext() if waits is None else waits.on("pacing"):
                now = await self._admission()
            yield now

    def limited(self, admitted_at: float, retry_after_s: float | None) -> None:
        """A request admitted then was answered 429. Those of the same burst slow the pace once."""
        now = self._clock.monotonic()
        self._outcomes.append(True)
        if admitted_at >= self._refused_at:
            self._refusals += 1
            self._refused_at = now
        if admitted_at >= self._slowed_at and not self._is_sporadic():
            self._slow_down(now)
        self._resume_at = max(self._resume_at, now + self._pause(retry_after_s))
        self._tokens, self._filled_at = 0.0, self._resume_at  # no burst right after the pause

    def answered(self, admitted_at: float) -> None:
        """A request admitted then was answered, and not by a 429."""
        self._outcomes.append(False)
        if admitted_at >= self._refused_at:
            self._refusals = 0
        now = self._clock.monotonic()
        if admitted_at >= self._slowed_at and self._rate is not None and now - self._changed_at >= RECOVERY_S:
            self._speed_up(now)

    async def _admission(self) -> float:
        async with self._queue:
            while (delay := self._delay()) > 0:
                await self._wait(delay)
            return self._admit()

    async def _wait(self, delay_s: float) -> None:
        """Sleep, or until other limits hold."""
        self._waiting = asyncio.ensure_future(self._clock.sleep(delay_s))
        try:
            await asyncio.wait([self._waiting])
        finally:
            self._waiting.cancel()
            self._waiting = None

    def _delay(self) -> float:
        now = self._clock.monotonic()
        if now < self._resume_at:
            return self._resume_at - now
        if self._rate is None:
            return 0.0
        capacity = max(1.0, self._rate * _BURST_S)
        self._tokens = min(capacity, self._tokens + (now - self._filled_at) * self._rate)
        self._filled_at = now
        # What rounding leaves missing of a token is nothing to sleep for.
        return 0.0 if self._tokens >= 1 - 1e-9 else (1 - self._tokens) / self._rate

    def _admit(self) -> float:
        now = self._clock.monotonic()
        self._tokens = max(0.0, self._tokens - 1)
        self._admitted.append(now)
        return now

    def _is_sporadic(self) -> bool:
        return sum(self._outcomes) <= self._sporadic + _SPORADIC_SHARE * len(self._outcomes)

    def _slow_down(self, now: float) -> None:
        current = self._measured_rate(now)
        refused = current if self._rate is None else min(current, self._rate)
        self._rate = max(MIN_RATE_PER_S, refused / 2)
        self._refused = 2 * self._rate  # with the floor: a rate that nobody set is no measure
        self._changed_at = self._slowed_at = now
        self._admitted.clear()

    def _speed_up(self, now: float) -> None:
        assert self._rate is not None
        self._changed_at = now
        self._rate *= RECOVERY_FACTOR
        if self._configured is not None:
            self._rate = min(self._rate, self._configured)
        elif self._rate >= RELEASE_FACTOR * self._refused:
            self._rate = None

    def _measured_rate(self, now: float) -> float:
        """Requests per second lately; of a single one 1, as nothing was measured."""
        count = sum(1 for at in self._admitted if now - at <= _MEASURED_S)
        if count < 2:
            return 1.0 if self._rate is None else self._rate
        return count / _MEASURED_S

    def _pause(self, retry_after_s: float | None) -> float:
        if retry_after_s is not None and retry_after_s > 0:
            return min(retry_after_s, MAX_PAUSE_S)
        return self._clock.backoff(max(self._refusals, 1), FIRST_PAUSE_S, MAX_UNASKED_PAUSE_S)


class Pacing:
    """The pacers of all operators; bounded by the number of operators that logs name."""

    def __init__(self, settings: PaceSettings | None = None, clock: Clock | None = None) -> None:
        self._settings = settings or PaceSettings()
        self._clock = clock or Clock()
        self._pacers: dict[str, Pacer] = {}

    def apply(self, settings: PaceSettings) -> None:
        """Hold these limits from now on."""
        self._settings = settings
        for pacer in self._pacers.values():
            pacer.apply(settings)

    def of(self, operator: str) -> Pacer:
        """Return the operator's pacer; the same one each time."""
        if operator not in self._pacers:
            self._pacers[operator] = Pacer(self._settings, operator, self._clock)
        return self._pacers[operator]
