"""Entries wait for decoding within a bound, and come out put together and in order."""

from __future__ import annotations

import asyncio

import numpy as np
import pytest

from certstream.backfill.buffer import EntryBuffer, Run, RunSize
from certstream.ct.types import EntryBatch, LogInfo, Spans, concat_batches

LOGS = [LogInfo(f"log{i}", f"https://log{i}.example/", "rfc6962", "Example") for i in range(3)]
CAP = 100_000
SIZE = RunSize()


def batch(log: int, start: int, count: int, size_bytes: int = 1_000) -> EntryBatch:
    nowhere = np.zeros(count, np.int64)
    spans = Spans(nowhere, nowhere)
    return EntryBatch(LOGS[log], start, bytes(size_bytes), nowhere, nowhere, spans, spans, spans)


def span(run: Run | None) -> tuple[str, int, int]:
    assert run is not None
    together = concat_batches(run.batches)
    return together.log.name, together.start, together.stop


async def fill(buffer: EntryBuffer, *batches: EntryBatch) -> None:
    for each in batches:
        await buffer.put(each)


async def test_batches_that_follow_each_other_come_together_up_to_what_is_worth_decoding() -> None:
    buffer = EntryBuffer(CAP, SIZE)
    await fill(buffer, *(batch(0, at, 256) for at in range(0, SIZE.entries + 512, 256)))
    assert span(await buffer.take()) == ("log0", 0, SIZE.entries)
    buffer.close()
    assert span(await buffer.take()) == ("log0", SIZE.entries, SIZE.entries + 512)
    assert await buffer.take() is None


async def test_large_entries_come_in_fewer() -> None:
    buffer = EntryBuffer(4 * SIZE.size_bytes, SIZE)
    await fill(
        buffer,
        batch(0, 0, 1, SIZE.size_bytes // 2),
        batch(0, 1, 1, SIZE.size_bytes // 2),
        batch(0, 2, 1, SIZE.size_bytes),
    )
    assert span(await buffer.take()) == ("log0", 0, 2)
    assert span(await buffer.take()) == ("log0", 2, 3)


async def test_a_gap_ends_a_run_and_the_order_of_a_log_is_kept() -> None:
    buffer = EntryBuffer(CAP, SIZE)
    await fill(buffer, batch(0, 0, 10), batch(1, 7, 10), batch(0, 20, 10), batch(0, 30, 10), batch(0, 5, 5))
    buffer.close()
    spans = [span(run) for run in [await buffer.take() for _ in range(4)]]
    assert [each for each in spans if each[0] == "log0"] == [("log0", 0, 10), ("log0", 20, 40), ("log0", 5, 10)]
    assert await buffer.take() is None


async def test_few_entries_wait_a_moment_for_more_and_no_longer() -> None:
    buffer = EntryBuffer(CAP, SIZE)
    loop = asyncio.get_running_loop()
    before = loop.time()
    waiting = asyncio.create_task(buffer.take())
    await asyncio.sleep(0)
    await fill(buffer, batch(0, 0, 10), batch(0, 10, 10))
    assert span(await waiting) == ("log0", 0, 20)
    assert 0.9 < loop.time() - before < 5


async def test_at_the_bound_putting_waits_until_what_was_taken_is_released() -> None:
    buffer = EntryBuffer(CAP, SIZE)
    await fill(buffer, batch(0, 0, 10, CAP // 2), batch(1, 0, 10, CAP // 2))
    late = asyncio.create_task(buffer.put(batch(2, 0, 10, 1)))
    run = await buffer.take()  # at once: room is wanted
    assert span(run)[1:] == (0, 10)
    await asyncio.sleep(0)
    assert not late.done(), "it is being decoded, and still in memory"
    assert buffer.held_bytes == CAP
    assert run is not None
    buffer.release(run)
    await late
    assert buffer.held_bytes == CAP // 2 + 1
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.1):
            await buffer.take()  # nobody wants room any more: what is there waits for more of its kind


async def test_who_waits_first_is_first_whatever_the_size() -> None:
    buffer = EntryBuffer(CAP, SIZE)
    await buffer.put(batch(0, 0, 10, CAP))
    large = asyncio.create_task(buffer.put(batch(1, 0, 10, CAP)))
    await asyncio.sleep(0)
    small = asyncio.create_task(buffer.put(batch(2, 0, 10, 1)))
    order = []
    for waits in (large, small, None):
        run = await buffer.take()
        order.append(span(run)[0])
        assert run is not None
        buffer.release(run)
        if waits is not None:
            await waits
        if waits is small:
            buffer.close()
    assert order == ["log0", "log1", "log2"]


async def test_one_batch_above_the_bound_passes_alone() -> None:
    buffer = EntryBuffer(CAP, SIZE)
    await buffer.put(batch(0, 0, 1, 10 * CAP))
    other = asyncio.create_task(buffer.put(batch(1, 0, 1, 1)))
    run = await buffer.take()
    await asyncio.sleep(0)
    assert not other.done()
    assert run is not None
    buffer.release(run)
    await other
    assert buffer.held_bytes == 1


async def test_many_logs_with_few_entries_each_cannot_block_each_other() -> None:
    """All of the room is taken by what would wait for more: the largest goes first."""
    buffer = EntryBuffer(CAP, SIZE)
    await fill(buffer, batch(0, 0, 10, CAP // 4), batch(1, 0, 10, CAP // 2), batch(2, 0, 10, CAP // 4))
    more = asyncio.create_task(buffer.put(batch(0, 10, 10, CAP // 4)))
    await asyncio.sleep(0)
    async with asyncio.timeout(0.5):
        run = await buffer.take()
    assert span(run) == ("log1", 0, 10)
    assert run is not None
    buffer.release(run)
    await more


async def test_a_reader_that_is_cancelled_while_it_waits_leaves_no_trace() -> None:
    buffer = EntryBuffer(CAP, SIZE)
    await buffer.put(batch(0, 0, 10, CAP))
    waiting = asyncio.create_task(buffer.put(batch(1, 0, 10, CAP)))
    await asyncio.sleep(0)
    waiting.cancel()
    await asyncio.gather(waiting, return_exceptions=True)
    assert buffer.held_bytes == CAP
    buffer.close()
    run = await buffer.take()
    assert span(run)[0] == "log0"
    assert run is not None
    buffer.release(run)
    assert await buffer.take() is None
    assert buffer.held_bytes == 0


async def test_emptied_waits_for_what_was_taken_and_hurries_what_waits_for_more() -> None:
    buffer = EntryBuffer(CAP, SIZE)
    async with asyncio.timeout(5):
        await buffer.emptied()
        await fill(buffer, batch(0, 0, 10), batch(1, 0, 10))
        emptied = asyncio.create_task(buffer.emptied())
        await asyncio.sleep(0)
        loop = asyncio.get_running_loop()
        before = loop.time()
        runs = [await buffer.take(), await buffer.take()]
        assert loop.time() - before < 0.9  # the moment that few entries wait
        for run in runs:
            assert not emptied.done()
            assert run is not None
            buffer.release(run)
            await asyncio.sleep(0)
        await emptied
    assert buffer.held_bytes == 0
