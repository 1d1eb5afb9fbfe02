"""How the archive of the live feed stands: as a whole, and of each log."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import structlog

from certstream.archive_metrics import ArchiveMetrics
from certstream.ct.types import LogInfo
from certstream.intervals import Intervals

logger: structlog.stdlib.BoundLogger = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class SinkSettings:
    """When the sink commits, and what it does while it cannot."""

    batch_rows: int = 10_000  # that are committed as soon as there are as many
    flush_interval_s: float = 30.0  # that a row waits at most
    buffer_bytes: int = 128 << 20  # of rows that wait; past it they are let go
    retry_initial_s: float = 1.0  # wait after the first failure; doubles
    retry_max_s: float = 60.0
    hung_after_s: float = 60.0  # after which a commit that has not ended counts as a failure
    begin_wait_s: float = 5.0  # that a log's first entry waits for the archive at most
    close_wait_s: float = 3.0  # that the last commits may take

    def wait_s(self, failures: int, chance: float) -> float:
        """Until the next attempt, after so many failures in a row; `chance`, in [0, 1), takes up to a half off."""
        longest_s = min(self.retry_max_s, self.retry_initial_s * 2.0 ** min(failures - 1, 32))
        return longest_s * (1 - chance / 2)


@dataclass(frozen=True, slots=True)
class SinkStatus:
    """How the archive is doing."""

    state: Literal["healthy", "failing"]
    last_error: str | None  # of the last failure, also when it is over
    last_commit_s: float | None  # Unix time
    buffered_rows: int
    buffered_bytes: int
    lag_entries: int  # streamed and not in the table, of all logs
    free_disk_bytes: int | None


class ArchivedLog:
    """How one followed log stands.

    A position says that everything below it is settled. One that a table has from before this run may be wrong: the
    log was created anew, or once followed from a `start` beyond its tree. It is doubted, then: from `first` on, what is
    settled counts alone.
    """

    def __init__(self, info: LogInfo, first: int, streamed: int, waits_until: float) -> None:
        self.info = info
        self.first = first  # where the archive begins if the table does not say
        self.waits_until = waits_until  # for the table, of the event loop's clock
        self.streamed = streamed
        self.archived: int | None = None  # None until the table was asked
        self.is_doubted = False
        self.is_left = False  # streamed no more, and forgotten once none of its rows is in the buffer
        self._settled = Intervals()  # in the table or dropped on purpose, from `base` on

    @property
    def base(self) -> int | None:
        """What is below it is a backfill's, all from there on that is streamed the sink's; None as `archived`."""
        return self.first if self.is_doubted else self.archived

    def settle(self, archived: int, settled: Intervals) -> None:
        """Learn from the table its position, and what is settled from `first` or the position on."""
        if self.archived is None or self.is_doubted:
            self.is_doubted = settled.first_gap(self.first) < archived
        self.archived, self._settled = archived, settled

    def announce(self, missing: int) -> None:
        """Say how it stands, with so many entries to be read again."""
        how = {"log": self.info.name, "position": self.archived, "streamed": self.streamed}
        logger.info("archiving log", **how, missing=missing)
        if self.is_doubted:
            logger.warning(
                "archive lacks rows below its position of the log, so its rows are looked at instead: the log was "
                "created anew, or is followed from an earlier index than before",
                **how,
                first=self.first,
            )

    def leave(self, missing: int) -> None:
        """It is streamed no more, with so many entries to be read again."""
        self.is_left = True
        if missing:
            logger.warning(
                "log is left with entries missing in the archive: following it again gets them, or a backfill",
                log=self.info.name,
                missing=missing,
            )

    def open(self) -> Intervals:
        """What is streamed and not settled."""
        if self.archived is None:
            return Intervals.of((self.first, self.streamed))
        return Intervals.of((self.base or 0, self.streamed)) - self._settled


class ArchivedLogs(dict[str, ArchivedLog]):
    """The logs that are streamed, and those left that have rows in the buffer, by URL; with what metrics show of them.

    Bounded by the number of logs that are configured.
    """

    def __init__(self, metrics: ArchiveMetrics) -> None:
        super().__init__()
        self._metrics = metrics

    def add(self, log: ArchivedLog) -> None:
        """Take up a log, under its URL."""
        self[log.info.base_url] = log
        self._show(log)

    def come_again(self, log: ArchivedLog, info: LogInfo) -> None:
        """Where it was left, a log is streamed again, maybe under another name."""
        if log.is_left:
            log.is_left = False
            self._hide(log)
            log.info = info
            self._show(log)

    def forget_left(self, held: Callable[[str], Intervals]) -> None:
        """Let go of the logs that were left, but those that have rows in the buffer: these move their positions."""
        for url, log in list(self.items()):
            if log.is_left and not len(held(url)):
                self._hide(self.pop(url))

    def _show(self, log: ArchivedLog) -> None:
        metrics = self._metrics.log(log.info.name)
        metrics.lag_entries.set_function(lambda: log.open().count)
        metrics.position.set(log.archived or 0)

    def _hide(self, log: ArchivedLog) -> None:
        """Unless another log has the same name."""
        if not any(other.info.name == log.info.name for other in self.values() if other is not log):
            self._metrics.forget_log(log.info.name)
