"""What the service counts, in the Prometheus text format.

Names follow Prometheus's conventions: base units as suffixes, counters end in `_total`, every label
has a bounded set of values. The label `log` is a log's configured name. Children of a labelled metric
are looked up once and kept (`LogMetrics`, `StreamMetrics`), and counters grow per batch or flush, so
that no message and no client costs a call.
"""

from __future__ import annotations

import asyncio
import math
import platform
from collections.abc import Callable
from functools import partial
from typing import Final, Literal, TypeAlias, get_args

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    GCCollector,
    Histogram,
    Info,
    PlatformCollector,
    ProcessCollector,
    disable_created_metrics,
    generate_latest,
)

LogState: TypeAlias = Literal[
    "starting", "following", "catching_up", "rate_limited", "degraded", "unhealthy", "stopped"
]
LOG_STATES: Final[tuple[LogState, ...]] = get_args(LogState)

ArchiveErrorKind: TypeAlias = Literal["disk_full", "storage", "conflict", "schema"]
ARCHIVE_ERROR_KINDS: Final[tuple[ArchiveErrorKind, ...]] = get_args(ArchiveErrorKind)

ReloadResult: TypeAlias = Literal["applied", "invalid", "failed"]  # failed: by a mistake of this program
RELOAD_RESULTS: Final[tuple[ReloadResult, ...]] = get_args(ReloadResult)

CONTENT_TYPE: Final = "text/plain; version=0.0.4; charset=utf-8"

_LAG_BUCKETS_S: Final = (0.001, 0.0025, 0.005, 0.01, 0.02, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 10.0)
_FLUSH_BUCKETS_S: Final = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0)


class LogMetrics:
    """The metrics of one log; get it from `Metrics.log` once and keep it."""

    def __init__(self, metrics: Metrics, name: str) -> None:
        self._metrics, self._name = metrics, name
        self.entries = metrics.log_entries.labels(name)  # inc(count) per batch
        self.position = metrics.log_position.labels(name)  # set(next index to read)
        self.tree_size = metrics.log_tree_size.labels(name)
        self.lag_entries = metrics.log_lag_entries.labels(name)
        self.lag_seconds = metrics.log_lag_seconds.labels(name)
        self._requests: dict[str, Counter] = {}
        self._errors: dict[str, Counter] = {}
        self._request_child = partial(metrics.log_requests.labels, name)
        self._error_child = partial(metrics.log_errors.labels, name)
        self._states = {state: metrics.log_state.labels(name, state) for state in LOG_STATES}
        self.state("starting")

    def request(self, status: str) -> None:
        """Count one request; `status` is the HTTP status, or `FetchError.status`."""
        _child(self._requests, self._request_child, status).inc()

    def error(self, kind: str) -> None:
        """Count one failure of the log; `kind` is of a bounded set, the name of the error's class for example."""
        _child(self._errors, self._error_child, kind).inc()

    def state(self, state: LogState) -> None:
        """Make `state` the log's state: its series is 1, all others 0."""
        for name, gauge in self._states.items():
            gauge.set(name == state)

    def remove(self) -> None:
        """Take the log's series out of the exposition."""
        for metric in self._metrics.of_log_alone:
            metric.remove(self._name)
        for state in LOG_STATES:
            self._metrics.log_state.remove(self._name, state)
        for status in self._requests:
            self._metrics.log_requests.remove(self._name, status)
        for kind in self._errors:
            self._metrics.log_errors.remove(self._name, kind)


class StreamMetrics:
    """The metrics of one stream kind; get it from `Metrics.stream` once and keep it."""

    def __init__(self, metrics: Metrics, stream: str) -> None:
        self.messages_sent = metrics.messages_sent.labels(stream)
        self.bytes_sent = metrics.bytes_sent.labels(stream)
        self._clients_child = partial(metrics.clients.labels, stream)
        self._dropped: dict[str, Counter] = {}
        self._dropped_child = partial(metrics.clients_dropped.labels, stream)

    def clients(self, transport: str) -> Gauge:
        """Return the gauge of connected clients over `websocket` or `sse`."""
        return self._clients_child(transport)

    def dropped(self, reason: str) -> None:
        """Count one client that was dropped; `reason` is of a bounded set."""
        _child(self._dropped, self._dropped_child, reason).inc()


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


