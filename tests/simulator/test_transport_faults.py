"""Faults of the transport: what comes over the wire is not what HTTP, or the log, says it is."""

from __future__ import annotations

import asyncio
import zlib

import aiohttp
import pytest

from certstream.simulator import Fault, FaultKind, SimulatedLog
from certstream.simulator.transport import gzip_bomb
from tests.simulator.simulator_support import Served, page


async def test_an_empty_answer_has_status_200(served: Served, log: SimulatedLog) -> None:
    log.faults.add(Fault(FaultKind.EMPTY))
    for answer in (await page(served, log), await served.static(log, "checkpoint")):
        assert (answer.status, answer.body) == (200, b"")


async def test_garbage_is_other_noise_each_time(served: Served, log: SimulatedLog) -> None:
    log.faults.add(Fault(FaultKind.GARBAGE))
    answers = [await page(served, log), await page(served, log)]
    assert [(answer.status, len(answer.body)) for answer in answers] == [(200, 4096)] * 2
    assert answers[0].body != answers[1].body


async def test_a_redirect_leads_to_what_is_not_the_logs(served: Served, log: SimulatedLog) -> None:
    log.faults.add(Fault(FaultKind.REDIRECT))
    assert (await served.static(log, "tile/data/000", allow_redirects=False)).status == 302
    assert "operators" in (await page(served, log)).json


async def test_a_dripping_body_is_whole_once_the_fault_is_gone(served: Served, log: SimulatedLog) -> None:
    whole = await page(served, log)
    fault = log.faults.add(Fault(FaultKind.DRIP, seconds=0.001))
    async with served.session.get(f"{log.url('rfc6962')}ct/v1/get-entries?start=0&end=31") as response:
        first = await response.content.readexactly(3)
        assert fault in log.faults
        log.faults.remove(fault)
        assert first + await response.read() == whole.body


async def test_a_body_longer_than_its_length_breaks_the_next_answer_of_its_connection(
    served: Served, log: SimulatedLog
) -> None:
    whole = await page(served, log)
    log.faults.add(Fault(FaultKind.WRONG_LENGTH, times=1))
    reader, writer = await asyncio.open_connection("127.0.0.1", int(log.base_url.split(":")[2].split("/")[0]))
    writer.write(b"GET /log/rfc6962/ct/v1/get-entries?start=0&end=31 HTTP/1.1\r\nHost: log\r\n\r\n")
    head = await reader.readuntil(b"\r\n\r\n")
    assert f"content-length: {len(whole.body) // 2}\r\n".encode() in head.lower()
    assert await reader.readexactly(len(whole.body)) == whole.body
    writer.close()


async def test_a_huge_body_goes_on_until_the_client_leaves(served: Served, log: SimulatedLog) -> None:
    log.faults.add(Fault(FaultKind.HUGE))
    async with served.session.get(f"{log.url('rfc6962')}ct/v1/get-sth") as response:
        assert len(await response.content.readexactly(8 << 20)) == 8 << 20
        response.close()


async def test_a_body_that_is_no_gzip_is_said_to_be(served: Served, log: SimulatedLog) -> None:
    whole = await page(served, log)
    log.faults.add(Fault(FaultKind.FALSE_GZIP, on="get-entries"))
    with pytest.raises(aiohttp.ClientPayloadError):
        await page(served, log)
    async with aiohttp.ClientSession(auto_decompress=False) as session:
        url = f"{log.url('rfc6962')}ct/v1/get-entries?start=0&end=31"
        async with session.get(url) as response:
            assert response.headers["Content-Encoding"] == "gzip"
            assert await response.read() == whole.body


async def test_a_gzip_bomb_inflates_a_thousandfold(served: Served, log: SimulatedLog) -> None:
    log.faults.add(Fault(FaultKind.GZIP_BOMB))
    async with (
        aiohttp.ClientSession(auto_decompress=False) as session,
        session.get(f"{log.url('static')}checkpoint") as response,
    ):
        assert response.headers["Content-Encoding"] == "gzip"
        body = await response.read()
    assert body == gzip_bomb()
    assert len(body) < 2 << 20
    inflated = zlib.decompressobj(31).decompress(body, 256 << 20)
    assert len(inflated) == 256 << 20
