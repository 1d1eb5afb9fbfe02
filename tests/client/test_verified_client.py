"""Entries are proven against what their log signed: before they go out, or behind them."""

from __future__ import annotations

from contextlib import aclosing

import pytest

from certstream.client.proofs import prover
from certstream.client.verified import Mode, VerifiedClient
from certstream.ct.edge import TreeEdge, leaf_hashes
from certstream.ct.types import LogKind
from certstream.errors import FetchError, InvalidSignatureError, LogMisbehaviourError
from certstream.simulator.faults import Fault, FaultKind
from certstream.simulator.log import SimulatedLog
from tests.client.reading_support import taken, whole_up_to
from tests.client.verified_support import MODES, SIZE, Found, pytest_generate_tests, verified

__all__ = ["pytest_generate_tests"]


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("start", [0, 700, 2_999])
async def test_everything_up_to_the_head_is_proven(kind: LogKind, mode: Mode, start: int) -> None:
    async with verified(kind) as it:
        client = it.client(mode)
        await client.head()
        assert await it.take(client, start, SIZE) == (SIZE, None)
        assert it.found.indices(it.found.proven) == list(range(start, SIZE))
        assert (it.found.tainted, it.found.cases) == ([], [])
        assert client.edge_at(SIZE) == it.edge(SIZE)


@pytest.mark.parametrize("mode", MODES)
async def test_catching_up_below_the_head_is_proven_by_the_log(kind: LogKind, mode: Mode) -> None:
    async with verified(kind) as it:
        client = it.client(mode, edge=it.edge(100))
        await client.head()
        for start, stop in ((100, 1_000), (1_000, 1_777)):
            assert await it.take(client, start, stop) == (stop, None)
            assert client.edge_at(stop) == it.edge(stop)
        assert it.found.indices(it.found.proven) == list(range(100, 1_777))
        assert it.found.cases == []


@pytest.mark.parametrize("mode", MODES)
async def test_a_known_edge_asks_the_log_for_none_at_the_head(kind: LogKind, mode: Mode) -> None:
    async with verified(kind) as it:
        client = it.client(mode, edge=it.edge(2_500), max_unproven=10_000)
        await client.head()
        assert await it.take(client, 2_500, SIZE) == (SIZE, None)
        assert not {"get-entry-and-proof", "get-sth-consistency", "hash-tile"} & set(it.log.endpoints)


async def test_nothing_of_a_wrong_batch_goes_out_and_later_all_of_it_does_once(kind: LogKind) -> None:
    async with verified(kind) as it:
        client = it.client("enforce")
        fault = it.log.faults.add(Fault(FaultKind.WRONG_LEAF, index=1_300))
        await client.head()
        position, error = await it.take(client, 0, SIZE)
        assert isinstance(error, LogMisbehaviourError)
        assert 1_024 <= position <= 1_300
        assert it.found.indices(it.found.proven) == list(range(position))
        assert [(case.kind, case.start, case.stop) for case in it.found.cases] == [("wrong_leaf", 1_300, 1_301)]
        it.log.faults.remove(fault)
        await client.head()
        assert await it.take(client, position, SIZE) == (SIZE, None)
        assert it.found.indices(it.found.proven) == list(range(SIZE))
        assert it.found.tainted == []


async def test_a_wrong_entry_goes_out_where_only_warned_and_its_range_is_named(kind: LogKind) -> None:
    async with verified(kind) as it:
        client = it.client("warn", max_unproven=500)
        it.log.faults.add(Fault(FaultKind.WRONG_LEAF, index=1_300))
        await client.head()
        batches, error = await taken(client, 0, SIZE)
        await it.asked()
        assert error is None
        assert sum(map(len, batches)) == SIZE
        assert it.found.tainted == [(1_300, 1_301)]
        sent = b"".join(leaf_hashes(batch) for batch in batches)
        assert it.found.leaves == {1_300: sent[32 * 1_300 : 32 * 1_301]}
        assert it.found.leaves[1_300] != it.log.tree.leaf(1_300)
        assert sorted([*it.found.indices(it.found.proven), 1_300]) == list(range(SIZE))
        assert [(case.kind, case.start, case.stop) for case in it.found.cases] == [("wrong_leaf", 1_300, 1_301)]
        assert client.edge_at(SIZE) == it.edge(SIZE)


async def test_without_proofs_nothing_goes_out_where_enforced(kind: LogKind) -> None:
    async with verified(kind) as it:
        client = it.client("enforce", edge=it.edge(100))
        await client.head()
        fault = it.log.faults.add(Fault(FaultKind.UNAVAILABLE, on="hash-tile" if kind == "static" else "get-sth-c*"))
        position, error = await it.take(client, 100, 2_000)
        assert isinstance(error, FetchError)
        assert position == 100
        assert it.found == Found()
        it.log.faults.remove(fault)
        assert await it.take(client, 100, 2_000) == (2_000, None)
        assert it.found.indices(it.found.proven) == list(range(100, 2_000))


