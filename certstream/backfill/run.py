"""A backfill from its plan to its result: fetch, decode and write at the same time."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Protocol

from prometheus_client import Counter, Gauge

from certstream.backfill.destination import Destination
from certstream.backfill.planner import Plan
from certstream.client.base import LogClient
from certstream.client.clock import Clock
from certstream.ct.types import LogInfo
from certstream.progress import Progress


@dataclass(frozen=True, slots=True)
class FailedRange:
    """Indices [start, stop) that a log did not give, also when it was asked again; they stay missing."""

    log: LogInfo
    start: int
    stop: int
    error: str


@dataclass(frozen=True, slots=True)
class BackfillSettings:
    """How a backfill goes about its work."""

    attempts: int = 3  # requests in a row without an entry, until a range is given up for now
    retry_initial_s: float = 1.0  # wait after the first of them; doubles
    retry_max_s: float = 30.0
    commit_rows: int = 100_000  # in one commit at most
    commit_interval_s: float = 10.0  # that a written row waits for its commit at most, about
    finish_s: float = 5.0  # that a run which is stopped may take for what it has in hand
    buffer_bytes: int = 64 << 20  # of fetched entries that wait for decoding


@dataclass(frozen=True, slots=True)
class Result:
    """What a backfill did; its counts are of what is committed."""

    planned: int  # missing indices at the beginning
    written: int
    skipped: int  # archived by somebody else meanwhile
    failed: tuple[FailedRange, ...]  # ascending per log, adjacent ones as one
    logs_done: int  # logs of which everything planned is there
    logs_failed: int  # logs with failed ranges
    interrupted: bool
    left: int  # of `planned`, not there at the end; failed ones included
    elapsed_s: float


class BackfillMetrics(Protocol):
    """What a backfill shows while it runs and of the last one."""

    running: Gauge  # 1 while one runs
    planned: Gauge  # missing indices at its beginning
    written: Counter  # rows committed
    skipped: Counter  # rows that had been archived meanwhile
    failed_ranges: Gauge  # of the last run
    last_success: Gauge  # Unix seconds: everything planned is there
    last_failure: Gauge  # Unix seconds: a range or the run failed


class Backfill:
    """One run of a plan; `run` it once."""

    def __init__(
        self,
        plan: Plan,
        *,
        client: Callable[[LogInfo], LogClient],
        destination: Destination,
        settings: BackfillSettings | None = None,
        progress: Progress | None = None,
        metrics: BackfillMetrics | None = None,
        hold: Callable[[], Awaitable[None]] | None = None,
        clock: Clock | None = None,
    ) -> None: ...

    async def run(self, stop: asyncio.Event) -> Result:
        """Fetch what is planned, until done or `stop`.

        Raises StorageError where the destination fails; what was committed before stays.
        """
        raise NotImplementedError
