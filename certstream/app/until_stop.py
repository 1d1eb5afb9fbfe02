"""Work that is broken off when the process is to end."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable


async def finished(work: Awaitable[object], stop: asyncio.Event) -> bool:
    """Do that work; False where `stop` was set before its end, and it is cancelled. Raises what the work raises."""
    working, stopped = asyncio.ensure_future(work), asyncio.ensure_future(stop.wait())
    try:
        await asyncio.wait([working, stopped], return_when=asyncio.FIRST_COMPLETED)
    finally:
        working.cancel()
        stopped.cancel()
        await asyncio.wait([working, stopped])
    if working.cancelled():
        return False
    working.result()
    return True
