"""Logs of which what went out is tainted, and what reads that again."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import pytest
from structlog.testing import capture_logs

from certstream.app.verification.proven import ProvenRows
from certstream.app.verification.recheck import (
    Archived,
    Rechecker,
    Shown,
    Source,
)
from certstream.app.verification.streamed import StreamedLeaves
from certstream.certs.batch import UPDATE_TYPES, decode
from certstream.certs.hexadecimal import colon_hex
from certstream.client.base import LogClient
from certstream.client.known_tree import KnownTree
from certstream.client.proofs import prover
from certstream.client.signed_heads import SignedHeads
from certstream.ct.edge import TreeEdge
from certstream.ct.rfc6962 import frame_entries
from certstream.ct.types import LogInfo, LogKind
from certstream.evidence import Case
from certstream.intervals import Intervals
from certstream.serve.health import TaintedRange
from certstream.simulator.log import SimulatedLog
from tests.client.reading_support import Reader, reading

SIZE = 1_500
KINDS: tuple[LogKind, ...] = ("rfc6962", "static")
both = pytest.mark.parametrize("kind", KINDS)


@dataclass
class Again:
    """A log with tainted entries, and what reads them again."""

    log: SimulatedLog
    reader: Reader
    kind: LogKind
    rows: ProvenRows = field(default_factory=lambda: ProvenRows(None))
    streamed: StreamedLeaves = field(default_factory=StreamedLeaves)
    cases: list[Case] = field(default_factory=list)
    edge: TreeEdge | None = None
    most: int = 700
    held: int = 0
    crashes: int = 0
    slow_s: float = 0.0
    client: LogClient | None = None

    @property
    def info(self) -> LogInfo:
        return self.log.info(self.kind)

    def rechecker(self, archived: Archived | None = None) -> Rechecker:
        return Rechecker(
            self.rows,
            lambda: [self.info],
            self._source,
            streamed=self.streamed,
            archived=archived,
            evidence=self.cases.append,
            most=lambda: self.most,
            hold=self._hold,
            clock=self.reader.time.clock,
        )

    def _source(self, info: LogInfo) -> Source:
        inner = self.client or self.reader.client(self.log, self.kind, batch_size=256)
        known = KnownTree(info, prover(self.reader.http, info), lambda: self.edge, self.cases.append)
        return Source(SignedHeads(inner, self.log.spki, self.cases.append, known), prover(self.reader.http, info))

    async def _hold(self) -> None:
        self.held += 1
        self.reader.time.now_s += self.slow_s
        if self.crashes:
            self.crashes -= 1
            raise RuntimeError("a mistake")

    def streams(self, start: int, stop: int, *wrong: int) -> None:
        """These went out, some of them as others than they are in the tree, and are tainted."""
        leaves = [b"\xff" * 32 if index in wrong else self.log.tree.leaf(index) for index in range(start, stop)]
        self.rows.tainted(self.info, start, stop)
        self.streamed.keep(self.info, start, b"".join(leaves))

    def archived(self, *wrong: int, stop: int = SIZE) -> Archived:
        """An archive that has everything before `stop`, some of it otherwise than in the tree."""

        def shown(log: LogInfo, start: int, end: int) -> Shown:
            assert log == self.info
            rows = range(start, min(end, stop))
            return {index: ("X509LogEntry", "00:FF") if index in wrong else self.row(index) for index in rows}

        return shown

    def row(self, index: int) -> tuple[str, str]:
        entry = self.log.entry(index)
        batch = decode(frame_entries(self.info, index, [entry.leaf_input, entry.extra_data]), 0.0)
        return UPDATE_TYPES[entry.entry_type].decode(), colon_hex(batch.sha256).decode()

    @property
    def tainted(self) -> Intervals:
        return self.rows.tainted_of(self.info)

    def listed(self, *ranges: tuple[int, int, str]) -> list[TaintedRange]:
        return [TaintedRange("log", start, stop, error) for start, stop, error in ranges]


async def all_of(rechecker: Rechecker) -> None:
    """Until nothing is due."""
    with capture_logs():
        while await rechecker.turn():
            pass


@asynccontextmanager
async def again(kind: LogKind = "rfc6962") -> AsyncIterator[Again]:
    log = SimulatedLog("log", seed=21, initial=SIZE)
    async with reading(log) as reader:
        yield Again(log, reader, kind)
