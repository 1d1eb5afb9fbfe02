"""Whether the table can be written: what failed, since when, and when it is tried again."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Final

import structlog

from certstream.archive.sink.flush import CrashError
from certstream.archive.sink.standing import SinkSettings
from certstream.archive_metrics import ArchiveMetrics
from certstream.errors import StorageError

_HUNG: Final = "the table does not answer: a commit was begun {:.0f} s ago and has not ended"

logger: structlog.stdlib.BoundLogger = structlog.get_logger(__name__)


class Condition:
    """The sink's account of its attempts to commit; says in log and metrics when it changes."""

    def __init__(self, settings: SinkSettings, metrics: ArchiveMetrics, chance: Callable[[], float]) -> None:
        """`chance`, in [0, 1), spreads the attempts."""
        self._settings = settings
        self._metrics = metrics
        self._chance = chance
        self.failures = 0  # in a row
        self.retry_at = 0.0  # of the event loop's clock; where there are failures
        self.last_error: str | None = None  # also when it is over
        self._is_hung = False
        self._is_letting_go = False

    @property
    def is_failing(self) -> bool:
        """Whether the last attempt failed, or one hangs."""
        return self.failures > 0 or self._is_hung

    def worked(self, rows: int) -> None:
        """An attempt succeeded, with so many rows left."""
        if self.failures:
            logger.info("archive works again", rows=rows, failures=self.failures)
        self.failures = 0
        self._is_letting_go = False
        self._metrics.available.set(1)

    def failed(self, exc: StorageError) -> None:
        """An attempt failed."""
        self.failures += 1
        self.last_error = str(exc)
        self._metrics.errors.labels(exc.kind).inc()
        self._metrics.available.set(0)
        wait_s = self._settings.wait_s(self.failures, self._chance())
        self.retry_at = asyncio.get_running_loop().time() + wait_s
        if self.failures == 1:
            logger.warning(
                "archive cannot be written, rows are kept and tried again",
                error=self.last_error,
                kind=exc.kind,
                exc_info=exc if isinstance(exc, CrashError) else None,
            )

    def let_go(self, rows: int) -> None:
        """There was no room left, and so many rows were let go of."""
        self._metrics.entries_let_go.inc(rows)
        if not self._is_letting_go:
            self._is_letting_go = True
            logger.warning(
                "archive's buffer is full, its rows are let go of and read again later",
                rows=rows,
                buffer_bytes=self._settings.buffer_bytes,
                error=self.last_error,
            )

    @contextmanager
    def watched(self) -> Iterator[None]:
        """Notice where what is done in here takes so long that it hangs, until it ends after all."""
        timer = asyncio.get_running_loop().call_later(self._settings.hung_after_s, self._hang)
        try:
            yield
        finally:
            timer.cancel()
            if self._is_hung:
                self._is_hung = False
                self._metrics.available.set(0 if self.failures else 1)
                logger.info("table answers again", failing=self.is_failing)

    def _hang(self) -> None:
        self._is_hung = True
        self.last_error = _HUNG.format(self._settings.hung_after_s)
        self._metrics.available.set(0)
        logger.warning("archive cannot be written, rows are kept", error=self.last_error)
