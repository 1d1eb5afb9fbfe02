from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import pybase64
import pytest
from cryptography.hazmat.primitives.asymmetric import rsa

from certstream.ct.merkle import leaf_hash
from certstream.ct.signatures import verify_tree_head
from certstream.ct.types import PRECERT_ENTRY, UNKNOWN_ENTRY
from certstream.errors import MalformedError
from certstream.simulator import RawEntry, SimulatedLog, entries_of_tile

DATA = Path(__file__).parents[1] / "data"
EPOCH_MS = 1_790_000_000_000


class Clock:
    def __init__(self) -> None:
        self.now_s = EPOCH_MS / 1000

    def __call__(self) -> float:
        return self.now_s


def real_entries() -> list[RawEntry]:
    loaded = json.loads((DATA / "ct_entries.json").read_text())
    return [RawEntry(*(pybase64.b64decode(each[key]) for key in ("leaf_input", "extra_data"))) for each in loaded]


def test_a_log_by_hand_grows_only_when_told_and_signs_each_head() -> None:
    log = SimulatedLog("log", initial=5)
    assert log.tree_size == 5
    log.advance()
    assert log.tree_size == 5
    log.grow(300)
    assert log.tree_size == 305
    verify_tree_head(log.head, log.spki)
    assert log.head.root_hash == log.tree.root(305)
    assert log.tree.leaf(304) == leaf_hash(log.entry(304).leaf_input)


def test_entries_are_not_under_a_head_before_it_is_published() -> None:
    log = SimulatedLog("log", initial=5)
    before = log.head
    log.grow(2, publish=False)
    assert log.head is before
    log.publish()
    assert log.tree_size == 7


def test_a_log_with_a_rate_grows_by_the_clock_from_its_start() -> None:
    clock = Clock()
    log = SimulatedLog("log", initial=10, rate=4, clock=clock, publish_interval_s=1)
    clock.now_s += 60
    log.advance()
    assert log.tree_size == 10, "it has not been started"
    log.start()
    clock.now_s += 0.5
    log.advance()
    assert (len(log.tree), log.tree_size) == (12, 10), "grown, but not published yet"
    clock.now_s += 0.5
    log.advance()
    assert log.tree_size == 14
    clock.now_s += 100
    log.advance()
    assert log.tree_size == 414
    assert log.head.timestamp_ms == int(clock.now_s * 1000)


def test_timestamps_follow_the_rate_and_no_head_is_older_than_its_entries() -> None:
    log = SimulatedLog("log", initial=10, rate=4, epoch_ms=EPOCH_MS, clock=lambda: 0.0)
    assert [log.entry(index).timestamp_ms - EPOCH_MS for index in (8, 9, 10, 11)] == [-200, -100, 0, 250]
    log.grow(3)
    assert log.head.timestamp_ms == log.entry(12).timestamp_ms


def test_a_long_history_does_not_predate_1970() -> None:
    log = SimulatedLog("log", rate=0.001, initial=300, epoch_ms=1000)
    assert log.entry(0).timestamp_ms == 0


def test_the_same_seed_epoch_and_clock_give_the_same_log() -> None:
    one, two = (
        SimulatedLog("log", seed=3, initial=300, epoch_ms=EPOCH_MS, clock=Clock(), unparseable=0.2) for _ in range(2)
    )
    assert one.head == two.head
    assert SimulatedLog("other", seed=3, initial=300, epoch_ms=EPOCH_MS, clock=Clock()).log_id != one.log_id


def test_the_first_entries_can_be_given_and_generated_ones_follow() -> None:
    given = real_entries()
    log = SimulatedLog("log", entries=given)
    assert log.tree_size == 20
    assert log.tree.leaf(19) == leaf_hash(given[19].leaf_input)
    assert log.entry(3).leaf_input == given[3].leaf_input
    log.grow(2)
    assert log.entry(20).shape != "given"
    assert log.tree.leaf(20) == leaf_hash(log.entry(20).leaf_input)