async def test_without_proofs_entries_go_out_where_only_warned_and_are_proven_later(kind: LogKind) -> None:
    async with verified(kind) as it:
        client = it.client("warn", edge=it.edge(100), max_unproven=SIZE)
        await client.head()
        fault = it.log.faults.add(Fault(FaultKind.UNAVAILABLE, on="hash-tile" if kind == "static" else "get-sth-c*"))
        assert await it.take(client, 100, 2_000) == (2_000, None)
        assert it.found == Found()
        assert client.edge_at(2_000) is None
        it.log.faults.remove(fault)
        assert await it.take(client, 2_000, SIZE) == (SIZE, None)
        assert it.found.indices(it.found.proven) == list(range(100, SIZE))
        assert it.found.tainted == []


async def test_of_what_is_never_proven_the_hashes_are_told_with_it(kind: LogKind) -> None:
    async with verified(kind) as it:
        client = it.client("warn", edge=it.edge(100), max_unproven=SIZE)
        await client.head()
        it.log.faults.add(Fault(FaultKind.UNAVAILABLE, on="hash-tile" if kind == "static" else "get-sth-c*"))
        assert await it.take(client, 100, 2_000) == (2_000, None)
        client.close()
        assert it.found.tainted == [(100, 2_000)]
        assert it.found.leaves == {index: it.log.tree.leaf(index) for index in range(100, 2_000)}


@pytest.mark.parametrize("mode", MODES)
async def test_a_tree_that_is_not_the_one_verified_before_is_found(kind: LogKind, mode: Mode) -> None:
    async with verified(kind) as it:
        other = SimulatedLog("log", seed=12, initial=200)
        edge = TreeEdge().extended(b"".join(other.tree.leaf(index) for index in range(200)))
        client = it.client(mode, edge=edge)
        await client.head()
        position, error = await it.take(client, 200, 1_000)
        assert it.found.cases
        assert {case.kind for case in it.found.cases} == {"inconsistent"}
        if mode == "enforce":
            assert isinstance(error, LogMisbehaviourError)
            assert position == 200
            assert it.found.proven == []
        else:
            assert (position, error) == (1_000, None)
            assert it.found.tainted[0][0] == 200


@pytest.mark.parametrize("mode", MODES)
async def test_a_badly_signed_head_is_never_used(kind: LogKind, mode: Mode) -> None:
    async with verified(kind) as it:
        client = it.client(mode)
        it.log.faults.add(Fault(FaultKind.WRONG_SIGNATURE))
        with pytest.raises(InvalidSignatureError, match="does not verify"):
            await client.head()
        with pytest.raises(ValueError, match="no verified head"):
            await it.take(client, 0, 100)
        assert [case.kind for case in it.found.cases] == ["signature"]


async def test_an_older_head_changes_nothing(kind: LogKind) -> None:
    async with verified(kind) as it:
        client = it.client("enforce")
        await client.head()
        it.log.faults.add(Fault(FaultKind.SMALLER_TREE, entries=900))
        assert (await client.head()).tree_size == SIZE - 900
        assert await it.take(client, 0, SIZE) == (SIZE, None)
        assert it.found.cases == []


async def test_the_edge_in_the_middle_of_a_batch_is_known(kind: LogKind) -> None:
    async with verified(kind) as it:
        client = it.client("enforce")
        await client.head()
        async with aclosing(client.batches(0, 600)) as batches:
            batch = await anext(batches)
            assert client.edge_at(batch.stop - 3) == it.edge(batch.stop - 3)
        assert client.edge_at(batch.stop + 1) is None


async def test_what_the_log_never_proves_is_named_in_time_and_holds_nothing_up(kind: LogKind) -> None:
    async with verified(kind) as it:
        client = it.client("warn", edge=it.edge(100), max_unproven=600)
        await client.head()
        it.log.faults.add(Fault(FaultKind.UNAVAILABLE, on="hash-tile" if kind == "static" else "get-sth-c*"))
        assert await it.take(client, 100, 2_500) == (2_500, None)
        tainted = it.found.indices(it.found.tainted)
        assert tainted == list(range(100, 100 + len(tainted)))
        assert 2_500 - 600 <= 100 + len(tainted) <= 2_500
        assert (it.found.proven, it.found.cases) == ([], [])


@pytest.mark.parametrize("mode", MODES)
async def test_a_fork_is_evidence_and_the_log_is_read_on_once_it_is_gone(kind: LogKind, mode: Mode) -> None:
    async with verified(kind) as it:
        client = it.client(mode)
        await client.head()
        assert await it.take(client, 0, SIZE) == (SIZE, None)
        fork = it.log.faults.add(Fault(FaultKind.FORK, index=1_000))
        it.log.grow(500)
        await client.head()
        batches, error = await taken(client, SIZE, SIZE + 500)
        await it.asked()
        position = SIZE + sum(map(len, batches))
        assert position == (SIZE + 500 if mode == "warn" else SIZE)
        assert isinstance(error, LogMisbehaviourError) == (mode == "enforce")
        assert [case.kind for case in it.found.cases] == ["inconsistent"]
        assert [head.tree_size for head in it.found.cases[0].heads] == [SIZE, SIZE + 500]
        it.log.faults.remove(fork)
        it.log.grow(100)
        await client.head()
        assert await it.take(client, position, SIZE + 600) == (SIZE + 600, None)
        assert client.edge_at(SIZE + 600) == it.edge(SIZE + 600)
        tainted = it.found.indices(it.found.tainted)
        assert tainted == (list(range(SIZE, SIZE + 500)) if mode == "warn" else [])
        assert sorted(it.found.indices(it.found.proven) + tainted) == list(range(SIZE + 600))


