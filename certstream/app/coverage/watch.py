"""How the archive stands, as the running service tells it: asked for over HTTP, and now and then as metrics."""

from __future__ import annotations

import asyncio
import math
import threading
import time
from collections import defaultdict
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from typing import Final

import structlog

from certstream.app.backfill import Ceiling, Tables
from certstream.app.coverage.reader import CoverageReader
from certstream.app.coverage.report import CoverageReport, LogCoverage
from certstream.archive.coverage import LookCancelledError
from certstream.archive_metrics import COVERAGE_KINDS, CoverageMetrics
from certstream.ct.types import LogInfo
from certstream.errors import StorageError
from certstream.intervals import Intervals

_FRESH_S: Final = 2.0  # that an answer is given again
_INTERVAL_S: Final = 60.0  # between two looks for the metrics

logger: structlog.stdlib.BoundLogger = structlog.get_logger(__name__)


class CoverageWatch:
    """Looks at the tables in a thread, one look at a time, and no more often than its answers grow stale."""

    def __init__(
        self,
        tables: Tables,
        metrics: CoverageMetrics,
        *,
        logs: Callable[[], Sequence[LogInfo]],
        ceilings: Callable[[], Mapping[str, Ceiling]],
        missing: Callable[[str], Intervals],
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], Awaitable[object]] = asyncio.sleep,
    ) -> None:
        """`ceilings` says up to where the logs are a backfill's, and `missing` what is missing of one above that."""
        self._metrics = metrics
        self._logs = logs
        self._ceilings = ceilings
        self._missing = missing
        self._clock = clock
        self._sleep = sleep
        self._cancelled = threading.Event()
        self._reader = CoverageReader(tables, self._cancelled)
        self._looking = asyncio.Lock()
        self._answer: tuple[float, bytes] | None = None  # and when it was given

    def close(self) -> None:
        """Let a look that goes on end soon."""
        self._cancelled.set()

    async def json(self) -> bytes:
        """How all logs stand, as one JSON object; at most _FRESH_S old. Raises StorageError."""
        async with self._looking:
            if self._answer is None or self._clock() - self._answer[0] > _FRESH_S:
                try:
                    self._answer = self._clock(), (await self._look())[1]
                except LookCancelledError as exc:
                    raise StorageError("the service ends") from exc
            return self._answer[1]

    async def run(self, first: Callable[[], Awaitable[object]]) -> None:
        """Keep the metrics up to date until cancelled, from the moment on when `first` returns."""
        with suppress(TimeoutError):
            async with asyncio.timeout(_INTERVAL_S):
                await first()
        while True:
            try:
                async with self._looking:
                    began = self._clock()
                    report, answer = await self._look()
                    self._answer = began, answer
            except (StorageError, LookCancelledError) as exc:
                logger.debug("coverage cannot be looked at now", error=str(exc))
            else:
                self._metrics.show(_figures(report.logs))
            await self._sleep(_INTERVAL_S)

    async def _look(self) -> tuple[CoverageReport, bytes]:
        logs = self._logs()
        ceilings, missing = self._ceilings(), {log.base_url: self._missing(log.base_url) for log in logs}

        def look() -> tuple[CoverageReport, bytes]:
            report = self._reader.report(logs, ceilings, missing)
            return report, report.json()

        return await asyncio.to_thread(look)


def _figures(logs: Iterable[LogCoverage]) -> dict[str, dict[str, float]]:
    """How many indices of each kind, by the name of the log; NaN where that is not known."""
    figures: dict[str, dict[str, float]] = defaultdict(lambda: dict.fromkeys(COVERAGE_KINDS, 0))
    for log in logs:
        if log.name is not None:
            for kind in COVERAGE_KINDS:
                intervals = log.of(kind)
                figures[log.name][kind] += math.nan if intervals is None else intervals.count
    return figures
