from __future__ import annotations

import asyncio
from contextlib import aclosing

import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer

from certstream.client.base import ReadSettings
from certstream.client.rfc6962 import Rfc6962Client
from certstream.ct.types import LogInfo
from certstream.errors import FetchError, RateLimitedError
from certstream.simulator.faults import Fault, FaultKind
from certstream.simulator.log import SimulatedLog
from tests.client.reading_support import reading, taken, whole_up_to


def make_log(initial: int, *, max_page: int = 1000, page_boundary: int = 0) -> SimulatedLog:
    return SimulatedLog(
        "classic", kinds={"rfc6962"}, seed=5, initial=initial, max_page=max_page, page_boundary=page_boundary
    )


async def test_the_head_is_the_logs_own_word() -> None:
    log = make_log(5)
    async with reading(log) as reader:
        assert await reader.client(log, "rfc6962").head() == log.head


@pytest.mark.parametrize("concurrency", [1, 4])
@pytest.mark.parametrize(("max_page", "boundary"), [(1000, 0), (1000, 256), (1000, 32), (300, 0)])
async def test_every_entry_comes_once_and_in_order(concurrency: int, max_page: int, boundary: int) -> None:
    log = make_log(2500, max_page=max_page, page_boundary=boundary)
    async with reading(log) as reader:
        client = reader.client(log, "rfc6962", fetch_concurrency=concurrency)
        batches, error = await taken(client, 77, 2477)
    assert error is None
    assert whole_up_to(log, batches, 77) == 2477


@pytest.mark.parametrize("concurrency", [1, 4])
async def test_a_full_page_of_a_thousand_entries_costs_one_request(concurrency: int) -> None:
    log = make_log(20_000)
    async with reading(log) as reader:
        client = reader.client(log, "rfc6962", fetch_concurrency=concurrency)
        batches, error = await taken(client, 0, 20_000)
    assert error is None
    assert [len(batch) for batch in batches] == [1000] * 20
    assert log.endpoints["get-entries"] == 20


@pytest.mark.parametrize("boundary", [32, 256])
async def test_page_boundaries_are_learned_and_kept_to(boundary: int) -> None:
    log = make_log(12_000, page_boundary=boundary)
    async with reading(log) as reader:
        client = reader.client(log, "rfc6962", fetch_concurrency=4)
        batches, error = await taken(client, 1001, 12_000)
        assert error is None
        assert batches[-1].stop == 12_000
        pages = (12_000 - 1001) // boundary
        assert log.endpoints["get-entries"] <= pages + 20


async def test_entries_at_the_end_of_the_tree_cost_one_request() -> None:
    log = make_log(1010)
    async with reading(log) as reader:
        client = reader.client(log, "rfc6962")
        assert client.readable(1000, 1010) == (1010, None)
        batches, _ = await taken(client, 1000, 1010)
    assert whole_up_to(log, batches, 1000) == 1010
    assert log.endpoints["get-entries"] == 1


async def test_pages_are_requested_ahead_and_given_in_order() -> None:
    log = make_log(10_000)
    async with reading(log) as reader:
        client = reader.client(log, "rfc6962", fetch_concurrency=4)
        stalled = log.faults.add(Fault(FaultKind.STALL, on="get-entries", index=3500))
        positions: list[int] = []

        async def read() -> None:
            async with aclosing(client.batches(0, 10_000)) as batches:
                async for batch in batches:
                    positions.append(batch.start)  # noqa: PERF401 - looked at while it grows

        task = asyncio.create_task(read())
        await log.until(lambda: any("start=6000" in path for path in log.requests))
        assert positions == [0, 1000, 2000]
        assert not any("start=7000" in path for path in log.requests), "four in flight, not more"
        log.faults.remove(stalled)
        log.publish()
        await task
    assert positions == list(range(0, 10_000, 1000))
    assert log.endpoints["get-entries"] == 10


