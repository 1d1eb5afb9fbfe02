"""What is held in threads is let go, whatever happens meanwhile."""

from __future__ import annotations

import asyncio
import gc
import threading
from pathlib import Path
from typing import Any

from certstream.app.threads import holding, in_thread
from certstream.errors import StorageError
from certstream.locks import FileLock


async def test_a_lock_that_is_taken_while_nobody_wants_it_any_more_is_let_go(tmp_path: Path) -> None:
    path = tmp_path / "lock"
    asked, answers = asyncio.Event(), threading.Event()
    loop = asyncio.get_running_loop()

    def lock() -> FileLock:
        loop.call_soon_threadsafe(asked.set)
        answers.wait()
        return FileLock(path, subject=path, error=StorageError)

    async def work() -> None:
        async with holding(lock):
            raise AssertionError("this is not reached")

    working = asyncio.create_task(work())
    await asked.wait()
    for _ in range(2):
        working.cancel()
        await asyncio.sleep(0)
    answers.set()
    await asyncio.wait([working])
    assert working.cancelled()
    with FileLock(path, subject=path, error=StorageError):
        pass


async def test_work_that_is_told_to_end_may_raise_and_nobody_complains() -> None:
    loop = asyncio.get_running_loop()
    complaints: list[dict[str, Any]] = []
    loop.set_exception_handler(lambda _loop, context: complaints.append(context))
    began, told = asyncio.Event(), threading.Event()

    def work(cancelled: threading.Event) -> None:
        loop.call_soon_threadsafe(began.set)
        if cancelled.wait(20):
            told.set()
        raise StorageError("not finished")

    working = asyncio.create_task(in_thread(work, asyncio.Event()))
    await began.wait()
    working.cancel()
    await asyncio.wait([working])
    assert working.cancelled()
    assert told.is_set()
    del working
    gc.collect()
    assert complaints == []
