"""Work goes on until it is done or the process is to end, and what it raises is not lost."""

from __future__ import annotations

import asyncio

import pytest

from certstream.app.until_stop import finished


async def test_work_that_ends_is_finished_and_leaves_nobody_waiting() -> None:
    stop = asyncio.Event()
    before = asyncio.all_tasks()
    assert await finished(asyncio.sleep(0), stop)
    assert asyncio.all_tasks() == before


async def test_work_is_cancelled_and_awaited_once_stop_is_set() -> None:
    stop, steps = asyncio.Event(), []

    async def work() -> None:
        try:
            stop.set()
            await asyncio.Event().wait()
        finally:
            await asyncio.sleep(0)
            steps.append("cleaned up")

    assert not await finished(work(), stop)
    assert steps == ["cleaned up"]


async def test_what_the_work_raises_is_raised() -> None:
    async def work() -> None:
        raise ValueError("no good")

    with pytest.raises(ValueError, match="no good"):
        await finished(work(), asyncio.Event())


async def test_whoever_is_cancelled_cancels_the_work() -> None:
    begun, cancelled = asyncio.Event(), asyncio.Event()

    async def work() -> None:
        begun.set()
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            cancelled.set()
            raise

    task = asyncio.create_task(finished(work(), asyncio.Event()))
    await begun.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert cancelled.is_set()
