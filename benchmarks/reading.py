"""What reading logs costs: entries/s and CPU per entry, from the socket to framed batches.

    python -m benchmarks.reading [--entries 20000] [--rounds 5] [--concurrency 4] [--gzip never]

A simulated log in a process of its own serves the same entries by both protocols; one round that fills its caches is
not counted. Prints the reader's CPU µs per entry, the least of all rounds, and how much of it is HTTP alone.
"""

from __future__ import annotations

import argparse
import asyncio
import multiprocessing
import time
from collections.abc import Awaitable, Callable
from contextlib import aclosing
from dataclasses import dataclass
from multiprocessing.connection import Connection

import uvloop

from certstream.client.base import LogClient, ReadSettings
from certstream.client.http import JSON_CAP_BYTES, FetchSettings, HttpClient
from certstream.client.issuers import IssuerCache
from certstream.client.rfc6962 import Rfc6962Client
from certstream.client.static_ct import StaticClient
from certstream.ct.static_ct import data_tile_path
from certstream.ct.types import TILE_WIDTH, LogInfo
from certstream.metrics import Metrics
from certstream.simulator import SimulatedLog, SimulatorServer

_PAGE = 1000


@dataclass(frozen=True, slots=True)
class Figure:
    """The best of all rounds, per entry."""

    cpu_us: float
    wall_us: float


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description="CPU per entry of reading logs.")
    parser.add_argument("--entries", type=int, default=20_000, help="read per round (default 20000)")
    parser.add_argument("--rounds", type=int, default=5, help="of which the fastest counts (default 5)")
    parser.add_argument("--concurrency", type=int, default=4, help="requests in flight (default 4)")
    parser.add_argument("--gzip", choices=("accepted", "never"), default="never", help="of data tiles (default never)")
    args = parser.parse_args()
    entries = max(_PAGE, args.entries // _PAGE * _PAGE)
    ours, theirs = multiprocessing.Pipe()
    server = multiprocessing.get_context("spawn").Process(target=serve, args=(theirs, entries, args.gzip), daemon=True)
    server.start()
    try:
        uvloop.run(measure(ours.recv(), entries, args.rounds, args.concurrency))
    finally:
        server.terminate()
        server.join()


def serve(pipe: Connection, entries: int, gzip: str) -> None:
    """Serve one log until this process is ended; its infos go through `pipe`."""

    async def run() -> None:
        log = SimulatedLog("bench", seed=1, initial=entries, max_page=_PAGE, gzip=gzip, cache_bytes=1 << 30)
        async with SimulatorServer([log]):
            pipe.send([log.info("rfc6962"), log.info("static")])
            await asyncio.Event().wait()

    uvloop.run(run())


async def measure(infos: list[LogInfo], entries: int, rounds: int, concurrency: int) -> None:
    """Read the log by both protocols and print what that cost."""
    settings = ReadSettings(fetch_concurrency=concurrency)
    classic, tiled = infos
    async with HttpClient(FetchSettings(), Metrics()) as http:
        issuers = IssuerCache(http)

        async def bodies(log: LogInfo, paths: list[str]) -> None:
            for path in paths:
                await http.get(log, path, cap_bytes=JSON_CAP_BYTES)

        pages = [f"ct/v1/get-entries?start={at}&end={at + _PAGE - 1}" for at in range(0, entries, _PAGE)]
        tiles = [data_tile_path(at) for at in range(entries // TILE_WIDTH)]
        reads: dict[str, Callable[[], Awaitable[None]]] = {
            "RFC 6962, whole": lambda: read(Rfc6962Client(http, classic, settings), entries),
            "  HTTP alone": lambda: bodies(classic, pages),
            "static-ct, whole": lambda: read(StaticClient(http, tiled, issuers, settings), entries),
            "  HTTP alone ": lambda: bodies(tiled, tiles),
        }
        for name, work in reads.items():
            figure = await best(work, entries, rounds)
            rate = 1e6 / figure.wall_us
            print(f"{name:20} {figure.cpu_us:6.2f} µs CPU per entry  {rate:9.0f} entries/s of wall time")


async def read(client: LogClient, entries: int) -> None:
    """Take all batches and drop them."""
    async with aclosing(client.batches(0, entries)) as batches:
        count = 0
        async for batch in batches:
            count += len(batch)
    if count != entries:
        raise SystemExit(f"{count} of {entries} entries came")


async def best(work: Callable[[], Awaitable[None]], entries: int, rounds: int) -> Figure:
    """The least CPU and the least time that a round took, after one that does not count."""
    await work()
    cpu, wall = [], []
    for _ in range(rounds):
        cpu_before, wall_before = time.process_time(), time.perf_counter()
        await work()
        cpu.append(time.process_time() - cpu_before)
        wall.append(time.perf_counter() - wall_before)
    return Figure(min(cpu) / entries * 1e6, min(wall) / entries * 1e6)


if __name__ == "__main__":
    main()
