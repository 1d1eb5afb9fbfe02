"""A stream that is connected again whenever it ends."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import aclosing
from dataclasses import dataclass
from typing import Final, TypeAlias

from certstream.client.clock import Clock
from certstream.errors import StreamError
from certstream.subscribe.connection import Opened, stream
from certstream.subscribe.options import ConnectOptions

FIRST_DELAY_S: Final = 1.0
MAX_DELAY_S: Final = 30.0
MAX_ASKED_DELAY_S: Final = 300.0  # of what a server may ask for with Retry-After
_STEADY_S: Final = 30.0  # a connection that lasted so long was a good one


@dataclass(frozen=True, slots=True)
class Lost:
    """The connection ended, or there was none; the next attempt comes by itself."""

    error: StreamError
    retry_in_s: float


Event: TypeAlias = Opened | bytes | Lost


class Backoff:
    """How long to wait between connections: doubling from a second to half a minute, jittered.

    Only a connection that lasted begins anew with a second; one that is closed as soon as it stands does not.
    """

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._failures = 0
        self._opened_at: float | None = None

    def opened(self) -> None:
        """The connection stands."""
        self._opened_at = self._clock.monotonic()

    def delay_s(self, asked_s: float | None = None) -> float:
        """The connection ended: seconds until the next, at least what the server asked for."""
        if self._opened_at is not None and self._clock.monotonic() - self._opened_at >= _STEADY_S:
            self._failures = 0
        self._opened_at = None
        self._failures += 1
        delay_s = self._clock.backoff(self._failures, FIRST_DELAY_S, MAX_DELAY_S)
        return max(delay_s, min(asked_s or 0.0, MAX_ASKED_DELAY_S))


async def follow(options: ConnectOptions, clock: Clock | None = None) -> AsyncGenerator[Event, None]:
    """Yield what comes, of one connection after the other, without end.

    Each ended connection is a `Lost` before it is waited for the next, also one that was refused: who does not want to
    try that again stops iterating. Raises ValueError where the environment's proxy cannot be used.
    """
    clock = clock or Clock()
    backoff = Backoff(clock)
    while True:
        try:
            async with aclosing(stream(options)) as events:
                async for event in events:
                    if isinstance(event, Opened):
                        backoff.opened()
                    yield event
        except StreamError as exc:
            lost = Lost(exc, backoff.delay_s(exc.retry_after_s))
        yield lost
        await clock.sleep(lost.retry_in_s)
