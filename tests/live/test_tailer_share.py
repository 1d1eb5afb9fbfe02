"""What share of a log a tailer reads in time: real answers, time that the test makes."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext

import pytest

from certstream.client.waits import Waits
from certstream.ct.types import EntryBatch, LogKind
from certstream.delivery_metrics import DelayCause
from certstream.live.condition import TailSettings
from certstream.live.share import LogShare
from certstream.simulator.faults import Fault, FaultKind
from certstream.simulator.log import SimulatedLog
from tests.client.reading_support import Reader, reading
from tests.live.following_support import Follower

KINDS: list[LogKind] = ["rfc6962", "static"]
both = pytest.mark.parametrize("kind", KINDS)


class Slow(Follower):
    """Publishing a batch takes so many ticks, in each of which the log grows."""

    def __init__(self, reader: Reader, log: SimulatedLog, kind: LogKind, ticks: int, grows: int, work: Working) -> None:
        super().__init__(reader, log, kind, batch_size=256, partial_tile_wait_s=0)
        self.waits = reader.http.waits(log.info(kind))
        self.ticks, self.grows, self.work = ticks, grows, work

    @property
    def share(self) -> LogShare:
        share = self.tailer.status().share
        assert share is not None
        return share

    def tick(self) -> None:
        self.log.grow(self.grows)
        self.reader.time.now_s += 10
        self.tailer.measure(0.0)

    async def publish(self, batch: EntryBatch) -> None:
        with self.work(self.waits):
            for _ in range(self.ticks):
                self.tick()
        await super().publish(batch)


Working = Callable[[Waits], AbstractContextManager[None]]
WORK: list[tuple[DelayCause, Working]] = [
    ("cpu", lambda _waits: nullcontext()),
    ("archive", lambda waits: waits.on("archive")),
]


@both
@pytest.mark.parametrize(("cause", "work"), WORK)
async def test_what_publishing_takes_is_laid_at_the_door_of_what_took_it(
    kind: LogKind, cause: DelayCause, work: Working
) -> None:
    log = SimulatedLog("followed", seed=9, initial=256)
    async with reading(log) as reader:
        follower = Slow(reader, log, kind, ticks=2, grows=256, work=work)
        async with follower.running():
            await follower.until_read(40 * 256)
        assert follower.share.share == pytest.approx(0.5, abs=0.1)
        assert follower.share.cause == cause


@both
async def test_a_log_that_fails_is_not_polled_and_taken_to_grow_on(kind: LogKind) -> None:
    log = SimulatedLog("followed", seed=9, initial=256)
    async with reading(log) as reader:
        follower = Slow(reader, log, kind, ticks=1, grows=256, work=WORK[0][1])
        async with follower.running():
            await follower.until_read(40 * 256)
            assert follower.share.share == 1.0
            log.faults.add(Fault(FaultKind.SERVER_ERROR))
            failed_at = reader.time.now_s
            while reader.time.now_s < failed_at + 400:
                await follower.until(lambda now=reader.time.now_s: reader.time.now_s > now)  # type: ignore[misc]
                follower.tailer.measure(0.0)
        assert follower.share.share < 0.7
        assert follower.share.cause == "not_polled"


@both
async def test_entries_that_a_head_covers_and_the_log_does_not_give_are_not_served(kind: LogKind) -> None:
    log = SimulatedLog("followed", seed=9, initial=256)
    async with reading(log) as reader:
        follower = Slow(reader, log, kind, ticks=1, grows=256, work=WORK[0][1])
        async with follower.running():
            await follower.until_read(40 * 256)
            log.faults.add(Fault(FaultKind.LAGGING, entries=len(log.tree)))
            behind_at = reader.time.now_s
            while reader.time.now_s < behind_at + 400:
                await follower.until(lambda now=reader.time.now_s: reader.time.now_s > now)  # type: ignore[misc]
                log.grow(256)
                follower.tailer.measure(0.0)
        assert follower.share.share < 0.7
        assert follower.share.cause == "not_served"


async def test_a_log_that_is_looked_at_rarely_is_read_in_time() -> None:
    log = SimulatedLog("followed", seed=9, initial=256)
    shares = set()
    async with reading(log) as reader:
        follower = Follower(reader, log, "rfc6962", settings=TailSettings(poll_interval_s=120))
        async with follower.running():
            while reader.time.now_s < 4_000:
                await follower.until(lambda now=reader.time.now_s: reader.time.now_s > now)  # type: ignore[misc]
                log.grow(100)
                for _ in range(2):
                    follower.tailer.measure(0.0)
                    reader.time.now_s += 10
                shares.add(follower.tailer.status().share)
    assert {share.share for share in shares if share is not None} == {1.0}


async def test_entries_that_wait_for_their_tile_to_fill_are_not_late() -> None:
    log = SimulatedLog("followed", seed=9, initial=200)
    async with reading(log) as reader:
        follower = Follower(reader, log, "static", partial_tile_wait_s=300)
        async with follower.running():
            for _ in range(30):
                await follower.until(lambda now=reader.time.now_s: reader.time.now_s > now)  # type: ignore[misc]
                follower.tailer.measure(0.0)
            share = follower.tailer.status().share
        assert share is not None
        assert (share.share, share.late) == (1.0, 0)
