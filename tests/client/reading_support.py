"""Time that tests decide, for everything that waits."""

from __future__ import annotations

import asyncio

from certstream.client.clock import Clock


class FakeTime:
    """Sleeping takes no time but moves the clock; chance shortens nothing, so waits are exact."""

    def __init__(self) -> None:
        self.now_s = 1_000.0
        self.offset_s = 1_800_000_000.0  # of the wall clock
        self.slept: list[float] = []
        self.clock = Clock(
            monotonic=lambda: self.now_s,
            wall=lambda: self.now_s + self.offset_s,
            sleep=self.sleep,
            random=lambda: 0.0,
        )

    async def sleep(self, delay_s: float) -> None:
        self.slept.append(delay_s)
        self.now_s += delay_s
        await asyncio.sleep(0)
