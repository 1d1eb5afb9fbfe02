"""Logs and clients that verify them, and what these tell."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import pytest

from certstream.client.proofs import prover
from certstream.client.verified import Findings, Mode, VerifiedClient
from certstream.ct.edge import TreeEdge
from certstream.ct.types import LogKind
from certstream.errors import CertstreamError
from certstream.evidence import Case
from certstream.simulator.log import SimulatedLog
from tests.client.reading_support import Reader, reading, taken, whole_up_to

SIZE = 3_000
KINDS: tuple[LogKind, ...] = ("rfc6962", "static")
MODES: tuple[Mode, ...] = ("warn", "enforce")


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Both protocols, where a test asks for one."""
    if "kind" in metafunc.fixturenames:
        metafunc.parametrize("kind", KINDS)


@dataclass
class Found:
    """What was told."""

    proven: list[tuple[int, int]] = field(default_factory=list)
    tainted: list[tuple[int, int]] = field(default_factory=list)
    cases: list[Case] = field(default_factory=list)
    leaves: dict[int, bytes] = field(default_factory=dict)  # of what is tainted, by index

    def findings(self) -> Findings:
        return Findings(
            lambda start, stop: self.proven.append((start, stop)),
            lambda start, stop: self.tainted.append((start, stop)),
            self.cases.append,
            self._streamed,
        )

    def _streamed(self, start: int, leaves: bytes) -> None:
        assert len(leaves) % 32 == 0
        assert self.tainted[-1] == (start, start + len(leaves) // 32)
        self.leaves |= {start + at // 32: leaves[at : at + 32] for at in range(0, len(leaves), 32)}

    def indices(self, ranges: list[tuple[int, int]]) -> list[int]:
        return [index for start, stop in ranges for index in range(start, stop)]


@dataclass
class Verified:
    """A log, and a client that verifies it."""

    log: SimulatedLog
    reader: Reader
    kind: LogKind
    found: Found = field(default_factory=Found)

    def client(
        self, mode: Mode, *, edge: TreeEdge | None = None, anchor: TreeEdge | None = None, max_unproven: int = 700
    ) -> VerifiedClient:
        info = self.log.info(self.kind)
        inner = self.reader.client(self.log, self.kind, batch_size=256)
        return VerifiedClient(
            inner, prover(self.reader.http, info), self.log.spki, self.found.findings(),
            mode=mode, edge=edge, anchor=anchor, max_unproven=max_unproven,
        )  # fmt: skip

    def edge(self, size: int) -> TreeEdge:
        return TreeEdge().extended(b"".join(self.log.tree.leaf(index) for index in range(size)))

    async def take(self, client: VerifiedClient, start: int, stop: int) -> tuple[int, CertstreamError | None]:
        """Read; how far entries came, all of them the log's own, and what ended it."""
        batches, error = await taken(client, start, stop)
        await self.asked()
        return whole_up_to(self.log, batches, start), error

    async def asked(self) -> None:
        """Wait for the proofs that the log is asked for behind what went out."""
        if proving := [task for task in asyncio.all_tasks() if task.get_name().startswith("prove:")]:
            await asyncio.wait(proving)


@asynccontextmanager
async def verified(kind: LogKind, size: int = SIZE) -> AsyncIterator[Verified]:
    log = SimulatedLog("log", seed=11, initial=size)
    async with reading(log) as reader:
        yield Verified(log, reader, kind)
