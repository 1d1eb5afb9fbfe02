"""What is odd about a certificate costs at most the odd field."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from random import Random

import pytest

from certstream.certs.columns import Certificates
from certstream.certs.lenient import MOST_NAMES
from certstream.certs.message import chain_certificates
from certstream.certs.times import NO_TIME
from certstream.simulator.certificates import Draft, alternative_names, dns_name, key_usage
from certstream.simulator.der import bits, sequence
from certstream.simulator.shapes import SHAPES, UNPARSEABLE, plain_leaf

Decoder = Callable[[Sequence[bytes]], Certificates]


def leaf() -> Draft:
    return plain_leaf("leaf", Random("leaf"))


def children_of(element: bytes) -> bytes:
    """The content of an element whose length may not hold any more."""
    length = element[1]
    return element[2 + (length & 0x7F if length > 0x7F else 0) :]


def shape(name: str) -> bytes:
    """The certificate of one of the simulator's shapes."""
    (chosen,) = (shape for shape in SHAPES if shape.name == name)
    random = Random(name)
    draft = plain_leaf(name, random)
    chosen.change(draft, random)
    return draft.certificate(draft.tbs())


@pytest.mark.parametrize("name", ["negative-serial", "version-1", "no-extensions", "utctime-without-zone"])
def test_odd_certificate_loses_nothing(decoded: Decoder, name: str) -> None:
    certs = decoded([shape(name)])
    assert not certs.failures()
    assert certs.serial_number[0]
    assert certs.not_before[0] != NO_TIME


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("bmp-subject", "Müller Ω"),
        ("t61-subject", "Müller & Söhne"),
        ("universal-subject", "Ünïversal 😀"),
        ("not-utf8-subject", "Müller"),
        ("8-bit-printable-subject", "Müller_*@"),
        ("nul-in-subject", "before\x00after"),
    ],
)
def test_strings_of_every_type_become_text(decoded: Decoder, name: str, text: str) -> None:
    (element,) = chain_certificates(decoded([shape(name)]))
    assert json.loads(element)["subject"]["O"] == text


def test_serial_number_is_even_hex_without_leading_zeros(decoded: Decoder) -> None:
    certs = decoded([shape("negative-serial"), shape("padded-serial"), shape("zero-serial"), shape("long-serial")])
    negative, padded, zero, long = certs.serial_number
    assert negative is not None
    assert negative.startswith(b"9C")
    assert padded is not None
    assert padded.startswith(b"01")
    assert zero == b"00"
    assert long is not None
    assert len(long) > 40
    assert all(len(text or b"x") % 2 == 0 for text in certs.serial_number)


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("padded-key-usage", "Digital Signature, Key Encipherment"),
        ("key-usage-unused-9", "Digital Signature, Key Encipherment"),
        ("key-usage-without-bits", None),
        ("key-usage-garbage", None),
    ],
)
def test_bad_key_usage_costs_at_most_the_key_usage(decoded: Decoder, name: str, text: str | None) -> None:
    certs = decoded([shape(name)])
    extensions = json.loads(chain_certificates(certs)[0])["extensions"]
    assert extensions.get("keyUsage") == text
    assert extensions["subjectAltName"].startswith("DNS:")
    assert certs.all_domains[0]


def test_unreadable_time_is_null_and_counted(decoded: Decoder) -> None:
    certs = decoded([shape("utctime-nonsense"), shape("rsa-leaf")])
    assert json.loads(chain_certificates(certs)[0])["not_before"] is None
    assert certs.failures() == {"not_before": 1, "not_after": 1}


def test_times_with_offset_and_without_seconds_are_read(decoded: Decoder) -> None:
    offset, short = (decoded([shape(name)]) for name in ("utctime-with-offset", "utctime-without-seconds"))
    assert offset.not_before[0] == 1772323200 - 90 * 60
    assert short.not_before[0] == 1772323200


def test_names_of_every_repeated_extension_count(decoded: Decoder) -> None:
    certs = decoded([shape("same-extension-twice")])
    assert not certs.fields.walked[0]
    assert not certs.failures()
    first, second = certs.dns_names[0][0], certs.dns_names[0][-1]
    assert not first.startswith(b"second.")
    assert second.startswith(b"second.")


def test_the_last_of_a_repeated_extension_wins(decoded: Decoder) -> None:
    draft = leaf()
    assert draft.extensions is not None
    draft.extensions["again"] = key_usage(bits(b"\x06"))
    certs = decoded([draft.certificate(draft.tbs())])
    shown = json.loads(chain_certificates(certs)[0])["extensions"]["keyUsage"]
    assert shown == "Certificate Signing, CRL Signing"


