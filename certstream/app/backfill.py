"""A backfill from the tables and the positions of the logs to its result, wherever it is asked for."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, nullcontext
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Final

import pyarrow as pa
import structlog

from certstream.app.settings import backfill_fetch_settings, log_client
from certstream.app.threads import holding
from certstream.app.verification.verifying import Verifying
from certstream.archive import storage
from certstream.archive.commit import Committer
from certstream.archive.coverage import Coverage, grouped
from certstream.archive.datafile import WriteSettings
from certstream.archive.dropped import Dropped
from certstream.archive.merge.staging import staging_lock
from certstream.archive.schema import NATIVE, TableFormat
from certstream.archive.table import Snapshot, Table
from certstream.archive.writer import DenseWriter
from certstream.archive_metrics import ArchiveMetrics
from certstream.backfill.destination import Written
from certstream.backfill.fetch import Hold, RetrySettings
from certstream.backfill.planner import Plan, Target, plan, select
from certstream.backfill.result import Result
from certstream.backfill.run import Backfill, BackfillSettings
from certstream.client.base import LogClient, ReadSettings
from certstream.client.http import HttpClient
from certstream.client.issuers import IssuerCache
from certstream.config import Config, CtLogConfig
from certstream.ct.types import LogInfo
from certstream.errors import ConfigError, StorageError
from certstream.intervals import Intervals
from certstream.ledger import Ledger, Trust, ledger_beside
from certstream.metrics import Metrics
from certstream.progress import Progress

_BYTES_PER_ROW: Final = 1200.0  # of a table that has none yet: what real certificates take

log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Ceiling:
    """Up to where a log is backfilled."""

    index: int  # exclusive
    start_index: int | None  # where the following of it began


@dataclass(frozen=True, slots=True)
class Tables:
    """The archive, and the table beside it that a backfill fills, None where it fills the archive itself."""

    main: Path
    staging: Path | None

    @property
    def destination(self) -> Path:
        """The table that gets the rows."""
        return self.staging or self.main


@dataclass(frozen=True, slots=True)
class Survey:
    """What is missing, and what it takes."""

    plan: Plan
    form: TableFormat  # of the archive
    bytes_per_row: float  # on disk
    free_bytes: int


def write_settings(config: Config) -> WriteSettings:
    """How rows are compressed, from the configuration."""
    sink = config.delta_sink
    return WriteSettings(sink.compression_level, sink.heavy_column_compression_level)


def say_starting(tables: Tables, from_index: int | None) -> None:
    """The first log line of a backfill."""
    log.info(
        "backfill mode starting",
        mode="catch-up" if from_index is None else "historical",
        staging_path=None if tables.staging is None else str(tables.staging),
        table_path=str(tables.main),
        **({} if from_index is None else {"from_index": from_index}),
    )


def held(staging: Path | None) -> AbstractAsyncContextManager[None]:
    """Nobody else works on the staging table meanwhile. Raises StorageError, naming who does."""
    return nullcontext() if staging is None else holding(partial(staging_lock, staging))


def chosen_logs(logs: Sequence[LogInfo], text: str | None, option: str) -> Sequence[LogInfo]:
    """The logs that `text` names, all for None. Raises ConfigError, naming the option, where it names none."""
    if text is None:
        return logs
    chosen = select(logs, text)
    if not chosen:
        names = ", ".join(each.name for each in logs) or "none at all"
        raise ConfigError(f"{option}: no log has {text!r} in its name or URL; configured are {names}")
    return chosen


def survey(
    tables: Tables,
    logs: Sequence[LogInfo],
    ceilings: Mapping[str, Ceiling],
    from_index: int | None,
    cancelled: threading.Event,
) -> Survey:
    """Look at the tables and plan; no log is asked. It blocks: call it in a thread.

    Raises StorageError, or LookCancelledError once `cancelled` is set.
    """
    main = Table(tables.main).open()
    staging = None if tables.staging is None else Table(tables.staging).open()
    covered = [_coverage(snapshot, cancelled) for snapshot in (main, staging) if snapshot is not None]
    dropped = Dropped(tables.main)
    targets = [
        _target(
            log,
            ceilings.get(log.base_url),
            Intervals.union_of(coverage.of(log.base_url) for coverage in covered),
            dropped.of(log.base_url),
        )
        for log in logs
    ]
    rows, size_bytes = (main.rows or 0, main.size_bytes) if main is not None else (0, 0)
    return Survey(
        plan(targets, from_index=from_index),
        NATIVE if main is None else main.form,
        size_bytes / rows if rows else _BYTES_PER_ROW,
        storage.free_bytes(tables.destination),
    )


def _coverage(snapshot: Snapshot, cancelled: threading.Event) -> Coverage:
    coverage = Coverage(snapshot.root, cancelled)
    try:
        coverage.refresh(snapshot)
    finally:
        coverage.save()
    return coverage


def _target(log: LogInfo, ceiling: Ceiling | None, archived: Intervals, dropped: Intervals) -> Target:
    if ceiling is None:
        return Target(log, None, None, archived, dropped)
    return Target(log, ceiling.index, ceiling.start_index, archived, dropped)


class TableDestination:
    """A table as a backfill writes to it; what is known of its rows is noted beside it, behind their commit.

    Where that cannot be noted, it is tried again with the next commit: until then the rows count as not verified.
    """

    def __init__(
        self, root: Path, form: TableFormat, settings: WriteSettings, *, ending: Callable[[], bool] = lambda: False
    ) -> None:
        """`ending` as of a ledger."""
        self._writer = DenseWriter(Committer(root, form=form, settings=settings))
        self._ledger = Ledger(ledger_beside(root), ending=ending)
        self._found: dict[str, Trust] = {}  # of rows that are written and not committed
        self._due: dict[str, Trust] = {}  # of committed ones, and not noted yet
        self._fresh: dict[str, Intervals] = {}  # committed ones, likewise

    def write(self, rows: pa.RecordBatch, trust: Trust) -> None:
        """Take rows that nobody sees yet. Raises StorageError."""
        self._writer.write(rows)
        if trust:
            _add(self._found, rows.column("source_url")[0].as_py(), trust)

    def commit(self) -> Written:
        """Make everything written visible. Raises StorageError."""
        found, self._found = self._found, {}
        done = self._writer.commit()
        there = {url: trust.within(done.covers.get(url, Intervals())) for url, trust in found.items()}
        for url, trust in there.items():
            _add(self._due, url, trust)
        self._fresh = grouped((self._fresh, done.covers))
        self._note()
        verified, tainted = (sum(counts) for counts in zip((0, 0), *map(_counts, there.values()), strict=True))
        return Written(done.inserted, done.skipped, verified, tainted)

    def _note(self) -> None:
        try:
            self._ledger.note(self._due, fresh=self._fresh)
        except StorageError as exc:
            log.warning("what is verified cannot be noted, it is kept and tried again", error=str(exc))
        else:
            self._due, self._fresh = {}, {}

    def abandon(self) -> None:
        """Remove what was written and not committed."""
        self._found = {}
        self._writer.abandon()


def _counts(trust: Trust) -> tuple[int, int]:
    return trust.verified.count, trust.tainted.count


def _add(trusts: dict[str, Trust], url: str, found: Trust) -> None:
    trusts[url] = trusts.get(url, Trust()).and_then(found)


async def fill(
    config: Config,
    surveyed: Survey,
    tables: Tables,
    stop: asyncio.Event,
    *,
    metrics: Metrics,
    verifying: Verifying,
    outcome: ArchiveMetrics | None = None,
    progress: Progress | None = None,
    hold: Hold | None = None,
    settings: BackfillSettings | None = None,
    opened: Callable[[HttpClient], object] = lambda _http: None,
) -> Result:
    """Fetch what the survey found missing, until done or `stop`. Raises StorageError.

    `opened` is given what makes the requests.
    """
    async with HttpClient(backfill_fetch_settings(config.ct_log, config.backfill), metrics) as http:
        opened(http)
        issuers = IssuerCache(http)
        reading = ReadSettings(config.ct_log.batch_size, config.backfill.fetch_concurrency, join_tiles=False)

        def client(log: LogInfo) -> LogClient:
            return log_client(http, log, issuers, reading)

        form, writing = surveyed.form, write_settings(config)
        work = Backfill(
            surveyed.plan,
            client=client,
            destination=TableDestination(tables.destination, form, writing, ending=stop.is_set),
            settings=replace(settings or BackfillSettings(), retry=retry_settings(config.ct_log)),
            progress=progress,
            metrics=outcome,
            hold=hold,
            verification=partial(verifying.of, http),
            altered=verifying.altered,
        )
        return await work.run(stop)


def retry_settings(ct_log: CtLogConfig) -> RetrySettings:
    """How patient reading again is with a log, from the configuration."""
    longest_s = ct_log.retry_max_delay_ms / 1000
    return RetrySettings(ct_log.retry_max_attempts, ct_log.retry_initial_delay_ms / 1000, longest_s, down_s=longest_s)
