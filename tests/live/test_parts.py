"""How much of a batch is published at a time."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from certstream.ct.static_ct import parse_data_tile, split_fingerprints
from certstream.ct.types import EntryBatch, LogInfo, concat_batches
from certstream.live.parts import publishable_parts

TILE = (Path(__file__).parents[1] / "data/tiles/data-000").read_bytes()
LOG = LogInfo("Log", "https://log.example/", "static", "example")


@pytest.fixture
def tile() -> EntryBatch:
    return parse_data_tile(LOG, 0, TILE).batch


def issuer_bytes(batch: EntryBatch) -> int:
    """Of the issuers that its entries name, each time."""
    chains = batch.chain.slices(batch.data)
    return sum(len(batch.issuers.get(print_, b"")) for chain in chains for print_ in split_fingerprints(chain))


def with_issuers(batch: EntryBatch, size: int) -> EntryBatch:
    """The batch with each of its issuers so many bytes long."""
    chains = batch.chain.slices(batch.data)
    return replace(batch, issuers={print_: bytes(size) for chain in chains for print_ in split_fingerprints(chain)})


@pytest.mark.parametrize("most_bytes", [1, 100_000, 1 << 20, 4 << 20])
def test_issuers_count_for_every_entry_that_names_them(tile: EntryBatch, most_bytes: int) -> None:
    whole = with_issuers(tile, 64 << 10)
    assert issuer_bytes(whole) > 4 << 20
    parts = list(publishable_parts(whole, most_bytes))
    assert len(parts) > 1
    assert all(issuer_bytes(part) <= most_bytes or len(part) == 1 for part in parts)
    assert (parts[0].start, parts[-1].stop) == (0, 256)
    assert concat_batches(parts).timestamp_ms.tolist() == whole.timestamp_ms.tolist()


def test_a_tile_with_issuers_as_they_are_is_published_whole(tile: EntryBatch) -> None:
    (part,) = publishable_parts(with_issuers(tile, 1500), 4 << 20)
    assert len(part) == 256


def test_a_batch_without_issuers_is_cut_by_its_own_bytes(tile: EntryBatch) -> None:
    assert len(list(publishable_parts(tile, 4 << 20))) == 1
    assert len(list(publishable_parts(tile, len(TILE) // 2))) > 1


def test_an_empty_batch_has_no_parts(tile: EntryBatch) -> None:
    empty = replace(tile, **{name: getattr(tile, name).rows(0, 0) for name in ("leaf", "cert", "chain")})
    empty = replace(empty, timestamp_ms=tile.timestamp_ms[:0], entry_type=tile.entry_type[:0])
    assert list(publishable_parts(empty, 100)) == []
