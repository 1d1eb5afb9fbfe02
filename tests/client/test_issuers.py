from __future__ import annotations

import asyncio

import pytest

from certstream.client.issuers import IssuerCache
from certstream.errors import RateLimitedError
from certstream.simulator.faults import Fault, FaultKind
from certstream.simulator.log import SimulatedLog
from tests.client.reading_support import Reader, reading, taken, whole_up_to


def make_log(initial: int) -> SimulatedLog:
    return SimulatedLog("tiled", kinds={"static"}, seed=6, initial=initial)


def issuer_requests(log: SimulatedLog) -> list[int]:
    return [count for path, count in log.requests.items() if path.startswith("issuer/")]


async def test_an_issuer_is_fetched_once_for_all_logs() -> None:
    logs = [SimulatedLog(name, kinds={"static"}, seed=7, initial=300) for name in ("one", "two")]
    async with reading(*logs) as reader:
        for log in logs:
            _, error = await taken(reader.client(log, "static"), 0, 300)
            assert error is None
        assert set(issuer_requests(logs[0])) == {1}
        assert issuer_requests(logs[1]) == []
        assert reader.counted("certstream_issuer_cache_certificates") == len(issuer_requests(logs[0]))
        assert reader.counted("certstream_issuer_cache_hits_total") > 0


async def test_logs_that_want_the_same_issuer_at_once_share_the_request() -> None:
    logs = [SimulatedLog(name, kinds={"static"}, seed=7, initial=256) for name in ("one", "two")]
    async with reading(*logs) as reader:
        results = await asyncio.gather(*(taken(reader.client(log, "static"), 0, 256) for log in logs))
        assert [error for _, error in results] == [None, None]
        assert sum(map(sum, map(issuer_requests, logs))) == reader.counted("certstream_issuer_cache_certificates")
        assert not reader.issuers._locks


async def test_an_issuer_that_stays_missing_holds_no_entry_and_is_asked_for_later_again() -> None:
    log = make_log(512)
    fault = log.faults.add(Fault(FaultKind.MISSING_ISSUER, issuer=first_issuer(log).hex()))
    async with reading(log) as reader:
        client = reader.client(log, "static")
        batches, error = await taken(client, 0, 512)
        assert error is None
        assert whole_up_to(log, batches, 0) == 512
        assert all(first_issuer(log) not in batch.issuers for batch in batches)
        assert any(batch.issuers for batch in batches)
        assert reader.counted("certstream_issuers_unresolved_total") == 1
        assert log.requests[f"issuer/{first_issuer(log).hex()}"] == 3, "attempts, and none for the second tile"
        log.faults.remove(fault)
        assert not await resolved(reader, log)
        reader.time.now_s += 301
        assert await resolved(reader, log)


async def test_an_issuer_that_one_log_lacks_is_taken_from_another() -> None:
    logs = [SimulatedLog(name, kinds={"static"}, seed=7, initial=256) for name in ("one", "two")]
    logs[0].faults.add(Fault(FaultKind.MISSING_ISSUER))
    async with reading(*logs) as reader:
        batches, error = await taken(reader.client(logs[0], "static"), 0, 256)
        assert error is None
        assert batches[0].issuers == {}
        batches, error = await taken(reader.client(logs[1], "static"), 0, 256)
        assert error is None
        assert batches[0].issuers
        assert await resolved(reader, logs[0])


@pytest.mark.parametrize("kind", [FaultKind.CUT, FaultKind.SERVER_ERROR, FaultKind.RATE_LIMITED, FaultKind.HTML])
async def test_a_passing_failure_of_an_issuer_is_tried_again(kind: FaultKind) -> None:
    log = make_log(256)
    log.faults.add(Fault(kind, on="issuer", times=2))
    async with reading(log) as reader:
        batches, error = await taken(reader.client(log, "static"), 0, 256)
        assert error is None
        assert first_issuer(log) in batches[0].issuers
        assert reader.counted("certstream_issuers_unresolved_total") == 0


