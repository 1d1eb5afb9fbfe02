"""What /health/deep and /health/ready say: how each log and the archive do, and what follows for the service."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any, Final, Literal, TypeAlias

from certstream.metrics import LogState

Status: TypeAlias = Literal["healthy", "degraded", "unhealthy"]
ArchiveState: TypeAlias = Literal["healthy", "failing"]
Verified: TypeAlias = Literal["off", "unverified", "warn", "enforce"]
JobState: TypeAlias = Literal["never", "running", "succeeded", "failed", "interrupted"]

NO_LOGS: Final = "no logs are configured: nothing to stream"
NO_LIST: Final = "no log is followed: no log list could be had yet"
NO_LISTED_LOG: Final = "no log is followed: the log lists have none that is wanted"

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
    share: float | None = None  # of what the log grew by lately, read in time; None where it is not measured yet
    share_cause: str | None = None  # what holds back the rest
    verification: Verified = "off"  # unverified: it would be verified, but its key is not known
    suspect: bool = False  # there is evidence about it
    tainted_entries: int = 0  # that went out and could not be proven


@dataclass(frozen=True, slots=True)
class LateLog:
    """A log that is not read in time."""

    name: str
    share: float
    cause: str | None
    late_entries: int


@dataclass(frozen=True, slots=True)
class Readiness:
    """Whether clients are well served here."""

    reason: str | None = None  # why they are not
    share: float | None = None  # of all logs together; None where it is not measured yet
    min_share: float = 0.0
    logs: Sequence[LateLog] = ()  # the worst, where the share is the reason


@dataclass(frozen=True, slots=True)
class ArchiveHealth:
    """The archive as the sink sees it."""

    state: ArchiveState  # failing: the newest commit did not succeed
    last_error: str | None
    last_commit_s: float | None  # Unix time of the newest commit
    buffered_rows: int
    buffered_bytes: int
    lag_entries: int  # streamed but not archived, of all logs
    free_disk_bytes: int | None  # None where it cannot be found out


@dataclass(frozen=True, slots=True)
class JobHealth:
    """The newest run of `backfill`, `merge` or `maintenance`."""

    state: JobState = "never"
    started_s: float | None = None  # Unix time
    ended_s: float | None = None
    detail: Mapping[str, int | str] = field(default_factory=dict)  # what it did, by names of its own
    error: str | None = None


@dataclass(frozen=True, slots=True)
class ListHealth:
    """One log list that names logs, or their keys."""

    name: str
    location: str
    signed: bool
    version: str | None
    published_s: float | None  # Unix time, as the list says
    age_s: float | None  # since it was known to be current; None: there is none
    logs: int
    waits_for: str | None  # the list without which it is not used, where there is none of that
    last_error: str | None  # None where it could be had


@dataclass(frozen=True, slots=True)
class TaintedRange:
    """Entries [start, stop) of a log that went out and could not be proven."""

    log: str
    start: int
    stop: int
    error: str  # why not, as last tried


@dataclass(frozen=True, slots=True)
class DeepHealth:
    """The service as a whole."""

    status: Status
    version: str
    uptime_s: float
    logs: Sequence[LogHealth] = ()
    warnings: Sequence[str] = ()
    archive: ArchiveHealth | None = None  # None: there is none
    jobs: Mapping[str, JobHealth] = field(default_factory=dict)  # by name
    share: float | None = None  # of all logs together
    lists: Sequence[ListHealth] = ()
    tainted: Sequence[TaintedRange] = ()  # the first of them


def assess(
    logs: Sequence[LogHealth],
    *,
    version: str,
    uptime_s: float,
    warnings: Sequence[str] = (),
    archive: ArchiveHealth | None = None,
    jobs: Mapping[str, JobHealth] | None = None,
    share: float | None = None,
    lists: Sequence[ListHealth] = (),
) -> DeepHealth:
    """Judge the service by its logs: unhealthy when more than half are, degraded when any log is not healthy.

    Without logs it is degraded, and a warning says so. So it is while the archive fails, and no more than that: the
    streams go on, and what is missing is read again. A failed job is a warning, as those of the caller: they change
    nothing.
    """
    counts = _count(logs)
    failing = archive is not None and archive.state == "failing"
    status: Status = "healthy"
    if counts["degraded"] or counts["unhealthy"] or not logs or failing:
        status = "degraded"
    if counts["unhealthy"] * 2 > len(logs):
        status = "unhealthy"
    jobs = dict(jobs or {})
    found = (*warnings, *_warnings(logs, archive, jobs, lists))
    return DeepHealth(status, version, uptime_s, tuple(logs), found, archive, jobs, share, tuple(lists))


def _warnings(
    logs: Sequence[LogHealth],
    archive: ArchiveHealth | None,
    jobs: Mapping[str, JobHealth],
    lists: Sequence[ListHealth],
) -> Iterator[str]:
    if not logs:
        yield NO_LOGS if not lists else NO_LIST if all(each.age_s is None for each in lists) else NO_LISTED_LOG
    if archive is not None and archive.state == "failing":
        yield f"the archive fails, and is tried again: {archive.last_error or 'no reason is known'}"
    for name, job in jobs.items():
        if job.state == "failed":
            yield f"{name} failed: {job.error or 'no reason is known'}"


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
        "share": health.share,
        "warnings": list(health.warnings),
        "logs": [asdict(log) for log in health.logs],
        "tainted": [asdict(each) for each in health.tainted],
        "archive": None if health.archive is None else asdict(health.archive),
        "jobs": {name: asdict(replace(job, detail=dict(job.detail))) for name, job in health.jobs.items()},
        "lists": [asdict(each) for each in health.lists],
    }


def readiness_json(readiness: Readiness) -> dict[str, Any]:
    """Return the body of /health/ready."""
    return {
        "status": "ready" if readiness.reason is None else "not_ready",
        "reason": readiness.reason,
        "share": readiness.share,
        "min_share": readiness.min_share,
        "logs": [asdict(log) for log in readiness.logs],
    }


def _count(logs: Sequence[LogHealth]) -> Counter[Status]:
    return Counter(_STATUS_OF[log.state] for log in logs)
