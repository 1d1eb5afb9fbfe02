"""Up to where a log is read, and where its root is compared with that of its final tree head."""

from __future__ import annotations

import pytest

from certstream.app.lists.bounds import bounded
from certstream.app.settings import FollowedLog
from certstream.client.proofs import prover
from certstream.client.verified import Findings, VerifiedClient
from certstream.ct.edge import TreeEdge
from certstream.ct.log_list import FinalTreeHead
from certstream.evidence import Case
from certstream.simulator.log import SimulatedLog
from certstream.state import LogPosition
from tests.client.reading_support import reading

SIZE = 30
LOG = SimulatedLog("log", seed=3, initial=SIZE)
ANOTHER_ROOT = bytes(32)


@pytest.mark.parametrize(
    ("final", "leaving", "known", "read_to", "is_compared"),
    [
        (None, False, 20, SIZE, False),
        (None, True, 20, 20, False),
        (20, False, 0, 20, True),
        (20, True, 25, 20, True),
        (25, True, 20, 20, False),  # its final root is not that of the first 20
    ],
)
async def test_the_root_is_compared_at_the_final_tree_head_alone(
    *, final: int | None, leaving: bool, known: int, read_to: int, is_compared: bool
) -> None:
    cases: list[Case] = []
    async with reading(LOG) as reader:
        info = LOG.info("rfc6962")
        findings = Findings(lambda _start, _stop: None, lambda _start, _stop: None, cases.append)
        inner = VerifiedClient(
            reader.client(LOG, "rfc6962"), prover(reader.http, info), LOG.spki, findings, mode="warn", edge=TreeEdge()
        )
        head = None if final is None else FinalTreeHead(final, ANOTHER_ROOT)
        followed = FollowedLog(info, final=head, leaving=leaving)
        position = LogPosition(0, known, 0)
        client = bounded(inner, followed, position, lambda: prover(reader.http, info), cases.append)
        size = (await client.head()).tree_size
        stop = client.readable(0, size).stop
        async for _ in client.batches(0, stop):
            pass
        await inner.finish(10)
        client.readable(stop, size)
        inner.close()
    assert stop == read_to
    assert [case.kind for case in cases] == ["two_roots"] * is_compared
