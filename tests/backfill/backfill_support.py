"""Backfills of simulated logs into memory."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

import numpy as np
import pyarrow as pa

from certstream.backfill.destination import Written
from certstream.backfill.planner import Plan, Target, plan
from certstream.backfill.result import Result
from certstream.backfill.run import Backfill, BackfillSettings
from certstream.client.base import LogClient
from certstream.ct.types import LogInfo, LogKind
from certstream.errors import StorageError
from certstream.intervals import Intervals
from certstream.ledger import Trust
from certstream.simulator.log import SimulatedLog
from tests.client.reading_support import Reader


class Memory:
    """A destination that keeps its rows, those not committed apart; notes what is asked of it and from where."""

    def __init__(self, *, archived: Intervals | None = None) -> None:
        self.visible: list[pa.RecordBatch] = []
        self.pending: list[pa.RecordBatch] = []
        self.commits: list[int] = []  # rows in each
        self.trust: dict[str, Trust] = {}  # of visible rows, by base_url
        self._pending_trust: list[tuple[str, Trust]] = []
        self.abandoned = 0
        self.threads: set[str] = set()
        self.archived = archived or Intervals()  # by somebody else meanwhile
        self.on_write: Callable[[pa.RecordBatch], None] = lambda rows: None
        self.on_commit: Callable[[], None] = lambda: None

    def write(self, rows: pa.RecordBatch, trust: Trust) -> None:
        self.threads.add(threading.current_thread().name)
        indices = rows["cert_index"].to_numpy()
        assert (np.diff(indices) > 0).all()
        assert len(rows["source_url"].unique()) == 1
        self.on_write(rows)
        self.pending.append(rows)
        self._pending_trust.append((rows["source_url"][0].as_py(), trust))

    def commit(self) -> Written:
        self.threads.add(threading.current_thread().name)
        self.on_commit()
        inserted = skipped = 0
        for rows in self.pending:
            there = self.archived.contains(rows["cert_index"].to_numpy())
            inserted += int((~there).sum())
            skipped += int(there.sum())
            self.visible.append(rows.filter(pa.array(~there)))
        self.commits.append(inserted + skipped)
        self.pending = []
        found, self._pending_trust = self._pending_trust, []
        for url, trust in found:
            self.trust[url] = self.trust.get(url, Trust()).and_then(trust)
        verified, tainted = (sum(known.count for known in each) for each in zip(*map(_both, found), strict=True))
        return Written(inserted, skipped, verified, tainted)

    def abandon(self) -> None:
        self.threads.add(threading.current_thread().name)
        self.abandoned += 1
        self.pending, self._pending_trust = [], []

    def indices(self, log: LogInfo) -> list[int]:
        """What is visible of a log, in the order in which it was written."""
        return [
            index
            for rows in self.visible
            if rows.num_rows and rows["source_url"][0].as_py() == log.base_url
            for index in rows["cert_index"].to_pylist()
        ]

    def holds(self, log: LogInfo) -> Intervals:
        """The same as a set, after checking that no index stands in it twice."""
        indices = self.indices(log)
        assert len(indices) == len(set(indices))
        return Intervals.from_indices(np.array(indices, np.int64))

    def rows(self) -> list[dict[str, Any]]:
        return [row for rows in self.visible for row in rows.to_pylist()]


def _both(found: tuple[str, Trust]) -> tuple[Intervals, Intervals]:
    return found[1].verified, found[1].tainted


def fails(after: int) -> Callable[[pa.RecordBatch], None]:
    """For `on_write`: the disk is full after so many batches."""
    left = after

    def on_write(rows: pa.RecordBatch) -> None:
        nonlocal left
        if not left:
            raise StorageError("no space left on device")
        left -= 1

    return on_write


def planned(log: SimulatedLog, kind: LogKind, ceiling: int, archived: Intervals | None = None) -> Plan:
    """Everything that is missing of one log."""
    return plan([Target(log.info(kind), ceiling, 0, archived or Intervals())])


class Run:
    """A backfill of logs that `reader` serves; time is its own."""

    def __init__(
        self,
        reader: Reader,
        plan: Plan,
        logs: Sequence[SimulatedLog],
        *,
        destination: Memory | None = None,
        settings: BackfillSettings | None = None,
        hold: Callable[[], Awaitable[None]] | None = None,
        **options: Any,
    ) -> None:
        self._reader = reader
        self._logs = {log.name: log for log in logs}
        self.destination = destination or Memory()
        self.stop = asyncio.Event()
        self.backfill = Backfill(
            plan,
            client=self._client,
            destination=self.destination,
            settings=settings,
            hold=hold,
            clock=reader.time.clock,
            **options,
        )

    def _client(self, log: LogInfo) -> LogClient:
        return self._reader.client(self._logs[log.name], log.kind)

    async def result(self) -> Result:
        """Run it, and check that nothing of it is left but its result."""
        try:
            return await self.backfill.run(self.stop)
        finally:
            assert own_tasks() == []
            assert own_threads() == []
            assert len(self.destination.threads) <= 1
            assert threading.main_thread().name not in self.destination.threads


def own_tasks() -> list[str]:
    """Tasks of backfills that still run, the fetching clients' with them."""
    return [task.get_name() for task in asyncio.all_tasks() if task.get_name().startswith(("backfill:", "fetch:"))]


def own_threads() -> list[threading.Thread]:
    """Threads of backfills that still run, after those were waited for that are just ending."""
    threads = [thread for thread in threading.enumerate() if thread.name.startswith("backfill-")]
    for thread in threads:
        thread.join(1.0)
    return [thread for thread in threads if thread.is_alive()]


async def once(reader: Reader, log: SimulatedLog, kind: LogKind, ceiling: int, **options: Any) -> tuple[Result, Memory]:
    """Fetch everything of one log below `ceiling`."""
    run = Run(reader, planned(log, kind, ceiling), [log], **options)
    return await run.result(), run.destination


def signal(event: asyncio.Event) -> Callable[..., None]:
    """Sets the event from another thread."""
    loop = asyncio.get_running_loop()

    def say(*_: object) -> None:
        loop.call_soon_threadsafe(event.set)

    return say


def events(lines: Sequence[Any], event: str) -> list[dict[str, Any]]:
    """The lines of one kind that capture_logs caught."""
    return [{key: value for key, value in line.items() if key != "event"} for line in lines if line["event"] == event]
