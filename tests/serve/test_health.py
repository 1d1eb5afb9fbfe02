"""How the state of the logs makes the state of the service."""

from __future__ import annotations

import pytest

from certstream.metrics import LogState
from certstream.serve.health import NO_LOGS, LogHealth, Status, assess, to_json


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
    assert to_json(assess(logs, version="1.2.3", uptime_s=7.5), active_connections=4) == {
        "status": "degraded",
        "version": "1.2.3",
        "uptime_secs": 7.5,
        "active_connections": 4,
        "logs_total": 3,
        "logs_healthy": 1,
        "logs_degraded": 1,
        "logs_unhealthy": 1,
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
            }
            for state in ("following", "degraded", "unhealthy")
        ],
    }
