"""A tailer on a simulated log, with everything it published and every position it reported."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

from certstream.ct.types import EntryBatch, LogKind
from certstream.live.condition import TailSettings
from certstream.live.tailer import Start, Tailer
from certstream.metrics import LogState
from certstream.simulator.log import SimulatedLog
from tests.client.reading_support import Reader, whole_up_to

SETTINGS = TailSettings(retry_max_attempts=1)


class Follower:
    """Follows a log; checks at each step that positions move by what was published and by nothing else."""

    def __init__(
        self,
        reader: Reader,
        log: SimulatedLog,
        kind: LogKind,
        *,
        position: int | None = None,
        tree_size: int = 0,
        start: Start = "beginning",
        settings: TailSettings = SETTINGS,
        **read: float,
    ) -> None:
        self.reader = reader
        self.log = log
        self.batches: list[EntryBatch] = []
        self.moves: list[tuple[int, int]] = []  # what `advance` was called with
        self.states: list[LogState] = []
        self.begun: list[int] = []  # first index of each batch that publishing began with
        self.fails_on: int | None = None  # index whose batch cannot be published
        self.may_shrink = False  # the tree, as far as it is believed
        self.hold: asyncio.Event | None = None  # that publishing waits for
        self._waiting: list[asyncio.Future[None]] = []
        self.tailer = Tailer(
            reader.client(log, kind, **read),
            publish=self.publish,
            advance=self.advance,
            metrics=reader.http.metrics.log(log.name),
            position=position,
            tree_size=tree_size,
            start=start,
            settings=settings,
            clock=reader.time.clock,
        )
        reader.time.on_sleep = self.notify

    @property
    def position(self) -> int | None:
        return self.tailer.status().position

    @property
    def state(self) -> LogState:
        return self.tailer.status().state

    async def publish(self, batch: EntryBatch) -> None:
        self.begun.append(batch.start)
        self.notify()
        if self.hold is not None:
            await self.hold.wait()
        if self.fails_on is not None and batch.start <= self.fails_on < batch.stop:
            raise ValueError("cannot be published")
        self.batches.append(batch)

    def advance(self, position: int, tree_size: int) -> None:
        if self.moves:
            assert position == (self.batches[-1].stop if self.batches else self.moves[0][0])
            assert tree_size >= self.moves[-1][1] or self.may_shrink
        self.moves.append((position, tree_size))
        self.notify()

    def notify(self) -> None:
        if not self.states or self.states[-1] != self.state:
            self.states.append(self.state)
        waiting, self._waiting = self._waiting, []
        for future in waiting:
            if not future.done():
                future.set_result(None)

    async def until(self, predicate: Callable[[], bool]) -> None:
        """Wait until it holds; asked again at each move and each sleep of the tailer."""
        while not predicate():
            future = asyncio.get_running_loop().create_future()
            self._waiting.append(future)
            await future

    async def until_read(self, position: int) -> None:
        await self.until(lambda: self.position is not None and self.position >= position)

    def check(self, start: int) -> int:
        """Check that everything from `start` was published once, in order and whole; where it ends."""
        end = whole_up_to(self.log, self.batches, start)
        assert self.moves[-1][0] == end
        return end

    @asynccontextmanager
    async def running(self) -> AsyncIterator[asyncio.Task[None]]:
        task = asyncio.create_task(self.tailer.run())
        try:
            yield task
        finally:
            if not self.tailer.stop():
                task.cancel()
            await asyncio.gather(task, return_exceptions=True)
