"""How the state of the logs and of the archive makes the state of the service."""

from __future__ import annotations

import json
from dataclasses import asdict
from types import MappingProxyType

import pytest

from certstream.metrics import LogState
from certstream.serve.health import NO_LOGS, ArchiveHealth, JobHealth, JobState, LogHealth, Status, assess, to_json


def log(state: LogState) -> LogHealth:
    return LogHealth(
        name="Example",
        url="https://ct.example.org/",
        kind="rfc6962",
        operator="ct.example.org",
        state=state,
        position=90,
        tree_size=100,
        lag_entries=10,
        lag_s=1.5,
        last_success_s=1790000000.0,
        last_error=None,
        share=0.25,
        share_cause="slow_answers",
    )


@pytest.mark.parametrize(
    ("states", "status"),
    [
        (["following"], "healthy"),
        (["starting", "catching_up", "rate_limited"], "healthy"),
        (["following", "degraded"], "degraded"),
        (["following", "stopped"], "degraded"),
        (["following", "unhealthy"], "degraded"),
        (["following", "unhealthy", "unhealthy"], "unhealthy"),
        (["unhealthy"], "unhealthy"),
        ([], "degraded"),
    ],
)
def test_the_service_is_unhealthy_when_most_logs_are_and_degraded_when_any_is_not_well(
    states: list[LogState], status: Status
) -> None:
    assert assess([log(state) for state in states], version="1", uptime_s=0).status == status


def test_no_logs_are_a_warning_next_to_those_of_the_caller() -> None:
    assert assess([], version="1", uptime_s=0, warnings=["a"]).warnings == ("a", NO_LOGS)
    assert assess([log("following")], version="1", uptime_s=0, warnings=["a"]).warnings == ("a",)


def test_the_answer_has_the_counts_and_every_log() -> None:
    logs = [log("following"), log("degraded"), log("unhealthy")]
    assert to_json(assess(logs, version="1.2.3", uptime_s=7.5, share=0.5), active_connections=4) == {
        "status": "degraded",
        "version": "1.2.3",
        "uptime_secs": 7.5,
        "active_connections": 4,
        "logs_total": 3,
        "logs_healthy": 1,
        "logs_degraded": 1,
        "logs_unhealthy": 1,
        "share": 0.5,
        "warnings": [],
        "logs": [
            {
                "name": "Example",
                "url": "https://ct.example.org/",
                "kind": "rfc6962",
                "operator": "ct.example.org",
                "state": state,
                "position": 90,
                "tree_size": 100,
                "lag_entries": 10,
                "lag_s": 1.5,
                "last_success_s": 1790000000.0,
                "last_error": None,
                "share": 0.25,
                "share_cause": "slow_answers",
                "verification": "off",
                "suspect": False,
                "tainted_entries": 0,
            }
            for state in ("following", "degraded", "unhealthy")
        ],
        "tainted": [],
        "archive": None,
        "jobs": {},
        "lists": [],
    }


FAILING = ArchiveHealth(
    state="failing",
    last_error="/srv/t: no space left on device",
    last_commit_s=1790000000.0,
    buffered_rows=10,
    buffered_bytes=20_000,
    lag_entries=12,
    free_disk_bytes=0,
)
WELL = ArchiveHealth("healthy", None, None, 0, 0, 0, None)


@pytest.mark.parametrize(
    ("states", "archive", "status"),
    [
        (["following"], WELL, "healthy"),
        (["following"], FAILING, "degraded"),
        (["following", "degraded"], WELL, "degraded"),
        (["following", "degraded"], FAILING, "degraded"),
        (["unhealthy"], WELL, "unhealthy"),
        (["unhealthy"], FAILING, "unhealthy"),
        ([], WELL, "degraded"),
    ],
)
def test_a_failing_archive_makes_the_service_degraded_and_never_unhealthy(
    states: list[LogState], archive: ArchiveHealth, status: Status
) -> None:
    assert assess([log(state) for state in states], version="1", uptime_s=0, archive=archive).status == status


def test_a_failing_archive_is_a_warning_that_says_why() -> None:
    health = assess([log("following")], version="1", uptime_s=0, warnings=["a"], archive=FAILING)
    assert health.warnings == ("a", "the archive fails, and is tried again: /srv/t: no space left on device")
    assert assess([log("following")], version="1", uptime_s=0, archive=WELL).warnings == ()


@pytest.mark.parametrize("state", ["never", "running", "succeeded", "interrupted", "failed"])
def test_only_a_failed_job_is_a_warning_and_none_changes_the_status(state: JobState) -> None:
    jobs = {"merge": JobHealth(state, error="staging has other columns")}
    health = assess([log("following")], version="1", uptime_s=0, archive=WELL, jobs=jobs)
    assert health.status == "healthy"
    assert health.warnings == (("merge failed: staging has other columns",) if state == "failed" else ())


def test_archive_and_jobs_are_in_the_answer() -> None:
    backfill = JobHealth("failed", 1.5, 2.5, MappingProxyType({"planned": 100, "written": 90}), "a range is missing")
    jobs = {"backfill": backfill, "merge": JobHealth()}
    health = assess([log("following")], version="1", uptime_s=0, archive=FAILING, jobs=jobs)
    answer = json.loads(json.dumps(to_json(health, active_connections=0)))
    assert answer["status"] == "degraded"
    assert answer["archive"] == asdict(FAILING)
    assert answer["jobs"] == {
        "backfill": {
            "state": "failed",
            "started_s": 1.5,
            "ended_s": 2.5,
            "detail": {"planned": 100, "written": 90},
            "error": "a range is missing",
        },
        "merge": {"state": "never", "started_s": None, "ended_s": None, "detail": {}, "error": None},
    }
