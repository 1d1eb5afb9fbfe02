"""What is tainted is read again and compared with what went out: proven, or listed with the reason."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Sequence
from dataclasses import replace

import numpy as np
import pytest
from structlog.testing import capture_logs

from certstream.app.verification.proven import ProvenRows
from certstream.app.verification.recheck import (
    DIFFERS,
    NOT_ARCHIVED,
    NOT_KEPT,
    NOT_READ,
    Rechecker,
    Shown,
)
from certstream.client.base import ReadSettings
from certstream.client.rfc6962 import Rfc6962Client
from certstream.ct.edge import TreeEdge
from certstream.ct.types import PRECERT_ENTRY, EntryBatch, LogInfo, LogKind, Spans
from certstream.errors import StorageError
from certstream.intervals import Intervals
from certstream.simulator.faults import Fault, FaultKind
from tests.app.verification.recheck_support import Again, again, all_of, both


@both
async def test_what_was_streamed_as_it_is_proven_is_tainted_no_more(kind: LogKind) -> None:
    async with again(kind) as it:
        it.streams(100, 1_300)
        rechecker = it.rechecker()
        assert rechecker.tainted() == it.listed((100, 1_300, NOT_READ))
        await all_of(rechecker)
        assert it.tainted == Intervals()
        assert (rechecker.tainted(), it.cases) == ([], [])
        assert it.held == 2  # pieces of 700 entries at most


@both
async def test_what_was_streamed_otherwise_than_it_is_proven_stays_tainted_for_good(kind: LogKind) -> None:
    async with again(kind) as it:
        it.streams(0, 600, 17, 18, 400)
        rechecker = it.rechecker()
        await all_of(rechecker)
        assert it.tainted == Intervals.of((17, 19), (400, 401))
        assert rechecker.tainted() == it.listed((17, 19, DIFFERS), (400, 401, DIFFERS))
        assert [(case.kind, case.start, case.stop) for case in it.cases] == [
            ("wrong_leaf", 17, 19),
            ("wrong_leaf", 400, 401),
        ]
        assert it.cases[0].hashes["leaf_proven"] == it.log.tree.leaf(17)
        assert it.cases[0].hashes["leaf_streamed"] == b"\xff" * 32
        before = dict(it.log.requests)
        it.reader.time.now_s += 100_000
        await all_of(rechecker)
        assert it.log.requests == before
        keys = {case.key() for case in it.cases}
        it.log.grow(10)
        await all_of(it.rechecker())  # of a service that was started anew: the same cases
        assert {case.key() for case in it.cases} == keys


@both
async def test_without_hashes_since_a_restart_the_archives_rows_are_compared(kind: LogKind) -> None:
    async with again(kind) as it:
        it.rows.tainted(it.info, 200, 900)
        rechecker = it.rechecker(it.archived(333))
        await all_of(rechecker)
        assert it.tainted == Intervals.of((333, 334))
        assert rechecker.tainted() == it.listed((333, 334, DIFFERS))
        (case,) = it.cases
        assert case.hashes["certificate_streamed"] == b"\x00\xff"
        assert case.hashes["certificate_proven"] == bytes.fromhex(it.row(333)[1].replace(":", ""))


async def test_what_is_not_archived_yet_waits_for_its_rows_and_nothing_is_asked_of_the_log() -> None:
    async with again() as it:
        it.rows.tainted(it.info, 0, 50)
        archived = [it.archived(stop=0)]

        def newest(log: LogInfo, start: int, stop: int) -> Shown:
            return archived[0](log, start, stop)

        rechecker = it.rechecker(newest)
        await all_of(rechecker)
        assert rechecker.tainted() == it.listed((0, 50, NOT_ARCHIVED))
        assert not it.log.requests
        archived[0] = it.archived(stop=20)
        it.reader.time.now_s += 15
        await all_of(rechecker)
        assert rechecker.tainted() == it.listed((20, 50, NOT_ARCHIVED))
        archived[0] = it.archived()
        it.reader.time.now_s += 30
        await all_of(rechecker)
        assert it.tainted == Intervals()


async def test_where_nothing_is_archived_and_hashes_are_forgotten_it_is_said_once_that_the_log_is_consistent() -> None:
    async with again() as it:
        it.rows.tainted(it.info, 0, 50)
        rechecker = it.rechecker()
        await all_of(rechecker)
        assert rechecker.tainted() == it.listed((0, 50, NOT_KEPT))
        assert it.cases == []
        before = dict(it.log.requests)
        it.reader.time.now_s += 100_000
        await all_of(rechecker)
        assert it.log.requests == before


@both
async def test_what_the_log_still_sends_wrong_is_listed_and_tried_again_later_and_later(kind: LogKind) -> None:
    async with again(kind) as it:
        it.streams(0, 256)
        fault = it.log.faults.add(Fault(FaultKind.WRONG_LEAF, index=70))
        rechecker = it.rechecker()
        pauses: list[float] = []
        for _ in range(8):
            await all_of(rechecker)
            ((start, stop),) = it.tainted
            assert (start, stop) == (70, 71)
            (shown,) = rechecker.tainted()
            assert (shown.start, shown.stop) == (70, 71)
            assert shown.error not in (NOT_READ, DIFFERS, "")
            pauses.append(await waited(it, rechecker))
        assert pauses == [15, 30, 60, 120, 240, 300, 300, 300]
        it.log.faults.remove(fault)
        await all_of(rechecker)
        it.reader.time.now_s += 300
        await all_of(rechecker)
        assert it.tainted == Intervals()


async def test_what_is_proven_meanwhile_makes_the_pauses_short_again() -> None:
    async with again() as it:
        it.streams(0, 100)
        it.log.faults.add(Fault(FaultKind.WRONG_LEAF, index=70))
        second = it.log.faults.add(Fault(FaultKind.WRONG_LEAF, index=20))
        rechecker = it.rechecker()
        pauses: list[float] = []
        for number in range(5):
            await all_of(rechecker)
            if number == 3:
                it.log.faults.remove(second)
            pauses.append(await waited(it, rechecker))
        assert it.tainted == Intervals.of((70, 71))
        assert pauses == [15, 30, 60, 120, 15]


async def test_of_what_is_tainted_no_more_and_of_logs_that_are_left_nothing_is_remembered() -> None:
    async with again() as it:
        it.streams(0, 100)
        rechecker, followed = it.rechecker(), [it.info]
        rechecker._logs = lambda: followed
        await all_of(rechecker)
        assert it.streamed.of(it.info, 0, 100) == {}
        it.streams(100, 200)
        it.log.faults.add(Fault(FaultKind.WRONG_LEAF, index=170))
        await all_of(rechecker)
        assert len(rechecker._known) == 1
        followed.clear()
        await all_of(rechecker)
        assert (rechecker._known, rechecker.tainted()) == ({}, [])


async def waited(it: Again, rechecker: Rechecker) -> float:
    """Let time pass until something is asked of the log again; how long that took."""
    began_s, asked = it.reader.time.now_s, sum(it.log.requests.values())
    while sum(it.log.requests.values()) == asked:
        it.reader.time.now_s += 5
        with capture_logs():
            await rechecker.turn()
    return it.reader.time.now_s - began_s


@pytest.mark.parametrize(("slow_s", "rest_s"), [(0.5, 15), (30, 600), (500, 3_600)])
async def test_the_longer_it_takes_the_longer_is_the_rest(slow_s: float, rest_s: float) -> None:
    async with again() as it:
        it.streams(0, 100)
        it.log.faults.add(Fault(FaultKind.WRONG_LEAF, index=70))
        it.slow_s = slow_s
        rechecker = it.rechecker()
        await all_of(rechecker)
        it.slow_s = 0.0
        assert await waited(it, rechecker) == rest_s


async def test_a_log_that_gives_nothing_is_tried_again_and_the_reason_is_listed() -> None:
    async with again() as it:
        it.streams(0, 100)
        it.streams(200, 300)
        down = it.log.faults.add(Fault(FaultKind.UNAVAILABLE, on="get-entries"))
        rechecker = it.rechecker()
        await all_of(rechecker)
        assert [(each.start, each.stop) for each in rechecker.tainted()] == [(0, 100), (200, 300)]
        assert all("503" in each.error for each in rechecker.tainted())
        it.log.faults.remove(down)
        it.reader.time.now_s += 15
        await all_of(rechecker)
        assert (it.tainted, rechecker.tainted()) == (Intervals(), [])


async def test_a_rate_limit_is_no_failure_of_the_log_and_waited_for() -> None:
    async with again() as it:
        it.streams(0, 100)
        it.log.faults.add(Fault(FaultKind.RATE_LIMITED, times=1, retry_after_s=40))
        rechecker = it.rechecker()
        await all_of(rechecker)
        assert rechecker.tainted() == it.listed((0, 100, NOT_READ))
        assert 35 <= await waited(it, rechecker) <= 50
        assert it.tainted == Intervals()


async def test_an_archive_that_cannot_be_read_is_tried_again() -> None:
    async with again() as it:
        it.rows.tainted(it.info, 0, 100)

        failures = [StorageError("/srv/t: input/output error")]

        def broken_once(log: LogInfo, start: int, stop: int) -> Shown:
            if failures:
                raise failures.pop()
            return it.archived()(log, start, stop)

        rechecker = it.rechecker(broken_once)
        await all_of(rechecker)
        assert rechecker.tainted() == it.listed((0, 100, "/srv/t: input/output error"))
        it.reader.time.now_s += 15
        await all_of(rechecker)
        assert it.tainted == Intervals()


@both
async def test_nothing_is_proven_under_a_head_of_another_tree_than_was_read_so_far(kind: LogKind) -> None:
    async with again(kind) as it:
        it.edge = TreeEdge().extended(b"".join(it.log.tree.leaf(index) for index in range(1_000)))
        it.streams(300, 600)
        fork = it.log.faults.add(Fault(FaultKind.FORK, index=500))
        rechecker = it.rechecker()
        await all_of(rechecker)
        assert it.tainted == Intervals.of((300, 600))
        assert {case.kind for case in it.cases} == {"inconsistent"}
        it.log.faults.remove(fork)
        await all_of(fresh := it.rechecker())
        assert (it.tainted, fresh.tainted()) == (Intervals(), [])


async def test_nothing_is_proven_while_the_log_does_not_compare_its_trees() -> None:
    async with again() as it:
        it.edge = TreeEdge().extended(b"".join(it.log.tree.leaf(index) for index in range(1_000)))
        it.streams(300, 600)
        fault = it.log.faults.add(Fault(FaultKind.UNAVAILABLE, on="get-sth-consistency"))
        rechecker = it.rechecker()
        await all_of(rechecker)
        assert (it.tainted, it.cases) == (Intervals.of((300, 600)), [])
        it.log.faults.remove(fault)
        it.reader.time.now_s += 15
        await all_of(rechecker)
        assert it.tainted == Intervals()


async def test_a_head_of_a_frontend_that_lags_proves_what_it_covers() -> None:
    async with again() as it:
        it.edge = TreeEdge().extended(b"".join(it.log.tree.leaf(index) for index in range(1_400)))
        it.streams(0, 100)
        it.streams(1_250, 1_350)
        it.log.faults.add(Fault(FaultKind.SMALLER_TREE, entries=200, times=2))
        rechecker = it.rechecker()
        await all_of(rechecker)
        assert rechecker.tainted() == it.listed((1_250, 1_350, "log: the head has 1300 entries only"))
        it.reader.time.now_s += 15
        await all_of(rechecker)
        assert (it.tainted, it.cases) == (Intervals(), [])


class Exchanging(Rfc6962Client):
    """Of a log that sends two precertificates in each other's place."""

    rows: tuple[int, int] = (0, 0)

    async def batches(self, start: int, stop: int) -> AsyncGenerator[EntryBatch, None]:
        order = np.arange(stop - start)
        order[[*self.rows]] = order[[*reversed(self.rows)]]
        async for batch in super().batches(start, stop):
            first, last = batch.start - start, batch.stop - start
            assert (first, last) == (0, stop - start)
            yield replace(batch, cert=Spans(batch.cert.start[order], batch.cert.stop[order]))


