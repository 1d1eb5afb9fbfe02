"""Keeps all tailers running, each for itself."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Final

import structlog

from certstream.client.clock import Clock
from certstream.live.tailer import Tailer, TailStatus

_FIRST_RESTART_S: Final = 1.0
_LAST_RESTART_S: Final = 30.0
_FORGIVEN_AFTER_S: Final = 60.0  # of running, a crash counts as the first again

logger: structlog.stdlib.BoundLogger = structlog.get_logger(__name__)


class Supervisor:
    """Owns one task per tailer. A tailer that crashes is logged and started again; no other notices."""

    def __init__(self, tailers: Sequence[Tailer], clock: Clock | None = None) -> None:
        self._tailers = tuple(tailers)
        self._clock = clock or Clock()
        self._tasks: dict[asyncio.Task[None], Tailer] = {}
        self._stopped = asyncio.Event()

    def statuses(self) -> list[TailStatus]:
        """Say how each log is doing."""
        return [tailer.status() for tailer in self._tailers]

    async def run(self) -> None:
        """Run all tailers until `stop` is done; also without any."""
        async with asyncio.TaskGroup() as group:
            for tailer in self._tailers:
                if not self._stopped.is_set():
                    task = group.create_task(self._keep_running(tailer), name=f"tail:{tailer.log.name}")
                    self._tasks[task] = tailer
            await self._stopped.wait()

    async def stop(self, budget_s: float) -> None:
        """End all tailers: at once, or after the batch in hand, but within `budget_s`; then `run` returns."""
        self._stopped.set()
        for task, tailer in self._tasks.items():
            if not tailer.stop():
                task.cancel()
        if not self._tasks:
            return
        _, late = await asyncio.wait(self._tasks, timeout=budget_s)
        for task in late:
            logger.warning("batch in hand not finished in time", log=self._tasks[task].log.name, budget_s=budget_s)
            task.cancel()

    async def _keep_running(self, tailer: Tailer) -> None:
        crashes = 0
        while True:
            started = self._clock.monotonic()
            try:
                await tailer.run()
                return
            except Exception as exc:
                crashes = 1 if self._clock.monotonic() - started > _FORGIVEN_AFTER_S else crashes + 1
                delay_s = self._clock.backoff(crashes, _FIRST_RESTART_S, _LAST_RESTART_S)
                tailer.crashed(exc)
                logger.exception("tailer crashed, starting it again", log=tailer.log.name, delay_s=round(delay_s, 1))
            if self._stopped.is_set():
                return
            await self._clock.sleep(delay_s)
