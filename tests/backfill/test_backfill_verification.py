"""What a backfill reads is proven before it is decoded; what is not is tainted or left out, by the log's mode."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import replace
from hashlib import sha256

import pytest
from structlog.testing import capture_logs

from certstream.backfill.buffer import RunSize
from certstream.backfill.fetch import RetrySettings
from certstream.backfill.result import Result
from certstream.backfill.run import BackfillSettings
from certstream.backfill.verify import LogVerifier, Mode, Verification
from certstream.backfill.writer import CommitSettings
from certstream.client.known_tree import KnownTree
from certstream.client.proofs import prover
from certstream.ct.edge import TreeEdge, leaf_hashes
from certstream.ct.types import LogInfo, LogKind
from certstream.evidence import Case
from certstream.intervals import Intervals
from certstream.ledger import Trust
from certstream.simulator.faults import Fault, FaultKind
from certstream.simulator.log import SimulatedLog
from tests.backfill.backfill_support import Memory, Run, planned
from tests.client.reading_support import Reader, reading

KINDS: tuple[LogKind, ...] = ("rfc6962", "static")
MODES: tuple[Mode, ...] = ("warn", "enforce")
SIZE = 3_000
WHOLE = Intervals.of((0, SIZE))
SMALL = BackfillSettings(RetrySettings(initial_s=0.1), run=RunSize(512, 1 << 20), buffer_bytes=2 << 20)

# A log is costly to make and these tests change only its faults
LOG = SimulatedLog("log", seed=4, initial=SIZE)
PAGES: dict[LogKind, str] = {"rfc6962": "get-entries", "static": "data-tile"}
PROOFS: dict[LogKind, str] = {"rfc6962": "get-*proof*", "static": "hash-tile"}


@pytest.fixture(autouse=True)
def no_faults() -> None:
    LOG.faults.clear()
    LOG.requests.clear()
    LOG.endpoints.clear()


def verifying(
    reader: Reader, mode: Mode, cases: list[Case], edge: TreeEdge | None = None
) -> Callable[[LogInfo], Verification]:
    def of(log: LogInfo) -> Verification:
        known = KnownTree(log, prover(reader.http, log), lambda: edge, cases.append)
        return Verification(mode, log.key or b"", prover(reader.http, log), cases.append, known)

    return of


async def filled(
    reader: Reader,
    kind: LogKind,
    mode: Mode,
    archived: Intervals | None = None,
    edge: TreeEdge | None = None,
    settings: BackfillSettings = SMALL,
) -> tuple[Result, Memory, list[Case]]:
    """Everything of the log that is not archived, in small runs; `edge` is that of the tree that is known."""
    cases: list[Case] = []
    verification = verifying(reader, mode, cases, edge)
    run = Run(reader, planned(LOG, kind, SIZE, archived), [LOG], settings=settings, verification=verification)
    return await run.result(), run.destination, cases


def trust(memory: Memory, kind: LogKind) -> Trust:
    return memory.trust.get(LOG.info(kind).base_url, Trust())


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("mode", MODES)
async def test_all_that_a_log_proves_is_verified(kind: LogKind, mode: Mode) -> None:
    async with reading(LOG) as reader:
        result, memory, cases = await filled(reader, kind, mode)
        assert (result.failed, result.written, result.verified, result.tainted) == ((), SIZE, SIZE, 0)
        assert memory.holds(LOG.info(kind)) == WHOLE
        assert trust(memory, kind) == Trust(WHOLE)
    assert cases == []
    assert LOG.endpoints["get-entry-and-proof"] <= 2 * 10  # two for each run
    assert LOG.endpoints["hash-tile"] <= 4


@pytest.mark.parametrize("kind", KINDS)
async def test_what_lies_between_gaps_comes_along_and_only_what_was_missing_is_known(kind: LogKind) -> None:
    archived = WHOLE - Intervals.of((10, 20), (60, 300), (2_900, SIZE))
    async with reading(LOG) as reader:
        LOG.faults.add(Fault(FaultKind.WRONG_LEAF, index=40))  # of an entry that is there already
        result, memory, _ = await filled(reader, kind, "enforce", archived)
        assert result.failed == ()
        assert memory.holds(LOG.info(kind)) == WHOLE - archived
        assert trust(memory, kind) == Trust(WHOLE - archived)


async def test_large_entries_are_proven_in_parts_of_what_is_decoded_together() -> None:
    settings = replace(SMALL, run=RunSize(512, 50_000))
    async with reading(LOG) as reader:
        result, memory, _ = await filled(reader, "rfc6962", "enforce", settings=settings)
    assert (result.failed, memory.holds(LOG.info("rfc6962"))) == ((), WHOLE)
    sent = sum(len(LOG.entry(index).leaf_input) + len(LOG.entry(index).extra_data) for index in range(SIZE))
    assert LOG.endpoints["get-entry-and-proof"] > 2 * sent / 50_000


@pytest.mark.parametrize("kind", KINDS)
async def test_warn_archives_wrong_entries_as_tainted(kind: LogKind) -> None:
    wrong = Intervals.of((0, 1), (511, 513), (2_999, 3_000))
    async with reading(LOG) as reader:
        for start, stop in wrong:
            for index in range(start, stop):
                LOG.faults.add(Fault(FaultKind.WRONG_LEAF, index=index))
        result, memory, cases = await filled(reader, kind, "warn")
        assert (result.failed, result.written, result.verified, result.tainted) == ((), SIZE, SIZE - 4, 4)
        assert memory.holds(LOG.info(kind)) == WHOLE
        assert trust(memory, kind) == Trust(WHOLE - wrong, wrong)
    assert {case.kind for case in cases} == {"wrong_leaf"}
    assert Intervals.of(*((case.start or 0, case.stop or 0) for case in cases)) == wrong
    assert all(sha256(case.bodies["first_leaf"]).digest() == case.hashes["first_leaf"] for case in cases)


async def test_of_many_wrong_entries_the_first_ten_are_shown_and_twenty_are_named() -> None:
    async with reading(LOG) as reader:
        for index in range(0, 500, 20):
            LOG.faults.add(Fault(FaultKind.WRONG_LEAF, index=index))
        with capture_logs() as lines:
            result, _, cases = await filled(reader, "static", "warn")
    assert result.tainted == 25
    assert sorted(case.start or 0 for case in cases) == list(range(0, 200, 20))
    assert [line["event"] for line in lines].count("entries are not proven, they are archived all the same") == 20


@pytest.mark.parametrize("kind", KINDS)
async def test_enforce_reads_wrong_entries_once_more_and_then_leaves_them_out(kind: LogKind) -> None:
    async with reading(LOG) as reader:
        always = LOG.faults.add(Fault(FaultKind.WRONG_LEAF, index=700))
        # Of the last ones it turns out when nothing is left to fetch
        once = LOG.faults.add(Fault(FaultKind.WRONG_LEAF, on=PAGES[kind], index=SIZE - 1, times=1))
        result, memory, _ = await filled(reader, kind, "enforce")
        missing = Intervals.of((700, 701))
        assert [(each.start, each.stop) for each in result.failed] == list(missing)
        assert (result.logs_failed, result.left, result.verified) == (1, 1, SIZE - 1)
        assert memory.holds(LOG.info(kind)) == WHOLE - missing
        assert trust(memory, kind) == Trust(WHOLE - missing)
        assert LOG.faults.struck[always] >= 2
        assert LOG.faults.struck[once] == 1


@pytest.mark.parametrize("kind", KINDS)
async def test_a_head_without_the_logs_signature_is_asked_for_again_and_proves_nothing(kind: LogKind) -> None:
    async with reading(LOG) as reader:
        fault = LOG.faults.add(Fault(FaultKind.WRONG_SIGNATURE))
        result, memory, cases = await filled(reader, kind, "warn")
        assert (result.failed, result.tainted) == ((), SIZE)
        assert trust(memory, kind) == Trust(tainted=WHOLE)
        assert LOG.faults.struck[fault] == 3
        result, memory, cases = await filled(reader, kind, "enforce")
        assert [(each.start, each.stop) for each in result.failed] == [(0, SIZE)]
        assert "signature" in result.failed[0].error
        assert (memory.visible, memory.trust) == ([], {})
        assert {case.kind for case in cases} == {"signature"}
        LOG.faults.clear()
        LOG.faults.add(Fault(FaultKind.WRONG_SIGNATURE, times=2))
        result, memory, _ = await filled(reader, kind, "enforce")
        assert (result.failed, result.verified) == ((), SIZE)


@pytest.mark.parametrize("kind", KINDS)
async def test_proofs_that_do_not_come_leave_entries_unverified_under_warn_and_missing_under_enforce(
    kind: LogKind,
) -> None:
    async with reading(LOG) as reader:
        LOG.faults.add(Fault(FaultKind.SERVER_ERROR, on=PROOFS[kind]))
        result, memory, cases = await filled(reader, kind, "warn")
        assert (result.failed, result.written, result.verified, result.tainted) == ((), SIZE, 0, 0)
        assert trust(memory, kind) == Trust()
        result, memory, cases = await filled(reader, kind, "enforce")
        assert [(each.start, each.stop) for each in result.failed] == [(0, SIZE)]
        assert memory.visible == []
        assert cases == []  # a proof that does not come shows nothing


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("mode", MODES)
async def test_proofs_that_come_late_are_waited_for(kind: LogKind, mode: Mode) -> None:
    async with reading(LOG) as reader:
        LOG.faults.add(Fault(FaultKind.UNAVAILABLE, on=PROOFS[kind], times=1))
        LOG.faults.add(Fault(FaultKind.RATE_LIMITED, on=PROOFS[kind], nth=2))
        result, memory, _ = await filled(reader, kind, mode)
        assert (result.failed, result.verified) == ((), SIZE)
        assert trust(memory, kind) == Trust(WHOLE)


async def test_a_log_that_gives_no_proof_is_asked_less_and_as_before_once_it_gave_one() -> None:
    async with reading(LOG) as reader:
        client = reader.client(LOG, "rfc6962")
        retry = RetrySettings(attempts=3, initial_s=0.1)
        verifier = LogVerifier(client, verifying(reader, "warn", [])(client.log), retry, reader.time.clock)
        await verifier.client.head()

        async def pauses(start: int) -> int:
            """How often it is waited before the proof of some entries is asked for once more."""
            before = len(reader.time.slept)
            batches = [batch async for batch in client.batches(start, start + 10)]
            await verifier.check(batches, b"".join(map(leaf_hashes, batches)))
            return len(reader.time.slept) - before

        fault = LOG.faults.add(Fault(FaultKind.SERVER_ERROR, on=PROOFS["rfc6962"]))
        assert [await pauses(start) for start in range(0, 50, 10)] == [2, 2, 2, 0, 0]
        LOG.faults.remove(fault)
        assert await pauses(50) == 0
        LOG.faults.add(fault)
        assert await pauses(60) == 2


@pytest.mark.parametrize("kind", KINDS)
async def test_a_log_whose_proofs_hang_keeps_no_other_from_being_read(kind: LogKind) -> None:
    other = SimulatedLog("other", seed=5, initial=SIZE)
    async with reading(LOG, other) as reader:
        stalled = LOG.faults.add(Fault(FaultKind.STALL, on=PROOFS[kind]))
        plans = [planned(log, kind, SIZE) for log in (LOG, other)]
        plan = replace(plans[0], logs=plans[0].logs + plans[1].logs)
        cases: list[Case] = []
        settings = replace(SMALL, buffer_bytes=16 << 20, commit=CommitSettings(interval_s=0.1))
        run = Run(reader, plan, [LOG, other], settings=settings, verification=verifying(reader, "enforce", cases))

        def freed() -> None:
            # all of the other log is committed, or written and about to be
            rows = sum(len(rows) for rows in (*run.destination.visible, *run.destination.pending))
            if rows >= SIZE and stalled in LOG.faults:
                loop.call_soon_threadsafe(LOG.faults.remove, stalled)

        loop = asyncio.get_running_loop()
        run.destination.on_write = lambda rows: freed()
        run.destination.on_commit = freed
        async with asyncio.timeout(30):
            result = await run.result()
        assert (result.failed, result.verified) == ((), 2 * SIZE)
        assert [run.destination.holds(log.info(kind)) for log in (LOG, other)] == [WHOLE, WHOLE]


def edge_of(size: int) -> TreeEdge:
    return TreeEdge().extended(b"".join(LOG.tree.leaf(index) for index in range(size)))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("mode", MODES)
async def test_nothing_is_proven_in_another_tree_than_the_one_that_is_known(kind: LogKind, mode: Mode) -> None:
    async with reading(LOG) as reader:
        LOG.faults.add(Fault(FaultKind.FORK, index=500))
        result, memory, cases = await filled(reader, kind, mode, edge=edge_of(1_000))
        assert result.verified == 0
        assert {case.kind for case in cases} == {"inconsistent"}
        if mode == "warn":
            assert (result.failed, trust(memory, kind)) == ((), Trust(tainted=WHOLE))
        else:
            assert [(each.start, each.stop) for each in result.failed] == list(WHOLE)
            assert "is not consistent with the first 1000" in result.failed[0].error
            assert memory.holds(LOG.info(kind)) == Intervals()


@pytest.mark.parametrize("kind", KINDS)
async def test_a_tree_that_begins_with_the_known_one_is_proven_with_one_more_proof(kind: LogKind) -> None:
    async with reading(LOG) as reader:
        result, memory, cases = await filled(reader, kind, "enforce", edge=edge_of(1_000))
        assert (result.failed, trust(memory, kind), cases) == ((), Trust(WHOLE), [])
        assert LOG.endpoints["get-sth-consistency"] == (1 if kind == "rfc6962" else 0)


async def test_a_head_that_is_not_compared_at_first_proves_nothing_until_it_is() -> None:
    async with reading(LOG) as reader:
        LOG.faults.add(Fault(FaultKind.FORK, index=500))
        LOG.faults.add(Fault(FaultKind.UNAVAILABLE, on="get-sth-consistency", times=1))
        result, memory, cases = await filled(reader, "rfc6962", "warn", edge=edge_of(1_000))
        assert (result.verified, trust(memory, "rfc6962")) == (0, Trust(tainted=WHOLE))
        assert {case.kind for case in cases} == {"inconsistent"}


@pytest.mark.parametrize("mode", MODES)
async def test_a_log_that_does_not_compare_its_trees_proves_nothing(mode: Mode) -> None:
    async with reading(LOG) as reader:
        LOG.faults.add(Fault(FaultKind.UNAVAILABLE, on="get-sth-consistency"))
        result, memory, cases = await filled(reader, "rfc6962", mode, edge=edge_of(1_000))
        assert (result.verified, trust(memory, "rfc6962"), cases) == (0, Trust(), [])
        assert memory.holds(LOG.info("rfc6962")) == (WHOLE if mode == "warn" else Intervals())
