"""When a log's newest head was signed, as the metrics show it: what tells that a log keeps no merge delay."""

from __future__ import annotations

import math
import time

import pytest

from certstream.ct.types import LogKind
from certstream.simulator.faults import Fault, FaultKind
from certstream.simulator.log import SimulatedLog
from tests.client.reading_support import Reader, reading
from tests.live.following_support import Follower

NAME = "certstream_log_head_timestamp_seconds"
ERRORS = "certstream_log_errors_total"
KINDS: list[LogKind] = ["rfc6962", "static"]
both = pytest.mark.parametrize("kind", KINDS)


def shown(reader: Reader) -> float | None:
    return reader.http.metrics.registry.get_sample_value(NAME, {"log": "followed"})


@both
async def test_it_is_the_heads_own_time_in_seconds_and_moves_with_each_newer_head(kind: LogKind) -> None:
    log = SimulatedLog("followed", seed=9, initial=300)
    async with reading(log) as reader:
        follower = Follower(reader, log, kind)
        first = log.head.timestamp_ms
        async with follower.running():
            await follower.until_read(300)
            assert shown(reader) == first / 1000
            log.grow(10)
            assert log.head.timestamp_ms > first
            await follower.until_read(310)
            assert shown(reader) == log.head.timestamp_ms / 1000


@both
async def test_it_is_unknown_while_the_log_gives_no_head_and_stays_while_it_gives_none_anymore(kind: LogKind) -> None:
    log = SimulatedLog("followed", seed=9, initial=300)
    async with reading(log) as reader:
        down = log.faults.add(Fault(FaultKind.UNAVAILABLE))
        follower = Follower(reader, log, kind)
        async with follower.running():
            await follower.until(lambda: "degraded" in follower.states)
            value = shown(reader)
            assert value is not None
            assert math.isnan(value)
            log.faults.remove(down)
            await follower.until_read(300)
            log.faults.add(Fault(FaultKind.UNAVAILABLE))
            await follower.until(lambda: len(reader.time.slept) >= 8)
            assert shown(reader) == log.head.timestamp_ms / 1000


@both
async def test_an_older_head_of_a_frontend_that_lags_does_not_move_it_back(kind: LogKind) -> None:
    log = SimulatedLog("followed", seed=9, initial=300)
    async with reading(log) as reader:
        follower = Follower(reader, log, kind)
        async with follower.running():
            await follower.until_read(300)
            log.faults.add(Fault(FaultKind.SMALLER_TREE, entries=100))
            await follower.until(lambda: reader.counted(ERRORS, log="followed", kind="SmallerTreeHead") >= 2)
            assert shown(reader) == log.head.timestamp_ms / 1000


@both
@pytest.mark.parametrize(("fault", "sign"), [(FaultKind.FUTURE_HEAD, 1), (FaultKind.OLD_HEAD, -1)])
async def test_a_head_of_the_future_or_long_ago_is_shown_and_read_all_the_same(
    kind: LogKind, fault: FaultKind, sign: int
) -> None:
    log = SimulatedLog("followed", seed=9, initial=300)
    async with reading(log) as reader:
        log.faults.add(Fault(fault, seconds=90_000))
        follower = Follower(reader, log, kind)
        async with follower.running():
            await follower.until_read(300)
            value = shown(reader)
        assert value is not None
        assert sign * (value - time.time()) > 80_000
        assert set(follower.states) <= {"starting", "catching_up", "following"}
