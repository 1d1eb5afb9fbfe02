"""What the service counts, in the Prometheus text format.

Names follow Prometheus's conventions: base units as suffixes, counters end in `_total`, every label
has a bounded set of values. The label `log` is a log's configured name. Children of a labelled metric
are looked up once and kept (`LogMetrics`, `StreamMetrics`), and counters grow per batch or flush, so
that no message and no client costs a call.
"""

from __future__ import annotations

import asyncio
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

CONTENT_TYPE: Final = "text/plain; version=0.0.4; charset=utf-8"

_LAG_BUCKETS_S: Final = (0.001, 0.0025, 0.005, 0.01, 0.02, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 10.0)


class LogMetrics:
    """The metrics of one log; get it from `Metrics.log` once and keep it."""

    def __init__(self, metrics: Metrics, name: str) -> None:
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

    def log(self, name: str) -> LogMetrics:
        """Return the metrics of the log with that configured name; the same object each time."""
        if name not in self._logs:
            self._logs[name] = LogMetrics(self, name)
        return self._logs[name]

    def stream(self, kind: str) -> StreamMetrics:
        """Return the metrics of the stream `full`, `lite` or `domains`; the same object each time."""
        if kind not in self._streams:
            self._streams[kind] = StreamMetrics(self, kind)
        return self._streams[kind]

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
