"""A precertificate is compared with what its log's hash covers."""

from __future__ import annotations

import hashlib
import tracemalloc
from dataclasses import replace
from itertools import pairwise
from random import Random
from typing import Any

import numpy as np
import pybase64
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from certstream.certs.batch import decode, decode_together
from certstream.certs.columns import Certificates
from certstream.certs.precert import altered_precertificates, expected_tbs
from certstream.ct.rfc6962 import frame_entries, split_chain
from certstream.ct.static_ct import parse_data_tile
from certstream.ct.types import PRECERT_ENTRY, EntryBatch, LogInfo, slice_batch
from certstream.simulator.entries import RawEntry, tile_leaf_of
from certstream.simulator.log import SimulatedLog

CLASSIC = LogInfo("log", "https://log.example/", "rfc6962", "log")
TILED = LogInfo("log", "https://log.example/", "static", "log")


def altered(batch: EntryBatch) -> list[int]:
    chains = batch.chain.slices(batch.data)

    def issuer(row: int) -> bytes | None:
        chain = split_chain(chains[row])
        return chain[0] if chain else None

    return altered_precertificates([batch], Certificates(batch.cert.slices(batch.data)), issuer)


def classic(parts: list[tuple[bytes, bytes]]) -> EntryBatch:
    return frame_entries(CLASSIC, 0, [each for part in parts for each in part])


@pytest.fixture(scope="module")
def log() -> SimulatedLog:
    return SimulatedLog("log", seed=3, initial=2_000)


@pytest.fixture(scope="module")
def entries(log: SimulatedLog) -> EntryBatch:
    return classic([(log.entry(i).leaf_input, log.entry(i).extra_data) for i in range(2_000)])


@pytest.fixture(scope="module")
def precertificates(log: SimulatedLog) -> list[int]:
    return [row for row in range(400) if log.entry(row).entry_type == PRECERT_ENTRY]


def test_real_precertificates_are_those_of_their_leaves(real_tile: EntryBatch, corpus: list[dict[str, Any]]) -> None:
    assert (real_tile.entry_type == PRECERT_ENTRY).all()
    certs = Certificates(real_tile.cert.slices(real_tile.data))
    assert altered_precertificates([real_tile], certs, lambda row: None) == []
    parts = [pybase64.b64decode(entry[key]) for entry in corpus for key in ("leaf_input", "extra_data")]
    batch = frame_entries(CLASSIC, 0, parts)
    assert (batch.entry_type == PRECERT_ENTRY).any()
    assert altered(batch) == []


def test_precertificates_of_every_shape_are_those_of_their_leaves(entries: EntryBatch) -> None:
    assert np.count_nonzero(entries.entry_type == PRECERT_ENTRY) > 500
    assert altered(entries) == []


def is_signed(log: SimulatedLog, row: int) -> bool:
    """Whether a Precertificate Signing Certificate signed it."""
    chain = log.entry(row).chain
    return bool(chain) and bytes.fromhex("060a2b06010401d679020404") in chain[0]


def test_a_precertificate_signing_certificate_gives_its_issuer(log: SimulatedLog, entries: EntryBatch) -> None:
    rows = np.flatnonzero(entries.entry_type == PRECERT_ENTRY).tolist()
    signed = [row for row in rows if is_signed(log, row)]
    assert signed
    certs = Certificates(entries.cert.slices(entries.data))
    assert altered_precertificates([entries], certs, lambda row: None) == signed


def test_a_leaf_that_names_a_precertificate_signing_certificate_is_altered(log: SimulatedLog) -> None:
    """The precertificate without its poison is the leaf's, but its issuer is not the one that it must be there."""
    rows = [row for row in range(900, 1_400) if log.entry(row).entry_type == PRECERT_ENTRY][:256]
    raw = []
    for entry in map(log.entry, rows):
        tbs = expected_tbs(entry.der, None) or b""
        raw.append(RawEntry(entry.leaf_input[:44] + len(tbs).to_bytes(3) + tbs + bytes(2), entry.extra_data))
    signed = [at for at, row in enumerate(rows) if is_signed(log, row)]
    assert signed
    assert altered(classic([(each.leaf_input, each.extra_data) for each in raw])) == signed
    issuers = {hashlib.sha256(der).digest(): der for row in rows for der in log.entry(row).chain}
    tile = parse_data_tile(TILED, 0, b"".join(map(tile_leaf_of, raw)), issuers).batch
    assert decode(tile, 0.0).altered_precertificates() == signed


