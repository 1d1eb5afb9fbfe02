"""What the service counts, in the Prometheus text format.

Names follow Prometheus's conventions: base units as suffixes, counters end in `_total`, every label
has a bounded set of values. The label `log` is a log's configured name. Children of a labelled metric
are looked up once and kept (`LogMetrics`, `StreamMetrics`), and counters grow per batch or flush, so
that no message and no client costs a call. What counts rare trouble is shown as 0 from the start:
`increase` sees nothing in a series that begins at 1. docs/metrics.md lists them all.
"""

from __future__ import annotations

import asyncio
import math
import platform
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
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
from prometheus_client.metrics_core import Metric

from certstream.archive_metrics import ArchiveMetrics
from certstream.delivery_metrics import DelayCause, DeliveryMetrics
from certstream.trust_metrics import TrustMetrics

LogState: TypeAlias = Literal[
    "starting", "following", "catching_up", "rate_limited", "degraded", "unhealthy", "stopped"
]
LOG_STATES: Final[tuple[LogState, ...]] = get_args(LogState)

TRANSPORTS: Final = ("websocket", "sse")
DropReason: TypeAlias = Literal["backlog", "total_backlog", "flood", "shutdown"]
DROP_REASONS: Final[tuple[DropReason, ...]] = ("backlog", "total_backlog", "flood")  # a client's end by ours is no drop

ReloadResult: TypeAlias = Literal["applied", "invalid", "failed"]  # failed: by a mistake of this program
RELOAD_RESULTS: Final[tuple[ReloadResult, ...]] = get_args(ReloadResult)

RefusalReason: TypeAlias = Literal["no_token", "wrong_token", "origin", "rate", "address_connections", "connections"]
REFUSAL_REASONS: Final[tuple[RefusalReason, ...]] = get_args(RefusalReason)

CutReason: TypeAlias = Literal["slow_request", "large_request", "full", "address_full"]
CUT_REASONS: Final[tuple[CutReason, ...]] = get_args(CutReason)

CONTENT_TYPE: Final = "text/plain; version=0.0.4; charset=utf-8"

_LAG_BUCKETS_S: Final = (0.001, 0.0025, 0.005, 0.01, 0.02, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 10.0)
_SCRAPE_TURN_S: Final = 0.001  # that a scrape may hold the event loop, and half of the work on one family on top


class LogMetrics:
    """The metrics of one log; get it from `Metrics.log` once and keep it."""

    def __init__(self, metrics: Metrics, name: str) -> None:
        self._metrics, self._name = metrics, name
        self.entries = metrics.log_entries.labels(name)  # inc(count) per batch
        self.position = metrics.log_position.labels(name)  # set(next index to read)
        self.tree_size = metrics.log_tree_size.labels(name)
        self.lag_entries = metrics.log_lag_entries.labels(name)
        self.lag_seconds = metrics.log_lag_seconds.labels(name)
        self.lag_seconds.set(math.nan)  # until an entry is read
        self.head_timestamp_seconds = metrics.log_head_timestamp_seconds.labels(name)
        self.head_timestamp_seconds.set(math.nan)  # until a head comes: 0 would be the oldest of all
        metrics.trust.begin_log(name)
        self._requests: dict[str, Counter] = {}
        self._errors: dict[str, Counter] = {}
        self._request_child = partial(metrics.log_requests.labels, name)
        self._error_child = partial(metrics.log_errors.labels, name)
        self._states = {state: metrics.log_state.labels(name, state) for state in LOG_STATES}
        self.state("starting")
        self.delivery(math.nan, None)

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

    def delivery(self, share: float, cause: DelayCause | None) -> None:
        """Show what share of the log's growth is read in time, NaN where that is not known, and what holds it back."""
        self._metrics.delivery.log(self._name, share, cause)

    def remove(self) -> None:
        """Take the log's series out of the exposition."""
        self._metrics.delivery.forget(self._name)
        for metric in self._metrics.of_log_alone:
            metric.remove(self._name)
        self._metrics.trust.forget_log(self._name)
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
        self._clients = {transport: metrics.clients.labels(stream, transport) for transport in TRANSPORTS}
        self._dropped = {reason: metrics.clients_dropped.labels(stream, reason) for reason in DROP_REASONS}

    def clients(self, transport: str) -> Gauge:
        """Return the gauge of connected clients over one of TRANSPORTS."""
        return self._clients[transport]

    def dropped(self, reason: DropReason) -> None:
        """Count one client that was dropped, by one of DROP_REASONS."""
        self._dropped[reason].inc()


