"""What is counted of the trust in logs and entries, for the registry of `certstream.metrics`."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from typing import NamedTuple

from prometheus_client import CollectorRegistry, Counter, Gauge
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

from certstream.evidence import CASE_KINDS, CaseKind


class ListFigures(NamedTuple):
    """One log list, by the name it is configured by."""

    name: str
    age_s: float | None  # since it was known to be current; None: there is none
    logs: int
    failures: int  # attempts that brought no list


class _Lists(Collector):
    """Asks at each scrape how the log lists are: which there are may change."""

    def __init__(self) -> None:
        self.figures: Callable[[], Sequence[ListFigures]] = lambda: ()

    def collect(self) -> Iterable[Metric]:
        age = GaugeMetricFamily(
            "certstream_log_list_age_seconds",
            "Time since the log list that is used was known to be current; NaN where there is none.",
            labels=["list"],
        )
        logs = GaugeMetricFamily(
            "certstream_log_list_logs", "Logs in the log list that is used, followed or not.", labels=["list"]
        )
        failures = CounterMetricFamily(
            "certstream_log_list_failures", "Attempts that brought no log list that can be used.", labels=["list"]
        )
        for each in self.figures():
            age.add_metric([each.name], math.nan if each.age_s is None else each.age_s)
            logs.add_metric([each.name], each.logs)
            failures.add_metric([each.name], each.failures)
        return age, logs, failures


class TrustMetrics:
    """What is counted of the trust in logs. `Metrics.trust` holds it."""

    def __init__(self, registry: CollectorRegistry) -> None:
        counter, gauge = partial(Counter, registry=registry), partial(Gauge, registry=registry)
        self.altered_precertificates = counter(
            "certstream_altered_precertificates_total",
            "Precertificate entries whose precertificate is not the one that the log's hash covers.",
            ["log"],
        )
        self.log_mmd_seconds = gauge(
            "certstream_log_mmd_seconds", "Maximum merge delay of the log: no newer head may be older.", ["log"]
        )
        self.suspect = gauge("certstream_log_suspect", "1 while there is evidence about the log.", ["log"])
        self.verified_position = gauge(
            "certstream_log_verified_position", "Index behind the last entry that was proven while following.", ["log"]
        )
        self.tainted_entries = gauge(
            "certstream_log_tainted_entries", "Entries that went out and could not be proven.", ["log"]
        )
        self.unverified = gauge(
            "certstream_log_unverified", "1 where the log would be verified and its key is not known.", ["log"]
        )
        self.evidence = counter(
            "certstream_evidence_total",
            "Times that something of the log did not fit, by kind; each case is kept once.",
            ["log", "kind"],
        )
        self._lists = _Lists()
        registry.register(self._lists)
        self.of_log_alone: tuple[Gauge | Counter, ...] = (
            self.altered_precertificates,
            self.log_mmd_seconds,
            self.suspect,
            self.verified_position,
            self.tainted_entries,
            self.unverified,
        )  # with no label but the log

    def watch_lists(self, figures: Callable[[], Sequence[ListFigures]]) -> None:
        """Ask at each scrape for the figures of the log lists."""
        self._lists.figures = figures

    def begin_log(self, name: str) -> None:
        """Show the log from now on; see LogMetrics."""
        self.altered_precertificates.labels(name)
        self.mmd(name, None)  # until the log is followed
        self.suspect.labels(name)
        self.verified_position.labels(name).set(math.nan)  # until an entry is proven
        self.tainted_entries.labels(name)
        self.unverified.labels(name)
        for kind in CASE_KINDS:
            self.evidence.labels(name, kind)

    def mmd(self, name: str, mmd_s: float | None) -> None:
        """Show the maximum merge delay of a log; None for one whose head may be of any age, as it takes no more."""
        self.log_mmd_seconds.labels(name).set(math.nan if mmd_s is None else mmd_s)

    def watch_log(self, name: str, tainted_entries: Callable[[], int], *, unverified: bool) -> None:
        """Ask at each scrape how many entries of a log are tainted; `unverified` where its key is not known."""
        self.tainted_entries.labels(name).set_function(tainted_entries)
        self.unverified.labels(name).set(unverified)

    def found(self, name: str, kind: CaseKind) -> None:
        """Count one thing of that log that did not fit."""
        self.evidence.labels(name, kind).inc()

    def forget_log(self, name: str) -> None:
        """Show no more of the log."""
        for metric in self.of_log_alone:
            metric.remove(name)
        for kind in CASE_KINDS:
            self.evidence.remove(name, kind)
