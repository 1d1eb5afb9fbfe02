"""One thread for work that would hold up the event loop."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar, TypeVarTuple

T = TypeVar("T")
Ts = TypeVarTuple("Ts")


def nothing() -> None:
    """Work that shows that all work before it is done."""


class WorkThread:
    """Runs calls in a thread of its own, one after the other; cancelling one that runs does not end it."""

    def __init__(self, name: str) -> None:
        self._executor = ThreadPoolExecutor(1, thread_name_prefix=name)

    async def run(self, work: Callable[[*Ts], T], *args: *Ts) -> T:
        """Call it there; what it returns or raises."""
        return await asyncio.get_running_loop().run_in_executor(self._executor, work, *args)

    async def close(self, within_s: float, last: Callable[[], None] = nothing) -> None:
        """Call `last` after everything else, then end the thread. Waits so long at most: the rest happens later."""
        done = asyncio.get_running_loop().run_in_executor(self._executor, last)
        await asyncio.wait([done], timeout=within_s)
        self._executor.shutdown(wait=False)
