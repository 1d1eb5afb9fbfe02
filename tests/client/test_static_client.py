from __future__ import annotations

import asyncio
from contextlib import aclosing

import pytest

from certstream.client.static_ct import StaticClient
from certstream.ct.static_ct import data_tile_path
from certstream.errors import FetchError, MalformedError, RateLimitedError
from certstream.simulator.faults import Fault, FaultKind
from certstream.simulator.log import SimulatedLog
from tests.client.reading_support import reading, taken, texts, tiles, whole_up_to


def make_log(initial: int, *, gzip: str = "accepted", keep_partials: bool = False) -> SimulatedLog:
    return SimulatedLog("tiled", kinds={"static"}, seed=6, initial=initial, gzip=gzip, keep_partials=keep_partials)


async def test_the_head_is_the_logs_own_word_with_its_note() -> None:
    log = make_log(5)
    async with reading(log) as reader:
        head = await reader.client(log, "static").head()
    assert (head.tree_size, head.root_hash, head.timestamp_ms) == (5, log.head.root_hash, log.head.timestamp_ms)
    assert head.signature == log.head.signature
    assert head.note.startswith(log.origin.encode())


@pytest.mark.parametrize("concurrency", [1, 4])
@pytest.mark.parametrize("gzip", ["accepted", "always", "never"])
async def test_every_entry_comes_once_and_in_order_with_its_chain(concurrency: int, gzip: str) -> None:
    log = make_log(2000, gzip=gzip)
    async with reading(log) as reader:
        client = reader.client(log, "static", fetch_concurrency=concurrency)
        await client.head()
        batches, error = await taken(client, 77, 2000)
    assert error is None
    assert whole_up_to(log, batches, 77) == 2000
    for batch in batches:
        for row, chain in enumerate(texts(batch, batch.chain)):
            ders = [batch.issuers[chain[i : i + 32]] for i in range(0, len(chain), 32)]
            assert tuple(ders) == log.entry(batch.start + row).chain


async def test_each_tile_is_fetched_once_and_tiles_come_together_up_to_a_batch() -> None:
    log = make_log(256 * 20)
    async with reading(log) as reader:
        client = reader.client(log, "static", fetch_concurrency=8, batch_size=1024)
        batches, error = await taken(client, 0, 256 * 20)
    assert error is None
    assert tiles(log) == {data_tile_path(index): 1 for index in range(20)}
    assert max(len(batch) for batch in batches) <= 1024
    assert sum(len(batch) for batch in batches) == 256 * 20


async def test_tiles_that_are_not_joined_come_one_by_one() -> None:
    log = make_log(256 * 20)
    async with reading(log) as reader:
        client = reader.client(log, "static", fetch_concurrency=8, batch_size=1024, join_tiles=False)
        batches, error = await taken(client, 100, 256 * 20)
    assert error is None
    assert whole_up_to(log, batches, 100) == 256 * 20
    assert [len(batch) for batch in batches] == [156, *[256] * 19]


async def test_a_range_that_starts_and_ends_in_the_middle_of_tiles_is_cut_out() -> None:
    log = make_log(1000)
    async with reading(log) as reader:
        client = reader.client(log, "static")
        await client.head()
        batches, error = await taken(client, 300, 700)
    assert error is None
    assert whole_up_to(log, batches, 300) == 700
    assert tiles(log) == {data_tile_path(1): 1, data_tile_path(2): 1}


