"""Time and chance as parameters, so that tests decide both."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Clock:
    """Where waiting parts get time, sleep and jitter from."""

    monotonic: Callable[[], float] = time.monotonic  # seconds, never backwards
    wall: Callable[[], float] = time.time  # Unix seconds
    sleep: Callable[[float], Awaitable[None]] = asyncio.sleep
    random: Callable[[], float] = random.random  # [0, 1)

    def jittered(self, delay_s: float) -> float:
        """`delay_s` shortened by up to a half, so that what failed together does not come back together."""
        return delay_s * (1 - self.random() / 2)

    def backoff(self, failures: int, first_s: float, max_s: float) -> float:
        """Seconds to wait after `failures` (1 or more) in a row: doubling from `first_s` to `max_s`, jittered."""
        return self.jittered(min(max_s, first_s * 2.0 ** min(failures - 1, 32)))
