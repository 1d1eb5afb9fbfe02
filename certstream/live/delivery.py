"""What share of a log's growth is read in time: measured while it is followed, shown, and said when it changes."""

from __future__ import annotations

from typing import Final

import structlog

from certstream.client.clock import Clock
from certstream.client.waits import Waits
from certstream.ct.types import LogInfo
from certstream.live.share import LogShare, Share, ShareSettings
from certstream.metrics import LogMetrics

_TOO_SMALL: Final = 0.95
_GOOD_AGAIN: Final = 0.99

logger: structlog.stdlib.BoundLogger = structlog.get_logger(__name__)


class LogDelivery:
    """The share of one log. What keeps below 0.95 for a while is said once, and once when it is above 0.99 again."""

    def __init__(
        self, log: LogInfo, waits: Waits, metrics: LogMetrics, clock: Clock, settings: ShareSettings | None = None
    ) -> None:
        self._log = log
        self._waits = waits
        self._metrics = metrics
        self._clock = clock
        self._settings = settings or ShareSettings()
        self._share = Share(self._settings)
        self._below_since: float | None = None
        self._is_said = False

    @property
    def now(self) -> LogShare | None:
        """The share at the last `measure`; None before the log's first head."""
        return self._share.now

    def seen(self, due: int, position: int) -> None:
        """A head came: what is before `due` may be read, what is before `position` is."""
        self._share.seen(due, position, self._clock.monotonic(), self._waits.spent())

    def read(self, position: int) -> None:
        """Everything before `position` is read."""
        self._share.read(position)

    def measure(self, busy: float) -> None:
        """Look at how it stands, every `tick_s`; `busy`, 0 to 1, is how much the event loop was at work since."""
        share = self._share.tick(self._clock.monotonic(), self._waits.spent(), busy)
        if share is not None:
            self._metrics.delivery(share.share, share.cause)
            self._say(share)

    def _say(self, share: LogShare) -> None:
        now = self._clock.monotonic()
        if share.share >= _TOO_SMALL:
            self._below_since = None
        elif self._below_since is None:
            self._below_since = now
        if self._is_said and share.share > _GOOD_AGAIN:
            self._is_said = False
            logger.info("log is read in time again", log=self._log.name, url=self._log.base_url)
        below_s = 0.0 if self._below_since is None else now - self._below_since
        if self._below_since is not None and below_s >= self._settings.below_s and not self._is_said:
            self._is_said = True
            logger.warning(
                "log is not read in time",
                log=self._log.name,
                url=self._log.base_url,
                share=round(share.share, 2),
                cause=share.cause,
                late_entries=share.late,
            )
