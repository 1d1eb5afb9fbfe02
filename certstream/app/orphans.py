"""What the first process of a container owes: processes that lost their parent are its children, and it waits for them.

Without it each of them, say a command that somebody started in the background of a `docker exec`, stays in the list of
processes for as long as the container runs.
"""

from __future__ import annotations

import asyncio
import os
from contextlib import suppress
from typing import Final

_INTERVAL_S: Final = 10.0
_PAUSE_S: Final = 1.0  # in which the event loop has long waited for those that it started


async def reap_orphans(*, interval_s: float = _INTERVAL_S, pause_s: float = _PAUSE_S) -> None:
    """Wait for ended children that nobody else waits for, until cancelled.

    A child that the event loop started is waited for by it as soon as it ends; what stays ended over the pause is an
    orphan. Children that threads of this process start and leave unwaited for that long are not provided for.
    """
    while True:
        await asyncio.sleep(interval_s)
        while (pid := _ended()) is not None:
            await asyncio.sleep(pause_s)
            if _ended() == pid:
                _wait_for(pid)


def _wait_for(pid: int) -> None:
    with suppress(ChildProcessError):
        os.waitpid(pid, os.WNOHANG)


def _ended() -> int | None:
    """Return a child that has ended and was not waited for, and leave it so."""
    try:
        found = os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)
    except ChildProcessError:  # there is none at all
        return None
    return None if found is None else found.si_pid
