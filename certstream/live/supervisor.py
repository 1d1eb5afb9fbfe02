"""Keeps all tailers running, each for itself."""

from __future__ import annotations

import asyncio
from collections.abc import Collection, Mapping, Sequence
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

    def __init__(self, tailers: Sequence[Tailer] = (), clock: Clock | None = None) -> None:
        self._tailers = list(tailers)
        self._clock = clock or Clock()
        self._tasks: dict[asyncio.Task[None], Tailer] = {}
        self._ending: set[Tailer] = set()  # that are not started again
        self._group: asyncio.TaskGroup | None = None  # while `run` runs
        self._stopped = asyncio.Event()

    def statuses(self) -> list[TailStatus]:
        """Say how each log is doing."""
        return [tailer.status() for tailer in self._tailers]

    async def run(self) -> None:
        """Run all tailers until `stop` is done; also without any."""
        async with asyncio.TaskGroup() as group:
            self._group = group
            for tailer in self._tailers:
                self._begin(tailer)
            await self._stopped.wait()

    def follow(self, tailer: Tailer) -> None:
        """Run one more tailer: at once, or from `run` on; without effect after `stop`."""
        self._tailers.append(tailer)
        self._begin(tailer)

    async def leave(self, tailers: Collection[Tailer], budget_s: float) -> None:
        """End these tailers: at once, or after the batch in hand, but within `budget_s`. They are owned no more then.

        Where it is cancelled they end all the same, and `stop` waits for them.
        """
        leaving = {task: tailer for task, tailer in self._tasks.items() if tailer in tailers}
        await self._end(leaving, budget_s)
        if leaving:
            await asyncio.wait(leaving)
        self._tasks = {task: tailer for task, tailer in self._tasks.items() if task not in leaving}
        self._tailers = [tailer for tailer in self._tailers if tailer not in tailers]
        self._ending.difference_update(tailers)

    async def stop(self, budget_s: float) -> None:
        """End all tailers: at once, or after the batch in hand, but within `budget_s`; then `run` returns."""
        self._stopped.set()
        await self._end(dict(self._tasks), budget_s)

    def _begin(self, tailer: Tailer) -> None:
        if self._group is not None and not self._stopped.is_set():
            task = self._group.create_task(self._keep_running(tailer), name=f"tail:{tailer.log.name}")
            self._tasks[task] = tailer

    async def _end(self, tasks: Mapping[asyncio.Task[None], Tailer], budget_s: float) -> None:
        for task, tailer in tasks.items():
            self._ending.add(tailer)
            if not tailer.stop():
                task.cancel()
        if not tasks:
            return
        _, late = await asyncio.wait(tasks, timeout=budget_s)
        for task in late:
            logger.warning("batch in hand not finished in time", log=tasks[task].log.name, budget_s=budget_s)
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
            if tailer in self._ending:
                return
            await self._clock.sleep(delay_s)