def test_given_entries_are_framed_into_certificate_and_chain() -> None:
    log = SimulatedLog("log", entries=real_entries())
    for index in range(20):
        entry = log.entry(index)
        assert entry.der.startswith(b"\x30\x82")
        assert entry.chain
        assert (entry.der in entry.extra_data) == (entry.entry_type == PRECERT_ENTRY)
        assert set(entry.chain) <= set(log.issuers.values())


@pytest.mark.parametrize(
    ("leaf_input", "extra_data"),
    [
        (b"\x00\x00" + bytes(8) + b"\x12\x34whatever", b"extra"),
        (b"\x01\x00" + bytes(8) + b"\x00\x00\x00\x00\x01x\x00\x00", b"\x00\x00\x00"),
        (b"\x00\x00" + bytes(8) + b"\x00\x00\x00\x00\x09x\x00\x00", b"\x00\x00\x00"),
        (b"\x00\x00" + bytes(8) + b"\x00\x00\x00\x00\x01x\x00\x00", b"\x00\x00\x07oops"),
        (b"", b""),
    ],
)
def test_an_entry_that_cannot_be_framed_is_an_entry(leaf_input: bytes, extra_data: bytes) -> None:
    log = SimulatedLog("log", entries=[RawEntry(leaf_input, extra_data)])
    entry = log.entry(0)
    assert (entry.entry_type, entry.der, entry.chain) == (UNKNOWN_ENTRY, leaf_input, ())
    assert log.tree.leaf(0) == leaf_hash(leaf_input)


def test_a_real_tile_makes_the_tree_of_its_hash_tile() -> None:
    tile = (DATA / "tiles" / "data-000").read_bytes()
    log = SimulatedLog("log", entries=entries_of_tile(tile))
    assert log.tree.tile(0, 0) == (DATA / "tiles" / "hash-0-000").read_bytes()
    assert b"".join(log.entry(index).tile_leaf for index in range(256)) == tile


def test_a_tile_of_given_issuers_has_chains() -> None:
    made = SimulatedLog("log", initial=40)
    tile = b"".join(made.entry(index).tile_leaf for index in range(40))
    entries = entries_of_tile(tile, made.issuers)
    assert [each.extra_data for each in entries] == [made.entry(index).extra_data for index in range(40)]


def test_a_tile_whose_framing_breaks_is_refused() -> None:
    tile = SimulatedLog("log", initial=1).entry(0).tile_leaf
    for broken in (tile[:-1], tile[:8] + b"\x00\x07" + tile[10:]):
        with pytest.raises(MalformedError):
            entries_of_tile(broken)


def test_a_log_can_sign_with_an_rsa_key() -> None:
    log = SimulatedLog("log", initial=3, key=rsa.generate_private_key(65537, 2048))
    verify_tree_head(log.head, log.spki)


def test_older_heads_are_signed_and_smaller() -> None:
    log = SimulatedLog("log", initial=10)
    older = log.older_head(3)
    verify_tree_head(older, log.spki)
    assert (older.tree_size, older.root_hash) == (7, log.tree.root(7))
    assert log.older_head(30).tree_size == 0


async def test_growth_wakes_who_waits_for_it() -> None:
    log = SimulatedLog("log", initial=1)
    waiting = asyncio.create_task(log.until(lambda: log.tree_size >= 3))
    await asyncio.sleep(0)
    log.grow(1)
    await asyncio.sleep(0)
    assert not waiting.done()
    log.grow(1)
    await asyncio.wait_for(waiting, 5)


def test_a_log_that_is_not_served_has_no_url() -> None:
    with pytest.raises(RuntimeError, match="not being served"):
        SimulatedLog("log").info("static")


@pytest.mark.parametrize(
    ("name", "settings"),
    [
        ("no/slash", {}),
        ("log", {"kinds": set()}),
        ("log", {"kinds": {"grpc"}}),
        ("log", {"rate": -1}),
        ("log", {"gzip": "x"}),
    ],
)
def test_settings_that_make_no_log_are_refused(name: str, settings: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="log"):
        SimulatedLog(name, **settings)
