"""Extension values as the format shows them; what cannot be read is None."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from certstream.certs import der
from certstream.certs.extensions import (
    general_name_text,
    read_authority_info_access,
    read_authority_key_identifier,
    read_basic_constraints,
    read_extended_key_usage,
    read_key_usage,
    read_oid,
    read_policies,
    read_subject_key_identifier,
)
from certstream.simulator.der import OCTET_STRING, TRUE, bits, context, integer, oid, sequence, tlv

READERS: list[Callable[[bytes], str | None]] = [
    read_authority_info_access,
    read_authority_key_identifier,
    read_basic_constraints,
    read_extended_key_usage,
    read_key_usage,
    read_policies,
    read_subject_key_identifier,
]


@pytest.mark.parametrize(
    ("octets", "text"),
    [
        (b"\x80", "Digital Signature"),
        (b"\xa0", "Digital Signature, Key Encipherment"),
        (b"\x06", "Certificate Signing, CRL Signing"),
        (b"\x7f\x80", "Content Commitment, Key Encipherment, Data Encipherment, Key Agreement, Certificate Signing, "
                      "CRL Signing, Encipher Only, Decipher Only"),
        (b"\x00", ""),
        (b"\x80\x00\xff", "Digital Signature"),
    ],
)  # fmt: skip
def test_key_usage_names_its_bits(octets: bytes, text: str) -> None:
    assert read_key_usage(bits(octets)) == text


def test_extended_key_usage_has_a_fixed_order_and_known_purposes_only() -> None:
    purposes = ("1.3.6.1.5.5.7.3.9", "2.5.29.37.0", "1.3.6.1.5.5.7.3.8", "1.3.6.1.5.5.7.3.4", "1.3.6.1.5.5.7.3.3",
                "1.3.6.1.5.5.7.3.2", "1.3.6.1.5.5.7.3.1", "1.2.3.4")  # fmt: skip
    shown = "serverAuth, clientAuth, codeSigning, emailProtection, timeStamping, OCSPSigning, anyExtendedKeyUsage"
    assert read_extended_key_usage(sequence(*map(oid, purposes))) == shown
    assert read_extended_key_usage(sequence(oid("1.2.3.4"))) == ""


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (sequence(), "CA:FALSE"),
        (sequence(TRUE), "CA:TRUE"),
        (sequence(TRUE, integer(0)), "CA:TRUE"),
        (sequence(b"\x01\x01\x00"), "CA:FALSE"),
        (sequence(b"\x01\x01\x01"), "CA:TRUE"),
        (sequence(integer(3)), "CA:FALSE"),
    ],
)
def test_basic_constraints(value: bytes, text: str) -> None:
    assert read_basic_constraints(value) == text


def test_policies_are_one_line_each() -> None:
    value = sequence(sequence(oid("2.23.140.1.2.1")), sequence(oid("1.3.6.1.4.1.44947.1.1.1"), sequence()))
    assert read_policies(value) == "Policy: 2.23.140.1.2.1\nPolicy: 1.3.6.1.4.1.44947.1.1.1\n"


def test_authority_info_access_shows_uris_in_their_order() -> None:
    def access(name: bytes) -> bytes:
        return sequence(oid("1.3.6.1.5.5.7.48.1"), name)

    value = sequence(access(context(6, b"http://b/")), access(context(2, b"dns")), access(context(6, b"http://a/")))
    assert read_authority_info_access(value) == "URI:http://b/, URI:http://a/"


def test_key_identifiers_are_lower_hex() -> None:
    assert read_subject_key_identifier(tlv(OCTET_STRING, b"\xab\x01")) == "keyid:ab:01"
    assert read_authority_key_identifier(sequence(context(0, b"\xff\x00"), context(2, b"\x01"))) == "keyid:ff:00"
    assert read_authority_key_identifier(sequence(context(2, b"\x01"))) is None


@pytest.mark.parametrize(
    ("tag", "content", "text"),
    [
        (der.DNS, b"*.example.com", "DNS:*.example.com"),
        (der.EMAIL, b"someone@example.com", "email:someone@example.com"),
        (der.URI, b"https://example.com/", "URI:https://example.com/"),
        (der.IP_ADDRESS, bytes([192, 0, 2, 1]), "IP Address:192.0.2.1"),
        (der.IP_ADDRESS, bytes.fromhex("20010db8000000000000000000000001"), "IP Address:2001:db8::1"),
        (der.IP_ADDRESS, bytes(10) + b"\xff\xff\xc0\x00\x02\x01", "IP Address:::ffff:192.0.2.1"),
        (der.IP_ADDRESS, b"12345", None),
        (der.DIRECTORY_NAME, b"", None),
        (der.DNS, b"m\xfcller.example", "DNS:müller.example"),
    ],
)
def test_subject_alternative_names_as_text(tag: int, content: bytes, text: str | None) -> None:
    assert general_name_text(tag, content) == text


@pytest.mark.parametrize("dotted", ["0.9.2342", "1.2.840.113549", "2.5.29.17", "2.999.1", "2.100.4294967296"])
def test_object_identifiers_are_read_back(dotted: str) -> None:
    assert read_oid(oid(dotted)[2:]) == dotted


@pytest.mark.parametrize("content", [b"", b"\x80", b"\x2a\x86", bytes([0x81] * 64 + [1])])
def test_what_is_no_object_identifier_is_none(content: bytes) -> None:
    assert read_oid(content) is None


@pytest.mark.parametrize("read", READERS)
@given(value=st.binary(max_size=60))
def test_arbitrary_values_never_raise(read: Callable[[bytes], str | None], value: bytes) -> None:
    assert isinstance(read(value), str | None)