async def test_tiles_are_requested_ahead_and_given_in_order() -> None:
    log = make_log(256 * 12)
    async with reading(log) as reader:
        client = reader.client(log, "static", fetch_concurrency=4, batch_size=256)
        stalled = log.faults.add(Fault(FaultKind.STALL, on="data-tile", index=256 * 3))
        positions: list[int] = []

        async def read() -> None:
            async with aclosing(client.batches(0, 256 * 12)) as batches:
                async for batch in batches:
                    positions.append(batch.start // 256)  # noqa: PERF401 - looked at while it grows

        task = asyncio.create_task(read())
        await log.until(lambda: data_tile_path(6) in log.requests)
        assert positions == [0, 1, 2]
        assert data_tile_path(7) not in log.requests, "four in flight, not more"
        log.faults.remove(stalled)
        log.publish()
        await task
    assert positions == list(range(12))


# how far a log may be read: partial tiles


async def test_full_tiles_are_read_at_once_and_a_partial_one_after_its_wait() -> None:
    log = make_log(1)
    async with reading(log) as reader:
        client = reader.client(log, "static", partial_tile_wait_s=15)
        assert client.readable(0, 512) == (512, None)
        assert client.readable(0, 600) == (512, 15)
        reader.time.now_s += 5
        assert client.readable(512, 610) == (512, 10), "counted from the head that first covered entry 512"
        reader.time.now_s += 10
        assert client.readable(512, 620) == (620, None)
        assert client.readable(620, 620) == (620, None)
        assert client.readable(620, 630) == (620, 15), "entry 620 has waited for nothing yet"
        reader.time.now_s += 14
        assert client.readable(620, 770) == (768, 15), "the tile is full: 768 is the first that waits"


async def test_without_a_wait_a_partial_tile_is_read_at_once() -> None:
    log = make_log(1)
    async with reading(log) as reader:
        client = reader.client(log, "static", partial_tile_wait_s=0)
        assert client.readable(3, 7) == (7, None)
        assert client.readable(7, 300) == (300, None)


async def test_a_tree_smaller_than_what_was_read_gives_nothing() -> None:
    log = make_log(1)
    async with reading(log) as reader:
        assert reader.client(log, "static").readable(500, 300) == (500, None)


async def test_a_growing_partial_tile_is_fetched_once_at_each_width() -> None:
    log = make_log(10)
    async with reading(log) as reader:
        client = reader.client(log, "static")
        position = 0
        for growth in (0, 5, 0, 100, 141, 0, 1):
            log.grow(growth)
            head = await client.head()
            batches, error = await taken(client, position, head.tree_size)
            assert error is None
            position = whole_up_to(log, batches, position)
            assert position == log.tree_size
    assert list(tiles(log).values()) == [1] * 5
    assert list(tiles(log)) == [
        data_tile_path(0, 10),
        data_tile_path(0, 15),
        data_tile_path(0, 115),
        data_tile_path(0),
        data_tile_path(1, 1),
    ]


async def test_a_partial_tile_that_is_gone_is_read_from_the_full_one_which_then_serves_the_rest() -> None:
    log = make_log(10)
    async with reading(log) as reader:
        client = reader.client(log, "static")
        assert (await client.head()).tree_size == 10
        log.grow(290)
        batches, error = await taken(client, 0, 10)
        assert error is None
        assert whole_up_to(log, batches, 0) == 10
        await client.head()
        batches, error = await taken(client, 10, 256)
        assert error is None
        assert whole_up_to(log, batches, 10) == 256
    assert tiles(log) == {data_tile_path(0, 10): 1, data_tile_path(0): 1}


async def test_a_partial_tile_missing_before_the_full_one_exists_is_a_failure_and_comes_later() -> None:
    log = make_log(10)
    fault = log.faults.add(Fault(FaultKind.MISSING_PARTIAL))
    async with reading(log) as reader:
        client = reader.client(log, "static")
        batches, error = await taken(client, 0, 10)
        assert batches == []
        assert getattr(error, "status", None) == "404"
        log.faults.remove(fault)
        batches, error = await taken(client, 0, 10)
    assert error is None
    assert whole_up_to(log, batches, 0) == 10


async def test_a_tile_whose_reader_failed_is_not_fetched_again() -> None:
    log = make_log(256)
    async with reading(log) as reader:
        client = reader.client(log, "static")
        async with aclosing(client.batches(0, 256)) as batches:
            async for _ in batches:
                break
        batches_again, error = await taken(client, 0, 256)
        assert error is None
        assert whole_up_to(log, batches_again, 0) == 256
        assert tiles(log) == {data_tile_path(0): 1}


async def test_a_reader_that_comes_back_in_the_middle_of_a_tile_goes_on_there() -> None:
    log = make_log(400)
    async with reading(log) as reader:
        await taken(reader.client(log, "static"), 0, 300)
        batches, error = await taken(reader.client(log, "static"), 300, 400)
    assert error is None
    assert whole_up_to(log, batches, 300) == 400


async def test_no_tile_is_kept_once_it_was_read() -> None:
    log = make_log(256 * 8)
    async with reading(log) as reader:
        client = reader.client(log, "static", fetch_concurrency=4)
        assert isinstance(client, StaticClient)
        await taken(client, 0, 256 * 8)
        assert client._kept == {}


# failures

FAULTS = [
    (Fault(FaultKind.SERVER_ERROR, on="data-tile", index=700, times=1), "500"),
    (Fault(FaultKind.UNAVAILABLE, on="data-tile", index=700, times=1), "503"),
    (Fault(FaultKind.STATUS, on="data-tile", index=700, times=1, status=404), "404"),
    (Fault(FaultKind.STATUS, on="data-tile", index=700, times=1, status=403), "403"),
    (Fault(FaultKind.RATE_LIMITED, on="data-tile", index=700, times=1, retry_after_s=7), "429"),
    (Fault(FaultKind.RATE_LIMITED, on="data-tile", index=700, times=1, retry_after_s=7, retry_after_date=True), "429"),
    (Fault(FaultKind.RESET, on="data-tile", index=700), "connection"),
    (Fault(FaultKind.STALL, on="data-tile", index=700, times=1), "timeout"),
    (Fault(FaultKind.TRUNCATED, on="data-tile", index=700, times=1), "body"),
    (Fault(FaultKind.CUT, on="data-tile", index=700, times=1), "body"),
]


@pytest.mark.parametrize("concurrency", [1, 4])
@pytest.mark.parametrize(("fault", "status"), FAULTS, ids=lambda value: getattr(value, "kind", value))
async def test_a_failure_gives_what_came_before_it_and_the_next_try_the_rest(
    fault: Fault, status: str, concurrency: int
) -> None:
    log = make_log(1500)
    log.faults.add(fault)
    async with reading(log, stall_timeout_s=0.05) as reader:
        client = reader.client(log, "static", fetch_concurrency=concurrency)
        await client.head()
        batches, error = await taken(client, 0, 1500)
        assert isinstance(error, FetchError)
        assert error.status == status
        assert "tiled: http://127.0.0.1" in str(error)
        assert isinstance(error, RateLimitedError) == (status == "429")
        position = whole_up_to(log, batches, 0)
        assert position == 512
        log.faults.clear()
        batches, error = await taken(client, position, 1500)
        assert error is None
        assert whole_up_to(log, batches, position) == 1500


@pytest.mark.parametrize(("kind", "break_at"), [(FaultKind.NO_ENTRIES, 512), (FaultKind.HTML, 512)])
async def test_a_tile_that_is_none_gives_nothing_and_says_why(kind: FaultKind, break_at: int) -> None:
    log = make_log(1500)
    log.faults.add(Fault(kind, on="data-tile", index=700, times=1))
    async with reading(log) as reader:
        client = reader.client(log, "static")
        batches, error = await taken(client, 0, 1500)
        assert isinstance(error, MalformedError)
        assert whole_up_to(log, batches, 0) == break_at
        batches, error = await taken(client, break_at, 1500)
        assert error is None
        assert whole_up_to(log, batches, break_at) == 1500


async def test_a_tile_whose_framing_breaks_gives_the_entries_up_to_the_break_and_the_log_waits_there() -> None:
    log = make_log(1500)
    fault = log.faults.add(Fault(FaultKind.UNKNOWN_TYPE, index=700))
    async with reading(log) as reader:
        client = reader.client(log, "static", fetch_concurrency=4)
        batches, error = await taken(client, 0, 1500)
        assert whole_up_to(log, batches, 0) == 700
        assert isinstance(error, MalformedError)
        assert data_tile_path(2) in str(error)
        assert "tiled: http" in str(error)
        for _ in range(3):
            batches, error = await taken(client, 700, 1500)
            assert batches == []
            assert isinstance(error, MalformedError)
        others = {path: count for path, count in tiles(log).items() if path != data_tile_path(2)}
        assert set(others.values()) == {1}, "only the broken tile is asked for again"
        log.faults.remove(fault)
        batches, error = await taken(client, 700, 1500)
        assert error is None
        assert whole_up_to(log, batches, 700) == 1500


async def test_a_tile_that_stays_broken_is_kept_and_downloaded_again_now_and_then() -> None:
    log = make_log(512)
    fault = log.faults.add(Fault(FaultKind.UNKNOWN_TYPE, index=300))
    async with reading(log) as reader:
        client = reader.client(log, "static")
        position = 0
        for _ in range(120):  # half a second each: a minute
            batches, error = await taken(client, position, 512)
            position = whole_up_to(log, batches, position)
            assert isinstance(error, MalformedError)
            assert data_tile_path(1) in str(error)
            await reader.time.sleep(0.5)
        assert position == 300
        assert tiles(log)[data_tile_path(1)] == pytest.approx(5 + 60 / 10, abs=1)
        log.faults.remove(fault)
        await reader.time.sleep(10)
        batches, error = await taken(client, 300, 512)
        assert error is None
        assert whole_up_to(log, batches, 300) == 512
        assert isinstance(client, StaticClient)
        assert client._broken == {}


async def test_a_broken_partial_tile_is_downloaded_at_once_when_it_is_wider() -> None:
    log = make_log(200)
    fault = log.faults.add(Fault(FaultKind.UNKNOWN_TYPE, index=100))
    async with reading(log) as reader:
        client = reader.client(log, "static")
        position = 0
        for _ in range(20):
            await client.head()
            batches, error = await taken(client, position, 200)
            position = whole_up_to(log, batches, position)
            assert isinstance(error, MalformedError)
        assert tiles(log) == {data_tile_path(0, 200): 5}
        log.faults.remove(fault)
        log.grow(20)
        await client.head()
        batches, error = await taken(client, 100, 220)
        assert error is None
        assert whole_up_to(log, batches, 100) == 220


async def test_entries_before_a_break_are_read_as_if_there_was_none() -> None:
    log = make_log(256)
    log.faults.add(Fault(FaultKind.UNKNOWN_TYPE, index=200))
    async with reading(log) as reader:
        batches, error = await taken(reader.client(log, "static"), 0, 200)
    assert error is None
    assert whole_up_to(log, batches, 0) == 200


async def test_tiles_that_arrived_behind_a_failure_are_not_fetched_again() -> None:
    log = make_log(256 * 4)
    fault = log.faults.add(Fault(FaultKind.STALL, on="data-tile", index=256))
    async with reading(log, stall_timeout_s=0.1) as reader:
        client = reader.client(log, "static", fetch_concurrency=4)
        batches, error = await taken(client, 0, 256 * 4)
        assert getattr(error, "status", None) == "timeout"
        assert whole_up_to(log, batches, 0) == 256
        log.faults.remove(fault)
        batches, error = await taken(client, 256, 256 * 4)
        assert error is None
        assert whole_up_to(log, batches, 256) == 256 * 4
    assert tiles(log) == {data_tile_path(0): 1, data_tile_path(1): 2, data_tile_path(2): 1, data_tile_path(3): 1}


async def test_a_tile_larger_than_its_cap_is_a_failure(monkeypatch: pytest.MonkeyPatch) -> None:
    log = make_log(256)
    monkeypatch.setattr("certstream.client.static_ct.TILE_CAP_BYTES", 100_000)
    async with reading(log) as reader:
        batches, error = await taken(reader.client(log, "static"), 0, 256)
    assert batches == []
    assert getattr(error, "status", None) == "too_large"


@pytest.mark.parametrize("kind", [FaultKind.HTML, FaultKind.CUT])
async def test_a_checkpoint_that_is_nonsense_is_a_failure_naming_the_log(kind: FaultKind) -> None:
    log = make_log(5)
    log.faults.add(Fault(kind, on="checkpoint"))
    async with reading(log) as reader:
        with pytest.raises(FetchError, match=r"tiled: http.*/checkpoint: ") as caught:
            await reader.client(log, "static").head()
    assert caught.value.status == "body"