def test_issuers_of_chains_without_any_bytes_are_none(log: SimulatedLog) -> None:
    """Neither a chain that is empty, nor one that is cut, is read beyond its end."""
    row = next(row for row in range(400) if log.entry(row).entry_type == PRECERT_ENTRY and not is_signed(log, row))
    leaf, der = log.entry(row).leaf_input, log.entry(row).der
    head = len(der).to_bytes(3) + der
    chains = [b"", b"\x00\x00\x01\x30", b"\x00\x00\x02\x30\x00"]
    assert altered(classic([(leaf, head + len(chain).to_bytes(3) + chain) for chain in chains])) == []


def test_an_exchanged_precertificate_is_found_and_no_other_is(log: SimulatedLog) -> None:
    rows = [row for row in range(200) if log.entry(row).entry_type == PRECERT_ENTRY]
    parts = [(log.entry(row).leaf_input, log.entry(row).extra_data) for row in range(200)]
    victim, other = rows[3], rows[7]
    parts[victim] = parts[victim][0], parts[other][1]
    assert altered(classic(parts)) == [victim]


def changed(extra_data: bytes, at: int) -> bytes:
    return extra_data[:at] + bytes([extra_data[at] ^ 1]) + extra_data[at + 1 :]


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(seed=st.integers(0, 2**32))
def test_a_changed_byte_of_what_was_signed_is_found(log: SimulatedLog, precertificates: list[int], seed: int) -> None:
    random = Random(seed)
    row = random.choice(precertificates)
    entry = log.entry(row)
    tbs = len(expected_tbs(entry.der, None) or b"")
    at = 3 + 8 + random.randrange(tbs - 8)  # inside of the TBSCertificate, behind the headers around it
    found = altered(classic([(entry.leaf_input, changed(entry.extra_data, at))]))
    poison = entry.der.find(bytes.fromhex("3013060a2b06010401d679020403")) + 3
    in_poison = poison + 14 <= at < poison + 21  # critical, and the value: what is removed is removed
    assert found == [0] or in_poison or is_signed(log, row)  # the signer's name and key identifier are replaced


@settings(max_examples=200, deadline=None)
@given(der=st.binary(max_size=200), issuer=st.none() | st.binary(max_size=100))
def test_what_is_no_certificate_is_not_read(der: bytes, issuer: bytes | None) -> None:
    assert expected_tbs(der, issuer) is None


def test_a_precertificate_without_poison_or_with_two_is_altered(log: SimulatedLog) -> None:
    poison = bytes.fromhex("3013060a2b06010401d6790204030101ff04020500")
    other = poison.replace(bytes.fromhex("d679020403"), bytes.fromhex("d679020409"))
    row = next(row for row in range(400) if log.entry(row).entry_type == PRECERT_ENTRY and log.entry(row).chain)
    der = log.entry(row).der
    assert expected_tbs(der, None) is not None
    assert expected_tbs(der.replace(poison, other), None) is None
    at = der.find(bytes.fromhex("301d0603551d0e"))  # the subject key identifier, 31 bytes: a poison fits over it
    twice = der[:at] + poison + bytes.fromhex("3008060355040304010a") + der[at + 31 :]
    assert len(twice) == len(der)
    assert expected_tbs(twice, None) is None


def test_static_entries_are_compared_as_well(log: SimulatedLog) -> None:
    body = b"".join(log.entry(row).tile_leaf for row in range(256))
    batch = parse_data_tile(TILED, 0, body).batch
    chains = [log.entry(row).chain for row in range(256)]
    certs = Certificates(batch.cert.slices(batch.data))
    assert np.count_nonzero(batch.entry_type == PRECERT_ENTRY) > 50
    assert altered_precertificates([batch], certs, lambda row: chains[row][0] if chains[row] else None) == []


