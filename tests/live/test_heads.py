from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st
from structlog.testing import capture_logs

from certstream.client import rfc6962, static_ct
from certstream.ct.rfc6962 import parse_sth
from certstream.ct.static_ct import parse_checkpoint
from certstream.ct.types import LogKind, TreeHead
from certstream.live.heads import CREDIBLE_HEADS, CREDIBLE_S, Heads
from certstream.simulator.faults import Fault, FaultKind
from certstream.simulator.log import SimulatedLog
from tests.client.reading_support import Reader, reading
from tests.live.following_support import Follower

KINDS: list[LogKind] = ["rfc6962", "static"]
both = pytest.mark.parametrize("kind", KINDS)
FREAK = 10**9


def make_log(initial: int) -> SimulatedLog:
    return SimulatedLog("followed", seed=9, initial=initial)


def taken(heads: Heads, *sizes: int, position: int, step_s: float = 10.0, start_s: float = 0.0) -> list[int | None]:
    return [heads.take(size, position, start_s + i * step_s) for i, size in enumerate(sizes)]


def test_a_larger_head_is_given_up_after_only_smaller_ones_for_a_while() -> None:
    heads = Heads(0)
    assert taken(heads, FREAK, *[100] * 8, 103, position=100) == [None] * 10
    assert heads.tree_size == FREAK
    assert heads.take(101, 100, 200.0) == FREAK
    assert heads.tree_size == 103, "the largest of those"
    assert heads.take(110, 100, 210.0) is None
    assert heads.tree_size == 110


@pytest.mark.parametrize(("count", "step_s"), [(CREDIBLE_HEADS - 1, CREDIBLE_S), (1000, CREDIBLE_S / 1001)])
def test_neither_few_heads_nor_a_short_time_are_enough(count: int, step_s: float) -> None:
    heads = Heads(0)
    taken(heads, FREAK, *[50] * count, position=10, step_s=step_s)
    assert heads.tree_size == FREAK
    heads = Heads(0)
    taken(heads, *[50] * count, position=100, step_s=step_s)
    assert not heads.beyond


def test_heads_below_what_was_read_say_nothing_against_a_larger_one() -> None:
    heads = Heads(0)
    assert taken(heads, 120, *[99] * 100, position=100) == [None] * 101
    assert heads.tree_size == 120
    assert heads.beyond
    heads.take(100, 100, 2000.0)
    assert not heads.beyond


def test_what_the_last_run_knew_is_no_floor() -> None:
    heads = Heads(FREAK)
    assert heads.tree_size == FREAK
    assert heads.take(100, 50, 0.0) is None
    assert heads.tree_size == 100


def test_a_signed_head_is_never_given_up_for_smaller_ones() -> None:
    heads = Heads(0, signed=True)
    assert taken(heads, 120, *[110] * 100, position=100) == [None] * 101
    assert heads.tree_size == 120
    heads.take(130, 100, 2000.0)
    assert heads.tree_size == 130


@given(lags=st.lists(st.integers(0, 500), min_size=30, max_size=200))
def test_frontends_that_lag_behind_each_other_take_nothing_back(lags: list[int]) -> None:
    """One answer in five at least is the newest; the log is read as far as it is known."""
    heads, position = Heads(0), 1000
    for i, lag in enumerate(lags):
        before = heads.tree_size
        assert heads.take(1000 + 10 * i - (lag if i % 5 else 0), position, i * 10.0) is None
        assert heads.tree_size >= before
        assert not heads.beyond
        position = max(position, heads.tree_size)


@contextmanager
def heads_changed(monkeypatch: pytest.MonkeyPatch, change: Callable[[int], int]) -> Iterator[None]:
    """Let tree sizes arrive changed."""

    def changed(head: TreeHead) -> TreeHead:
        return replace(head, tree_size=change(head.tree_size))

    with monkeypatch.context() as patch:
        patch.setattr(rfc6962, "parse_sth", lambda body: changed(parse_sth(body)))
        patch.setattr(static_ct, "parse_checkpoint", lambda *args: changed(parse_checkpoint(*args)))
        yield


def growing(reader: Reader, log: SimulatedLog, follower: Follower, per_s: float) -> None:
    """Let the log grow while time goes on."""
    began_s, initial = reader.time.now_s, log.tree_size

    def on_sleep() -> None:
        log.grow(max(0, initial + int((reader.time.now_s - began_s) * per_s) - log.tree_size))
        follower.notify()

    reader.time.on_sleep = on_sleep


