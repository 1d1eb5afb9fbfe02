"""What must hold of whatever `certs` reads: entries of both protocols, certificates, names, times, extensions.

Nothing raises, what is shown is JSON and UTF-8, and an entry reads the same whatever stands beside it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from random import Random
from typing import Any, Final

import numpy as np
import orjson

from certstream.certs import der, extensions
from certstream.certs.batch import CertificateBatch, StreamKind, decode
from certstream.certs.chain import ChainTable
from certstream.certs.columns import Certificates
from certstream.certs.message import chain_certificates, domain_lists
from certstream.certs.names import parse_name
from certstream.certs.precert import altered_precertificates, expected_tbs
from certstream.certs.strings import decode_text
from certstream.certs.times import GENERALIZED_TIME, NO_TIME, UTC_TIME, read_lenient_time, read_times
from certstream.ct.rfc6962 import frame_entries, split_chain
from certstream.ct.static_ct import fingerprints, parse_data_tile
from certstream.ct.types import PRECERT_ENTRY, EntryBatch
from fuzz.agreement import assert_agrees_with_cryptography, assert_spans_inside, assert_walk_agrees_with_lenient
from fuzz.framing import assert_framed_as_by_hand, assert_tile_as_by_hand
from fuzz.seeds import CLASSIC, TILED, certificates, unframed

KINDS: Final[tuple[StreamKind, ...]] = ("full", "lite", "domains")
SEEN_S: Final = 1_767_139_200.25
_POISON: Final = (b"\xff" * 7, b"\xa0" * 70, b"\x30\x82\xff\xff" * 3, b"", b"\x30\x80" * 40)  # neighbours
_READERS: Final = (
    extensions.read_oid,
    extensions.read_key_usage,
    extensions.read_extended_key_usage,
    extensions.read_basic_constraints,
    extensions.read_policies,
    extensions.read_authority_info_access,
    extensions.read_authority_key_identifier,
    extensions.read_subject_key_identifier,
)


def check_certificates(ders: Sequence[bytes]) -> None:
    """Certificates decoded together."""
    certs = Certificates(ders)
    assert_spans_inside(certs)
    assert_walk_agrees_with_lenient(certs)
    texts = texts_of(certs)
    for element, domains in texts:
        assert isinstance(orjson.loads(element), dict)
        assert all(isinstance(name, str) for name in orjson.loads(domains))
    assert all(0 < count <= len(ders) for count in certs.failures().values())
    for row in _some(ders):
        among = Certificates([_POISON[row % len(_POISON)], ders[row], _POISON[-row % len(_POISON)]])
        assert texts_of(among)[1] == texts[row]
    assert_agrees_with_cryptography(certs, ders)


def _some(inputs: Sequence[bytes]) -> list[int]:
    """Which of some inputs are looked at alone as well: a sixteenth, at least one, the same ones each time."""
    return Random(len(inputs[0])).sample(range(len(inputs)), -(-len(inputs) // 16))


def texts_of(certs: Certificates) -> list[tuple[bytes, bytes]]:
    """All that is shown of each certificate."""
    return list(zip(chain_certificates(certs), domain_lists(certs), strict=True))


def check_entries(inputs: Sequence[bytes]) -> None:
    """RFC 6962 entries, each as leaf_input and extra_data that `framed` wrote, among others that are none."""
    pairs = [[*unframed(data, 2), b"", b""][:2] for data in inputs]
    parts = [part for at, pair in enumerate(pairs) for part in (*pair, *[_POISON[at % len(_POISON)]] * 2)]
    batch = frame_entries(CLASSIC, 7, parts)
    assert_framed_as_by_hand(batch, parts)
    together = shown(decode(batch, SEEN_S, ChainTable()))
    for at in _some(inputs):
        alone = frame_entries(CLASSIC, 7 + 2 * at, pairs[at])
        assert shown(decode(alone, SEEN_S, ChainTable()))[0] == together[2 * at]
    check_precertificates(batch)


def check_tile(data: bytes) -> None:
    """A data tile."""
    tile = parse_data_tile(TILED, 512, data)
    assert_tile_as_by_hand(tile, data)
    if not len(tile.batch):
        return
    hostile = (*_POISON, *certificates()[:60:7], certificates()[0][:-9])
    issuers = {print_: hostile[print_[0] % len(hostile)] for print_ in fingerprints(tile.batch) if print_[1] % 4}
    whole = shown(decode(replace(tile.batch, issuers=issuers), SEEN_S, ChainTable()))
    assert len(whole) == len(tile.batch)
    row = len(whole) - 1
    start = int(tile.batch.leaf.start[row])
    alone = parse_data_tile(TILED, 512 + row, data[start : int(tile.batch.chain.stop[row])] + _POISON[row % 5])
    assert shown(decode(replace(alone.batch, issuers=issuers), SEEN_S, ChainTable()))[0] == whole[row]
    check_precertificates(tile.batch)


def shown(certs: CertificateBatch) -> list[tuple[Any, ...]]:
    """All that streams and archive get of each entry; it is JSON and UTF-8."""
    for kind in KINDS:
        for message in certs.messages(kind):
            orjson.loads(message)
    assert all(count > 0 for count in certs.failures().values())
    table, shared = certs.to_arrow(), certs.to_arrow(shared_chains=True)
    table.validate(full=True)
    shared.validate(full=True)
    rows = table.to_pylist()
    assert rows == shared.to_pylist()
    domains = [certs.messages("domains", [row]) for row in range(len(certs))]
    return list(zip(certs.messages("full"), certs.messages("lite"), domains, rows, strict=True))


def check_precertificates(batch: EntryBatch) -> None:
    """The quick comparison of precertificates with their leaves finds what the one by one does."""
    ders = batch.cert.slices(batch.data)
    chains = [split_chain(chain)[:1] if batch.log.kind == "rfc6962" else [] for chain in batch.chain.slices(batch.data)]
    issuers = [chain[0] if chain else None for chain in chains]
    found = altered_precertificates([batch], Certificates(ders), lambda row: issuers[row])
    leaves = batch.leaf.slices(batch.data)
    skipped = 44 - len(batch.leaf_prefix) + 1  # of a leaf before the length of its TBSCertificate
    for row in np.flatnonzero(batch.entry_type == PRECERT_ENTRY).tolist():
        size = int.from_bytes(leaves[row][skipped : skipped + 3])
        held = leaves[row][skipped + 3 : skipped + 3 + size]
        if row in found:
            assert held not in (ders[row], expected_tbs(ders[row], issuers[row]))
        else:
            assert held in (ders[row], expected_tbs(ders[row], issuers[row]), expected_tbs(ders[row], None))
    assert found == sorted(set(found))


def check_value(data: bytes) -> None:
    """The value of any extension, and a string of any type."""
    for read in _READERS:
        text = read(data)
        assert text is None or orjson.loads(orjson.dumps(text)) == text
    for tag in (*data[:1], der.DNS, der.EMAIL, der.URI, der.IP_ADDRESS, 0x1E, 0x1C, 0x0C):
        text = decode_text(tag, data)
        assert len(text.encode()) <= 3 * len(data) + 3
        extensions.general_name_text(tag, data)


def check_name(data: bytes) -> None:
    """A distinguished name; it reads the same with an attribute of another form behind it, which takes the slow way."""
    name = parse_name(data)
    members = orjson.loads(name.json)
    assert members["aggregated"] == name.aggregated.decode()
    assert members.get("CN") == (None if name.common_name is None else name.common_name.decode())


def check_time(data: bytes) -> None:
    """A time of either type: what the column reads, the lenient reader reads the same."""
    padded = np.frombuffer(bytes(2) + data + bytes(32), np.uint8)
    for tag in (UTC_TIME, GENERALIZED_TIME):
        lenient = read_lenient_time(tag, data)
        start = np.array([2], np.int64)
        seconds, good = read_times(padded, np.array([tag]), start, start + len(data))
        assert good[0] == (seconds[0] != NO_TIME)
        assert not good[0] or seconds[0] == lenient
        assert lenient is None or abs(lenient) < 1 << 40