def test_a_missing_serial_number_costs_only_the_serial_number(decoded: Decoder) -> None:
    draft = leaf()
    whole = draft.tbs()
    without = whole.replace(b"\x02" + bytes([len(draft.serial)]) + draft.serial, b"", 1)
    certs = decoded([draft.certificate(sequence(children_of(without))), draft.certificate(whole)])
    lost, sound = (json.loads(text) for text in chain_certificates(certs))
    assert lost["serial_number"] is None
    for key in ("subject", "issuer", "not_before", "not_after", "extensions"):
        assert lost[key] == sound[key]
    assert certs.all_domains[0] == certs.all_domains[1]
    assert certs.failures() == {"serial_number": 1}


def test_a_missing_issuer_costs_only_the_issuer(decoded: Decoder) -> None:
    draft = leaf()
    whole = draft.tbs()
    certs = decoded([draft.certificate(sequence(children_of(whole.replace(draft.issuer.subject, b"", 1))))])
    assert certs.common_name[0]
    assert certs.not_before[0] != NO_TIME
    assert certs.all_domains[0]


def test_a_ca_keeps_its_common_name_out_of_the_domains(decoded: Decoder) -> None:
    certs = decoded([shape("authority")])
    assert certs.is_ca[0]
    assert certs.common_name[0]
    assert certs.common_name[0] not in certs.all_domains[0]


def test_an_empty_name_is_no_domain(decoded: Decoder) -> None:
    draft = leaf()
    assert draft.extensions is not None
    draft.extensions["names"] = alternative_names(dns_name(""), dns_name("a.example"))
    certs = decoded([draft.certificate(draft.tbs())])
    assert b"" not in certs.all_domains[0]
    assert certs.all_domains[0][-1] == b"a.example"


def test_names_beyond_the_bound_are_counted(decoded: Decoder) -> None:
    draft = leaf()
    assert draft.extensions is not None
    draft.extensions["names"] = alternative_names(*[dns_name(f"{i}.example") for i in range(MOST_NAMES + 1)])
    certs = decoded([draft.certificate(draft.tbs()), shape("many-names")])
    assert len(certs.dns_names[0]) == MOST_NAMES
    assert certs.failures() == {"names": 1}


@pytest.mark.parametrize(
    ("algorithm", "text"),
    [
        ("sha256-rsa-pss", b"sha256, rsa-pss"),
        ("ed25519", b"ed25519"),
        ("dsa-sha256", b"dsa, sha256"),
        ("unknown", b"unknown"),
    ],
)
def test_signature_algorithms_have_the_names_of_the_format(decoded: Decoder, algorithm: str, text: bytes) -> None:
    draft = leaf()
    draft.algorithm = algorithm
    assert decoded([draft.certificate(draft.tbs())]).signature_algorithm == [text]


@pytest.mark.parametrize("zeros", [1, 5, 100, 100_000])
def test_leading_zeros_of_a_serial_number_cost_nothing(decoded: Decoder, zeros: int) -> None:
    draft = leaf()
    draft.serial = bytes(zeros) + b"\x8a\x01"
    certs = decoded([draft.certificate(draft.tbs()), shape("rsa-leaf")])
    assert certs.serial_number[0] == b"8A01"
    assert certs.serial_number[1]


@pytest.mark.parametrize("name", [name for name, _ in UNPARSEABLE])
def test_certificate_that_nothing_can_be_read_of_still_has_its_hashes(decoded: Decoder, name: str) -> None:
    write = dict(UNPARSEABLE)[name]
    random = Random(name)
    certs = decoded([write(plain_leaf(name, random), random), shape("rsa-leaf")])
    first, second = (json.loads(text) for text in chain_certificates(certs))
    assert len(first["sha256"]) == 95
    assert first["sha1"] == first["fingerprint"]
    assert second["serial_number"]
    if name != "garbage-cut-short":
        assert first["subject"] == first["issuer"] == {"aggregated": ""}
        assert first["serial_number"] is first["not_before"] is first["not_after"] is None
        assert first["signature_algorithm"] == "unknown"
        assert certs.failures() == {"certificate": 1}


def test_ip_email_and_uri_names_are_shown_but_are_no_domains(decoded: Decoder) -> None:
    certs = decoded([shape("ip-only"), shape("odd-alternative-names")])
    ip_only, odd = (json.loads(text)["extensions"]["subjectAltName"] for text in chain_certificates(certs))
    assert "IP Address:" in ip_only
    assert "DNS:" not in ip_only
    assert certs.dns_names[0] == []
    assert "email:" in odd
    assert "URI:" in odd
    assert not any(b"@" in name or b"//" in name for name in certs.dns_names[1])
