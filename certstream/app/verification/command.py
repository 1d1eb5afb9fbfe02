"""`--verify`: what is archived and not verified is read from its logs again, proven, and compared with its rows."""

from __future__ import annotations

import asyncio
import sys
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Final

import pyarrow as pa
import structlog

from certstream.app.backfill import retry_settings
from certstream.app.settings import FollowedLog, backfill_fetch_settings, log_client
from certstream.app.threads import in_thread
from certstream.app.verification.verifying import Verifying
from certstream.archive.compare import ArchivedRows
from certstream.archive.coverage import LookCancelledError
from certstream.archive.table import Table
from certstream.backfill.destination import Written
from certstream.backfill.planner import LogPlan, Plan
from certstream.backfill.result import FailedRange, Result
from certstream.backfill.run import Backfill, BackfillSettings
from certstream.backfill.verify import Verification
from certstream.client.base import LogClient, ReadSettings
from certstream.client.http import HttpClient
from certstream.client.issuers import IssuerCache
from certstream.config import Config
from certstream.ct.types import LogInfo
from certstream.intervals import Intervals, shown_range
from certstream.ledger import Ledger, Trust, ledger_beside
from certstream.metrics import Metrics
from certstream.progress import Progress
from certstream.signals import Signals
from certstream.terminal import aligned, printable

_NOTHING: Final = "nothing to verify"
_NO_KEY: Final = "the log's key is not known"
_OTHERWISE: Final = "the archived row is not what the log has"
_LINES: Final = 100  # of a log, in the table of what could not be verified

logger: structlog.stdlib.BoundLogger = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Unverified:
    """What could not be verified of a log, and why."""

    log: LogInfo
    start: int
    stop: int
    why: str


class Comparison:
    """Takes, in place of a table, what a log has; notes in the ledger what of that is archived like this, and what not.

    All is called in one thread at a time, but `otherwise`, which is looked at when all is over.
    """

    def __init__(
        self, root: Path, cancelled: threading.Event | None = None, *, ending: Callable[[], bool] = lambda: False
    ) -> None:
        """`ending` as of a ledger."""
        self.rows = ArchivedRows(root, cancelled)
        self.otherwise: dict[str, Intervals] = {}  # archived, and not what the log has; by base_url
        self._ledger = Ledger(ledger_beside(root), ending=ending)
        self._found: dict[str, Trust] = {}
        self._lines = _LINES  # left, of all logs

    def write(self, rows: pa.RecordBatch, trust: Trust) -> None:
        """Compare the proven rows of a log with the archived ones. Raises StorageError."""
        url = rows.column("source_url")[0].as_py()
        same, otherwise = self.rows.like(rows)
        # What a certificate is not that of is told of the row that was compared
        found = Trust(trust.verified & same, otherwise, trust.altered & same)
        self._found[url] = self._found.get(url, Trust()).and_then(found)
        for start, stop in otherwise:
            if self._lines:
                self._lines -= 1
                logger.warning("archived row is not what the log has", url=url, start=start, stop=stop)
        self.otherwise[url] = self.otherwise.get(url, Intervals()) | otherwise

    def commit(self) -> Written:
        """Make what was found durable. Raises StorageError."""
        found, self._found = self._found, {}
        self._ledger.note(found, fresh={url: trust.verified for url, trust in found.items()})
        self._forget_dropped(found)
        verified = sum(trust.verified.count for trust in found.values())
        tainted = sum(trust.tainted.count for trust in found.values())
        return Written(verified, 0, verified, tainted)

    def _forget_dropped(self, found: Mapping[str, Trust]) -> None:
        """Rows may have gone since they were compared, and with them what was known of them until then."""
        there = self.rows.refreshed()
        about = {url: trust.verified | trust.tainted | trust.altered for url, trust in found.items()}
        gone = {url: indices - there.of(url) for url, indices in about.items()}
        if any(map(len, gone.values())):
            self._ledger.forget(gone)

    def abandon(self) -> None:
        """Forget what is not durable."""
        self._found = {}


class VerifyReport:
    """What `--verify` logs."""

    def planned(self, plan: Plan) -> None:
        """One line per log with anything to do, and one for all."""
        for each in plan.logs:
            logger.info("log is to be verified", log=each.log.name, ranges=len(each.missing), indices=each.indices)
        logger.info("verification planned", logs=len(plan.logs), indices=plan.indices)

    def ended(self, result: Result) -> None:
        """The last line."""
        figures = {
            "records_verified": result.verified,
            "records_tainted": result.tainted,
            "left": result.planned - result.verified,
            "elapsed_s": round(result.elapsed_s, 1),
        }
        if result.interrupted:
            logger.info("verification interrupted", **figures)
        else:
            logger.info("verification complete", **figures)

    def failed(self, result: Result, error: BaseException) -> None:
        """Likewise, of one that an error ended."""
        logger.error("verification failed", error=f"{type(error).__name__}: {error}", records_verified=result.verified)


