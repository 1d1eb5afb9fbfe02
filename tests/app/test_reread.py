"""What the archive misses is read again, a few logs at a time, and no log keeps the others from it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from certstream.app.reread import Rereader
from certstream.app.verification.proven import ProvenRows
from certstream.archive.commit import Committer
from certstream.archive.sink.buffer import PackedRows
from certstream.archive.sink.sink import Sink
from certstream.archive.sink.standing import SinkSettings
from certstream.backfill.fetch import RetrySettings
from certstream.backfill.verify import Mode, Verification
from certstream.certs.batch import CertificateBatch
from certstream.client.base import LogClient, ReadSettings
from certstream.client.clock import Clock
from certstream.client.proofs import prover
from certstream.client.rfc6962 import Rfc6962Client
from certstream.ct.types import EntryBatch, LogInfo
from certstream.evidence import Case
from certstream.intervals import Intervals
from certstream.ledger import Ledger, Trust, ledger_beside
from certstream.metrics import Metrics
from certstream.simulator.faults import Fault, FaultKind
from certstream.simulator.log import SimulatedLog
from tests.archive.archive_support import held
from tests.client.reading_support import FakeTime, Reader, reading
from tests.e2e.verification_support import exchanged

SETTINGS = SinkSettings(flush_interval_s=0.01, retry_initial_s=0.01, retry_max_s=0.02)


class Noting(Sink):
    """A sink that keeps how many rows it took at a time."""

    def __init__(self, root: Path) -> None:
        super().__init__(Committer(root), SETTINGS, Metrics().archive)
        self.sizes: list[int] = []

    async def take_again(self, rows: PackedRows) -> None:
        self.sizes.append(len(rows))
        await super().take_again(rows)


class Watched(Rfc6962Client):
    """A client that says which logs have entries in flight or in hand."""

    def __init__(self, reader: Reader, log: LogInfo, busy: set[str], most: list[int]) -> None:
        super().__init__(reader.http, log, ReadSettings(batch_size=20, fetch_concurrency=2))
        self._busy = busy
        self._most = most

    async def batches(self, start: int, stop: int) -> AsyncGenerator[EntryBatch, None]:
        self._busy.add(self.log.base_url)
        self._most.append(len(self._busy))
        try:
            async for batch in super().batches(start, stop):
                yield batch
        finally:
            self._busy.discard(self.log.base_url)


@asynccontextmanager
async def rereading(
    root: Path, logs: Sequence[SimulatedLog], client: Callable[[LogInfo], LogClient], clock: Clock, **more: Any
) -> AsyncIterator[Noting]:
    """A sink that misses all of these logs, and reads them again."""
    infos = [log.info("rfc6962") for log in logs]
    Committer(root).add(starts={info.base_url: 0 for info in infos})
    async with Noting(root) as sink:
        rereader = Rereader(sink, client, RetrySettings(max_s=5.0), hold=_at_once, clock=clock, **more)
        for info, log in zip(infos, logs, strict=True):
            sink.take_up(info, log.tree_size)
        tasks = [asyncio.create_task(sink.run()), *(asyncio.create_task(rereader.run(info)) for info in infos)]
        try:
            yield sink
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            rereader.close()


async def _at_once() -> None:
    pass


async def archived(sink: Sink, *logs: SimulatedLog) -> None:
    """Wait until all of these logs is archived."""
    async with asyncio.timeout(60):
        while any(sink.archived(log.info("rfc6962").base_url) != log.tree_size for log in logs):
            await sink.attempted()


async def test_few_logs_are_read_at_a_time_so_that_memory_does_not_grow_with_their_number(tmp_path: Path) -> None:
    logs = [SimulatedLog(f"log{number}", seed=number, initial=200) for number in range(6)]
    most: list[int] = []
    async with reading(*logs) as reader:
        busy: set[str] = set()
        async with rereading(tmp_path, logs, lambda log: Watched(reader, log, busy, most), reader.time.clock) as sink:
            await archived(sink, *logs)
    assert len(most) >= 6
    assert max(most) == 2
    assert held(tmp_path) == {log.info("rfc6962").base_url: list(range(200)) for log in logs}


async def test_logs_that_give_nothing_keep_no_other_from_being_read(tmp_path: Path) -> None:
    logs = [SimulatedLog(f"log{number}", seed=number, initial=100) for number in range(5)]
    dead, alive = logs[:4], logs[4]
    for log in dead:
        log.faults.add(Fault(FaultKind.SERVER_ERROR, on="get-entries"))
    never = asyncio.Event()

    async def sleep(_delay_s: float) -> None:
        await never.wait()  # whoever backs off does so for the rest of the test

    async with reading(*logs) as reader:
        clock = replace(FakeTime().clock, sleep=sleep)
        async with rereading(tmp_path, logs, lambda log: Watched(reader, log, set(), []), clock) as sink:
            await archived(sink, alive)
            assert [sink.archived(log.info("rfc6962").base_url) for log in dead] == [0, 0, 0, 0]
    assert held(tmp_path) == {alive.info("rfc6962").base_url: list(range(100))}


async def test_large_batches_are_taken_in_parts(tmp_path: Path) -> None:
    log = SimulatedLog("log", initial=500)
    async with reading(log) as reader:

        def client(info: LogInfo) -> LogClient:
            return Rfc6962Client(reader.http, info, ReadSettings(batch_size=1_000, fetch_concurrency=1))

        async with rereading(tmp_path, [log], client, reader.time.clock, part_bytes=50_000) as sink:
            await archived(sink, log)
    assert sum(sink.sizes) == 500
    assert max(sink.sizes) < 50
    assert held(tmp_path) == {log.info("rfc6962").base_url: list(range(500))}


def verified_by(reader: Reader, mode: Mode, cases: list[Case]) -> Callable[[LogInfo], Verification]:
    return lambda log: Verification(mode, log.key or b"", prover(reader.http, log), cases.append)


@pytest.mark.parametrize("mode", ["warn", "enforce"])
async def test_what_is_read_again_is_verified_before(tmp_path: Path, mode: Mode) -> None:
    log = SimulatedLog("log", initial=300)
    rows, cases = ProvenRows(Ledger(ledger_beside(tmp_path))), list[Case]()
    async with reading(log) as reader:
        log.faults.add(Fault(FaultKind.WRONG_LEAF, on="get-entries", index=77, times=1))
        more = {"verification": verified_by(reader, mode, cases), "rows": rows}

        def client(info: LogInfo) -> LogClient:
            return Rfc6962Client(reader.http, info, ReadSettings(batch_size=50, fetch_concurrency=1))

        async with rereading(tmp_path, [log], client, reader.time.clock, **more) as sink:
            await archived(sink, log)
        url = log.info("rfc6962").base_url
    assert held(tmp_path) == {url: list(range(300))}
    whole, wrong = Intervals.of((0, 300)), Intervals.of((77, 78))
    rows.committed({url: whole}, {})
    known = Ledger(ledger_beside(tmp_path)).read()[url]
    # enforce left it out, and read it again until it was right
    assert known == (Trust(whole - wrong, wrong) if mode == "warn" else Trust(whole))
    assert [(case.kind, case.start, case.stop) for case in cases] == [("wrong_leaf", 77, 78)]


class Marked:
    """Keeps the indices of altered precertificates."""

    def __init__(self, compares: bool) -> None:
        self.compares = lambda _log: compares
        self.indices: list[int] = []

    def altered(self, batch: CertificateBatch, rows: Sequence[int]) -> None:
        self.indices += [batch.start + row for row in rows]


@pytest.mark.parametrize("compares", [True, False])
async def test_altered_precertificates_are_marked_where_they_are_compared(tmp_path: Path, compares: bool) -> None:
    log, altered = exchanged("rfc6962")
    marked = Marked(compares)
    async with reading(log) as reader:

        def client(info: LogInfo) -> LogClient:
            return Rfc6962Client(reader.http, info, ReadSettings())

        async with rereading(tmp_path, [log], client, reader.time.clock, altered=marked) as sink:
            await archived(sink, log)
    assert marked.indices == (altered if compares else [])
    assert held(tmp_path) == {log.info("rfc6962").base_url: list(range(300))}
