"""What a log can do over the wire, done by the simulator: an error of bounded size, and the next request goes well."""

from __future__ import annotations

import asyncio
from contextlib import suppress

import pytest

from certstream.client.http import FetchSettings, HttpClient
from certstream.ct.types import LogInfo
from certstream.errors import FetchError
from certstream.metrics import Metrics
from certstream.simulator.faults import Fault, FaultKind
from certstream.simulator.log import SimulatedLog
from certstream.simulator.server import SimulatorServer

LONGEST = 400  # characters: name, URL and an excerpt


@pytest.mark.parametrize(
    ("kind", "status"),
    [
        (FaultKind.HUGE, "too_large"),
        (FaultKind.GZIP_BOMB, "too_large"),
        (FaultKind.FALSE_GZIP, "body"),
        (FaultKind.TRUNCATED, "body"),
        (FaultKind.DRIP, "timeout"),
        (FaultKind.STALL, "timeout"),
        (FaultKind.RESET, "connection"),
    ],
)
async def test_a_broken_answer_is_an_error_and_the_next_one_is_whole(kind: FaultKind, status: str) -> None:
    log = SimulatedLog("log", kinds={"rfc6962"}, initial=300)
    async with SimulatorServer([log]), HttpClient(FetchSettings(request_timeout_s=0.5), Metrics()) as http:
        info, path = log.info("rfc6962"), "ct/v1/get-entries?start=0&end=99"
        fault = log.faults.add(Fault(kind))
        with pytest.raises(FetchError) as caught:
            await http.get(info, path, cap_bytes=1 << 20)
        assert (caught.value.status, len(str(caught.value)) < LONGEST) == (status, True)
        log.faults.remove(fault)
        assert (await http.get(info, path, cap_bytes=1 << 20)).startswith(b'{"entries":[')


async def test_an_answer_that_is_no_http_is_told_in_few_words() -> None:
    """As what follows a body beyond its length is, too: aiohttp's own error holds all that was read."""

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"\x1f\x8b\n" * 20_000)
        writer.close()

    server = await asyncio.start_server(answer, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    log = LogInfo("log", f"http://127.0.0.1:{port}/log/", "rfc6962", "op")
    async with server, HttpClient(FetchSettings(), Metrics()) as http:
        with pytest.raises(FetchError, match="not reached: ClientResponseError") as caught:
            await http.get(log, "ct/v1/get-sth")
    assert (len(str(caught.value)) < LONGEST, str(caught.value).isprintable()) == (True, True)


async def test_what_follows_a_body_beyond_its_length_does_not_become_the_next_answer() -> None:
    log = SimulatedLog("log", kinds={"rfc6962"}, initial=300)
    async with SimulatorServer([log]), HttpClient(FetchSettings(), Metrics()) as http:
        info, path = log.info("rfc6962"), "ct/v1/get-entries?start=0&end=99"
        log.faults.add(Fault(FaultKind.WRONG_LENGTH, times=1))
        half = await http.get(info, path, cap_bytes=1 << 20)
        with suppress(FetchError):  # where it arrived before the request
            await http.get(info, path, cap_bytes=1 << 20)
        whole = await http.get(info, path, cap_bytes=1 << 20)
        assert (whole.startswith(half), len(whole) // 2) == (True, len(half))
