"""What is planned arrives, whatever the logs do; what does not is said, to the index."""

from __future__ import annotations

import re

import numpy as np
import pytest
from structlog.testing import capture_logs

from certstream.backfill.fetch import LogFetcher, RetrySettings
from certstream.backfill.patience import HOPELESS
from certstream.backfill.planner import ITEM_ENTRIES, LogPlan, Target, plan
from certstream.backfill.run import BackfillSettings
from certstream.ct.static_ct import data_tile_path
from certstream.ct.types import EntryBatch, LogKind
from certstream.intervals import Intervals
from certstream.simulator.faults import Fault, FaultKind
from certstream.simulator.log import SimulatedLog
from tests.backfill.backfill_support import Run, events, once, planned
from tests.client.reading_support import reading, tiles

KINDS: list[LogKind] = ["rfc6962", "static"]
ENTRIES = {"rfc6962": "get-entries", "static": "data-tile"}
DOWN_S = 77.0
SETTINGS = BackfillSettings(retry=RetrySettings(down_s=DOWN_S))


def make_log(initial: int, name: str = "log", **settings: float) -> SimulatedLog:
    return SimulatedLog(name, seed=6, initial=initial, gzip="never", **settings)  # type: ignore[arg-type]


# up to the ceiling


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    ("tree_size", "ceiling"),
    [(5_000, 5_000), (5_100, 5_000), (10_304, 10_304), (10_400, 10_304), (600, 512), (600, 257), (3, 1)],
)
async def test_the_last_index_below_the_ceiling_is_fetched_and_nothing_above(
    kind: LogKind, tree_size: int, ceiling: int
) -> None:
    log = make_log(tree_size)
    async with reading(log) as reader:
        result, destination = await once(reader, log, kind, ceiling)
    assert (result.planned, result.written, result.left, result.failed) == (ceiling, ceiling, 0, ())
    assert destination.indices(log.info(kind)) == list(range(ceiling))
    ends = [int(match[1]) for path in log.requests if (match := re.search(r"&end=(\d+)", path))]
    assert max(ends, default=0) < ceiling


@pytest.mark.parametrize("kind", KINDS)
async def test_only_gaps_are_fetched(kind: LogKind) -> None:
    log = make_log(3_000)
    archived = Intervals.of((100, 300), (512, 1_024), (1_500, 2_999))
    async with reading(log) as reader:
        run = Run(reader, planned(log, kind, 3_000, archived), [log])
        result = await run.result()
    assert run.destination.holds(log.info(kind)) == Intervals.of((0, 3_000)) - archived
    assert (result.written, result.left) == (3_000 - archived.count, 0)
    if kind == "static":
        fetched = {data_tile_path(index): 1 for index in (0, 1, 4, 5)} | {data_tile_path(11, 184): 1}
        assert tiles(log) == fetched, "each tile once, none without a gap"


def every(step: int, stop: int) -> Intervals:
    """What is archived where every `step`th index is missing."""
    return Intervals.of((0, stop)) - Intervals.from_indices(np.arange(0, stop, step))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("step", [2, 100, 200, 1_000])
