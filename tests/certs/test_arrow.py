"""The 20 archive columns hold what the messages show."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace
from typing import Any

import numpy as np
import pyarrow as pa
import pybase64
import pytest

from certstream.certs.arrow import SCHEMA
from certstream.certs.batch import StreamKind, decode, decode_together
from certstream.certs.chain import ChainTable
from certstream.ct.rfc6962 import frame_entries
from certstream.ct.types import EntryBatch, LogInfo, slice_batch

SEEN_S = 1700000000.25
KINDS: tuple[StreamKind, ...] = ("full", "lite", "domains")
LOG = LogInfo("Log", "https://log.example/ct/", "rfc6962", "log.example")


def corpus_batch(corpus: list[dict[str, Any]]) -> EntryBatch:
    parts = [pybase64.b64decode(entry[key]) for entry in corpus for key in ("leaf_input", "extra_data")]
    return frame_entries(LOG, 4_000_000_000, parts)


def test_rows_are_what_the_full_messages_say(corpus: list[dict[str, Any]]) -> None:
    batch = decode(corpus_batch(corpus), SEEN_S)
    table = batch.to_arrow()
    table.validate(full=True)
    assert table.schema == SCHEMA
    assert table.num_rows == len(corpus)
    for row, message in zip(table.to_pylist(), batch.messages("full"), strict=True):
        data = json.loads(message)["data"]
        leaf = data["leaf_cert"]
        assert row["source_url"] == "https://log.example/ct"
        assert row["seen"].timestamp() == SEEN_S
        assert row["seen_date"] == "2023-11-14"
        assert [json.loads(text) for text in row["chain"]] == data["chain"]
        assert row["as_der"] == pybase64.b64decode(leaf["as_der"])
        for key in ("cert_index", "update_type", "cert_link"):
            assert row[key] == data[key]
        for key in ("serial_number", "fingerprint", "sha256", "sha1", "not_before", "not_after", "is_ca",
                    "signature_algorithm", "all_domains"):  # fmt: skip
            assert row[key] == leaf[key]
        assert row["subject_aggregated"] == leaf["subject"]["aggregated"]
        assert row["issuer_aggregated"] == leaf["issuer"]["aggregated"]


def test_entry_that_does_not_parse_is_a_row_of_nulls_with_its_bytes() -> None:
    leaf = bytes(2) + (1234).to_bytes(8) + b"\x00\x00" + b"\x00\x00\x04junk" + b"\x00\x00"
    table = decode(frame_entries(LOG, 7, [leaf, b"\x00\x00\x00"]), SEEN_S).to_arrow()
    (row,) = table.to_pylist()
    assert row["update_type"] == "X509LogEntry"
    assert row["as_der"] == b"junk"
    assert len(row["sha256"]) == 95
    assert row["chain"] == row["all_domains"] == []
    for key in ("serial_number", "not_before", "not_after", "is_ca", "signature_algorithm", "subject_aggregated",
                "issuer_aggregated"):  # fmt: skip
        assert row[key] is None


def test_entry_of_unknown_type_keeps_its_leaf_input() -> None:
    leaf = bytes(2) + (5000).to_bytes(8) + b"\x80\x00" + b"something new"
    batch = decode(frame_entries(LOG, 7, [leaf, b""]), SEEN_S)
    (row,) = batch.to_arrow().to_pylist()
    assert row["update_type"] == "Unknown"
    assert row["as_der"] == leaf
    message = json.loads(batch.messages("full")[0])["data"]
    assert message["update_type"] == "Unknown"
    assert pybase64.b64decode(message["leaf_cert"]["as_der"]) == leaf
    assert message["submission_timestamp"] == 5.0
    assert message["chain"] == []
    assert batch.messages("domains") == []


def test_unresolved_issuer_is_its_sha256_and_is_tried_again(real_tile: EntryBatch) -> None:
    table = ChainTable()
    one = slice_batch(real_tile, 0, 1)
    fingerprints = one.data[int(one.chain.start[0]) : int(one.chain.stop[0])]
    first = decode(one, SEEN_S, table)
    chain = json.loads(first.messages("full")[0])["data"]["chain"]
    assert chain == [{"sha256": fingerprints[i : i + 32].hex(":").upper()} for i in range(0, len(fingerprints), 32)]
    assert first.failures()["chain"] == len(chain)
    assert [json.loads(text) for text in first.to_arrow().to_pylist()[0]["chain"]] == chain
    ders = {fingerprints[i : i + 32]: first.certs.ders[0] for i in range(0, len(fingerprints), 32)}
    again = decode(replace(one, issuers=ders), SEEN_S, table)
    resolved = json.loads(again.messages("full")[0])["data"]["chain"]
    assert all(element["serial_number"] for element in resolved)
    assert not again.failures()


def test_empty_batch_has_no_rows_and_no_messages() -> None:
    batch = decode(frame_entries(LOG, 9, []), SEEN_S)
    assert batch.to_arrow().num_rows == 0
    assert batch.messages("full") == batch.messages("lite") == batch.messages("domains") == []


def test_batches_of_a_column_with_nulls_concatenate(real_tile: EntryBatch) -> None:
    table = pa.Table.from_batches([decode(real_tile, SEEN_S).to_arrow()] * 2)
    assert table.num_rows == 512
    assert np.array_equal(table["cert_index"].to_numpy()[:256], np.arange(256))


def test_batches_decoded_together_are_those_decoded_alone(corpus: list[dict[str, Any]], real_tile: EntryBatch) -> None:
    for whole in (corpus_batch(corpus), real_tile):
        middle = whole.start + len(whole) // 3
        parts = [slice_batch(whole, whole.start, middle), slice_batch(whole, middle, whole.stop)]
        together, alone = decode_together(parts, SEEN_S), decode(whole, SEEN_S)
        assert together.to_arrow() == alone.to_arrow()
        assert together.to_arrow(shared_chains=True) == alone.to_arrow(shared_chains=True)
        for kind in KINDS:
            assert together.messages(kind) == alone.messages(kind)
        assert together.failures() == alone.failures()


def test_batches_that_do_not_follow_each_other_are_not_decoded_together(real_tile: EntryBatch) -> None:
    parts = [slice_batch(real_tile, 0, 10), slice_batch(real_tile, 11, 20)]
    with pytest.raises(ValueError, match="do not follow"):
        decode_together(parts, SEEN_S)


def test_messages_need_no_pyarrow() -> None:
    code = (
        "import sys; from certstream.certs.batch import decode; from certstream.ct.rfc6962 import frame_entries;"
        "from certstream.ct.types import LogInfo;"
        "decode(frame_entries(LogInfo('x', 'https://x', 'rfc6962', 'x'), 0, [bytes(14), b'']), 0.0).messages('full');"
        "sys.exit('pyarrow' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_shared_chains_are_the_same_chains_with_each_certificate_once(corpus: list[dict[str, Any]]) -> None:
    batch = decode(corpus_batch([*corpus, *corpus]), SEEN_S)
    plain, shared = batch.to_arrow(), batch.to_arrow(shared_chains=True)
    shared.validate(full=True)
    chains = plain.column("chain").to_pylist()
    assert shared.column("chain").to_pylist() == chains
    assert shared.drop_columns(["chain"]) == plain.drop_columns(["chain"])
    assert len(shared.column("chain").values.dictionary) == len({text for chain in chains for text in chain})
