"""How long a log that fails can hold a backfill, what is taken of it all the same, and what is said of it."""

from __future__ import annotations

import pytest
from structlog.testing import capture_logs

from certstream.backfill.patience import BARREN, HOPELESS, Patience, RetrySettings
from certstream.backfill.run import BackfillSettings
from certstream.ct.static_ct import data_tile_path
from certstream.ct.types import LogInfo, LogKind
from certstream.errors import FetchError
from certstream.intervals import Intervals
from certstream.simulator.faults import Fault, FaultKind
from certstream.simulator.log import SimulatedLog
from tests.backfill.backfill_support import Run, events, once, planned
from tests.client.reading_support import FakeTime, reading, tiles

LOG = LogInfo("log", "https://log.example/", "static", "operator")
KINDS: list[LogKind] = ["rfc6962", "static"]
ENTRIES = {"rfc6962": "get-entries", "static": "data-tile"}
STALL = FetchError("no answer in time", status="timeout")
GONE = FetchError("404", status="404")


def make_log(tiles: int) -> SimulatedLog:
    return SimulatedLog("log", seed=6, initial=256 * tiles, gzip="never")


def make_patience(time: FakeTime, budget_s: float = 300.0, most_barren: int | None = HOPELESS) -> Patience:
    patience = Patience(LOG, RetrySettings(), time.clock)
    patience.begin(budget_s)
    patience.restart(most_barren)
    return patience


def lose(log: SimulatedLog, kind: LogKind, lost: range) -> Intervals:
    """Have the log lose these tiles; what is left of it."""
    for tile in lost:
        log.faults.add(Fault(FaultKind.STATUS, status=404, on=ENTRIES[kind], index=256 * tile))
    return Intervals.of((0, log.tree_size)) - Intervals.of(*((256 * tile, 256 * tile + 256) for tile in lost))


# a log that fails now and then


@pytest.mark.parametrize("kind", KINDS)
async def test_a_log_that_lost_many_tiles_costs_little_time_and_gives_all_others(kind: LogKind) -> None:
    log = make_log(240)
    left = lose(log, kind, range(0, 240, 4))
    async with reading(log) as reader:
        result, destination = await once(reader, log, kind, log.tree_size)
        assert sum(reader.time.slept) < 20 * (4 if kind == "static" else 8) + 40 * 0.5 + 60
    assert destination.holds(log.info(kind)) == left
    assert len(result.failed) == 60
    if kind == "static":
        asked = tiles(log)
        few = [asked[data_tile_path(tile)] for tile in range(100, 240, 4)]
        assert max(few) <= 2 + 1, "one attempt, maybe one ahead of its turn, and one at the end"
        assert min(few) >= 2, "each is tried once more"


@pytest.mark.parametrize("kind", KINDS)
async def test_waiting_for_a_log_is_bounded_and_what_it_gives_at_once_is_taken(kind: LogKind) -> None:
    log = make_log(120)
    left = lose(log, kind, range(0, 120, 3))
    settings = BackfillSettings(retry=RetrySettings(patience_s=10, again_s=4))
    async with reading(log) as reader:
        result, destination = await once(reader, log, kind, log.tree_size, settings=settings)
        assert sum(reader.time.slept) == pytest.approx(10 + 4)
    assert destination.holds(log.info(kind)) == left
    assert (len(result.failed), result.left) == (40, 40 * 256)


async def test_every_piece_is_tried_once_more_however_many_failed() -> None:
    log = make_log(2 * HOPELESS + 40)
    lost = range(0, 2 * HOPELESS + 40, 2)
    left = lose(log, "static", lost)
    settings = BackfillSettings(retry=RetrySettings(patience_s=5, again_s=0))
    async with reading(log) as reader:
        result, destination = await once(reader, log, "static", log.tree_size, settings=settings)
    assert destination.holds(log.info("static")) == left
    assert len(result.failed) == len(lost) > HOPELESS
    assert min(tiles(log)[data_tile_path(tile)] for tile in lost) >= 2


# a log that stalls


