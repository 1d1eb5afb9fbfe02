"""Chains: one decoding per distinct certificate, no log can spoil another's, and nothing grows without bound."""

from __future__ import annotations

import hashlib
import json
from random import Random

from certstream.certs.batch import decode
from certstream.certs.chain import ChainTable
from certstream.ct.rfc6962 import frame_entries
from certstream.ct.static_ct import parse_data_tile
from certstream.ct.types import MAX_CHAIN, EntryBatch, LogInfo
from certstream.simulator.shapes import plain_leaf

CLASSIC = LogInfo("classic", "https://classic.example/", "rfc6962", "x")
TILED = LogInfo("tiled", "https://tiled.example/", "static", "x")


def vector(content: bytes) -> bytes:
    return len(content).to_bytes(3) + content


def certificate(label: str = "chain") -> bytes:
    draft = plain_leaf(label, Random(label))
    return draft.certificate(draft.tbs())


def classic(chain: bytes) -> EntryBatch:
    leaf = bytes(2) + (1).to_bytes(8) + b"\0\0" + vector(certificate("leaf")) + b"\0\0"
    return frame_entries(CLASSIC, 0, [leaf, vector(chain)])


def tiled(fingerprints: bytes, issuers: dict[bytes, bytes]) -> EntryBatch:
    leaf = (1).to_bytes(8) + b"\0\0" + vector(certificate("leaf")) + b"\0\0"
    return parse_data_tile(TILED, 0, leaf + len(fingerprints).to_bytes(2) + fingerprints, issuers).batch


def chain_of(batch: EntryBatch, table: ChainTable) -> tuple[list[dict[str, object]], int]:
    """The chain as a message shows it, and how many of it are counted as failures."""
    decoded = decode(batch, 0.0, table)
    return json.loads(decoded.messages("full")[0])["data"]["chain"], decoded.failures()["chain"]


def test_bytes_that_mean_another_chain_elsewhere_spoil_nothing() -> None:
    table, issuer = ChainTable(), certificate()
    print_ = hashlib.sha256(issuer).digest()
    assert chain_of(classic(print_), table) == ([], 0)
    (element,), failures = chain_of(tiled(print_, {print_: issuer}), table)
    assert element["sha256"] == print_.hex(":").upper()
    assert element["serial_number"]
    assert failures == 0


def test_both_protocols_show_the_same_chain() -> None:
    ders = [certificate("one"), certificate("two")]
    prints = [hashlib.sha256(der).digest() for der in ders]
    by_der = chain_of(classic(b"".join(map(vector, ders))), ChainTable())
    by_print = chain_of(tiled(b"".join(prints), dict(zip(prints, ders, strict=True))), ChainTable())
    assert by_der == by_print
    assert len(by_der[0]) == 2


def test_a_chain_is_cut_at_the_bound() -> None:
    many = b"".join(vector(bytes([0x30, 0x01, i & 255])) for i in range(3 * MAX_CHAIN))
    assert len(chain_of(classic(many), ChainTable())[0]) == MAX_CHAIN
    assert len(chain_of(tiled(bytes(32 * 3 * MAX_CHAIN), {}), ChainTable())[0]) == MAX_CHAIN


def test_empty_certificates_end_a_chain() -> None:
    assert chain_of(classic(bytes(3 * 100_000)), ChainTable()) == ([], 0)


def test_framing_that_breaks_ends_a_chain() -> None:
    whole = vector(certificate())
    assert len(chain_of(classic(whole + b"\x00\xff\xff" + b"short"), ChainTable())[0]) == 1


def test_certificate_beyond_all_measure_is_named_by_its_hash() -> None:
    huge = b"\x30\x83" + (70_000).to_bytes(3) + bytes(70_000)
    chain, failures = chain_of(classic(vector(huge) + vector(certificate())), ChainTable())
    assert chain[0] == {"sha256": hashlib.sha256(huge).digest().hex(":").upper()}
    assert chain[1]["serial_number"]
    assert failures == 1
