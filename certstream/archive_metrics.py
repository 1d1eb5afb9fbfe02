"""What the archive counts: sink, backfill, merge and upkeep, for the registry of `certstream.metrics`."""

from __future__ import annotations

import math
from collections.abc import Mapping
from functools import partial
from typing import Final, Literal, TypeAlias, get_args

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

ArchiveErrorKind: TypeAlias = Literal["disk_full", "storage", "conflict", "schema"]
ARCHIVE_ERROR_KINDS: Final[tuple[ArchiveErrorKind, ...]] = get_args(ArchiveErrorKind)

COVERAGE_KINDS: Final = ("archived", "verified", "tainted", "unparseable", "dropped", "missing")

_FLUSH_BUCKETS_S: Final = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0)


class ArchivedLogMetrics:
    """The archive's metrics of one log; get it from `ArchiveMetrics.log` once and keep it."""

    def __init__(self, archive: ArchiveMetrics, name: str) -> None:
        self._archive, self._name = archive, name
        self.position = archive.position.labels(name)  # set(archived position, exclusive)
        self.lag_entries = archive.lag_entries.labels(name)

    def remove(self) -> None:
        """Take the log's series out of the exposition."""
        self._archive.position.remove(self._name)
        self._archive.lag_entries.remove(self._name)


class CoverageMetrics:
    """What of each log is in the archive, and what is known of it; by its configured name."""

    def __init__(self, registry: CollectorRegistry) -> None:
        texts = {
            "archived": ("certstream_archive_entries", "Entries in the archive."),
            "verified": (
                "certstream_archive_verified_entries",
                "Entries in the archive that are proven to stand in a tree that the log has signed.",
            ),
            "tainted": ("certstream_archive_tainted_entries", "Entries in the archive that could not be proven."),
            "unparseable": ("certstream_archive_unparseable_entries", "Entries in the archive that nothing can read."),
            "dropped": ("certstream_archive_dropped_entries", "Entries removed from the archive on purpose."),
            "missing": ("certstream_archive_missing_entries", "Entries that a backfill would fetch."),
        }
        self._gauges = {kind: Gauge(*texts[kind], ["log"], registry=registry) for kind in COVERAGE_KINDS}
        self._shown: set[str] = set()

    def show(self, logs: Mapping[str, Mapping[str, float]]) -> None:
        """Show these counts by name and kind, and nothing of other logs."""
        for kind, gauge in self._gauges.items():
            for name in self._shown - logs.keys():
                gauge.remove(name)
            for name, counts in logs.items():
                gauge.labels(name).set(counts[kind])
        self._shown = set(logs)


class ArchiveMetrics:
    """What the archive counts: sink, backfill, merge and upkeep. `Metrics.archive` makes it."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self._counter = partial(Counter, registry=registry)
        self._gauge = partial(Gauge, registry=registry)
        self._define_sink(registry)
        self._define_backfill()
        self._define_merge()
        self._define_maintenance()
        self.coverage = CoverageMetrics(registry)
        self._logs: dict[str, ArchivedLogMetrics] = {}

    def log(self, name: str) -> ArchivedLogMetrics:
        """Return the archive's metrics of the log with that configured name; the same object each time."""
        if name not in self._logs:
            self._logs[name] = ArchivedLogMetrics(self, name)
        return self._logs[name]

    def forget_log(self, name: str) -> None:
        """Show no more of the log with that configured name."""
        if (known := self._logs.pop(name, None)) is not None:
            known.remove()

    def error(self, kind: ArchiveErrorKind) -> None:
        """Count one commit that failed."""
        self._errors[kind].inc()

    def _define_sink(self, registry: CollectorRegistry) -> None:
        counter, gauge = self._counter, self._gauge
        self.rows_written = counter("certstream_delta_rows_written_total", "Rows that the sink committed.")
        self.flushes = counter("certstream_delta_flushes_total", "Commits of the sink.")
        self.errors = counter("certstream_delta_errors_total", "Commits of the sink that failed, by kind.", ["kind"])
        self._errors = {kind: self.errors.labels(kind) for kind in ARCHIVE_ERROR_KINDS}
        self.flush_seconds = Histogram(
            "certstream_delta_flush_duration_seconds",
            "How long the sink's commits took.",
            buckets=_FLUSH_BUCKETS_S,
            registry=registry,
        )
        self.buffered_rows = gauge("certstream_delta_buffered_rows", "Rows that wait for a commit.")
        self.buffered_bytes = gauge("certstream_delta_buffered_bytes", "Bytes that wait for a commit.")
        self.entries_let_go = counter(
            "certstream_delta_entries_let_go_total", "Entries let go of because the buffer was full, to be read again."
        )
        self.entries_reread = counter(
            "certstream_delta_entries_reread_total", "Entries read again from their log, for the archive only."
        )
        self.position = gauge("certstream_delta_archived_position", "First index not archived yet.", ["log"])
        self.lag_entries = gauge("certstream_delta_lag_entries", "Entries streamed, but not archived yet.", ["log"])
        self.free_disk_bytes = gauge("certstream_delta_free_disk_bytes", "Free bytes where the table is.")
        self.free_disk_bytes.set(math.nan)  # until somebody looks: 0 is a full disk
        self.available = gauge("certstream_delta_available", "1 while the sink's commits succeed.")
        self.available.set(1)

    def _define_backfill(self) -> None:
        self.backfill_running = self._gauge("certstream_backfill_running", "1 while a backfill runs.")
        self.backfill_entries_planned = self._gauge(
            "certstream_backfill_entries_planned", "Entries that the newest backfill set out to fetch."
        )
        self.backfill_entries_written = self._counter(
            "certstream_backfill_entries_written_total", "Entries that backfills committed."
        )
        self.backfill_entries_skipped = self._counter(
            "certstream_backfill_entries_skipped_total", "Entries that were archived otherwise before the commit."
        )
        self.backfill_failed_ranges = self._gauge(
            "certstream_backfill_failed_ranges", "Ranges that the newest backfill could not fetch."
        )
        self.backfill_last_success_timestamp_seconds, self.backfill_last_failure_timestamp_seconds = self._ends(
            "backfill", "backfill"
        )

    def _define_merge(self) -> None:
        self.merge_running = self._gauge("certstream_merge_running", "1 while staging is merged.")
        self.merge_rows_inserted = self._counter("certstream_merge_rows_inserted_total", "Rows that merges took over.")
        self.merge_rows_skipped = self._counter(
            "certstream_merge_rows_skipped_total", "Rows of staging that the archive already had."
        )
        self.merge_last_success_timestamp_seconds, self.merge_last_failure_timestamp_seconds = self._ends(
            "merge", "merge"
        )

    def _define_maintenance(self) -> None:
        self.maintenance_running = self._gauge("certstream_maintenance_running", "1 while a pass of upkeep runs.")
        self.maintenance_files_rewritten = self._counter(
            "certstream_maintenance_files_rewritten_total", "Files that upkeep replaced by fewer."
        )
        self.maintenance_last_success_timestamp_seconds, self.maintenance_last_failure_timestamp_seconds = self._ends(
            "maintenance", "pass of upkeep"
        )

    def _ends(self, name: str, what: str) -> tuple[Gauge, Gauge]:
        return (
            self._gauge(
                f"certstream_{name}_last_success_timestamp_seconds", f"When a {what} last succeeded; 0: never."
            ),
            self._gauge(f"certstream_{name}_last_failure_timestamp_seconds", f"When a {what} last failed; 0: never."),
        )