async def test_an_operators_logs_together_stay_within_its_requests_ahead() -> None:
    log = make_log(10_000)
    async with reading(log, prefetch=1) as reader:
        client = reader.client(log, "rfc6962", fetch_concurrency=8)
        stalled = log.faults.add(Fault(FaultKind.STALL, on="get-entries", index=3500))
        task = asyncio.create_task(taken(client, 0, 10_000))
        await log.until(lambda: any("start=4000" in path for path in log.requests))
        assert log.endpoints["get-entries"] == 5
        log.faults.remove(stalled)
        log.publish()
        batches, error = await task
        assert error is None
        assert batches[-1].stop == 10_000
        permits = reader.http.prefetch("Simulator")
        assert permits.take()
        assert not permits.take()


FAULTS = [
    (Fault(FaultKind.SERVER_ERROR, on="get-entries", index=700, times=1), "500"),
    (Fault(FaultKind.UNAVAILABLE, on="get-entries", index=700, times=1), "503"),
    (Fault(FaultKind.STATUS, on="get-entries", index=700, times=1, status=404), "404"),
    (Fault(FaultKind.STATUS, on="get-entries", index=700, times=1, status=403), "403"),
    (Fault(FaultKind.STATUS, on="get-entries", index=700, times=1, status=400), "400"),
    (Fault(FaultKind.RATE_LIMITED, on="get-entries", index=700, times=1, retry_after_s=7), "429"),
    (Fault(FaultKind.STALL, on="get-entries", index=700, times=1), "timeout"),
    (Fault(FaultKind.TRUNCATED, on="get-entries", index=700, times=1), "body"),
    (Fault(FaultKind.CUT, on="get-entries", index=700, times=1), "body"),
    (Fault(FaultKind.HTML, on="get-entries", index=700, times=1), "body"),
    (Fault(FaultKind.NO_ENTRIES, on="get-entries", index=700, times=1), "empty"),
]


@pytest.mark.parametrize("concurrency", [1, 4])
@pytest.mark.parametrize(("fault", "status"), FAULTS, ids=lambda value: getattr(value, "kind", value))
async def test_a_failure_gives_what_came_before_it_and_the_next_try_the_rest(
    fault: Fault, status: str, concurrency: int
) -> None:
    log = make_log(1500, max_page=200)
    log.faults.add(fault)
    async with reading(log, stall_timeout_s=0.05) as reader:
        client = reader.client(log, "rfc6962", fetch_concurrency=concurrency)
        batches, error = await taken(client, 0, 1500)
        assert isinstance(error, FetchError)
        assert error.status == status
        assert "classic: http://127.0.0.1" in str(error)
        assert isinstance(error, RateLimitedError) == (status == "429")
        position = whole_up_to(log, batches, 0)
        assert position <= 700
        batches, error = await taken(client, position, 1500)
        assert error is None
        assert whole_up_to(log, batches, position) == 1500
        if fault.kind not in (FaultKind.CUT, FaultKind.HTML, FaultKind.NO_ENTRIES):  # those are whole answers
            assert reader.counted("certstream_log_requests_total", log="classic", status=status) == 1


async def test_a_reset_connection_is_a_failure_that_moves_nothing() -> None:
    log = make_log(500)
    fault = log.faults.add(Fault(FaultKind.RESET, on="get-entries"))
    async with reading(log) as reader:
        client = reader.client(log, "rfc6962")
        batches, error = await taken(client, 0, 500)
        assert batches == []
        assert isinstance(error, FetchError)
        assert error.status == "connection"
        log.faults.remove(fault)
        batches, error = await taken(client, 0, 500)
    assert error is None
    assert whole_up_to(log, batches, 0) == 500


async def test_short_pages_at_random_lose_nothing() -> None:
    log = make_log(3000)
    for entries in (1, 7, 40, 333):
        log.faults.add(Fault(FaultKind.SHORT_PAGE, probability=0.2, entries=entries))
    async with reading(log) as reader:
        batches, error = await taken(reader.client(log, "rfc6962", fetch_concurrency=4), 0, 3000)
    assert error is None
    assert whole_up_to(log, batches, 0) == 3000


