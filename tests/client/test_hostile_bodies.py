"""A body costs memory in proportion, in whatever pieces it comes."""

from __future__ import annotations

import gzip
import tracemalloc
import zlib

import pytest

from certstream.client.http import FetchSettings, HttpClient
from certstream.client.inflate import BodyBuffer
from certstream.errors import FetchError
from certstream.metrics import Metrics
from certstream.simulator.faults import Fault, FaultKind
from certstream.simulator.log import SimulatedLog
from certstream.simulator.server import SimulatorServer


@pytest.mark.parametrize("size", [1, 2, 3, 50])
def test_a_body_in_tiny_pieces_takes_no_more_memory_than_twice_its_size(size: int) -> None:
    pieces = [b"x" * size for _ in range(3)]
    count = (1 << 17) // size
    tracemalloc.start()
    buffer = BodyBuffer("", 1 << 20)
    for index in range(count):
        buffer.feed(pieces[index % 3][:1] + bytes(size - 1))
    body = buffer.finish()
    peak_bytes = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert len(body) == count * size
    assert peak_bytes < 2.5 * len(body)


def test_pieces_of_any_size_stay_in_order() -> None:
    sizes = [1, 4_095, 4_096, 2, 3, 10_000, 4_096, 1]
    pieces = [bytes([index]) * size for index, size in enumerate(sizes)]
    buffer = BodyBuffer("", 1 << 20)
    for piece in pieces:
        buffer.feed(piece)
    assert buffer.finish() == b"".join(pieces)


def test_a_bomb_takes_no_more_memory_than_the_cap() -> None:
    bomb, cap_bytes = zlib.compress(bytes(64 << 20), 9), 4 << 20
    buffer = BodyBuffer("gzip", cap_bytes)
    tracemalloc.start()
    with pytest.raises(FetchError, match="larger than 4194304 bytes"):
        buffer.feed(bomb)
    peak_bytes = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak_bytes < cap_bytes + (4 << 20)


@pytest.mark.parametrize("size", [(1 << 20) - 1, 1 << 20, (1 << 20) + 1, 3 << 20])
@pytest.mark.parametrize("chunk", [1_000, 1 << 20])
def test_a_body_that_inflates_in_steps_is_whole(size: int, chunk: int) -> None:
    body = gzip.compress(bytes(size)) + gzip.compress(b"and a second member")
    buffer = BodyBuffer("gzip", 4 << 20)
    for at in range(0, len(body), chunk):
        buffer.feed(body[at : at + chunk])
    assert buffer.finish() == bytes(size) + b"and a second member"


async def test_an_error_that_is_kept_does_not_keep_the_body_it_is_about() -> None:
    log = SimulatedLog("log", kinds={"rfc6962"}, initial=10)
    log.faults.add(Fault(FaultKind.HUGE))
    async with SimulatorServer([log]), HttpClient(FetchSettings(), Metrics()) as http:
        tracemalloc.start()
        with pytest.raises(FetchError) as kept:
            await http.get(log.info("rfc6962"), "ct/v1/get-sth", cap_bytes=16 << 20)
        there_bytes, peak_bytes = tracemalloc.get_traced_memory()
        tracemalloc.stop()
    assert kept.value.status == "too_large"
    assert there_bytes < 4 << 20 < peak_bytes