async def test_the_issuer_cache_is_bounded_in_bytes() -> None:
    log = make_log(256)
    async with reading(log) as reader:
        reader.issuers = IssuerCache(reader.http, cache_bytes=4000)
        batches, error = await taken(reader.client(log, "static"), 0, 256)
        assert error is None
        kept = reader.counted("certstream_issuer_cache_certificates")
        assert len(batches[0].issuers) > kept > 0
        assert kept <= 4000 // min(map(len, batches[0].issuers.values()))


async def test_429s_hold_the_entries_of_a_log_while_they_last_and_make_no_issuer_missing() -> None:
    log = make_log(256)
    fault = log.faults.add(Fault(FaultKind.RATE_LIMITED, on="issuer", retry_after_s=60))
    async with reading(log) as reader:
        client = reader.client(log, "static")
        before = reader.time.now_s
        batches, error = await taken(client, 0, 256)
        assert batches == []
        assert isinstance(error, RateLimitedError)
        assert "wait for the pace of Simulator" in str(error)
        assert reader.time.now_s - before < 20, "what is left of a pause is no attempt's business"
        assert reader.http.pacing.of("Simulator").paused_s > 0
        log.faults.remove(fault)
        rounds = 0
        while error is not None:
            rounds += 1
            await client.head()  # which waits the pause out
            batches, error = await taken(client, 0, 256)
        assert rounds <= 3, "each goes on where the last one ended"
        assert first_issuer(log) in batches[0].issuers
        assert reader.counted("certstream_issuers_unresolved_total") == 0
    assert log.requests["tile/data/000"] == 1


@pytest.mark.parametrize("retry_after_s", [None, 5, 60])
async def test_an_operator_that_never_gives_its_issuers_holds_no_log_for_long(retry_after_s: float | None) -> None:
    log = make_log(256)
    fault = log.faults.add(Fault(FaultKind.RATE_LIMITED, on="issuer", retry_after_s=retry_after_s))
    async with reading(log) as reader:
        client = reader.client(log, "static")
        before, rounds = reader.time.now_s, 0
        batches, error = await taken(client, 0, 256)
        while error is not None:
            rounds += 1
            await reader.time.sleep(1)
            batches, error = await taken(client, 0, 256)
        assert rounds == 3
        assert reader.time.now_s - before < 4 * 120
        assert whole_up_to(log, batches, 0) == 256
        assert reader.counted("certstream_issuers_unresolved_total") > 0
        log.faults.remove(fault)
        await reader.time.sleep(60)
        assert await resolved(reader, log), "asked for again at once: it was never found missing"
    assert log.requests["tile/data/000"] == 1


async def test_a_tile_that_names_thousands_of_issuers_takes_few_requests_at_a_time_and_one_patience() -> None:
    log = make_log(1)
    made_up = [index.to_bytes(32) for index in range(3000)]
    async with reading(log) as reader:
        waiting = asyncio.create_task(reader.issuers.resolve(log.info("static"), made_up))
        await log.until(lambda: log.endpoints["issuer"] >= 40)
        names = [task.get_name() for task in asyncio.all_tasks()]
        assert names.count("issuer:tiled") == 4
        before = reader.time.now_s
        assert (await reader.client(log, "static").head()).tree_size == 1
        assert await waiting == {}
        assert reader.time.now_s - before <= 30
        assert log.endpoints["issuer"] < 500
        assert reader.counted("certstream_issuers_unresolved_total") == 3000, "counted, however they ended"


def first_issuer(log: SimulatedLog) -> bytes:
    """SHA-256 of the first chain certificate in the log."""
    tile_leaf = next(entry.tile_leaf for entry in map(log.entry, range(256)) if entry.chain)
    der_count = next(len(entry.chain) for entry in map(log.entry, range(256)) if entry.chain)
    return tile_leaf[-32 * der_count :][:32]


async def resolved(reader: Reader, log: SimulatedLog) -> bool:
    fingerprint = first_issuer(log)
    return fingerprint in await reader.issuers.resolve(log.info("static"), [fingerprint])
