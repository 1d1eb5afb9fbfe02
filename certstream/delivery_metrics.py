"""The metrics of what share of the logs' growth is read in time; part of `certstream.metrics`."""

from __future__ import annotations

import math
from typing import Final, Literal, TypeAlias, get_args

from prometheus_client import CollectorRegistry, Gauge

DelayCause: TypeAlias = Literal[
    "rate_limited",  # requests wait for the operator's pace, as a 429 or operator_rate_limits set it
    "slow_answers",  # answers take their time
    "page_size",  # likewise, and pages as long as they are asked for would be enough
    "cpu",  # decoding and publishing, and an event loop that is too busy for answers
    "archive",  # entries wait for the archive, or for its rows to be made
    "unproven",  # entries wait for proofs, or cannot be proven
    "not_served",  # the log does not give entries that its own head covers
    "not_polled",  # the log fails, or is not asked
]
DELAY_CAUSES: Final[tuple[DelayCause, ...]] = get_args(DelayCause)


class DeliveryMetrics:
    """The shares of the logs, and of all together."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self.share = Gauge(
            "certstream_delivery_share",
            "The delivery share of all logs together, each counting by its growth.",
            registry=registry,
        )
        self.share.set(math.nan)  # until a log has answered
        self._share = Gauge(
            "certstream_log_delivery_share",
            "Entries read over entries that the log grew by, in the last 10 minutes; 1 at most.",
            ["log"],
            registry=registry,
        )
        self._cause = Gauge(
            "certstream_log_delivery_cause",
            "1 for what holds back the entries that are late.",
            ["log", "cause"],
            registry=registry,
        )

    def log(self, name: str, share: float, cause: DelayCause | None) -> None:
        """Show a log's share, NaN where it is not known, and what holds back the rest."""
        self._share.labels(name).set(share)
        for each in DELAY_CAUSES:
            self._cause.labels(name, each).set(each == cause)

    def forget(self, name: str) -> None:
        """Take a log's series out of the exposition."""
        self._share.remove(name)
        for cause in DELAY_CAUSES:
            self._cause.remove(name, cause)