def test_only_what_is_unusual_is_read_one_by_one(entries: EntryBatch) -> None:
    asked: list[int] = []

    def issuer(row: int) -> None:
        asked.append(row)

    altered_precertificates([entries], Certificates(entries.cert.slices(entries.data)), issuer)
    assert len(asked) < 0.1 * len(entries)


def test_batches_decoded_together_are_compared_as_one(log: SimulatedLog) -> None:
    rows = [row for row in range(700) if log.entry(row).entry_type == PRECERT_ENTRY]
    parts = [(log.entry(row).leaf_input, log.entry(row).extra_data) for row in range(700)]
    for victim, other in zip((rows[0], rows[-1]), (rows[1], rows[-2]), strict=True):
        parts[victim] = parts[victim][0], parts[other][1]
    whole = classic(parts)
    batches = [slice_batch(whole, a, b) for a, b in ((0, 50), (50, 51), (51, 640), (640, 700))]
    assert decode_together(batches, 0.0).altered_precertificates() == [rows[0], rows[-1]]


def test_a_length_that_is_not_minimal_is_altered(log: SimulatedLog) -> None:
    row = next(row for row in range(400) if log.entry(row).entry_type == PRECERT_ENTRY and not is_signed(log, row))
    entry = log.entry(row)
    der = entry.der
    assert der[:2] == der[4:6] == b"\x30\x82"
    assert altered(with_precertificate(entry.leaf_input, der)) == []
    outer, tbs = int.from_bytes(der[2:4]), der[6:8]
    longer = b"\x30\x82" + (outer + 1).to_bytes(2) + b"\x30\x83\x00" + tbs + der[8:]
    assert altered(with_precertificate(entry.leaf_input, longer)) == [0]


def with_precertificate(leaf_input: bytes, der: bytes) -> EntryBatch:
    return classic([(leaf_input, len(der).to_bytes(3) + der + bytes(3))])


def test_every_byte_of_what_the_hash_covers_is_compared(log: SimulatedLog) -> None:
    row = next(row for row in range(400) if log.entry(row).entry_type == PRECERT_ENTRY and not is_signed(log, row))
    leaf, der = log.entry(row).leaf_input, log.entry(row).der
    size = int.from_bytes(leaf[44:47])
    changed = [leaf[:at] + bytes((leaf[at] ^ 1,)) + leaf[at + 1 :] for at in range(47, 47 + size)]
    extra_data = len(der).to_bytes(3) + der + bytes(3)
    assert altered(classic([(each, extra_data) for each in changed])) == list(range(size))
    shorter = leaf[:44] + (size - 1).to_bytes(3) + leaf[47 : 46 + size] + leaf[47 + size :]
    longer = leaf[:44] + (size + 1).to_bytes(3) + leaf[47 : 47 + size] + b"\x00" + leaf[47 + size :]
    assert altered(classic([(shorter, extra_data), (longer, extra_data), (leaf, extra_data)])) == [0, 1]