async def test_a_log_that_stalls_with_no_patience_left_is_given_up() -> None:
    log = make_log(120)
    stall = Fault(FaultKind.STALL, seconds=5, on="data-tile")
    settings = BackfillSettings(retry=RetrySettings(patience_s=0, again_s=0))
    async with reading(log, stall_timeout_s=0.05) as reader:
        run = Run(reader, planned(log, "static", log.tree_size), [log], settings=settings)
        log.faults.add(stall)
        with capture_logs() as lines:
            result = await run.result()
    assert [(failed.start, failed.stop) for failed in result.failed] == [(0, log.tree_size)]
    assert run.destination.visible == []
    assert log.endpoints["data-tile"] <= 8 + 1
    assert len(events(lines, "log fails to give entries")) == 1
    assert len(events(lines, "log gives no entries, the rest of it is left for now")) == 2


def test_what_requests_without_an_answer_take_is_counted_and_bounded() -> None:
    patience = make_patience(FakeTime())
    for _ in range(20):
        assert not patience.is_spent
        assert not patience.is_over
        patience.failed(0, STALL, 15.0)
    assert patience.is_spent
    for _ in range(8):
        assert not patience.is_over
        patience.failed(0, STALL, 15.0)
    assert patience.is_over


def test_answers_that_are_failures_never_end_it_unless_nothing_else_comes() -> None:
    patience = make_patience(FakeTime(), budget_s=0)
    for _ in range(HOPELESS - 1):
        patience.failed(0, GONE, 0.1)
        patience.gave_up()
    assert not patience.is_over
    patience.gave(1)
    for _ in range(HOPELESS):
        assert not patience.is_over
        patience.failed(0, GONE, 0.1)
        patience.gave_up()
    assert patience.is_over
    patience.restart(None)
    for _ in range(2 * HOPELESS):
        patience.gave_up()
    assert not patience.is_over


def test_one_failure_that_waited_long_for_its_turn_takes_no_more_than_a_request() -> None:
    patience = make_patience(FakeTime())
    patience.failed(0, GONE, 3_000.0)
    assert not patience.is_spent


async def test_pieces_get_fewer_attempts_the_more_have_failed() -> None:
    time = FakeTime()
    patience = make_patience(time, budget_s=10.0)
    assert patience.attempts == 3
    for _ in range(BARREN):
        patience.gave_up()
    assert patience.attempts == 1
    patience.gave(0)
    assert patience.attempts == 3
    for _ in range(20):
        patience.gave_up()
    patience.gave(0)
    assert patience.attempts == 1
    await patience.back_off(1)
    assert time.slept == [0.1]


async def test_waits_double_and_end_with_the_budget_which_whole_items_renew() -> None:
    time = FakeTime()
    patience = make_patience(time, budget_s=10.0)
    for failures in (1, 2, 3, 4, 5):
        await patience.back_off(failures)
    assert time.slept == [1.0, 2.0, 4.0, 3.0]
    assert patience.is_spent
    assert patience.attempts == 1
    patience.regain()
    assert not patience.is_spent
    await patience.back_off(5)
    assert time.slept[4:] == [1.0]


# what is said


@pytest.mark.parametrize("kind", KINDS)
async def test_that_a_log_fails_and_gives_entries_again_is_said_once(kind: LogKind) -> None:
    log = make_log(12)
    fault = log.faults.add(Fault(FaultKind.UNAVAILABLE, on=ENTRIES[kind], index=700, times=2))
    async with reading(log) as reader:
        with capture_logs() as lines:
            result, _ = await once(reader, log, kind, log.tree_size)
    assert (result.failed, log.faults.struck[fault]) == ((), 2)
    (failing,) = events(lines, "log fails to give entries")
    (again,) = events(lines, "log gives entries again")
    assert failing["log"] == again["log"] == "log"
    assert failing["index"] == again["index"]
    assert failing["log_level"] == "warning"
    assert "503" in failing["error"]


def test_a_log_that_fails_again_and_again_is_named_once_a_minute() -> None:
    time = FakeTime()
    patience = make_patience(time)
    with capture_logs() as lines:
        for second in range(180):
            patience.failed(second, GONE, 0.0)
            patience.failed(second, GONE, 0.0)
            patience.gave(second)
            time.now_s += 1
    failing, again = (events(lines, name) for name in ("log fails to give entries", "log gives entries again"))
    assert [line["index"] for line in failing] == [line["index"] for line in again] == [0, 60, 120]