class Metrics:
    """Every metric of one service, on a registry of its own."""

    def __init__(self, version: str = "unknown", registry: CollectorRegistry | None = None) -> None:
        # A `_created` series next to each counter would double the answer for nothing.
        disable_created_metrics()  # type: ignore[no-untyped-call]
        self.registry = registry or CollectorRegistry()
        self._define_logs()
        self.delivery = DeliveryMetrics(self.registry)
        self.trust = TrustMetrics(self.registry)
        self._define_decoding()
        self._define_streams()
        self._define_process(version)
        self._logs: dict[str, LogMetrics] = {}
        self._forgotten: set[str] = set()  # names of logs that may be read still
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
            self._forgotten.discard(name)
        return self._logs[name]

    def log_request(self, name: str, status: str) -> None:
        """Count one request as `LogMetrics.request` does, but none of a log that is forgotten: a backfill may go on."""
        if name not in self._forgotten:
            self.log(name).request(status)

    def forget_log(self, name: str) -> None:
        """Show no more of the log with that configured name, until `log` is asked for it again."""
        if (known := self._logs.pop(name, None)) is not None:
            known.remove()
            self._forgotten.add(name)

    def stream(self, kind: str) -> StreamMetrics:
        """Return the metrics of the stream `full`, `lite` or `domains`; the same object each time."""
        if kind not in self._streams:
            self._streams[kind] = StreamMetrics(self, kind)
        return self._streams[kind]

    def config_reloaded(self, result: ReloadResult) -> None:
        """Count one change of the configuration file."""
        self._config_results[result].inc()

    def access_refused(self, reason: RefusalReason) -> None:
        """Count one request that was answered 401, 403, 429 or 503 instead of being served."""
        self._access_refusals[reason].inc()

    def decode_failed(self, kind: str, count: int = 1) -> None:
        """Count values that could not be read; `kind` names the field, `certificate` where nothing could."""
        _child(self._decode_failures, self.decode_failures.labels, kind).inc(count)

    def watch_backlog(self, backlog_bytes: Callable[[], int], held_bytes: Callable[[], int]) -> None:
        """Ask at each scrape for the bytes that wait for stream clients, and those held in memory for them."""
        self.backlog_bytes.set_function(backlog_bytes)
        self.held_bytes.set_function(held_bytes)

    def watch_state(self, is_saved: Callable[[], bool]) -> None:
        """Ask at each scrape whether the newest attempt to save the state file succeeded."""
        self.state_saved.set_function(is_saved)

    def exposition(self) -> bytes:
        """Return all metrics in the text format 0.0.4, served as CONTENT_TYPE."""
        return generate_latest(self.registry)

    async def scrape(self) -> bytes:
        """The same a few families at a time: with 100 logs it is 4,700 lines, which take 20 ms and hold no client up.

        Each family is of one instant, all of them are not.
        """
        families: list[bytes] = []
        turn_ends = time.perf_counter() + _SCRAPE_TURN_S
        for family in self.registry.collect():  # collecting takes half of the time
            turn_ends = await _next_turn(turn_ends)
            families.append(generate_latest(_OneFamily(family)))
            turn_ends = await _next_turn(turn_ends)
        return b"".join(families)

    def _define_logs(self) -> None:
        counter, gauge = partial(Counter, registry=self.registry), partial(Gauge, registry=self.registry)
        self.log_entries = counter("certstream_log_entries_total", "Entries read from the log.", ["log"])
        self.log_position = gauge("certstream_log_position", "Next index to read.", ["log"])
        self.log_tree_size = gauge("certstream_log_tree_size", "Tree size of the newest tree head.", ["log"])
        self.log_lag_entries = gauge("certstream_log_lag_entries", "Entries of the tree not read yet.", ["log"])
        self.log_lag_seconds = gauge(
            "certstream_log_lag_seconds",
            "Age of the newest entry read by the log's timestamp: now where more is to be read, else when it was read.",
            ["log"],
        )
        self.log_head_timestamp_seconds = gauge(
            "certstream_log_head_timestamp_seconds", "The newest tree head's own timestamp, Unix time.", ["log"]
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
            self.log_head_timestamp_seconds,
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
        self.dedup_certificates = gauge(
            "certstream_dedup_certificates", "Certificates that the deduplication remembers."
        )
        self.issuer_cache_hits = counter("certstream_issuer_cache_hits_total", "Issuers found in the cache.")
        self.issuer_cache_misses = counter("certstream_issuer_cache_misses_total", "Issuers not in the cache.")
        self.issuer_cache_certificates = gauge("certstream_issuer_cache_certificates", "Issuers in the cache.")
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
        self._access_refused = counter(
            "certstream_access_refused_total", "Requests that tokens or limits refused, by reason.", ["reason"]
        )
        self._access_refusals = {reason: self._access_refused.labels(reason) for reason in REFUSAL_REASONS}
        self.connections_refused = counter(
            "certstream_connections_refused_total",
            "Connections cut before they had asked for anything, by reason.",
            ["reason"],
        )
        for cut in CUT_REASONS:
            self.connections_refused.labels(cut)
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
        self.state_saved = Gauge(
            "certstream_state_saved", "1 while the state file can be saved.", registry=self.registry
        )
        self.state_saved.set(1)
        self.tls_certificate_expiry_timestamp_seconds = Gauge(
            "certstream_tls_certificate_expiry_timestamp_seconds",
            "When the TLS certificate that is served expires, Unix time; NaN where there is none.",
            registry=self.registry,
        )
        self.tls_certificate_expiry_timestamp_seconds.set(math.nan)
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


async def watch_loop_lag(metrics: Metrics, interval_s: float = 0.1) -> None:
    """Observe every `interval_s` how late the event loop's timers fire, until cancelled.

    A stall is seen when it ends: as one value, at most `interval_s` shorter than it was.
    """
    loop = asyncio.get_running_loop()
    while True:
        due = loop.time() + interval_s
        await asyncio.sleep(interval_s)
        metrics.loop_lag.observe(max(0.0, loop.time() - due))


@dataclass(frozen=True, slots=True)
class _OneFamily:
    """What `generate_latest` takes for a registry."""

    family: Metric

    def collect(self) -> Iterable[Metric]:
        return (self.family,)


async def _next_turn(ends: float) -> float:
    """Let others run where the turn is over; when the next one is."""
    if time.perf_counter() < ends:
        return ends
    await asyncio.sleep(0)
    return time.perf_counter() + _SCRAPE_TURN_S


def _child(known: dict[str, Counter], labels: Callable[[str], Counter], last: str) -> Counter:
    if last not in known:
        known[last] = labels(last)
    return known[last]