class ArchiveMetrics:
    """What the archive counts: sink, backfill, merge and upkeep. `Metrics.archive` makes it."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self._counter = partial(Counter, registry=registry)
        self._gauge = partial(Gauge, registry=registry)
        self._define_sink(registry)
        self._define_backfill()
        self._define_merge()
        self._define_maintenance()
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
        self.records_written = counter("certstream_delta_records_written_total", "Rows that the sink committed.")
        self.flushes = counter("certstream_delta_flushes_total", "Commits of the sink.")
        self.errors = counter("certstream_delta_errors_total", "Commits of the sink that failed, by kind.", ["kind"])
        self._errors = {kind: self.errors.labels(kind) for kind in ARCHIVE_ERROR_KINDS}
        self.flush_seconds = Histogram(
            "certstream_delta_flush_seconds",
            "How long the sink's commits took.",
            buckets=_FLUSH_BUCKETS_S,
            registry=registry,
        )
        self.buffered_rows = gauge("certstream_delta_buffered_rows", "Rows that wait for a commit.")
        self.buffered_bytes = gauge("certstream_delta_buffered_bytes", "Bytes that wait for a commit.")
        self.let_go_entries = counter(
            "certstream_delta_let_go_entries_total", "Entries let go of because the buffer was full, to be read again."
        )
        self.reread_entries = counter(
            "certstream_delta_reread_entries_total", "Entries read again from their log, for the archive only."
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
        self.merge_inserted = self._counter("certstream_merge_inserted_total", "Rows that merges took over.")
        self.merge_skipped = self._counter(
            "certstream_merge_skipped_total", "Rows of staging that the archive already had."
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


class Metrics:
    """Every metric of one service, on a registry of its own."""

    def __init__(self, version: str = "unknown", registry: CollectorRegistry | None = None) -> None:
        # A `_created` series next to each counter would double the answer for nothing.
        disable_created_metrics()  # type: ignore[no-untyped-call]
        self.registry = registry or CollectorRegistry()
        self._define_logs()
        self._define_decoding()
        self._define_streams()
        self._define_process(version)
        self._logs: dict[str, LogMetrics] = {}
        self._streams: dict[str, StreamMetrics] = {}
        self._archive: ArchiveMetrics | None = None

    @property
    def archive(self) -> ArchiveMetrics:
        """The archive's metrics. The first look defines them: a service without an archive shows none."""
        if self._archive is None:
            self._archive = ArchiveMetrics(self.registry)
        return self._archive

    def log(self, name: str) -> LogMetrics:
        """Return the metrics of the log with that configured name; the same object each time."""
        if name not in self._logs:
            self._logs[name] = LogMetrics(self, name)
        return self._logs[name]

    def forget_log(self, name: str) -> None:
        """Show no more of the log with that configured name."""
        if (known := self._logs.pop(name, None)) is not None:
            known.remove()

    def stream(self, kind: str) -> StreamMetrics:
        """Return the metrics of the stream `full`, `lite` or `domains`; the same object each time."""
        if kind not in self._streams:
            self._streams[kind] = StreamMetrics(self, kind)
        return self._streams[kind]

    def config_reloaded(self, result: ReloadResult) -> None:
        """Count one change of the configuration file."""
        self._config_results[result].inc()

    def decode_failed(self, kind: str, count: int = 1) -> None:
        """Count values that could not be read; `kind` names the field, `certificate` where nothing could."""
        _child(self._decode_failures, self.decode_failures.labels, kind).inc(count)

    def watch_backlog(self, backlog_bytes: Callable[[], int], held_bytes: Callable[[], int]) -> None:
        """Ask at each scrape for the bytes that wait for stream clients, and those held in memory for them."""
        self.backlog_bytes.set_function(backlog_bytes)
        self.held_bytes.set_function(held_bytes)

    def exposition(self) -> bytes:
        """Return all metrics in the text format 0.0.4, served as CONTENT_TYPE."""
        return generate_latest(self.registry)

    def _define_logs(self) -> None:
        counter, gauge = partial(Counter, registry=self.registry), partial(Gauge, registry=self.registry)
        self.log_entries = counter("certstream_log_entries_total", "Entries read from the log.", ["log"])
        self.log_position = gauge("certstream_log_position", "Next index to read.", ["log"])
        self.log_tree_size = gauge("certstream_log_tree_size", "Tree size of the newest tree head.", ["log"])
        self.log_lag_entries = gauge("certstream_log_lag_entries", "Entries of the tree not read yet.", ["log"])
        self.log_lag_seconds = gauge(
            "certstream_log_lag_seconds",
            "Age of the newest entry read, by the log's timestamp, when it was read.",
            ["log"],
        )
        self.log_requests = counter(
            "certstream_log_requests_total",
            "Requests to the log by HTTP status, or what failed instead.",
            ["log", "status"],
        )
        self.log_errors = counter("certstream_log_errors_total", "Failures of the log by kind.", ["log", "kind"])
        self.log_state = gauge("certstream_log_state", "1 for the state that the log is in.", ["log", "state"])
        self.of_log_alone: tuple[Gauge | Counter, ...] = (
            self.log_entries,
            self.log_position,
            self.log_tree_size,
            self.log_lag_entries,
            self.log_lag_seconds,
        )  # with no label but the log

    def _define_decoding(self) -> None:
        counter, gauge = partial(Counter, registry=self.registry), partial(Gauge, registry=self.registry)
        self.decode_failures = counter(
            "certstream_decode_failures_total", "Values of certificates that could not be read.", ["kind"]
        )
        self._decode_failures: dict[str, Counter] = {}
        self.entries_published = counter("certstream_entries_published_total", "Entries published to the streams.")
        self.duplicates_filtered = counter(
            "certstream_duplicates_filtered_total", "Entries kept from the streams, another log's certificate again."
        )
        self.dedup_size = gauge("certstream_dedup_size", "Certificates that the deduplication remembers.")
        self.issuer_cache_hits = counter("certstream_issuer_cache_hits_total", "Issuers found in the cache.")
        self.issuer_cache_misses = counter("certstream_issuer_cache_misses_total", "Issuers not in the cache.")
        self.issuer_cache_size = gauge("certstream_issuer_cache_size", "Issuers in the cache.")
        self.issuers_unresolved = counter(
            "certstream_issuers_unresolved_total", "Issuers that stayed missing after all retries."
        )

    def _define_streams(self) -> None:
        counter, gauge = partial(Counter, registry=self.registry), partial(Gauge, registry=self.registry)
        self.clients = gauge("certstream_stream_clients", "Connected clients.", ["stream", "transport"])
        self.messages_sent = counter(
            "certstream_stream_messages_sent_total", "Messages handed to clients' connections.", ["stream"]
        )
        self.bytes_sent = counter(
            "certstream_stream_sent_bytes_total", "Bytes handed to clients' connections, framing included.", ["stream"]
        )
        self.clients_dropped = counter(
            "certstream_stream_clients_dropped_total",
            "Clients that were disconnected, by reason.",
            ["stream", "reason"],
        )
        self.backlog_bytes = gauge("certstream_stream_backlog_bytes", "Bytes that wait for each client, summed.")
        self.held_bytes = gauge(
            "certstream_stream_held_bytes", "Bytes held for clients that are behind; those of one stream share them."
        )

    def _define_process(self, version: str) -> None:
        self.loop_lag = Histogram(
            "certstream_event_loop_lag_seconds",
            "How much later than asked a timer of the event loop fired.",
            buckets=_LAG_BUCKETS_S,
            registry=self.registry,
        )
        self._config_reloads = Counter(
            "certstream_config_reloads_total",
            "Changes of the configuration file that were taken up, or refused.",
            ["result"],
            registry=self.registry,
        )
        self._config_results = {result: self._config_reloads.labels(result) for result in RELOAD_RESULTS}
        self.config_in_effect = Gauge(
            "certstream_config_in_effect",
            "0 while the configuration file says something else than what is in effect: it has mistakes, or what it "
            "changes needs a restart.",
            registry=self.registry,
        )
        self.config_in_effect.set(1)
        build = Info("certstream_build", "Version of the service.", registry=self.registry)
        build.info({"version": version, "python": platform.python_version()})
        ProcessCollector(registry=self.registry)
        PlatformCollector(registry=self.registry)
        GCCollector(registry=self.registry)


async def watch_loop_lag(metrics: Metrics, interval_s: float = 0.25) -> None:
    """Observe every `interval_s` how late the event loop's timers fire, until cancelled."""
    loop = asyncio.get_running_loop()
    while True:
        due = loop.time() + interval_s
        await asyncio.sleep(interval_s)
        metrics.loop_lag.observe(max(0.0, loop.time() - due))


def _child(known: dict[str, Counter], labels: Callable[[str], Counter], last: str) -> Counter:
    if last not in known:
        known[last] = labels(last)
    return known[last]
