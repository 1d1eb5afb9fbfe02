"""The plan as an operator sees it before anything is fetched."""

from __future__ import annotations

import pytest

from certstream.backfill.planner import Plan, Target, plan
from certstream.backfill.report import plan_table
from certstream.ct.types import LogInfo
from certstream.intervals import Intervals

FIRST = LogInfo("Argon 2026h1", "https://ct.example/logs/argon2026h1/", "rfc6962", "Example")
SECOND = LogInfo("Tiles", "https://mon.example/tiles/", "static", "Example")


def table(of: Plan, free_bytes: int = 10**12) -> list[str]:
    return plan_table(of, bytes_per_row=1_000.0, free_bytes=free_bytes).splitlines()


def test_each_log_with_gaps_is_a_row_and_the_total_is_the_last() -> None:
    targets = [
        Target(FIRST, 2_000_000, 0, Intervals.of((1_000, 2_000))),
        Target(SECOND, 500, 0),
        Target(LogInfo("Whole", "https://whole.example/", "static", "Example"), 10, 0, Intervals.of((0, 10))),
    ]
    assert table(plan(targets)) == [
        "log           url                                  missing ranges  work items    indices  estimated size",
        "Argon 2026h1  https://ct.example/logs/argon2026h1               2         196  1,999,000         1.9 GiB",
        "Tiles         https://mon.example/tiles                         1           1        500       488.3 KiB",
        "total                                                           3         197  1,999,500         1.9 GiB",
        "",
        "free disk space: 931.3 GiB (1,000,000,000,000 bytes)",
    ]


def test_too_little_space_is_said() -> None:
    lines = table(plan([Target(FIRST, 2_000_000, 0)]), free_bytes=1_500_000_000)
    assert lines[-2:] == [
        "free disk space: 1.4 GiB (1,500,000,000 bytes)",
        "not enough: about 476.8 MiB more are needed",
    ]


@pytest.mark.parametrize("targets", [[], [Target(FIRST, 10, 0, Intervals.of((0, 10)))]])
def test_nothing_to_do_is_said(targets: list[Target]) -> None:
    assert table(plan(targets)) == ["nothing to backfill"]


def test_logs_that_are_skipped_are_named() -> None:
    skipped = Target(SECOND, None, None)
    line = "skipped, no position of it is known yet: Tiles"
    assert table(plan([skipped])) == [line, "nothing to backfill"]
    assert table(plan([Target(FIRST, 1, 0), skipped]))[-2] == line


def test_names_cannot_move_the_cursor() -> None:
    wild = LogInfo("a\x1b[2Jb", "https://log.example/", "static", "Example")
    assert table(plan([Target(wild, 1, 0)]))[1].startswith("a?[2Jb  https://log.example")