@both
@pytest.mark.parametrize("per_s", [0, 2])
async def test_a_head_far_too_large_holds_a_log_for_a_while_only(
    monkeypatch: pytest.MonkeyPatch, kind: LogKind, per_s: float
) -> None:
    log = make_log(1000)
    freaks = 0

    def change(tree_size: int) -> int:
        nonlocal freaks
        freaks += 1
        return FREAK if freaks == 3 else tree_size

    async with reading(log) as reader:
        follower = Follower(reader, log, kind, partial_tile_wait_s=0)
        follower.may_shrink = True
        growing(reader, log, follower, per_s)
        with heads_changed(monkeypatch, change), capture_logs() as lines:
            async with follower.running():
                await follower.until(lambda: follower.tailer.status().tree_size == FREAK)
                freak_at_s = reader.time.now_s
                await follower.until(lambda: follower.tailer.status().tree_size != FREAK)
                assert reader.time.now_s - freak_at_s < 300
                log.grow(10)
                size = log.tree_size
                await follower.until_read(size)
                await follower.until(lambda: follower.state == "following")
        assert follower.check(0) >= size
        assert follower.moves[-1][1] < FREAK, "the state file forgets it too"
        assert reader.counted("certstream_log_tree_size", log="followed") < FREAK
        assert reader.counted("certstream_log_errors_total", log="followed", kind="TreeHeadGivenUp") == 1
    given_up = [line for line in lines if line.get("given_up") == FREAK]
    assert [line["log_level"] for line in given_up] == ["warning"]


@both
async def test_a_size_in_the_state_file_that_is_far_too_large_is_forgotten_at_the_first_head(kind: LogKind) -> None:
    log = make_log(300)
    async with reading(log) as reader:
        follower = Follower(reader, log, kind, position=200, tree_size=FREAK, partial_tile_wait_s=0)
        async with follower.running():
            await follower.until_read(300)
        assert follower.check(200) == 300
        assert follower.moves[0] == (200, 300)
        assert "degraded" not in follower.states


@both
async def test_a_log_whose_frontends_lag_is_followed_without_a_word(kind: LogKind) -> None:
    log = make_log(500)
    log.faults.add(Fault(FaultKind.SMALLER_TREE, probability=0.6, entries=150))
    async with reading(log) as reader:
        follower = Follower(reader, log, kind, partial_tile_wait_s=0)
        growing(reader, log, follower, 1)
        with capture_logs() as lines:
            async with follower.running():
                await follower.until(lambda: log.endpoints["get-sth"] + log.endpoints["checkpoint"] > 200)
                await follower.until_read(log.tree_size)
        follower.check(0)
        assert not [line for line in lines if line["log_level"] == "warning"]
        assert "degraded" not in follower.states


@both
@pytest.mark.parametrize("from_state", [True, False])
async def test_a_position_beyond_the_tree_is_said_once_and_over_when_the_tree_comes_there(
    kind: LogKind, from_state: bool
) -> None:
    log = make_log(100)
    async with reading(log) as reader:
        if from_state:
            follower = Follower(reader, log, kind, position=130, tree_size=140, partial_tile_wait_s=0)
        else:
            follower = Follower(reader, log, kind, start=130, partial_tile_wait_s=0)
        with capture_logs() as lines:
            async with follower.running():
                await follower.until(lambda: follower.state == "degraded")
                assert reader.time.now_s - 1000 >= 60
                slept = len(reader.time.slept)
                await follower.until(lambda: len(reader.time.slept) > slept + 20)
                status = follower.tailer.status()
                assert (status.state, status.position, status.tree_size) == ("degraded", 130, 100)
                for said in ("followed: ", " 130 ", " 100 ", "state file", "`start`", log.info(kind).base_url):
                    assert said in str(status.last_error)
                assert follower.batches == []
                assert reader.counted("certstream_log_errors_total", log="followed", kind="PositionBeyondTree") == 1
                log.grow(50)
                await follower.until_read(150)
                await follower.until(lambda: follower.state == "following")
        assert follower.check(130) == 150
    warnings = [line for line in lines if line["log_level"] == "warning"]
    assert len(warnings) == 1
    assert "130" in warnings[0]["error"]