async def test_a_refused_page_is_asked_for_smaller() -> None:
    log = make_log(9000)
    log.faults.add(Fault(FaultKind.STATUS, status=403, on="*start=0&end=1023"))
    log.faults.add(Fault(FaultKind.STATUS, status=403, on="*start=0&end=511"))
    async with reading(log) as reader:
        client = reader.client(log, "rfc6962")
        for _ in range(2):
            batches, error = await taken(client, 0, 9000)
            assert (batches, getattr(error, "status", None)) == ([], "403")
        batches, error = await taken(client, 0, 9000)
    assert error is None
    assert len(batches[0]) == 256
    assert batches[-1].stop == 9000
    assert max(len(batch) for batch in batches) == 1000, "pages grow again"


async def test_a_page_larger_than_the_cap_is_asked_for_smaller(monkeypatch: pytest.MonkeyPatch) -> None:
    log = make_log(1000)
    monkeypatch.setattr("certstream.client.rfc6962.JSON_CAP_BYTES", 1 << 20)
    async with reading(log) as reader:
        client = reader.client(log, "rfc6962")
        batches, error = await taken(client, 0, 1000)
        assert (batches, getattr(error, "status", None)) == ([], "too_large")
        position = 0
        for _ in range(10):
            batches, error = await taken(client, position, 1000)
            position = whole_up_to(log, batches, position)
    assert position == 1000


async def test_the_end_of_the_tree_is_a_400_that_says_so() -> None:
    log = make_log(100)
    async with reading(log) as reader:
        batches, error = await taken(reader.client(log, "rfc6962"), 100, 120)
    assert batches == []
    assert isinstance(error, FetchError)
    assert error.status == "400"
    assert "need tree size" in str(error)


async def test_a_tree_that_is_shorter_than_asked_gives_what_it_has() -> None:
    log = make_log(100)
    async with reading(log) as reader:
        batches, error = await taken(reader.client(log, "rfc6962"), 90, 120)
    assert whole_up_to(log, batches, 90) == 100
    assert getattr(error, "status", None) == "400"


async def test_an_entry_of_unknown_type_is_an_entry() -> None:
    log = make_log(10)
    log.faults.add(Fault(FaultKind.UNKNOWN_TYPE, index=4))
    async with reading(log) as reader:
        batches, error = await taken(reader.client(log, "rfc6962"), 0, 10)
    assert error is None
    assert batches[-1].stop == 10
    assert batches[0].entry_type.tolist().count(-1) == 1
    assert batches[0].entry_type[4] == -1


async def test_more_entries_than_asked_for_are_cut() -> None:
    log = make_log(20)

    async def generous(request: web.Request) -> web.Response:
        return web.Response(body=body)

    app = web.Application()
    app.router.add_get("/ct/v1/get-entries", generous)
    async with reading(log) as reader, TestServer(app) as server:
        body = await reader.http.get(log.info("rfc6962"), "ct/v1/get-entries?start=3&end=19", cap_bytes=1 << 20)
        info = LogInfo("generous", str(server.make_url("/")), "rfc6962", "op")
        batches, error = await taken(Rfc6962Client(reader.http, info, ReadSettings()), 3, 8)
    assert error is None
    assert whole_up_to(log, batches, 3) == 8


@pytest.mark.parametrize("kind", [FaultKind.HTML, FaultKind.CUT])
async def test_a_head_that_is_nonsense_is_a_failure_naming_the_log(kind: FaultKind) -> None:
    log = make_log(5)
    log.faults.add(Fault(kind, on="get-sth"))
    async with reading(log) as reader:
        with pytest.raises(FetchError, match=r"classic: http.*get-sth: not a get-sth answer") as caught:
            await reader.client(log, "rfc6962").head()
    assert caught.value.status == "body"


async def test_closing_the_batches_ends_what_is_in_flight() -> None:
    log = make_log(9000)
    async with reading(log) as reader:
        client = reader.client(log, "rfc6962", fetch_concurrency=4)
        async with aclosing(client.batches(0, 9000)) as batches:
            async for batch in batches:
                if batch.start == 3000:
                    break
        assert not [task for task in asyncio.all_tasks() if task.get_name().startswith("fetch:")]
        assert len([1 for _ in range(20) if reader.http.prefetch("Simulator").take()]) == 8
