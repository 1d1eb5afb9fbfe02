"""What is archived of each log, what of that is verified, and what is missing."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Final

from certstream.app.backfill import Ceiling, Tables
from certstream.app.coverage.report import CoverageReport, LogCoverage
from certstream.archive.coverage import Coverage
from certstream.archive.dropped import Dropped
from certstream.archive.table import Table
from certstream.archive.unparseable import Unparseable
from certstream.backfill.planner import Target, plan
from certstream.ct.types import LogInfo
from certstream.intervals import Intervals
from certstream.ledger import Ledger, Trust, ledger_beside

_NOTHING: Final = Intervals()


class CoverageReader:
    """Reads the tables again and again, each file once; safe for several threads, one of which reads at a time.

    Beside what `Coverage` holds, it has the intervals of the files with unparseable rows in memory.
    """

    def __init__(
        self, tables: Tables, cancelled: threading.Event | None = None, *, clock: Callable[[], float] = time.time
    ) -> None:
        """Once `cancelled` is set, a look that has files to read ends soon."""
        self._tables = tables
        self._cancelled = cancelled or threading.Event()
        self._clock = clock
        self._lock = threading.Lock()
        self._main = _TableLook(tables.main, self._cancelled)
        self._staging = None if tables.staging is None else _TableLook(tables.staging, self._cancelled)
        self._dropped = Dropped(tables.main)

    def report(
        self, logs: Sequence[LogInfo], ceilings: Mapping[str, Ceiling], missing: Mapping[str, Intervals] | None = None
    ) -> CoverageReport:
        """How these logs stand, and all others that the tables hold; it blocks: call it in a thread.

        A log's entries below its ceiling are a backfill's; `missing` adds what is missing above, by base_url. Raises
        StorageError, LookCancelledError.
        """
        with self._lock:
            for look in (self._main, self._staging):
                if look is not None:
                    look.refresh()
            known = {log.base_url for log in logs}
            others = [LogInfo(url, url, "rfc6962", "") for url in sorted(self._urls() - known)]
            found = [
                self._log(log, ceilings.get(log.base_url), (missing or {}).get(log.base_url, _NOTHING), log in others)
                for log in (*logs, *others)
            ]
            return CoverageReport(self._tables.main, self._tables.staging, self._clock(), tuple(found))

    def lacks_main(self) -> bool:
        """Whether there was no archive at the last look."""
        return not self._main.is_there

    def lacks_staging(self) -> bool:
        """Whether there was no table at the last look where one of staging was named."""
        return self._staging is not None and not self._staging.is_there

    def _urls(self) -> set[str]:
        looks = [look for look in (self._main, self._staging) if look is not None]
        return {url for look in looks for url in look.coverage.logs()} | set(self._dropped.logs())

    def _log(self, log: LogInfo, ceiling: Ceiling | None, further: Intervals, is_other: bool) -> LogCoverage:
        url = log.base_url
        main, staged = self._main.coverage.of(url), _NOTHING
        trust, unparseable = self._main.trust(url).within(main), self._main.unparseable.of(url)
        if self._staging is not None:
            staged = self._staging.coverage.of(url) - main
            of_staged = self._staging.trust(url).within(staged)
            trust = Trust(*(getattr(trust, kind) | getattr(of_staged, kind) for kind in Trust.__slots__))
            unparseable |= self._staging.unparseable.of(url) & staged
        dropped = self._dropped.of(url)
        missing = _missing(log, ceiling, main | staged, dropped)
        return LogCoverage(
            name=None if is_other else log.name,
            url=url,
            ceiling=None if ceiling is None else ceiling.index,
            archived=main,
            staged=staged,
            verified=trust.verified,
            tainted=trust.tainted,
            altered=trust.altered,
            unparseable=unparseable,
            dropped=dropped - main - staged,
            # What was missing a moment ago may be archived by now
            missing=None if missing is None else missing | (further - main - staged),
        )

    def save(self) -> None:
        """Remember what was read of the files, for the next one who looks."""
        with self._lock:
            for look in (self._main, self._staging):
                if look is not None:
                    look.save()


def _missing(log: LogInfo, ceiling: Ceiling | None, archived: Intervals, dropped: Intervals) -> Intervals | None:
    """As a backfill that catches up sees it; None where that is not known."""
    if ceiling is None:
        return None
    (found,) = plan([Target(log, ceiling.index, ceiling.start_index, archived, dropped)]).logs
    return found.missing


class _TableLook:
    """What is known of one table, as last looked at."""

    def __init__(self, root: Path, cancelled: threading.Event) -> None:
        self._root = root
        self._cancelled = cancelled
        self._ledger = Ledger(ledger_beside(root))
        self._trusts: dict[str, Trust] = {}
        self.is_there = False
        self._begin()

    def _begin(self) -> None:
        self.coverage = Coverage(self._root, self._cancelled)
        self.unparseable = Unparseable(self._root, self._cancelled)

    def refresh(self) -> None:
        """Look again. Raises StorageError, LookCancelledError."""
        # Before the table: what is verified is never ahead of the rows, so all of it is of rows that are seen then
        self._trusts = self._ledger.read()
        snapshot = Table(self._root).open()
        self.is_there = snapshot is not None
        if snapshot is None:
            self._begin()
            return
        self.coverage.refresh(snapshot)
        self.unparseable.refresh(snapshot)

    def trust(self, url: str) -> Trust:
        """What the ledger says of a log, whether its rows are there or not."""
        return self._trusts.get(url, Trust())

    def save(self) -> None:
        """Remember what was read."""
        self.coverage.save()
        self.unparseable.save()
