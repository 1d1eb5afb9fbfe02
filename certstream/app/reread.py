"""Reading again, for the archive only, what was streamed and is not archived."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import partial
from typing import Final

from certstream.app.verification.proven import ProvenRows
from certstream.archive.sink.buffer import PackedRows
from certstream.archive.sink.sink import Sink
from certstream.backfill.fetch import Hold, LogFetcher, RetrySettings
from certstream.backfill.planner import LogPlan
from certstream.backfill.run import Altered
from certstream.backfill.verify import LogVerifier, Verification
from certstream.certs.batch import CertificateBatch, decode
from certstream.client.base import LogClient
from certstream.client.clock import Clock
from certstream.ct.edge import leaf_hashes
from certstream.ct.types import EntryBatch, LogInfo, cut_batch, slice_batch
from certstream.intervals import Intervals
from certstream.live.tailer import PART_BYTES

_LOGS: Final = 2  # that are read at a time: each has entries in flight, in decoding and waiting for room


class Rereader:
    """Reads again what the sink misses of any number of logs, few of them at a time.

    They take turns, a work item each; none keeps its turn while it backs off. In memory are, of each log whose turn it
    is, what its client has in flight, a batch and the rows of a part of it.

    Each batch is verified before, where `verification` says how; what that refuses stays missing, and is read again.
    """

    def __init__(
        self,
        sink: Sink,
        client: Callable[[LogInfo], LogClient],
        retry: RetrySettings,
        *,
        hold: Hold,
        clock: Clock | None = None,
        part_bytes: int = PART_BYTES,
        verification: Callable[[LogInfo], Verification | None] = lambda _log: None,
        rows: ProvenRows | None = None,
        altered: Altered | None = None,
    ) -> None:
        """`hold` is awaited before each work item; batches are taken in parts of `part_bytes`.

        `rows` is told what is proven, `altered` of precertificates that are not their leaves'.
        """
        self._sink = sink
        self._client = client
        self._retry = retry
        self._hold = hold
        self._clock = clock or Clock()
        self._part_bytes = part_bytes
        self._verification = verification
        self._rows = rows
        self._altered = altered
        self._turns = asyncio.Semaphore(_LOGS)
        self._packer = ThreadPoolExecutor(1, thread_name_prefix="reread")

    def apply(self, retry: RetrySettings) -> None:
        """Be as patient as this with what is read from now on."""
        self._retry = retry

    def close(self) -> None:
        """Let the thread end; what it has in hand is dropped."""
        self._packer.shutdown(wait=False, cancel_futures=True)

    async def run(self, log: LogInfo) -> None:
        """Read a log again whenever something of it is missing, until cancelled."""
        while True:
            missing = await self._sink.wait_missing(log.base_url)
            turn = _Turn(self._turns, self._hold, self._clock)
            try:
                await self._fetcher(log, missing, turn).read()
            finally:
                turn.give_back()
            if len(self._sink.missing(log.base_url) & missing):  # the log did not give it, or it makes no rows
                await self._clock.sleep(self._retry.max_s)

    def _fetcher(self, log: LogInfo, missing: Intervals, turn: _Turn) -> LogFetcher:
        client, verification, verifier = self._client(log), self._verification(log), None
        if verification is not None:
            verifier = LogVerifier(client, verification, self._retry, turn.clock)
            client = verifier.client
        return LogFetcher(
            LogPlan(log, missing),
            client,
            partial(self._take_again, verifier),
            settings=self._retry,
            hold=turn.take,
            clock=turn.clock,
            headless=verifier is not None and not verifier.enforces,
        )

    async def _take_again(self, verifier: LogVerifier | None, batch: EntryBatch) -> None:
        kept = Intervals.of((batch.start, batch.stop))
        if verifier is not None:
            kept -= await self._verified(verifier, batch)
        for start, stop in kept:
            for part in cut_batch(slice_batch(batch, start, stop), self._part_bytes):
                await self._take_part(part)

    async def _verified(self, verifier: LogVerifier, batch: EntryBatch) -> Intervals:
        """Say what is proven of a batch; what of it is refused."""
        checked = await verifier.check([batch], leaf_hashes(batch))
        if self._rows is not None:
            self._rows.read_again(batch.log, batch.start, batch.stop)
            for start, stop in checked.trust.verified:
                self._rows.proven(batch.log, start, stop)
            for start, stop in checked.trust.tainted:
                self._rows.tainted(batch.log, start, stop)
        return checked.refused_indices

    async def _take_part(self, part: EntryBatch) -> None:
        loop = asyncio.get_running_loop()
        compares = self._altered is not None and self._altered.compares(part.log)
        decoding = loop.run_in_executor(self._packer, self._packed, part, self._clock.wall(), compares)
        rows, decoded, altered = await decoding
        if self._altered is not None and altered:
            self._altered.altered(decoded, altered)
        del decoded
        if rows is not None:
            await self._sink.take_again(rows)

    def _packed(
        self, batch: EntryBatch, seen_s: float, compares: bool
    ) -> tuple[PackedRows | None, CertificateBatch, list[int]]:
        decoded = decode(batch, seen_s)
        return self._sink.pack(decoded), decoded, decoded.altered_precertificates() if compares else []


class _Turn:
    """One log's turn: taken anew before each work item, and given back while the log is waited for."""

    def __init__(self, turns: asyncio.Semaphore, hold: Hold, clock: Clock) -> None:
        self._turns = turns
        self._hold = hold
        self._wait = clock.sleep
        self._is_mine = False
        self.clock = replace(clock, sleep=self._sleep)  # for whoever works in this turn

    async def take(self) -> None:
        self.give_back()
        await self._hold()
        await self._take()

    async def _take(self) -> None:
        await self._turns.acquire()
        self._is_mine = True

    def give_back(self) -> None:
        if self._is_mine:
            self._is_mine = False
            self._turns.release()

    async def _sleep(self, delay_s: float) -> None:
        was_mine = self._is_mine
        self.give_back()
        await self._wait(delay_s)
        if was_mine:
            await self._take()
