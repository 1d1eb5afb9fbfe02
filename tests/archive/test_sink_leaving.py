"""Logs that are left and taken up again while the sink runs."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from certstream.ct.types import LogInfo
from certstream.metrics import Metrics
from tests.archive.archive_support import DATE, held, log_info, packed, url
from tests.archive.sink_support import MANUAL, SETTINGS, Blocked, positions, running, sink, until

A, B = log_info(0), log_info(1)


def shown(metrics: Metrics, log: LogInfo, name: str = "certstream_delta_lag_entries") -> float | None:
    return metrics.registry.get_sample_value(name, {"log": log.name})


async def test_rows_of_a_log_that_is_left_are_committed_and_then_it_is_forgotten(tmp_path: Path) -> None:
    metrics = Metrics()
    async with running(sink(tmp_path, replace(MANUAL, batch_rows=20), metrics.archive)) as own:
        own.take(packed(A, 0, 10))
        own.take(packed(B, 0, 5))
        own.leave(url(0))
        assert shown(metrics, A) == 10
        own.take(packed(B, 5, 10))
        await until(own, lambda: own.archived(url(1)) == 10)
        assert own.archived(url(0)) is None
        assert own.status().lag_entries == 0
        assert shown(metrics, A) is None
        assert shown(metrics, B) == 0
    assert positions(tmp_path, url(0), url(1)) == [10, 10]
    assert held(tmp_path) == {url(0): list(range(10)), url(1): list(range(10))}


async def test_a_log_without_rows_in_the_buffer_is_forgotten_at_once(tmp_path: Path) -> None:
    async with running(sink(tmp_path, MANUAL)) as own:
        await own.begin(A, 3)
        own.leave(url(0))
        own.leave("https://never.taken.up")
        assert own.archived(url(0)) is None
        await own.begin(B, 0)
    assert positions(tmp_path, url(0), url(1)) == [3, 0]


async def test_a_log_that_comes_again_goes_on_where_it_was_left(tmp_path: Path) -> None:
    async with running(sink(tmp_path, SETTINGS)) as own:
        own.take(packed(A, 0, 10))
        await until(own, lambda: own.archived(url(0)) == 10)
        own.leave(url(0))
        own.take_up(A, 10)
        await own.begin(A, 10)
        own.take(packed(A, 10, 15))
        await until(own, lambda: own.archived(url(0)) == 15)
        assert own.missing(url(0)).count == 0
    assert held(tmp_path) == {url(0): list(range(15))}


@pytest.mark.parametrize("name", ["log0", "another name"])
async def test_a_log_that_comes_again_before_its_rows_are_committed_loses_none(tmp_path: Path, name: str) -> None:
    metrics = Metrics()
    again = replace(A, name=name)
    async with running(sink(tmp_path, replace(MANUAL, batch_rows=15), metrics.archive)) as own:
        own.take(packed(A, 0, 10))
        own.leave(url(0))
        own.take_up(again, 10)
        assert shown(metrics, again) == 10
        assert (shown(metrics, A) is None) == (name != A.name)
        own.take(packed(again, 10, 15))
        await until(own, lambda: own.archived(url(0)) == 15)
        assert shown(metrics, again) == 0, "it is not forgotten with those rows"
    assert held(tmp_path) == {url(0): list(range(15))}
    assert positions(tmp_path, url(0)) == [15]


async def test_a_log_left_while_the_archive_fails_keeps_its_rows_until_it_works(tmp_path: Path) -> None:
    async with running(sink(tmp_path, SETTINGS)) as own:
        await own.begin(A, 0)
        with Blocked(tmp_path, DATE):
            own.take(packed(A, 0, 10))
            await until(own, lambda: own.is_failing)
            own.leave(url(0))
            await own.attempted()
            assert own.archived(url(0)) == 0
        await until(own, lambda: own.archived(url(0)) is None)
    assert held(tmp_path) == {url(0): list(range(10))}


async def test_what_a_left_log_misses_is_said_and_not_waited_for(tmp_path: Path) -> None:
    async with running(sink(tmp_path, SETTINGS)) as own:
        await own.begin(A, 0)
        own.take(packed(A, 7, 10))
        await until(own, lambda: own.status().buffered_rows == 0)
        assert own.missing(url(0)).count == 7
        with capture_logs() as lines:
            own.leave(url(0))
        assert [(line["log"], line["missing"]) for line in lines] == [("log0", 7)]
        assert own.missing(url(0)).count == 0
        assert own.status().lag_entries == 0
    assert positions(tmp_path, url(0)) == [0]
