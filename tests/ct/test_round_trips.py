"""What is written as the specifications say is read as it was meant, whatever stands beside it."""

from __future__ import annotations

import re
from dataclasses import replace

import pybase64
from cryptography.hazmat.primitives.asymmetric import ec
from hypothesis import given, settings
from hypothesis import strategies as st

from certstream.ct.rfc6962 import frame_entries, split_chain
from certstream.ct.signatures import log_id, note_signature, sign_tree_head, spki_of, verify_tree_head
from certstream.ct.static_ct import data_tile_path, parse_checkpoint, parse_data_tile, split_fingerprints, tile_path
from certstream.ct.types import MAX_TREE_SIZE, PRECERT_ENTRY, X509_ENTRY, TreeHead
from fuzz.framing import assert_framed_as_by_hand, assert_tile_as_by_hand
from fuzz.seeds import CLASSIC, TILED, framed

KEY = ec.derive_private_key(0x5EED, ec.SECP256R1())
SPKI = spki_of(KEY)
ORIGINS = st.text(
    st.characters(codec="utf-8", exclude_categories=("Cc", "Zs", "Zl", "Zp", "Cs")), min_size=1, max_size=40
)
NUMBERS = st.integers(0, MAX_TREE_SIZE)


def line(name: str, blob: bytes) -> bytes:
    return f"— {name} {pybase64.b64encode(blob).decode()}\n".encode()


@settings(max_examples=60, deadline=None)
@given(
    origin=ORIGINS,
    size=NUMBERS,
    timestamp_ms=NUMBERS,
    root=st.binary(min_size=32, max_size=32),
    others=st.lists(st.tuples(ORIGINS, st.binary(min_size=5, max_size=80)), max_size=4),
    at=st.integers(0, 4),
)
def test_a_signed_checkpoint_among_signatures_of_others(
    origin: str, size: int, timestamp_ms: int, root: bytes, others: list[tuple[str, bytes]], at: int
) -> None:
    head = TreeHead(size, timestamp_ms, root, b"")
    head = replace(head, signature=sign_tree_head(head, KEY))
    lines = [line(name, blob) for name, blob in others]
    lines.insert(at, line(origin, note_signature(head, origin, log_id(SPKI))))
    text = f"{origin}\n{size}\n{pybase64.b64encode(root).decode()}\n\n".encode()
    found = parse_checkpoint(text + b"".join(lines), origin, log_id(SPKI))
    verify_tree_head(found, SPKI)
    assert replace(found, note=b"") == head


@given(level=st.integers(0, 62), index=NUMBERS, width=st.integers(1, 256))
def test_tile_paths_say_which_tile_it_is(level: int, index: int, width: int) -> None:
    path = tile_path(level, index, width)
    match = re.fullmatch(r"tile/([0-9]+)/((?:x[0-9]{3}/)*[0-9]{3})(?:\.p/([0-9]+))?", path)
    assert match is not None
    assert (int(match[1]), int(match[2].replace("x", "").replace("/", "")), int(match[3] or 256)) == (
        level,
        index,
        width,
    )
    assert data_tile_path(index, width) == path.replace(f"tile/{level}/", "tile/data/", 1)


ENTRIES = st.lists(
    st.tuples(
        st.sampled_from((X509_ENTRY, PRECERT_ENTRY)),
        st.integers(0, MAX_TREE_SIZE),
        st.binary(max_size=60),
        st.binary(max_size=20),
        st.lists(st.binary(min_size=1, max_size=40), max_size=4),
    ),
    max_size=5,
)


def timestamped(kind: int, timestamp_ms: int, der: bytes, extensions: bytes) -> bytes:
    """TimestampedEntry; the TBSCertificate of a precertificate is its DER backwards."""
    held = bytes(32) + framed([der[::-1]]) if kind == PRECERT_ENTRY else framed([der])
    return timestamp_ms.to_bytes(8) + kind.to_bytes(2) + held + len(extensions).to_bytes(2) + extensions


@given(entries=ENTRIES)
def test_rfc6962_entries(entries: list[tuple[int, int, bytes, bytes, list[bytes]]]) -> None:
    parts: list[bytes] = []
    for kind, timestamp_ms, der, extensions, chain in entries:
        submitted = framed([der]) if kind == PRECERT_ENTRY else b""
        parts += (bytes(2) + timestamped(kind, timestamp_ms, der, extensions), submitted + framed([framed(chain)]))
    batch = frame_entries(CLASSIC, 3, parts)
    assert batch.entry_type.tolist() == [entry[0] for entry in entries]
    assert batch.timestamp_ms.tolist() == [entry[1] for entry in entries]
    assert batch.cert.slices(batch.data) == [entry[2] for entry in entries]
    assert [split_chain(chain) for chain in batch.chain.slices(batch.data)] == [entry[4] for entry in entries]
    assert_framed_as_by_hand(batch, parts)


@given(entries=ENTRIES)
def test_data_tiles(entries: list[tuple[int, int, bytes, bytes, list[bytes]]]) -> None:
    body = b""
    prints = [[part.ljust(32, b"\0")[:32] for part in entry[4]] for entry in entries]
    for (kind, timestamp_ms, der, extensions, _), chain in zip(entries, prints, strict=True):
        body += timestamped(kind, timestamp_ms, der, extensions) + (framed([der]) if kind == PRECERT_ENTRY else b"")
        body += (32 * len(chain)).to_bytes(2) + b"".join(chain)
    tile = parse_data_tile(TILED, 0, body)
    assert tile.error is None
    assert tile.batch.timestamp_ms.tolist() == [entry[1] for entry in entries]
    assert tile.batch.cert.slices(body) == [entry[2] for entry in entries]
    assert [split_fingerprints(chain) for chain in tile.batch.chain.slices(body)] == prints
    assert_tile_as_by_hand(tile, body)
