"""No certificate raises, and none is taken for what it is not."""

from __future__ import annotations

from hashlib import sha256
from random import Random

import orjson
import pytest

from certstream.certs.chain import ChainTable
from certstream.certs.columns import Certificates
from certstream.certs.precert import altered_precertificates, expected_tbs
from certstream.ct.rfc6962 import frame_entries
from certstream.ct.static_ct import parse_data_tile
from certstream.simulator.certificates import POISON, alternative_names, dns_name
from certstream.simulator.der import tlv
from certstream.simulator.shapes import plain_leaf
from fuzz.decoding import check_precertificates
from fuzz.seeds import CLASSIC, TILED, framed, shaped


def longer(header: bytes) -> bytes:
    """The same header with a length of one byte more than DER has it."""
    return header[:1] + bytes([header[1] + 1, 0]) + header[2:]


@pytest.mark.parametrize("place", ["TBSCertificate", "[3]", "Extensions"])
def test_a_precertificate_that_is_not_der_is_altered_whatever_its_leaf_holds(place: str) -> None:
    """Its leaf holds what comes of it where its lengths are believed to be those of DER."""
    der = shaped("hostile", 0)["rsa-leaf"]
    at = der.index(b"\xa3\x82")  # [3], SEQUENCE
    fields, listed = der[8:at], der[at + 8 : 8 + int.from_bytes(der[6:8])] + POISON
    wrapped, tagged = tlv(0x30, listed), tlv(0xA3, tlv(0x30, listed))
    headers = {"TBSCertificate": b"\x30\x82", "[3]": tagged[:4], "Extensions": wrapped[:4]}
    sizes = len(listed) + (place == "Extensions")
    inner = (longer(headers["Extensions"]) if place == "Extensions" else headers["Extensions"]) + listed
    outer = b"\xa3\x82" + (sizes + 4).to_bytes(2)
    body = fields + (longer(outer) if place == "[3]" else outer) + inner
    head = b"\x30\x82" + len(body).to_bytes(2)
    tbs = (longer(head) if place == "TBSCertificate" else head) + body
    precertificate = tlv(0x30, tbs, der[8 + int.from_bytes(der[6:8]) :])
    certs = Certificates([precertificate])
    assert certs.fields.walked[0]
    assert expected_tbs(precertificate, None) is None
    cut = tbs.index(listed) - 8  # where [3] would begin
    kept = tlv(0xA3, tlv(0x30, listed[: -len(POISON)]))
    believed = tlv(0x30, tbs[4:cut], kept)
    leaf = bytes(10) + b"\x00\x01" + bytes(32) + framed([believed]) + bytes(2)
    batch = frame_entries(CLASSIC, 0, [leaf, framed([precertificate, b""])])
    assert altered_precertificates([batch], certs, lambda row: None) == [0]
    check_precertificates(batch)


@pytest.mark.parametrize("good", range(9))
def test_a_name_of_no_kind_among_many_costs_only_the_walk(good: int) -> None:
    draft = plain_leaf("names", Random("names"))
    assert draft.extensions is not None
    names = [dns_name(f"{number}.example") for number in range(9)]
    draft.extensions["names"] = alternative_names(*names[:good], b"\x13\x01x", *names[good:])
    certs = Certificates([draft.certificate(draft.tbs())])
    assert not certs.fields.walked[0]
    assert certs.dns_names == [[name[2:] for name in names]]


def test_an_issuer_of_no_bytes_is_not_taken_for_those_that_are_not_known() -> None:
    empty, unknown = sha256(b"").digest(), bytes(32)
    leaf = bytes(10) + framed([b"der"]) + bytes(2)
    batch = parse_data_tile(TILED, 0, leaf + b"\x00\x20" + empty + leaf + b"\x00\x20" + unknown, {empty: b""}).batch
    known, missing = ChainTable().of(batch)
    assert (known.unresolved, missing.unresolved) == (0, 1)
    assert orjson.loads(known.texts[0])["sha256"] == empty.hex(":").upper()
    assert orjson.loads(missing.texts[0]) == {"sha256": unknown.hex(":").upper()}
