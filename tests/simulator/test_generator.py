from __future__ import annotations

import hashlib
import subprocess
import sys
from collections import Counter

import numpy as np
import pytest
from cryptography import x509
from hypothesis import given, settings
from hypothesis import strategies as st

from certstream.ct.merkle import leaf_hash
from certstream.ct.types import Int64Array
from certstream.simulator.generator import Generator, issuers, shape_names

EPOCH_MS = 1_790_000_000_000


def timestamps(index: Int64Array) -> Int64Array:
    return index + np.int64(EPOCH_MS)


def made(
    seed: int = 7, *, leaf_index: bool = True, unparseable: float = 0.0, shapes: list[str] | None = None
) -> Generator:
    return Generator(seed, timestamps, leaf_index=leaf_index, unparseable=unparseable, shapes=shapes)


GENERATOR = made(unparseable=0.1)


@settings(deadline=None)
@given(st.integers(0, 2**39), st.integers(0, 40), st.integers(1, 40))
def test_an_entry_is_the_same_in_whatever_run_it_is_made(start: int, before: int, count: int) -> None:
    long = GENERATOR.records(start, start + before + count)
    short = GENERATOR.records(start + before, start + before + count)
    one = GENERATOR.entry(start + before)
    assert [long.tile_leaf(before + at) for at in range(count)] == short.tile_leaves()
    assert (one.leaf_input, one.extra_data) == (long.leaf_input(before), long.extra_data(before))
    assert one.tile_leaf == short.tile_leaf(0)


def test_another_process_makes_the_same_entries() -> None:
    digest = hashlib.sha256(b"".join(GENERATOR.records(0, 500).tile_leaves())).hexdigest()
    script = (
        "import hashlib; from certstream.simulator.generator import Generator\n"
        f"g = Generator(7, lambda i: i + {EPOCH_MS}, leaf_index=True, unparseable=0.1)\n"
        "print(hashlib.sha256(b''.join(g.records(0, 500).tile_leaves())).hexdigest())"
    )
    out = subprocess.run([sys.executable, "-c", script], capture_output=True, check=True, text=True)
    assert out.stdout.strip() == digest


def test_no_certificate_comes_twice() -> None:
    records = GENERATOR.records(0, 20_000)
    digests = {hashlib.sha256(GENERATOR.entry(index).der).digest() for index in range(3000)}
    assert len(digests) == 3000
    assert len({records.leaf_input(at)[10:-5] for at in range(20_000)}) == 20_000  # without timestamp and index


def test_another_seed_makes_other_certificates_and_the_same_seed_the_same() -> None:
    ours, others = made(1), made(2)
    assert {ours.entry(at).der for at in range(50)}.isdisjoint({others.entry(at).der for at in range(50)})
    assert [made(1, leaf_index=False).entry(at).der for at in range(50)] == [ours.entry(at).der for at in range(50)]


@pytest.mark.parametrize("leaf_index", [True, False])
def test_leaves_carry_their_timestamp_and_their_index_where_a_static_log_needs_it(leaf_index: bool) -> None:
    entry = made(leaf_index=leaf_index).entry(0x01_02030405)
    assert int.from_bytes(entry.leaf_input[2:10]) == entry.timestamp_ms == EPOCH_MS + 0x01_02030405
    tail = bytes.fromhex("0008000005" + "0102030405") if leaf_index else b"\x00\x00"
    assert entry.leaf_input.endswith(tail)


def test_leaf_hashes_are_those_of_the_leaves() -> None:
    records = GENERATOR.records(100, 140)
    assert records.leaf_hashes() == b"".join(leaf_hash(records.leaf_input(at)) for at in range(40))


def test_what_is_said_of_an_entry_is_what_its_certificate_says() -> None:
    entries = [made(shapes=["rsa-leaf", "wildcard", "many-names"]).entry(index) for index in range(120)]
    for entry in entries:
        certificate = x509.load_der_x509_certificate(entry.der)
        names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
        assert tuple(names.get_values_for_type(x509.DNSName)) == entry.dns_names == entry.all_domains
    assert {entry.entry_type for entry in entries} == {0, 1}


def test_the_unparseable_share_is_what_was_asked_for() -> None:
    counts = Counter(GENERATOR.entry(index).shape.startswith("garbage") for index in range(4000))
    assert 320 <= counts[True] <= 480
    assert not any(made().entry(index).shape.startswith("garbage") for index in range(500))
    assert all(made(unparseable=1).entry(index).shape.startswith("garbage") for index in range(500))


def test_every_shape_comes_and_only_those_asked_for() -> None:
    for shape in shape_names():
        entry = made(shapes=[shape]).entry(3)
        assert entry.shape == shape
        assert entry.der


@pytest.mark.parametrize("share", [-0.1, 1.1])
def test_a_share_outside_0_to_1_is_refused(share: float) -> None:
    with pytest.raises(ValueError, match="0 to 1"):
        made(unparseable=share)


def test_an_unknown_shape_is_refused_by_name() -> None:
    with pytest.raises(ValueError, match="unknown shapes: blob"):
        made(shapes=["rsa-leaf", "blob"])


def test_every_chain_certificate_is_among_the_issuers() -> None:
    known = issuers()
    assert all(hashlib.sha256(der).digest() == digest for digest, der in known.items())
    for index in range(200):
        assert set(GENERATOR.entry(index).chain) <= set(known.values())
