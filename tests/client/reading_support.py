"""Time that tests decide, and simulated logs with clients that read them."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import aclosing, asynccontextmanager

from certstream.client.base import LogClient, ReadSettings
from certstream.client.clock import Clock
from certstream.client.http import FetchSettings, HttpClient
from certstream.client.issuers import IssuerCache
from certstream.client.rfc6962 import Rfc6962Client
from certstream.client.static_ct import StaticClient
from certstream.ct.types import EntryBatch, LogKind, Spans
from certstream.errors import CertstreamError, FetchError, LogMisbehaviourError
from certstream.metrics import Metrics
from certstream.simulator.log import SimulatedLog
from certstream.simulator.server import SimulatorServer


class FakeTime:
    """Sleeping takes no time but moves the clock; chance shortens nothing, so waits are exact."""

    def __init__(self) -> None:
        self.now_s = 1_000.0
        self.offset_s = 1_800_000_000.0  # of the wall clock
        self.slept: list[float] = []
        self.on_sleep: Callable[[], None] = lambda: None
        self.clock = Clock(
            monotonic=lambda: self.now_s,
            wall=lambda: self.now_s + self.offset_s,
            sleep=self.sleep,
            random=lambda: 0.0,
        )

    async def sleep(self, delay_s: float) -> None:
        self.slept.append(delay_s)
        self.now_s += delay_s
        self.on_sleep()
        await asyncio.sleep(0)


class Reader:
    """A simulated log, served, and a client that reads it by one protocol."""

    def __init__(self, server: SimulatorServer, http: HttpClient, issuers: IssuerCache, time: FakeTime) -> None:
        self.server = server
        self.http = http
        self.issuers = issuers
        self.time = time

    def client(self, log: SimulatedLog, kind: LogKind, **settings: float) -> LogClient:
        read = ReadSettings(**settings)  # type: ignore[arg-type]
        if kind == "static":
            return StaticClient(self.http, log.info(kind), self.issuers, read)
        return Rfc6962Client(self.http, log.info(kind), read)

    def counted(self, name: str, **labels: str) -> float:
        return self.http.metrics.registry.get_sample_value(name, labels) or 0.0


@asynccontextmanager
async def reading(*logs: SimulatedLog, **fetch: float) -> AsyncIterator[Reader]:
    """Serve the logs; time is fake, requests are not."""
    time = FakeTime()
    settings = FetchSettings(**fetch)  # type: ignore[arg-type]
    async with SimulatorServer(logs) as server, HttpClient(settings, Metrics(), time.clock) as http:
        yield Reader(server, http, IssuerCache(http), time)


async def taken(client: LogClient, start: int, stop: int) -> tuple[list[EntryBatch], CertstreamError | None]:
    """The batches of [start, stop), and what ended them early."""
    batches: list[EntryBatch] = []
    try:
        async with aclosing(client.batches(start, stop)) as source:
            async for batch in source:
                batches.append(batch)  # noqa: PERF401 - those before the failure count
    except (FetchError, LogMisbehaviourError) as exc:
        return batches, exc
    return batches, None


def whole_up_to(log: SimulatedLog, batches: Sequence[EntryBatch], start: int) -> int:
    """Where the batches end, after checking that they hold exactly the log's entries from `start`, in order."""
    position = start
    for batch in batches:
        assert batch.start == position
        assert len(batch)
        for leaf, cert in zip(texts(batch, batch.leaf), texts(batch, batch.cert), strict=True):
            entry = log.entry(position)
            assert (batch.leaf_prefix + leaf)[1:] == entry.leaf_input
            assert cert == entry.der
            position += 1
    return position


def texts(batch: EntryBatch, spans: Spans) -> list[bytes]:
    return [batch.data[a:b] for a, b in zip(spans.start.tolist(), spans.stop.tolist(), strict=True)]


def tiles(log: SimulatedLog) -> dict[str, int]:
    """How often each data tile was asked for."""
    return {path: count for path, count in log.requests.items() if path.startswith("tile/data/")}