async def test_scattered_gaps_are_fetched_with_what_lies_between_and_nothing_else_arrives(
    kind: LogKind, step: int
) -> None:
    log = make_log(4_000)
    async with reading(log) as reader:
        run = Run(reader, planned(log, kind, 4_000, every(step, 4_000)), [log])
        result = await run.result()
    assert run.destination.indices(log.info(kind)) == list(range(0, 4_000, step))
    assert (result.written, result.left, result.failed) == (4_000 // step, 0, ())
    if kind == "static":
        assert set(tiles(log).values()) == {1}
        wanted = {index // 256 for index in range(0, 4_000, step)}
        assert len(tiles(log)) == len(wanted), "each tile once, and no other"
    else:
        assert log.endpoints["get-entries"] <= 6
    if step == 2:
        assert len(run.destination.visible) <= 8, "decoded and written together"


async def test_scattered_entries_arrive_as_they_are() -> None:
    log = make_log(700)
    async with reading(log) as reader:
        run = Run(reader, planned(log, "static", 700, every(3, 700)), [log])
        await run.result()
        whole = Run(reader, planned(log, "static", 700), [log])
        await whole.result()
    of_whole = {row["cert_index"]: row for row in whole.destination.rows()}
    rows = run.destination.rows()
    assert len(rows) == 234
    for row in rows:
        for name in ("as_der", "chain", "cert_link", "sha256"):
            assert row[name] == of_whole[row["cert_index"]][name]


async def test_runs_of_missing_entries_alone_are_given_where_nothing_else_may_come() -> None:
    log = make_log(1_000)
    given: list[tuple[int, int]] = []

    async def give(batch: EntryBatch) -> None:
        given.append((batch.start, batch.stop))

    missing = Intervals.of((3, 5), (10, 300), (310, 311), (700, 900))
    async with reading(log) as reader:
        client = reader.client(log, "static")
        fetcher = LogFetcher(LogPlan(log.info("static"), missing), client, give, clock=reader.time.clock)
        await fetcher.read()
    assert len(fetcher.lacking) == 0
    assert Intervals.of(*given) == missing
    assert sum(stop - start for start, stop in given) == missing.count


@pytest.mark.parametrize("kind", KINDS)
async def test_of_a_lost_tile_with_many_gaps_exactly_those_are_reported(kind: LogKind) -> None:
    log = make_log(3_000)
    log.faults.add(Fault(FaultKind.SERVER_ERROR, on=ENTRIES[kind], index=600))
    async with reading(log) as reader:
        run = Run(reader, planned(log, kind, 3_000, every(100, 3_000)), [log])
        result = await run.result()
    assert [(failed.start, failed.stop) for failed in result.failed] == [(600, 601), (700, 701)]
    assert run.destination.indices(log.info(kind)) == [*range(0, 600, 100), *range(800, 3_000, 100)]
    assert (result.written, result.left) == (28, 2)


@pytest.mark.parametrize("kind", KINDS)
async def test_a_break_in_a_tile_behind_what_is_missing_of_it_does_no_harm(kind: LogKind) -> None:
    log = make_log(1_000)
    log.faults.add(Fault(FaultKind.UNKNOWN_TYPE, index=400))
    async with reading(log) as reader:
        run = Run(reader, planned(log, kind, 1_000, Intervals.of((300, 600))), [log])
        result = await run.result()
    assert run.destination.holds(log.info(kind)) == Intervals.of((0, 300), (600, 1_000))
    assert result.failed == ()


@pytest.mark.parametrize("kind", KINDS)
async def test_a_ceiling_beyond_the_tree_is_said_and_what_lies_below_is_fetched(kind: LogKind) -> None:
    log = make_log(900)
    async with reading(log) as reader:
        result, destination = await once(reader, log, kind, 1_000)
    assert destination.holds(log.info(kind)) == Intervals.of((0, 900))
    (failed,) = result.failed
    assert (failed.log, failed.start, failed.stop) == (log.info(kind), 900, 1_000)
    assert failed.error == "log: the log's tree has 900 entries only"
    assert (result.logs_done, result.logs_failed, result.left) == (0, 1, 100)


@pytest.mark.parametrize("kind", KINDS)
async def test_a_tree_head_that_was_behind_is_asked_for_again(kind: LogKind) -> None:
    log = make_log(900)
    log.faults.add(Fault(FaultKind.SMALLER_TREE, times=1, entries=300))
    async with reading(log) as reader:
        result, destination = await once(reader, log, kind, 900)
    assert (result.failed, result.left) == ((), 0)
    assert destination.holds(log.info(kind)) == Intervals.of((0, 900))


async def test_a_partial_tile_that_is_gone_is_read_from_the_full_one() -> None:
    log = make_log(300)
    async with reading(log) as reader:
        run = Run(reader, planned(log, "static", 300), [log])
        log.faults.add(Fault(FaultKind.MISSING_PARTIAL))
        log.grow(300)
        result = await run.result()
    assert (result.failed, run.destination.indices(log.info("static"))) == ((), list(range(300)))


# failures that pass


@pytest.mark.parametrize("kind", KINDS)
async def test_a_run_of_503_is_waited_out_and_nothing_received_is_fetched_twice(kind: LogKind) -> None:
    log = make_log(3_000)
    log.faults.add(Fault(FaultKind.UNAVAILABLE, on=ENTRIES[kind], index=5, times=2))
    async with reading(log) as reader:
        result, destination = await once(reader, log, kind, 3_000)
        waits = reader.time.slept
    assert (result.failed, result.left) == ((), 0)
    assert destination.indices(log.info(kind)) == list(range(3_000))
    assert waits == [1.0, 2.0]


async def test_progress_makes_patience_new() -> None:
    log = make_log(2_048)
    for index in range(100, 2_048, 256):
        log.faults.add(Fault(FaultKind.UNAVAILABLE, on="data-tile", index=index, times=2))
    async with reading(log) as reader:
        with capture_logs() as lines:
            result, destination = await once(reader, log, "static", 2_048)
        waits = reader.time.slept
    assert (result.failed, destination.indices(log.info("static"))) == ((), list(range(2_048)))
    assert len(waits) >= 8
    assert set(waits) == {1.0, 2.0}
    assert events(lines, "trying again what failed") == []


@pytest.mark.parametrize("kind", KINDS)
async def test_a_429_never_counts_as_failure(kind: LogKind) -> None:
    log = make_log(1_000)
    log.faults.add(Fault(FaultKind.RATE_LIMITED, on="get-sth" if kind == "rfc6962" else "checkpoint", times=20))
    log.faults.add(Fault(FaultKind.RATE_LIMITED, on=ENTRIES[kind], times=40, retry_after_s=20))
    async with reading(log) as reader:
        result, destination = await once(reader, log, kind, 1_000)
        assert reader.time.now_s > 1_000 + 40 * 20
    assert sum(log.faults.struck.values()) == 60
    assert (result.failed, destination.indices(log.info(kind))) == ((), list(range(1_000)))


async def test_the_wait_after_a_429_takes_no_patience() -> None:
    log = make_log(20 * 256)
    log.faults.add(Fault(FaultKind.RATE_LIMITED, on=data_tile_path(10), times=1, retry_after_s=500))
    for tile in range(5, 12):
        log.faults.add(Fault(FaultKind.STATUS, status=404, on=data_tile_path(tile)))
    async with reading(log) as reader:
        result, _ = await once(reader, log, "static", log.tree_size, settings=SETTINGS)
        assert DOWN_S not in reader.time.slept
        assert reader.time.now_s > 1_000 + 500
    assert [(failed.start, failed.stop) for failed in result.failed] == [(5 * 256, 12 * 256)]


@pytest.mark.parametrize("kind", KINDS)
async def test_what_fails_until_the_end_is_tried_once_more_and_arrives(kind: LogKind) -> None:
    log, other = make_log(2_000), make_log(800, "other")
    fault = log.faults.add(Fault(FaultKind.SERVER_ERROR, on=ENTRIES[kind], index=700))
    async with reading(log, other) as reader:
        run = Run(reader, plan([Target(each.info(kind), each.tree_size, 0) for each in (log, other)]), [log, other])
        reader.time.on_sleep = lambda: log.faults.clear() if log.faults.struck[fault] >= 4 else None
        with capture_logs() as lines:
            result = await run.result()
    assert [line["ranges"] for line in lines if line["event"] == "trying again what failed"] == [1]
    assert (result.failed, result.left, result.logs_done) == ((), 0, 2)
    assert run.destination.holds(log.info(kind)) == Intervals.of((0, 2_000))
    assert run.destination.holds(other.info(kind)) == Intervals.of((0, 800))


# failures that stay


@pytest.mark.parametrize("kind", KINDS)
async def test_a_piece_that_a_log_does_not_give_is_reported_and_everything_else_arrives(kind: LogKind) -> None:
    log = make_log(3_000)
    log.faults.add(Fault(FaultKind.SERVER_ERROR, on=ENTRIES[kind], index=1_700))
    async with reading(log) as reader:
        result, destination = await once(reader, log, kind, 3_000)
    (failed,) = result.failed
    assert (failed.start, failed.stop) == (1_536, 1_792)
    assert "500" in failed.error
    assert log.base_url in failed.error
    assert destination.holds(log.info(kind)) == Intervals.of((0, 1_536), (1_792, 3_000))
    assert (result.written, result.left) == (3_000 - 256, 256)


async def test_a_tile_that_stays_broken_costs_what_lies_behind_the_break_in_it() -> None:
    log = make_log(3_000)
    log.faults.add(Fault(FaultKind.UNKNOWN_TYPE, index=1_700))
    async with reading(log) as reader:
        result, destination = await once(reader, log, "static", 3_000)
    assert [(failed.start, failed.stop) for failed in result.failed] == [(1_700, 1_792)]
    assert data_tile_path(6) in result.failed[0].error
    assert destination.holds(log.info("static")) == Intervals.of((0, 1_700), (1_792, 3_000))


@pytest.mark.parametrize("kind", KINDS)
async def test_a_dead_log_is_given_up_soon_and_holds_no_other(kind: LogKind) -> None:
    dead, good = make_log(50_000, "dead"), make_log(2_000, "good")
    async with reading(dead, good) as reader:
        run = Run(reader, plan([Target(each.info(kind), each.tree_size, 0) for each in (dead, good)]), [dead, good])
        dead.faults.add(Fault(FaultKind.RESET))
        result = await run.result()
    (failed,) = result.failed
    assert (failed.log.name, failed.start, failed.stop) == ("dead", 0, 50_000)
    assert sum(dead.endpoints.values()) <= 2 * 3 * 2, "aiohttp itself repeats what a connection took with it"
    assert (result.logs_done, result.logs_failed, result.left) == (1, 1, 50_000)
    assert run.destination.holds(good.info(kind)) == Intervals.of((0, 2_000))


async def test_a_dead_log_with_thousands_of_small_gaps_is_given_up_as_soon() -> None:
    log = make_log(50_000)
    archived = Intervals.from_indices(np.setdiff1d(np.arange(50_000), np.arange(0, 50_000, 10)))
    async with reading(log) as reader:
        run = Run(reader, planned(log, "static", 50_000, archived), [log])
        log.faults.add(Fault(FaultKind.UNAVAILABLE, on="data-tile"))
        log.faults.add(Fault(FaultKind.UNAVAILABLE, on="checkpoint", nth=2))
        log.faults.add(Fault(FaultKind.UNAVAILABLE, on="checkpoint", nth=4))
        result = await run.result()
    assert (len(result.failed), result.left) == (5_000, 5_000)
    assert (log.endpoints["checkpoint"], log.endpoints["data-tile"]) == (4, 2 * 3 * 3)


@pytest.mark.parametrize("kind", KINDS)
async def test_a_log_that_dies_on_the_way_is_given_up_and_asked_again_after_a_while(kind: LogKind) -> None:
    log = make_log(2 * ITEM_ENTRIES)
    items = 0

    async def hold() -> None:
        nonlocal items
        items += 1
        if items == 2:
            log.faults.add(Fault(FaultKind.RESET))

    async with reading(log) as reader:
        run = Run(reader, planned(log, kind, log.tree_size), [log], hold=hold, settings=SETTINGS)
        revive_at = 60.0

        def on_sleep() -> None:
            if reader.time.slept[-1] >= revive_at:
                log.faults.clear()

        reader.time.on_sleep = on_sleep
        result = await run.result()
        assert sum(reader.time.slept) < 100, "three pieces of three attempts, and the wait"
        assert max(reader.time.slept) == pytest.approx(DOWN_S)
    assert (result.failed, result.left) == ((), 0)
    assert run.destination.indices(log.info(kind))[-3 * 256 :] == list(range(ITEM_ENTRIES, ITEM_ENTRIES + 768)), (
        "what was not asked for comes first, in its order"
    )
    assert run.destination.holds(log.info(kind)) == Intervals.of((0, log.tree_size))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("lost", [range(1, 5), range(1, 60)], ids=["four tiles", "more than an item"])
async def test_what_a_log_lost_keeps_nobody_from_what_lies_behind(kind: LogKind, lost: range) -> None:
    log = make_log(2 * ITEM_ENTRIES, max_page=256)
    for tile in lost:
        log.faults.add(Fault(FaultKind.STATUS, status=404, on=ENTRIES[kind], index=256 * tile))
    async with reading(log) as reader:
        result, destination = await once(reader, log, kind, log.tree_size)
    (failed,) = result.failed
    assert (failed.start, failed.stop) == (256 * lost.start, 256 * lost.stop)
    assert destination.holds(log.info(kind)) == Intervals.of((0, failed.start), (failed.stop, log.tree_size))


@pytest.mark.parametrize("kind", KINDS)
async def test_a_log_that_has_a_head_and_no_entries_is_given_up_when_patience_ends(kind: LogKind) -> None:
    log = make_log(8 * ITEM_ENTRIES)
    log.faults.add(Fault(FaultKind.STATUS, status=410, on=ENTRIES[kind]))
    settings = BackfillSettings(retry=RetrySettings(patience_s=60))
    async with reading(log) as reader:
        result, destination = await once(reader, log, kind, log.tree_size, settings=settings)
        assert sum(reader.time.slept) == pytest.approx(2 * (60 + 3) + 30, abs=10)
    assert [(failed.start, failed.stop) for failed in result.failed] == [(0, log.tree_size)]
    assert destination.visible == []
    assert log.endpoints[ENTRIES[kind]] <= 2 * (3 * 3 + HOPELESS + 3)


async def test_one_attempt_is_enough_where_it_is_so_set() -> None:
    log = make_log(600)
    fault = log.faults.add(Fault(FaultKind.SERVER_ERROR, on="data-tile", index=300))
    async with reading(log) as reader:
        settings = BackfillSettings(retry=RetrySettings(attempts=1))
        result, _ = await once(reader, log, "static", 600, settings=settings)
        assert reader.time.slept == []
    assert [(failed.start, failed.stop) for failed in result.failed] == [(256, 512)]
    assert log.faults.struck[fault] == 2, "once, and at the end"


# letting others go first


async def test_each_item_waits_for_its_turn() -> None:
    log = make_log(2 * ITEM_ENTRIES + 1)
    asked: list[int] = []

    async def hold() -> None:
        asked.append(log.endpoints["data-tile"])

    async with reading(log) as reader:
        await once(reader, log, "static", log.tree_size, hold=hold)
    assert asked == [0, 40, 80]