@pytest.mark.parametrize("mode", MODES)
async def test_another_root_at_a_size_that_is_proven_is_evidence_and_changes_nothing(kind: LogKind, mode: Mode) -> None:
    async with verified(kind) as it:
        client = it.client(mode)
        await client.head()
        assert await it.take(client, 0, SIZE) == (SIZE, None)
        it.log.faults.add(Fault(FaultKind.OTHER_ROOT, times=1))
        if mode == "enforce":
            with pytest.raises(LogMisbehaviourError, match="another root"):
                await client.head()
        else:
            assert (await client.head()).tree_size == SIZE
        assert [case.kind for case in it.found.cases] == ["two_roots"]
        roots = [head.root_hash for head in it.found.cases[0].heads]
        assert roots[0] == it.log.head.root_hash != roots[1]
        it.log.grow(10)
        await client.head()
        assert await it.take(client, SIZE, SIZE + 10) == (SIZE + 10, None)


@pytest.mark.parametrize("mode", MODES)
async def test_of_two_roots_before_either_is_proven_entries_tell_which_is_right(kind: LogKind, mode: Mode) -> None:
    async with verified(kind) as it:
        client = it.client(mode)
        it.log.faults.add(Fault(FaultKind.OTHER_ROOT, times=1))
        await client.head()
        await client.head()
        assert [case.kind for case in it.found.cases] == ["two_roots"]
        assert await it.take(client, 0, SIZE) == (SIZE, None)
        assert it.found.indices(it.found.proven) == list(range(SIZE))


async def test_a_proven_edge_knows_another_root_at_its_size_after_a_restart(kind: LogKind) -> None:
    async with verified(kind) as it:
        client = it.client("enforce", edge=it.edge(SIZE))
        it.log.faults.add(Fault(FaultKind.OTHER_ROOT))
        with pytest.raises(LogMisbehaviourError, match="another root"):
            await client.head()
        (case,) = it.found.cases
        assert (case.kind, case.hashes) == ("two_roots", {"root_proven_before": it.log.head.root_hash})


@pytest.mark.parametrize("mode", MODES)
async def test_frontends_that_lag_are_no_mismatch(kind: LogKind, mode: Mode) -> None:
    async with verified(kind) as it:
        client = it.client(mode, edge=it.edge(500), max_unproven=SIZE)
        await client.head()
        it.log.faults.add(Fault(FaultKind.LAGGING, entries=400, probability=0.5))
        position = 500
        while position < SIZE:
            await client.head()
            batches, _ = await taken(client, position, SIZE)
            await it.asked()
            position = whole_up_to(it.log, batches, position)
        assert it.found.cases == []
        assert it.found.tainted == []


async def test_logs_without_get_entry_and_proof_begin_by_hash() -> None:
    async with verified("rfc6962") as it:
        it.log.faults.add(Fault(FaultKind.STATUS, on="get-entry-and-proof", status=404))
        client = it.client("enforce")
        await client.head()
        assert await it.take(client, 1_234, SIZE) == (SIZE, None)
        assert it.log.endpoints["get-proof-by-hash"] == 1


async def test_only_the_tiles_before_a_wrong_one_go_out_of_a_batch() -> None:
    async with verified("static") as it:
        inner = it.reader.client(it.log, "static", batch_size=1_024)
        client = VerifiedClient(
            inner, prover(it.reader.http, it.log.info("static")), it.log.spki, it.found.findings(), mode="enforce"
        )
        fault = it.log.corrupt_entry(800)
        await client.head()
        position, error = await it.take(client, 0, SIZE)
        assert isinstance(error, LogMisbehaviourError)
        assert position == 768
        assert client.edge_at(768) == it.edge(768)
        it.log.faults.remove(fault)
        assert await it.take(client, 768, SIZE) == (SIZE, None)


@pytest.mark.parametrize("mode", MODES)
async def test_the_same_wrong_entry_is_the_same_case_under_each_head(kind: LogKind, mode: Mode) -> None:
    async with verified(kind) as it:
        client = it.client(mode, edge=it.edge(2_900))
        it.log.corrupt_entry(2_950)
        for _ in range(3):
            await client.head()
            await taken(client, 2_900, it.log.tree_size)
            await it.asked()
            it.log.grow(1)
        assert {case.kind for case in it.found.cases} == {"wrong_leaf"}
        assert len({case.key() for case in it.found.cases}) == 1