async def verify_archive(
    config: Config, root: Path, logs: Sequence[FollowedLog], verifying: Verifying, settings: BackfillSettings
) -> int:
    """Verify what is archived of these logs and not verified; 0 where all of it is, in the end.

    Prints what could not be verified. Raises StorageError.
    """
    with Signals(hang_up_ends=True) as signals:
        try:
            todo, comparison = await in_thread(partial(_survey, root, logs, signals.stop.is_set), signals.stop)
        except LookCancelledError:
            logger.info("verification interrupted", records_verified=0)
            return 1
        if comparison is None or not todo:
            logger.info(_NOTHING)
            return 0
        unverified = [
            Unverified(each.info, start, stop, _NO_KEY)
            for each in logs
            if each.info.key is None
            for start, stop in todo.get(each.info.base_url, Intervals())
        ]
        infos = [each.info for each in logs if each.info.key is not None and each.info.base_url in todo]
        plan = Plan(tuple(LogPlan(info, todo[info.base_url]) for info in infos), ())
        result = await _read_again(config, plan, comparison, verifying, settings, signals.stop)
    unverified += [_unproven(failed) for failed in result.failed]
    unverified += [
        Unverified(info, start, stop, _OTHERWISE)
        for info in infos
        for start, stop in comparison.otherwise.get(info.base_url, Intervals())
    ]
    if unverified:
        print(unverified_table(unverified), end="")
    return 1 if unverified or result.interrupted else 0


def _survey(
    root: Path, logs: Sequence[FollowedLog], ending: Callable[[], bool], cancelled: threading.Event
) -> tuple[dict[str, Intervals], Comparison | None]:
    """What is to be verified, by base_url; None where there is no table."""
    if Table(root).open() is None:
        return {}, None
    comparison = Comparison(root, cancelled, ending=ending)
    archived, known = comparison.rows.covered(), Ledger(ledger_beside(root)).read()
    urls = [each.info.base_url for each in logs if each.verification != "off"]
    todo = {url: _left(archived.of(url), known.get(url, Trust())) for url in urls}
    return {url: indices for url, indices in todo.items() if len(indices)}, comparison


def _left(archived: Intervals, known: Trust) -> Intervals:
    """What is to be read: also altered precertificates, as their issuers may be known now."""
    return (archived - known.verified) | (archived & known.altered)


async def _read_again(
    config: Config,
    plan: Plan,
    comparison: Comparison,
    verifying: Verifying,
    settings: BackfillSettings,
    stop: asyncio.Event,
) -> Result:
    async with HttpClient(backfill_fetch_settings(config.ct_log, config.backfill), Metrics()) as http:
        issuers = IssuerCache(http)
        reading = ReadSettings(config.ct_log.batch_size, config.backfill.fetch_concurrency, join_tiles=False)

        def client(log: LogInfo) -> LogClient:
            return log_client(http, log, issuers, reading)

        def enforced(log: LogInfo) -> Verification | None:
            verification = verifying.of(http, log)
            return None if verification is None else replace(verification, mode="enforce")

        work = Backfill(
            plan,
            client=client,
            destination=comparison,
            settings=replace(settings, retry=retry_settings(config.ct_log)),
            progress=Progress("verify", plan.totals(), sys.stderr),
            verification=enforced,
            altered=verifying.altered,
            report=VerifyReport(),
        )
        return await work.run(stop)


def _unproven(failed: FailedRange) -> Unverified:
    # The column before it has the log's name already
    return Unverified(failed.log, failed.start, failed.stop, failed.error.removeprefix(f"{failed.log.name}: "))


def unverified_table(unverified: Sequence[Unverified]) -> str:
    """The ranges as text, first to last entry, ascending within each log."""
    rows = [("log", "why", "entries")]
    for log in dict.fromkeys(each.log for each in unverified):
        ranges = sorted((each for each in unverified if each.log == log), key=lambda each: each.start)
        rows += [
            (printable(log.name), printable(each.why), shown_range(each.start, each.stop)) for each in ranges[:_LINES]
        ]
        if len(ranges) > _LINES:
            rows.append((printable(log.name), f"and {len(ranges) - _LINES:,} more ranges", ""))
    return aligned(rows, figures_from=2)
