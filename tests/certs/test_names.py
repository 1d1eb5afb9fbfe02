"""Distinguished names as the format shows them."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from certstream.certs.names import EMPTY_NAME, parse_name
from certstream.simulator.certificates import attribute, name
from certstream.simulator.der import BMP, SET, sequence, tlv


def test_attributes_are_shown_in_the_order_of_the_format_and_the_last_wins() -> None:
    attributes = {"ST": "Bayern", "CN": "example.com", "O": "Firma", "L": "München", "OU": "IT", "C": "DE"}
    others = [attribute("CN", "first"), attribute("EMAIL", "a@example.com"), attribute("DC", "left out")]
    parsed = parse_name(name(*others, *(attribute(kind, value) for kind, value in attributes.items())))
    aggregated = "/C=DE/CN=example.com/L=München/O=Firma/OU=IT/ST=Bayern"
    assert json.loads(parsed.json) == {
        "C": "DE", "CN": "example.com", "L": "München", "O": "Firma", "OU": "IT", "ST": "Bayern",
        "email_address": "a@example.com", "aggregated": aggregated,
    }  # fmt: skip
    assert parsed.aggregated.decode() == aggregated
    assert parsed.common_name == b"example.com"


def test_several_attributes_of_one_relative_name_count() -> None:
    parsed = parse_name(sequence(tlv(SET, attribute("C", "US"), attribute("CN", "x"))))
    assert parsed.aggregated == b"/C=US/CN=x"


def test_text_that_json_must_escape_is_escaped() -> None:
    parsed = parse_name(name(attribute("CN", 'a"b\\c\n')))
    assert json.loads(parsed.json)["CN"] == 'a"b\\c\n'


def test_surrogates_of_a_bmp_string_do_no_harm() -> None:
    parsed = parse_name(name(attribute("CN", b"\xd8\x00\x00A", BMP)))
    assert json.loads(parsed.json)["CN"].endswith("A")


@pytest.mark.parametrize("value", [b"", b"\x30\x00", b"\x30", b"\x31\x02\x05\x00"])
def test_a_name_without_attributes_is_empty(value: bytes) -> None:
    assert parse_name(value) == EMPTY_NAME
    assert json.loads(EMPTY_NAME.json) == {"aggregated": ""}


@given(st.binary(max_size=120))
def test_arbitrary_bytes_never_raise(value: bytes) -> None:
    parsed = parse_name(value)
    assert json.loads(parsed.json)["aggregated"] == parsed.aggregated.decode()
