"""Bodies of both protocols become entries; what is broken stays one broken entry."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pybase64
import pytest
from hypothesis import given
from hypothesis import strategies as st

from certstream.ct.rfc6962 import frame_entries, parse_get_entries, parse_sth
from certstream.ct.static_ct import (
    data_tile_path,
    fingerprints,
    issuer_path,
    key_id,
    parse_checkpoint,
    parse_data_tile,
    tile_path,
)
from certstream.ct.types import (
    PADDING,
    PRECERT_ENTRY,
    UNKNOWN_ENTRY,
    X509_ENTRY,
    EntryBatch,
    LogInfo,
    concat_batches,
    cut_batch,
    slice_batch,
)
from certstream.errors import MalformedError

DATA = Path(__file__).parent.parent / "data"
TILE = (DATA / "tiles" / "data-000").read_bytes()
LOG = LogInfo("Log", "https://log.example/", "rfc6962", "example")
TILED = LogInfo("Tiled", "https://tiled.example/", "static", "example")
HEAD = bytes(2) + (1234).to_bytes(8)


def vector(content: bytes) -> bytes:
    return len(content).to_bytes(3) + content


def x509_leaf(der: bytes, extensions: bytes = b"") -> bytes:
    return HEAD + b"\x00\x00" + vector(der) + len(extensions).to_bytes(2) + extensions


def precert_leaf(tbs: bytes) -> bytes:
    return HEAD + b"\x00\x01" + bytes(32) + vector(tbs) + b"\x00\x00"


def cert_of(batch: EntryBatch, row: int) -> bytes:
    return batch.data[int(batch.cert.start[row]) : int(batch.cert.stop[row])]


def chain_of(batch: EntryBatch, row: int) -> bytes:
    return batch.data[int(batch.chain.start[row]) : int(batch.chain.stop[row])]


def test_entries_of_both_types_are_framed() -> None:
    chain = vector(b"issuer") + vector(b"root")
    parts = [x509_leaf(b"certificate", b"ext"), vector(chain), precert_leaf(b"tbs"), vector(b"precert") + vector(chain)]
    batch = frame_entries(LOG, 10, parts)
    assert (batch.start, batch.stop, len(batch)) == (10, 12, 2)
    assert batch.entry_type.tolist() == [X509_ENTRY, PRECERT_ENTRY]
    assert batch.timestamp_ms.tolist() == [1234, 1234]
    assert [cert_of(batch, 0), cert_of(batch, 1)] == [b"certificate", b"precert"]
    assert [chain_of(batch, 0), chain_of(batch, 1)] == [chain, chain]
    assert [batch.data[a:b] for a, b in zip(*batch.leaf, strict=True)] == parts[::2]


@pytest.mark.parametrize(
    ("leaf", "extra"),
    [
        (b"", b""),
        (b"\x00" * 11, b""),
        (x509_leaf(b"der")[:-1], b""),
        (x509_leaf(b"der") + b"more", b""),
        (HEAD + b"\x00\x00\xff\xff\xff", b""),
        (b"\x01" + x509_leaf(b"der")[1:], b""),
        (precert_leaf(b"tbs"), b""),
        (precert_leaf(b"tbs"), b"\x00\x00\x09short"),
        (precert_leaf(b"tbs")[:40], vector(b"precert")),
        (HEAD + b"\x80\x00other", b""),
    ],
)
def test_entry_that_does_not_follow_its_layout_stays_an_entry(leaf: bytes, extra: bytes) -> None:
    good = [x509_leaf(b"good"), vector(b"")]
    batch = frame_entries(LOG, 0, [*good, leaf, extra, *good])
    assert batch.entry_type.tolist() == [X509_ENTRY, UNKNOWN_ENTRY, X509_ENTRY]
    assert cert_of(batch, 1) == leaf
    assert chain_of(batch, 1) == b""
    assert cert_of(batch, 2) == b"good"


def test_missing_chain_bytes_cost_only_the_chain() -> None:
    batch = frame_entries(LOG, 0, [x509_leaf(b"der"), b"", x509_leaf(b"der"), b"\x00\x00\xffcut"])
    assert batch.entry_type.tolist() == [X509_ENTRY, X509_ENTRY]
    assert [chain_of(batch, 0), chain_of(batch, 1)] == [b"", b"cut"]


@given(st.lists(st.binary(max_size=80), max_size=8).filter(lambda parts: len(parts) % 2 == 0))
def test_arbitrary_entries_stay_inside_their_bytes(parts: list[bytes]) -> None:
    batch = frame_entries(LOG, 0, parts)
    assert len(batch) == len(parts) // 2
    bounds = np.cumsum([0, *(len(part) for part in parts)])
    for spans in (batch.cert, batch.chain):
        assert (spans.start >= bounds[:-1:2]).all()
        assert (spans.stop <= bounds[2::2]).all()
        assert (spans.start <= spans.stop).all()


def body_of(*parts: bytes, **fields: Any) -> bytes:
    texts = [pybase64.b64encode(part).decode() for part in parts]
    entries = [{"leaf_input": a, "extra_data": b, **fields} for a, b in zip(texts[::2], texts[1::2], strict=True)]
    return json.dumps({"entries": entries}).encode()


def test_get_entries_body_ignores_unknown_fields() -> None:
    batch = parse_get_entries(LOG, 3, body_of(x509_leaf(b"der"), vector(b""), sct={"x": [1]}))
    assert (batch.start, cert_of(batch, 0)) == (3, b"der")
    assert len(parse_get_entries(LOG, 3, b'{"entries":[]}')) == 0


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"<html>busy</html>",
        b"[]",
        b"{}",
        b'{"entries":null}',
        b'{"entries":[{"leaf_input":"AAAA"}]}',
        b'{"entries":[{"leaf_input":"!!!!","extra_data":""}]}',
        b'{"entries":[{"leaf_input":"AAA","extra_data":""}]}',
        b'{"entries":[{"leaf_input":"AA\\nAA","extra_data":""}]}',
        body_of(x509_leaf(b"der"), b"")[:-3],
    ],
)
def test_body_that_is_no_get_entries_answer_raises(body: bytes) -> None:
    with pytest.raises(MalformedError, match="not a get-entries answer"):
        parse_get_entries(LOG, 0, body)


def sth_body(**changes: Any) -> bytes:
    root = pybase64.b64encode(bytes(32)).decode()
    return json.dumps(
        {"tree_size": 5, "timestamp": 7, "sha256_root_hash": root, "tree_head_signature": "BAMA", **changes}
    ).encode()


def test_sth_is_read() -> None:
    head = parse_sth(sth_body(extra=1))
    assert (head.tree_size, head.timestamp_ms, head.root_hash, head.signature) == (5, 7, bytes(32), b"\x04\x03\x00")


@pytest.mark.parametrize(
    "changes",
    [{"tree_size": -1}, {"tree_size": "5"}, {"tree_size": 5.5}, {"tree_size": 2**63}, {"timestamp": None},
     {"sha256_root_hash": "AAAA"}, {"sha256_root_hash": "!"}, {"tree_head_signature": "%%"}],
)  # fmt: skip
def test_bad_sth_raises(changes: dict[str, Any]) -> None:
    with pytest.raises(MalformedError):
        parse_sth(sth_body(**changes))


def test_data_tile_gives_its_entries() -> None:
    tile = parse_data_tile(TILED, 512, TILE)
    assert tile.error is None
    assert (tile.batch.start, tile.batch.stop) == (512, 768)
    assert set(tile.batch.entry_type.tolist()) == {PRECERT_ENTRY}
    assert tile.batch.leaf_prefix == bytes(3)
    assert all(len(print_) == 32 for print_ in fingerprints(tile.batch))


@pytest.mark.parametrize("cut", [1, 9, 13, 46, 400, 1500])
def test_broken_data_tile_gives_the_entries_up_to_the_break(cut: int) -> None:
    whole = parse_data_tile(TILED, 0, TILE).batch
    at = int(whole.leaf.start[100])
    tile = parse_data_tile(TILED, 0, TILE[: at + min(cut, int(whole.chain.stop[100]) - at - 1)])
    assert len(tile.batch) == 100
    assert tile.error is not None
    assert "leaf 100" in str(tile.error)
    assert cert_of(tile.batch, 99) == cert_of(whole, 99)


def test_data_tile_breaks_at_an_entry_type_it_does_not_know() -> None:
    at = int(parse_data_tile(TILED, 0, TILE).batch.leaf.start[3])
    tile = parse_data_tile(TILED, 0, TILE[: at + 8] + b"\x00\x07" + TILE[at + 10 :])
    assert len(tile.batch) == 3
    assert "entry type 7" in str(tile.error)


@given(st.binary(max_size=200))
def test_arbitrary_tile_never_raises(body: bytes) -> None:
    tile = parse_data_tile(TILED, 0, body)
    assert (tile.batch.chain.stop <= len(body)).all()
    assert tile.error is not None or body == b"" or len(tile.batch)


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        (tile_path(0, 0), "tile/0/000"),
        (tile_path(2, 1234067), "tile/2/x001/x234/067"),
        (tile_path(1, 5, 40), "tile/1/005.p/40"),
        (data_tile_path(999), "tile/data/999"),
        (data_tile_path(1000, 1), "tile/data/x001/000.p/1"),
        (issuer_path(bytes(32)), "issuer/" + "00" * 32),
    ],
)
def test_paths(path: str, expected: str) -> None:
    assert path == expected


@pytest.mark.parametrize("width", [0, 257, -1])
def test_no_tile_has_such_a_width(width: int) -> None:
    with pytest.raises(ValueError, match="no tile"):
        tile_path(0, 0, width)


CHECKPOINT = (DATA / "checkpoint" / "checkpoint").read_bytes()
META = json.loads((DATA / "checkpoint" / "log.v3.json").read_text())


def test_real_checkpoint_is_read() -> None:
    head = parse_checkpoint(CHECKPOINT, "rome2026h1.example.org", pybase64.b64decode(META["log_id"]))
    assert head.tree_size == 300
    assert head.timestamp_ms == META["final_tree_head"]["timestamp"]
    assert pybase64.b64encode(head.root_hash).decode() == META["final_tree_head"]["sha256_root_hash"]
    assert head.signature[:2] == b"\x04\x03"
    assert head.note == CHECKPOINT


def test_only_the_logs_own_signature_is_taken() -> None:
    origin, log_id = "rome2026h1.example.org", pybase64.b64decode(META["log_id"])
    grease = pybase64.b64encode(b"\x01\x02\x03\x04" + bytes(8) + b"grease").decode()
    foreign = pybase64.b64encode(key_id("witness", log_id) + bytes(8) + b"foreign").decode()
    text, own = CHECKPOINT.split(b"\n\n")
    lines = f"\u2014 witness {foreign}\n\u2014 {origin} {grease}\n".encode()
    head = parse_checkpoint(text + b"\n\n" + lines + own, origin, log_id)
    assert head.signature == parse_checkpoint(CHECKPOINT, origin, log_id).signature
    assert parse_checkpoint(text + b"\n\n" + lines, origin, log_id).signature == b""
    without_grease = text + b"\n\n" + lines.partition(b"\n")[0] + b"\n" + own
    assert parse_checkpoint(without_grease).signature == head.signature, "also where the key is not known"


@pytest.mark.parametrize(
    ("old", "new"),
    [
        (b"300", b"+300"),
        (b"300", b"0300"),
        (b"300", "٣٠٠".encode()),
        (b"300", b"3_00"),
        (b"300", b"99999999999999999999"),
        (b"300", b"9999999999999999999"),
        (b"300", b"9223372036854775808"),
        (b"lCkH", b"!CkH"),
        (b"\n\n", b"\n"),
        (b"\n\n", b"\nextension\n\n"),
        ("\u2014".encode(), b"-"),
        (b"rome2026h1", b"\xff\xfe"),
    ],
)
def test_bad_checkpoint_raises(old: bytes, new: bytes) -> None:
    with pytest.raises(MalformedError):
        parse_checkpoint(CHECKPOINT.replace(old, new, 1))


def test_checkpoint_of_another_log_raises() -> None:
    with pytest.raises(MalformedError, match="not of 'other'"):
        parse_checkpoint(CHECKPOINT, "other")


def test_batches_are_cut_and_joined() -> None:
    whole = parse_data_tile(TILED, 0, TILE).batch
    parts = [slice_batch(whole, 0, 10), slice_batch(whole, 10, 10), slice_batch(whole, 10, 256)]
    again = concat_batches(parts)
    assert (again.start, again.stop) == (0, 256)
    assert again.data.endswith(PADDING)
    for row in (0, 9, 10, 255):
        assert cert_of(again, row) == cert_of(whole, row)
        assert chain_of(again, row) == chain_of(whole, row)
    assert again.timestamp_ms.tolist() == whole.timestamp_ms.tolist()


def test_page_is_cut_at_what_was_asked_for() -> None:
    body = body_of(*[x509_leaf(b"der"), vector(b"")] * 5)
    assert len(parse_get_entries(LOG, 3, body, most=2)) == 2
    assert len(parse_get_entries(LOG, 3, body, most=9)) == 5


def test_data_tile_is_read_up_to_its_width() -> None:
    first = parse_data_tile(TILED, 0, TILE).batch
    leaf = TILE[: int(first.leaf.start[1])]
    tile = parse_data_tile(TILED, 0, leaf * 300)
    assert (len(tile.batch), tile.error) == (256, None)


@pytest.mark.parametrize("most_bytes", [1, 2_000, 100_000, 10_000_000])
def test_batch_is_cut_into_consecutive_parts_of_bounded_bytes(most_bytes: int) -> None:
    whole = parse_data_tile(TILED, 512, TILE).batch
    parts = list(cut_batch(whole, most_bytes))
    assert [part.start for part in parts[1:]] == [part.stop for part in parts[:-1]]
    assert (parts[0].start, parts[-1].stop) == (512, 768)
    sizes = [int(part.chain.stop[-1] - part.leaf.start[0]) for part in parts]
    assert all(size <= most_bytes or len(part) == 1 for size, part in zip(sizes, parts, strict=True))
    assert len(parts) == 1 or most_bytes < len(TILE)
    assert concat_batches(parts).timestamp_ms.tolist() == whole.timestamp_ms.tolist()


def test_empty_batch_has_no_parts() -> None:
    assert list(cut_batch(frame_entries(LOG, 0, []), 100)) == []


def test_batches_that_do_not_fit_are_refused() -> None:
    whole = parse_data_tile(TILED, 0, TILE).batch
    with pytest.raises(ValueError, match="do not follow"):
        concat_batches([slice_batch(whole, 0, 10), slice_batch(whole, 11, 20)])
    with pytest.raises(ValueError, match="not inside"):
        slice_batch(whole, 200, 257)
