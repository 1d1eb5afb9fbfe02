"""Blocking work in a thread, told to end when the event loop says so."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import TypeVar

from certstream.locks import FileLock

T = TypeVar("T")


async def in_thread(work: Callable[[threading.Event], T], stop: asyncio.Event) -> T:
    """Run `work` in a thread. Its event is set once `stop` is, or when this is cancelled; either way it is awaited."""
    cancelled = threading.Event()
    running = asyncio.ensure_future(asyncio.to_thread(work, cancelled))
    heed = asyncio.create_task(stop.wait(), name="stop")
    try:
        await asyncio.wait([running, heed], return_when=asyncio.FIRST_COMPLETED)
        if not running.done():
            cancelled.set()
        return await asyncio.shield(running)
    except asyncio.CancelledError:
        cancelled.set()
        running.add_done_callback(_heard)
        raise
    finally:
        heed.cancel()
        await _ended(running)


@asynccontextmanager
async def holding(lock: Callable[[], FileLock]) -> AsyncIterator[None]:
    """Hold a lock, which is made, taken and let go in threads: its disk may hang. Raises what taking it raises."""

    def take() -> FileLock:
        taken = lock()
        taken.take()
        return taken

    taking = asyncio.ensure_future(asyncio.to_thread(take))
    try:
        await asyncio.shield(taking)
        yield
    finally:
        try:
            await _ended(taking)
        finally:  # cancelled once more or not, what was taken is let go
            if not taking.cancelled() and taking.exception() is None:
                await _ended(asyncio.ensure_future(asyncio.to_thread(taking.result().release)))


def _heard(running: asyncio.Future[T]) -> None:
    """Nobody wants what it raises any more: asyncio does not say then that nobody took it."""
    if not running.cancelled():
        running.exception()


async def _ended(running: asyncio.Future[T]) -> None:
    """Wait for it, whatever it raises; a further cancellation comes after that."""
    again: asyncio.CancelledError | None = None
    while not running.done():
        try:
            await asyncio.wait([running])
        except asyncio.CancelledError as exc:
            again = exc
    if again is not None:
        raise again