def element(tag: int, content: bytes) -> bytes:
    """In DER."""
    size = len(content)
    length = size.to_bytes((size.bit_length() + 7) // 8)
    return bytes((tag, size) if size < 0x80 else (tag, 0x80 | len(length), *length)) + content


@pytest.mark.parametrize("step", [0x7F, 0xFF, 0xFFFF])
def test_lengths_that_lose_a_byte_with_the_poison_are_right_at_once(log: SimulatedLog, step: int) -> None:
    """The headers of the TBSCertificate and of its extensions are other ones in the leaf, where they are shorter."""
    poison = element(0x30, bytes.fromhex("060a2b06010401d6790204030101ff04020500"))
    row = next(row for row in range(400) if log.entry(row).entry_type == PRECERT_ENTRY and not is_signed(log, row))
    template = log.entry(row).der
    tbs = template[8 : template.index(b"\xa3\x82")]  # the fields before the extensions
    parts = []
    for size in sorted({size for around in (step, step - len(tbs)) for size in range(around - 60, around + 30)}):
        if size < 14:
            continue
        extension = element(0x30, bytes.fromhex("0603550463") + element(0x04, bytes(size - 13)))
        before, after = (extension, b"") if size % 2 else (b"", extension)
        submitted = element(0x30, tbs + element(0xA3, element(0x30, before + poison + after)))
        covered = element(0x30, tbs + element(0xA3, element(0x30, before + after)))
        der = element(0x30, submitted + element(0x30, bytes.fromhex("06082a8648ce3d040302")) + b"\x03\x02\x00\x00")
        leaf = log.entry(row).leaf_input[:44] + len(covered).to_bytes(3) + covered + bytes(2)
        parts.append((leaf, len(der).to_bytes(3) + der + bytes(3)))
    assert len(parts) > 50
    batch = classic(parts)
    asked: list[int] = []

    def issuer(row: int) -> None:
        asked.append(row)

    certs = Certificates(batch.cert.slices(batch.data))
    assert altered_precertificates([batch], certs, issuer) == []
    assert asked == []
    others = classic([(leaf, parts[at - 1][1]) for at, (leaf, _) in enumerate(parts)])
    assert altered(others) == list(range(len(parts)))


def test_what_the_walk_does_not_take_makes_no_large_copies(log: SimulatedLog) -> None:
    """Positions that are not known must not reach over the bytes of other certificates."""
    row = next(row for row in range(400) if log.entry(row).entry_type == PRECERT_ENTRY)
    broken = b"\x31" + log.entry(row).der[1:]
    size = len(broken).to_bytes(3)
    batch = classic([(log.entry(row).leaf_input, size + broken + bytes(3))] * 3_000)
    certs = Certificates(batch.cert.slices(batch.data))
    tracemalloc.start()
    try:
        assert altered_precertificates([batch], certs, lambda row: None) == []  # its TBSCertificate is right
        assert tracemalloc.get_traced_memory()[1] < 4 * len(certs.data)
    finally:
        tracemalloc.stop()


def test_what_cannot_be_read_is_altered_but_where_the_leaf_holds_the_same_bytes() -> None:
    garbled = SimulatedLog("log", seed=8, initial=400, unparseable=0.5)
    rows = [row for row in range(400) if garbled.entry(row).entry_type == PRECERT_ENTRY]
    broken = [row for row in rows if expected_tbs(garbled.entry(row).der, None) is None]
    assert len(broken) > 20
    parts = [(garbled.entry(row).leaf_input, garbled.entry(row).extra_data) for row in range(400)]
    assert altered(classic(parts)) == []
    victim, other = next((a, b) for a, b in pairwise(broken) if garbled.entry(a).der != garbled.entry(b).der)
    parts[victim] = parts[victim][0], parts[other][1]
    assert altered(classic(parts)) == [victim]


def test_the_issuer_of_a_row_is_the_first_of_its_chain(log: SimulatedLog, entries: EntryBatch) -> None:
    whole = decode_together([slice_batch(entries, 0, 30), slice_batch(entries, 30, 200)], 0.0)
    chains = [log.entry(row).chain for row in range(200)]
    assert [whole.issuer_der(row) for row in range(200)] == [chain[0] if chain else None for chain in chains]
    assert [whole.leaf(row) for row in range(200)] == [b"\x00" + log.entry(row).leaf_input for row in range(200)]
    tile = parse_data_tile(TILED, 0, b"".join(log.entry(row).tile_leaf for row in range(200))).batch
    assert decode(tile, 0.0).issuer_der(7) is None  # only its SHA-256 is known
    issuers = {hashlib.sha256(der).digest(): der for chain in chains for der in chain}
    known = decode(replace(tile, issuers=issuers), 0.0)
    assert [known.issuer_der(row) for row in range(200)] == [chain[0] if chain else None for chain in chains]
    assert [known.leaf(row) for row in range(200)] == [b"\x00" + log.entry(row).leaf_input for row in range(200)]