async def test_precertificates_that_are_not_their_leaves_are_marked_when_their_leaves_are_proven() -> None:
    async with again() as it:
        first, second = [index for index in range(200) if it.log.entry(index).entry_type == PRECERT_ENTRY][:2]
        client = Exchanging(it.reader.http, it.info, ReadSettings(batch_size=256))
        client.rows = first, second
        it.client = client
        marked: list[int] = []
        it.rows = Noting(marked)
        it.streams(0, 200)
        await all_of(it.rechecker())
        assert marked == [first, second]
        assert it.tainted == Intervals()
        marked.clear()
        it.streams(0, 200, first)  # another one was streamed there: what is read now is not what it was
        await all_of(it.rechecker())
        assert marked == [second]


class Noting(ProvenRows):
    """Keeps the indices of altered entries."""

    def __init__(self, marked: list[int]) -> None:
        super().__init__(None)
        self._marked = marked

    def altered(self, log: LogInfo, indices: Sequence[int]) -> None:
        self._marked += indices


async def test_what_is_listed_is_bounded_and_in_order() -> None:
    async with again() as it:
        for start in range(0, 1_000, 4):
            it.rows.tainted(it.info, start, start + 2)
        listed = it.rechecker().tainted()
        assert len(listed) == 100
        assert listed == it.listed(*((start, start + 2, NOT_READ) for start in range(0, 400, 4)))


async def test_a_crash_is_logged_and_the_work_goes_on() -> None:
    async with again() as it:
        it.streams(0, 50)
        it.crashes = 1
        done = asyncio.Event()
        it.reader.time.on_sleep = lambda: None if len(it.tainted) else done.set()
        with capture_logs() as lines:
            task = asyncio.create_task(it.rechecker().run())
            async with asyncio.timeout(30):
                await done.wait()
        task.cancel()
        assert [line["event"] for line in lines] == [
            "reading tainted entries again crashed, it is started again",
            "tainted entries are proven now, and were streamed as they are",
        ]
        assert it.reader.time.slept[0] == 30
