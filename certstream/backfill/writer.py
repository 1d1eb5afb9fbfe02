"""Rows into the destination, in a thread of its own, committed in time."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import structlog

from certstream.backfill.destination import Destination, Written
from certstream.backfill.thread import WorkThread, nothing
from certstream.ct.types import LogInfo
from certstream.errors import StorageError
from certstream.ledger import Trust

if TYPE_CHECKING:
    import pyarrow as pa

_BATCHES: Final = 2  # decoded, and waiting for the destination

logger: structlog.stdlib.BoundLogger = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class CommitSettings:
    """When written rows are committed."""

    rows: int = 100_000  # in one commit at most
    interval_s: float = 10.0  # that a written row waits at most, about


class Writer:
    """Writes what `put` was given, and commits; `run` until `end`.

    Two batches wait at most, `put` beyond that. All calls of the destination come from one thread.
    """

    def __init__(
        self,
        destination: Destination,
        settings: CommitSettings,
        *,
        on_write: Callable[[LogInfo, int], None],
        on_commit: Callable[[Counter[str], Written], None],
    ) -> None:
        self._destination = destination
        self._settings = settings
        self._on_write = on_write
        self._on_commit = on_commit  # rows by base_url, and what became of them
        self._queue: asyncio.Queue[tuple[LogInfo, pa.RecordBatch, Trust] | None] = asyncio.Queue(_BATCHES)
        self._pending: Counter[str] = Counter()  # rows written and not committed, by base_url
        self._due_at: float | None = None  # of the event loop's clock
        self._thread = WorkThread("backfill-write")

    @property
    def pending(self) -> int:
        """Rows written and not committed."""
        return self._pending.total()

    async def put(self, log: LogInfo, rows: pa.RecordBatch, trust: Trust) -> None:
        """Hand over rows of one log, at least one, their indices ascending, and what is known of them."""
        await self._queue.put((log, rows, trust))

    async def end(self) -> None:
        """Nothing more comes: `run` writes and commits what it was given, and returns."""
        await self._queue.put(None)

    def end_now(self) -> None:
        """Likewise, without what is not being written yet."""
        while not self._queue.empty():
            self._queue.get_nowait()
        self._queue.put_nowait(None)

    async def run(self) -> None:
        """Write and commit until `end`. Raises StorageError."""
        while True:
            if self._due_at is not None and asyncio.get_running_loop().time() >= self._due_at:
                await self._commit()
            try:
                async with asyncio.timeout_at(self._due_at):
                    given = await self._queue.get()
            except TimeoutError:
                continue
            if given is None:
                break
            await self._write(*given)
            del given  # megabytes, while the next one is waited for
        await self._commit()

    async def close(self, within_s: float) -> None:
        """Have the destination abandon what is not committed, and end the thread.

        Waits so long at most: a destination that hangs does it later.
        """
        await self._thread.close(within_s, self._abandon if self._pending else nothing)

    async def _write(self, log: LogInfo, rows: pa.RecordBatch, trust: Trust) -> None:
        if self._pending and self.pending + rows.num_rows > self._settings.rows:
            await self._commit()
        if self._due_at is None:
            self._due_at = asyncio.get_running_loop().time() + self._settings.interval_s
        self._pending[log.base_url] += rows.num_rows
        await self._thread.run(self._destination.write, rows, trust)
        self._on_write(log, rows.num_rows)

    async def _commit(self) -> None:
        if self._pending:
            written = await self._thread.run(self._destination.commit)
            self._on_commit(self._pending, written)
        self._pending, self._due_at = Counter(), None

    def _abandon(self) -> None:
        try:
            self._destination.abandon()
        except StorageError as exc:
            logger.warning("what was written and not committed could not be removed", error=str(exc))
