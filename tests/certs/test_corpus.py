"""Real entries give exactly the messages that existing clients read, whichever protocol they came by."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import pybase64
import pytest

from certstream.certs.batch import StreamKind, decode
from certstream.ct.rfc6962 import frame_entries, parse_get_entries, split_chain
from certstream.ct.static_ct import data_tile_path, parse_data_tile
from certstream.ct.types import EntryBatch, LogInfo

SEEN_S = 1700000000.0
DATA = Path(__file__).parent.parent / "data"
CASES = json.loads((DATA / "ct_entries.json").read_text())
KINDS: list[tuple[StreamKind, str]] = [
    ("full", "expected_full"),
    ("lite", "expected_lite"),
    ("domains", "expected_domains_only"),
]


def by_rfc6962(case: dict[str, Any]) -> EntryBatch:
    log = LogInfo(case["log_name"], case["log_url"], "rfc6962", "operator")
    body = json.dumps({"entries": [{"leaf_input": case["leaf_input"], "extra_data": case["extra_data"]}]})
    return parse_get_entries(log, case["cert_index"], body.encode())


def by_static_ct(case: dict[str, Any]) -> EntryBatch:
    """The same entry as a leaf of a data tile, its chain as fingerprints."""
    entry = by_rfc6962(case)
    log = LogInfo(case["log_name"], case["log_url"], "static", "operator")
    chain = split_chain(entry.data[int(entry.chain.start[0]) : int(entry.chain.stop[0])])
    issuers = {hashlib.sha256(der).digest(): der for der in chain}
    leaf = pybase64.b64decode(case["leaf_input"])[2:]
    precert = entry.data[int(entry.cert.start[0]) : int(entry.cert.stop[0])]
    if entry.entry_type[0] == 1:
        leaf += len(precert).to_bytes(3) + precert
    leaf += (32 * len(chain)).to_bytes(2) + b"".join(hashlib.sha256(der).digest() for der in chain)
    return parse_data_tile(log, case["cert_index"], leaf, issuers).batch


@pytest.mark.parametrize("case", CASES, ids=[case["name"] for case in CASES])
@pytest.mark.parametrize(("kind", "expected"), KINDS)
def test_get_entries_gives_the_expected_message(case: dict[str, Any], kind: StreamKind, expected: str) -> None:
    (message,) = decode(by_rfc6962(case), SEEN_S).messages(kind)
    assert json.loads(message) == json.loads(case[expected])


@pytest.mark.parametrize("case", CASES, ids=[case["name"] for case in CASES])
@pytest.mark.parametrize(("kind", "expected"), KINDS)
def test_data_tile_gives_the_same_message_but_for_the_link(
    case: dict[str, Any], kind: StreamKind, expected: str
) -> None:
    (message,) = decode(by_static_ct(case), SEEN_S).messages(kind)
    wanted = json.loads(case[expected])
    if kind != "domains":
        tile = data_tile_path(case["cert_index"] // 256)
        wanted["data"]["cert_link"] = case["log_url"] + tile
    assert json.loads(message) == wanted


def test_entries_decoded_together_give_what_each_gives_alone() -> None:
    log = LogInfo("x", "https://x/", "rfc6962", "x")
    parts = [pybase64.b64decode(case[key]) for case in CASES for key in ("leaf_input", "extra_data")]
    together = decode(frame_entries(log, 0, parts), SEEN_S)
    for kind in ("full", "lite", "domains"):
        for row in range(len(CASES)):
            alone = decode(frame_entries(log, row, parts[2 * row : 2 * row + 2]), SEEN_S)
            assert together.messages(kind, [row]) == alone.messages(kind)


def test_every_real_certificate_takes_the_vectorised_walk(real_tile: EntryBatch) -> None:
    assert decode(real_tile, SEEN_S).certs.fields.walked.all()
    assert all(decode(by_rfc6962(case), SEEN_S).certs.fields.walked.all() for case in CASES)


def test_real_tile_hashes_to_its_hash_tile(real_tile: EntryBatch) -> None:
    leaves = [real_tile.data[a:b] for a, b in zip(real_tile.leaf.start, real_tile.leaf.stop, strict=True)]
    hashes = b"".join(hashlib.sha256(real_tile.leaf_prefix + leaf).digest() for leaf in leaves)
    assert hashes == (DATA / "tiles" / "hash-0-000").read_bytes()


def test_real_tile_gives_the_names_of_its_names_tile(real_tile: EntryBatch) -> None:
    certs = decode(real_tile, SEEN_S).certs
    lines = [json.loads(line) for line in (DATA / "tiles" / "names-000").read_text().splitlines()]
    assert len(lines) == len(certs)
    for row, line in enumerate(lines):
        common_name = line.get("Subject", {}).get("CommonName")
        assert certs.common_name[row] == (None if common_name is None else common_name.encode())
        assert certs.dns_names[row] == [name.encode() for name in line.get("DNS", [])]
        assert real_tile.timestamp_ms[row] == line["Timestamp"]
