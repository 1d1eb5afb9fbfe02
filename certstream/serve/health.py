"""What /health/deep says: each log's state, and what follows from them for the service."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, Final, Literal, TypeAlias

from certstream.metrics import LogState

Status: TypeAlias = Literal["healthy", "degraded", "unhealthy"]

NO_LOGS: Final = "no logs are configured: nothing to stream"

_STATUS_OF: Final[dict[LogState, Status]] = {
    "starting": "healthy",
    "following": "healthy",
    "catching_up": "healthy",
    "rate_limited": "healthy",  # 429 is pacing, never a failure
    "degraded": "degraded",
    "stopped": "degraded",
    "unhealthy": "unhealthy",
}


@dataclass(frozen=True, slots=True)
class LogHealth:
    """One log as it is followed now."""

    name: str
    url: str
    kind: str  # rfc6962 or static
    operator: str
    state: LogState
    position: int | None  # next index to read; None before the first tree head
    tree_size: int | None
    lag_entries: int | None  # tree_size - position
    lag_s: float | None  # age of the newest entry read, when it was read
    last_success_s: float | None  # Unix time of the last good answer
    last_error: str | None


@dataclass(frozen=True, slots=True)
class DeepHealth:
    """The service as a whole."""

    status: Status
    version: str
    uptime_s: float
    logs: Sequence[LogHealth] = ()
    warnings: Sequence[str] = ()


def assess(logs: Sequence[LogHealth], *, version: str, uptime_s: float, warnings: Sequence[str] = ()) -> DeepHealth:
    """Judge the service by its logs: unhealthy when more than half are, degraded when any log is not healthy.

    Without logs it is degraded, and a warning says so. Warnings of the caller change nothing.
    """
    counts = _count(logs)
    status: Status = "healthy"
    if counts["degraded"] or counts["unhealthy"] or not logs:
        status = "degraded"
    if counts["unhealthy"] * 2 > len(logs):
        status = "unhealthy"
    return DeepHealth(status, version, uptime_s, tuple(logs), (*warnings, *(() if logs else (NO_LOGS,))))


def to_json(health: DeepHealth, active_connections: int) -> dict[str, Any]:
    """Return the answer's body; its counts have the names that users of certstream-server-rust know."""
    counts = _count(health.logs)
    return {
        "status": health.status,
        "version": health.version,
        "uptime_secs": health.uptime_s,
        "active_connections": active_connections,
        "logs_total": len(health.logs),
        "logs_healthy": counts["healthy"],
        "logs_degraded": counts["degraded"],
        "logs_unhealthy": counts["unhealthy"],
        "warnings": list(health.warnings),
        "logs": [asdict(log) for log in health.logs],
    }


def _count(logs: Sequence[LogHealth]) -> Counter[Status]:
    return Counter(_STATUS_OF[log.state] for log in logs)
