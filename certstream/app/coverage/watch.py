"""How the archive stands, as the running service tells it: asked for over HTTP, and now and then as metrics."""

from __future__ import annotations

import asyncio
import logging
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
_PATIENCE_S: Final = 30.0  # far more than tables of billions of rows take, but not for ever where a disk hangs

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
        patience_s: float = _PATIENCE_S,
    ) -> None:
        """`ceilings` says up to where the logs are a backfill's, and `missing` what is missing of one above that.

        Nobody waits longer than `patience_s` for a look; it goes on, and the next one waits for the same.
        """
        self._metrics = metrics
        self._logs = logs
        self._ceilings = ceilings
        self._missing = missing
        self._clock = clock
        self._sleep = sleep
        self._cancelled = threading.Event()
        self._reader = CoverageReader(tables, self._cancelled)
        self._patience_s = patience_s
        self._looking: asyncio.Task[CoverageReport] | None = None
        self._answer: tuple[float, bytes] | None = None  # and when looking for it began
        self._failed = False

    def close(self) -> None:
        """Let a look that goes on end soon."""
        self._cancelled.set()

    async def json(self) -> bytes:
        """How all logs stand, as JSON; at most _FRESH_S old, or of the look that goes on. Raises StorageError."""
        if self._answer is None or self._clock() - self._answer[0] > _FRESH_S:
            await self._looked()
        assert self._answer is not None
        return self._answer[1]

    async def run(self, first: Callable[[], Awaitable[object]]) -> None:
        """Keep the metrics up to date until cancelled, from the moment on when `first` returns."""
        with suppress(TimeoutError):
            async with asyncio.timeout(_INTERVAL_S):
                await first()
        while True:
            try:
                report = await self._looked()
            except StorageError as exc:
                self._metrics.show({log.name: dict.fromkeys(COVERAGE_KINDS, math.nan) for log in self._logs()})
                logger.log(
                    logging.DEBUG if self._failed else logging.WARNING,
                    "coverage of the archive cannot be told, it is looked at again each minute",
                    error=str(exc),
                )
                self._failed = True
            else:
                self._metrics.show(_figures(report.logs))
                self._failed = False
            await self._sleep(_INTERVAL_S)

    async def _looked(self) -> CoverageReport:
        """Look, or wait for the look that goes on. Raises StorageError."""
        if self._looking is None or self._looking.done():
            self._looking = asyncio.create_task(self._look(), name="coverage")
            self._looking.add_done_callback(lambda task: task.cancelled() or task.exception())  # it may be nobody's
        try:
            async with asyncio.timeout(self._patience_s):
                return await asyncio.shield(self._looking)
        except TimeoutError as exc:
            raise StorageError(f"the archive does not answer within {self._patience_s:g} s") from exc
        except LookCancelledError as exc:
            raise StorageError("the service ends") from exc

    async def _look(self) -> CoverageReport:
        began, logs = self._clock(), self._logs()
        ceilings, missing = self._ceilings(), {log.base_url: self._missing(log.base_url) for log in logs}

        def look() -> tuple[CoverageReport, bytes]:
            report = self._reader.report(logs, ceilings, missing)
            return report, report.json()

        report, answer = await asyncio.to_thread(look)
        self._answer = began, answer
        return report


def _figures(logs: Iterable[LogCoverage]) -> dict[str, dict[str, float]]:
    """How many indices of each kind, by the name of the log; NaN where that is not known."""
    figures: dict[str, dict[str, float]] = defaultdict(lambda: dict.fromkeys(COVERAGE_KINDS, 0))
    for log in logs:
        if log.name is not None:
            for kind in COVERAGE_KINDS:
                intervals = log.of(kind)
                figures[log.name][kind] += math.nan if intervals is None else intervals.count
    return figures
