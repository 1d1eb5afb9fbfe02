"""Heads are verified before anything is proven under them; what does not hold is evidence and never a reference."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import NamedTuple

import pytest

from certstream.client.signed_heads import SignedHeads
from certstream.ct.types import LogKind
from certstream.errors import FetchError, InvalidSignatureError, LogMisbehaviourError
from certstream.evidence import Case
from certstream.simulator.faults import Fault, FaultKind
from certstream.simulator.log import SimulatedLog
from tests.client.reading_support import reading, taken

KINDS: list[LogKind] = ["rfc6962", "static"]


class Signed(NamedTuple):
    log: SimulatedLog
    heads: SignedHeads
    cases: list[Case]


@asynccontextmanager
async def signed(kind: LogKind) -> AsyncIterator[Signed]:
    """A log of 300 entries, and its heads."""
    log, cases = SimulatedLog("log", initial=300), list[Case]()
    async with reading(log) as reader:
        yield Signed(log, SignedHeads(reader.client(log, kind), log.spki, cases.append), cases)


@pytest.mark.parametrize("kind", KINDS)
async def test_the_first_head_that_covers_a_range_is_what_it_is_proven_under(kind: LogKind) -> None:
    async with signed(kind) as (log, heads, cases):
        assert heads.covering(0) is None
        first = await heads.head()
        log.grow(100)
        second = await heads.head()
        assert (heads.covering(300), heads.covering(301), heads.covering(401)) == (first, second, None)
        for _ in range(20):
            log.grow(1)
            await heads.head()
        newest = heads.covering(log.tree_size)
        assert newest is not None
        assert newest.root_hash == log.head.root_hash
        batches, error = await taken(heads, 0, 300)
        assert (sum(map(len, batches)), error, cases) == (300, None, [])


@pytest.mark.parametrize("kind", KINDS)
async def test_a_head_that_the_log_did_not_sign_is_evidence_and_no_reference(kind: LogKind) -> None:
    async with signed(kind) as (log, heads, cases):
        log.faults.add(Fault(FaultKind.WRONG_SIGNATURE))
        with pytest.raises(InvalidSignatureError, match="log: "):
            await heads.head()
        assert heads.covering(0) is None
        assert [(case.kind, len(case.heads)) for case in cases] == [("signature", 1)]


@pytest.mark.parametrize("kind", KINDS)
async def test_another_root_for_the_same_size_is_evidence_and_the_first_one_stays(kind: LogKind) -> None:
    async with signed(kind) as (log, heads, cases):
        first = await heads.head()
        log.faults.add(Fault(FaultKind.FORK, index=5))
        with pytest.raises(LogMisbehaviourError, match="another root than before"):
            await heads.head()
        assert heads.covering(300) == first
        assert [(case.kind, len(case.heads)) for case in cases] == [("two_roots", 2)]


async def test_a_head_that_does_not_come_is_no_evidence() -> None:
    async with signed("static") as (log, heads, cases):
        log.faults.add(Fault(FaultKind.UNAVAILABLE))
        with pytest.raises(FetchError):
            await heads.head()
    assert cases == []
