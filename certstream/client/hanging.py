"""Blocking calls that may never return: each in a thread of its own, which nothing waits for, not even the end of the
process. A pool of threads would be full of them soon, and is waited for at the end.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any, TypeVar

T = TypeVar("T")


def begin(call: Callable[[], T], name: str) -> Future[T]:
    """Start a call in a thread with that name; what it returns or raises is the future's."""
    result: Future[T] = Future()
    result.set_running_or_notify_cancel()  # so that whoever waits may be cancelled, and this may not
    threading.Thread(target=_run, args=(call, result), name=name, daemon=True).start()
    return result


async def outcome(result: Future[T], patience_s: float, late: str) -> T:
    """What that call returns or raises; raises TimeoutError, which is an OSError, with `late` where it takes longer."""
    waiting = asyncio.wrap_future(result)
    try:
        done, _ = await asyncio.wait([waiting], timeout=patience_s)
        if done:
            return waiting.result()
    finally:
        waiting.cancel()
    raise TimeoutError(late)


def _run(call: Callable[[], Any], result: Future[Any]) -> None:
    try:
        result.set_result(call())
    except Exception as exc:  # noqa: BLE001 -- raised where somebody waits for it
        result.set_exception(exc)
