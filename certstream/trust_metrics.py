"""What is counted of the trust in logs and entries, for the registry of `certstream.metrics`."""

from __future__ import annotations

import math
from functools import partial

from prometheus_client import CollectorRegistry, Counter, Gauge

from certstream.evidence import CASE_KINDS, CaseKind


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
        self.evidence = counter(
            "certstream_evidence_total",
            "Times that something of the log did not fit, by kind; each case is kept once.",
            ["log", "kind"],
        )
        self.of_log_alone: tuple[Gauge | Counter, ...] = (
            self.altered_precertificates,
            self.log_mmd_seconds,
            self.suspect,
            self.verified_position,
        )  # with no label but the log

    def begin_log(self, name: str) -> None:
        """Show the log from now on; see LogMetrics."""
        self.altered_precertificates.labels(name)
        self.mmd(name, None)  # until the log is followed
        self.suspect.labels(name)
        self.verified_position.labels(name).set(math.nan)  # until an entry is proven
        for kind in CASE_KINDS:
            self.evidence.labels(name, kind)

    def mmd(self, name: str, mmd_s: float | None) -> None:
        """Show the maximum merge delay of a log; None for one whose head may be of any age, as it takes no more."""
        self.log_mmd_seconds.labels(name).set(math.nan if mmd_s is None else mmd_s)

    def found(self, name: str, kind: CaseKind) -> None:
        """Count one thing of that log that did not fit."""
        self.evidence.labels(name, kind).inc()

    def forget_log(self, name: str) -> None:
        """Show no more of the log."""
        for metric in self.of_log_alone:
            metric.remove(name)
        for kind in CASE_KINDS:
            self.evidence.remove(name, kind)
