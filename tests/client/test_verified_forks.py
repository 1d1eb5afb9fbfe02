"""Logs that sign several trees: what is proven under which, and how reading goes on."""

from __future__ import annotations

import pytest

from certstream.client.verified import Mode, VerifiedClient
from certstream.ct.types import LogKind
from certstream.errors import FetchError, LogMisbehaviourError
from certstream.simulator.faults import Fault, FaultKind
from tests.client.verified_support import MODES, SIZE, Verified, pytest_generate_tests, verified

__all__ = ["pytest_generate_tests"]


async def sign_a_fork_once(it: Verified, client: VerifiedClient) -> None:
    """Let the client take a head of another tree, and then one of the log's own."""
    fork = it.log.faults.add(Fault(FaultKind.FORK, index=100))
    await client.head()
    it.log.faults.remove(fork)
    it.log.grow(1_000)
    await client.head()


async def test_a_fork_that_was_signed_once_holds_nothing_up_that_another_head_proves(kind: LogKind) -> None:
    async with verified(kind, size=2_000) as it:
        client = it.client("enforce")
        await sign_a_fork_once(it, client)
        assert await it.take(client, 0, SIZE) == (SIZE, None)
        assert it.found.indices(it.found.proven) == list(range(SIZE))


async def test_a_head_of_which_the_log_proves_nothing_makes_room_for_another(kind: LogKind) -> None:
    async with verified(kind, size=2_000) as it:
        client = it.client("enforce")
        await sign_a_fork_once(it, client)
        it.log.faults.add(Fault(FaultKind.STATUS, on="*second=2000" if kind == "rfc6962" else "*p/208", status=404))
        it.log.faults.add(Fault(FaultKind.STATUS, on="tile/0/007" if kind == "static" else "-", times=1, status=404))
        position, error = await it.take(client, 0, SIZE)
        assert isinstance(error, FetchError)
        assert await it.take(client, position, SIZE) == (SIZE, None)
        assert it.found.indices(it.found.proven) == list(range(SIZE))


async def test_what_was_proven_and_held_back_is_the_measure_of_what_is_read_again() -> None:
    async with verified("static", size=1_000) as it:
        client = it.client("enforce")
        fault = it.log.corrupt_entry(700)
        await client.head()
        assert (await it.take(client, 0, 1_000))[0] == 512  # and proven up to 700
        it.log.faults.remove(fault)
        it.log.faults.add(Fault(FaultKind.FORK, index=600))
        it.log.grow(1_000)
        await client.head()
        position, error = await it.take(client, 512, 2_000)
        assert (position, isinstance(error, LogMisbehaviourError)) == (512, True)
        assert {case.kind for case in it.found.cases} == {"wrong_leaf", "inconsistent"}


@pytest.mark.parametrize("mode", MODES)
async def test_what_was_proven_before_what_was_not_is_the_measure_after_a_restart(kind: LogKind, mode: Mode) -> None:
    async with verified(kind) as it:
        client = it.client(mode, anchor=it.edge(2_000))
        it.log.faults.add(Fault(FaultKind.FORK, index=1_500))
        await client.head()
        await it.take(client, 2_500, SIZE)
        assert it.found.proven == []
        assert {case.kind for case in it.found.cases} == {"inconsistent"}
        assert client.anchor == it.edge(2_000)


@pytest.mark.parametrize("mode", MODES)
async def test_what_the_log_has_is_read_though_it_signed_a_larger_tree_once(kind: LogKind, mode: Mode) -> None:
    async with verified(kind) as it:
        client = it.client(mode)
        await client.head()
        it.log.faults.add(Fault(FaultKind.LAGGING, entries=100))
        it.log.faults.add(Fault(FaultKind.SMALLER_TREE, entries=100))
        position, error = await it.take(client, 2_850, SIZE)
        assert isinstance(error, FetchError)
        await client.head()
        it.reader.time.now_s += 60  # a partial tile may be read then
        client.readable(position, SIZE)
        it.reader.time.now_s += 60
        assert client.readable(position, SIZE).stop == SIZE - 100
        if position < SIZE - 100:
            assert await it.take(client, position, SIZE - 100) == (SIZE - 100, None)
        it.log.faults.clear()
        await client.head()
        client.readable(SIZE - 100, SIZE)
        it.reader.time.now_s += 60
        assert client.readable(SIZE - 100, SIZE).stop == SIZE
        assert await it.take(client, SIZE - 100, SIZE) == (SIZE, None)
        assert it.found.cases == []
