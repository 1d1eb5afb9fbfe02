"""Whether the service keeps up with its logs: the share of all of them together, and what /health/ready makes of it."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from typing import Final, Protocol

import structlog

from certstream.client.clock import Clock
from certstream.delivery_metrics import DeliveryMetrics
from certstream.live.share import LogShare, ShareSettings, share_of_all
from certstream.live.tailer import TailStatus
from certstream.serve.health import NO_LIST, LateLog, Readiness

_WORST: Final = 5  # logs that are named

logger: structlog.stdlib.BoundLogger = structlog.get_logger(__name__)


class Logs(Protocol):
    """The logs that are followed."""

    def measure(self, busy: float) -> None:
        """Look at what is read in time of each, see LogDelivery."""

    def statuses(self) -> list[TailStatus]:
        """How each is doing."""


class DeliveryWatch:
    """Measures the share of each log while `run` runs, and how long that of all together has been too small."""

    def __init__(
        self,
        logs: Logs,
        metrics: DeliveryMetrics,
        min_share: Callable[[], float],
        *,
        lacks_lists: Callable[[], bool] = lambda: False,
        settings: ShareSettings | None = None,
        clock: Clock | None = None,
    ) -> None:
        """`min_share` is asked at each look: it may change. `lacks_lists`: none could be had of those asked."""
        self._logs = logs
        self._metrics = metrics
        self._min_share = min_share
        self._lacks_lists = lacks_lists
        self._settings = settings or ShareSettings()
        self._clock = clock or Clock()
        self._below_since: float | None = None
        self._is_said = False
        self.share: float | None = None  # of all logs together; None before one was measured

    async def run(self) -> None:
        """Measure every `tick_s`, in the event loop's thread, until cancelled."""
        while True:
            began, worked = self._clock.monotonic(), time.thread_time()
            await self._clock.sleep(self._settings.tick_s)
            passed = self._clock.monotonic() - began
            self.measure(min(1.0, (time.thread_time() - worked) / passed) if passed > 0 else 0.0)

    def measure(self, busy: float) -> None:
        """Measure once; `busy`, 0 to 1, is how much the event loop was at work since the last time."""
        self._logs.measure(busy)
        shares = [status.share for status in self._logs.statuses() if status.share is not None]
        self.share = share_of_all(shares) if shares else None
        self._metrics.share.set(math.nan if self.share is None else self.share)
        if self.share is None or self.share >= self._min_share():
            self._below_since = None
        elif self._below_since is None:
            self._below_since = self._clock.monotonic()
        self._say()

    def readiness(self) -> Readiness:
        """Whether to send clients here, and why not."""
        statuses = self._logs.statuses()
        ready = Readiness(share=self.share, min_share=self._min_share())
        if not statuses and self._lacks_lists():
            return Readiness(NO_LIST, ready.share, ready.min_share)
        if statuses and all(status.last_success_s is None for status in statuses):
            return Readiness("no log has answered yet", ready.share, ready.min_share)
        if not self._is_below:
            return ready
        reason = (
            f"of what the logs grew by in the last {self._settings.window_s:g} s, less than health.min_share was read "
            f"in time, for {self._below_s:.0f} s"
        )
        return Readiness(reason, ready.share, ready.min_share, self._worst(statuses))

    @property
    def _below_s(self) -> float:
        return 0.0 if self._below_since is None else self._clock.monotonic() - self._below_since

    @property
    def _is_below(self) -> bool:
        return self._below_since is not None and self._below_s >= self._settings.unready_s

    def _say(self) -> None:
        if self._is_below == self._is_said:
            return
        self._is_said = self._is_below
        if not self._is_said:
            logger.info("service keeps up with its logs again", share=_rounded(self.share))
            return
        worst = [f"{log.name}: {log.cause}" for log in self._worst(self._logs.statuses())]
        logger.warning("service does not keep up with its logs", share=_rounded(self.share), worst=worst)

    @staticmethod
    def _worst(statuses: list[TailStatus]) -> list[LateLog]:
        """The logs by which most is missing."""
        behind = [(status.log.name, status.share) for status in statuses if status.share and status.share.cause]
        behind.sort(key=lambda log: _missing(log[1]), reverse=True)
        return [LateLog(name, share.share, share.cause, share.late) for name, share in behind[:_WORST]]


def _missing(log: LogShare) -> float:
    return log.growth - log.in_time


def _rounded(share: float | None) -> float | None:
    return None if share is None else round(share, 2)
