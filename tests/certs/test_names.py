"""Distinguished names as the format shows them."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from certstream.certs import names
from certstream.certs.lenient import MOST_PARTS
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


_STRINGS = st.binary(max_size=150) | st.text(max_size=20).map(str.encode)
_ATTRIBUTES = st.builds(
    attribute, st.sampled_from(["C", "CN", "L", "O", "OU", "ST", "EMAIL", "DC"]), _STRINGS,
    st.sampled_from([0x0C, 0x13, 0x14, 0x16, 0x1C, BMP]),
)  # fmt: skip


@given(st.lists(_ATTRIBUTES, max_size=8), st.data())
def test_common_names_are_read_as_any_name_is(attributes: list[bytes], data: st.DataObject) -> None:
    whole = name(*attributes)
    assert names._common_attributes(whole) in (None, names._attributes(whole))
    if all(len(value) < 0x80 and value[4:6] == b"\x55\x04" for value in attributes):
        assert names._common_attributes(whole) is not None
    damaged = bytearray(whole)
    for _ in range(data.draw(st.integers(1, 3))):
        damaged[data.draw(st.integers(0, len(damaged) - 1))] = data.draw(st.integers(0, 255))
    cut = bytes(damaged[: data.draw(st.integers(0, len(damaged)))])
    for value in (bytes(damaged), cut):
        assert names._common_attributes(value) in (None, names._attributes(value))


def test_a_name_of_very_many_attributes_is_read_as_far_as_any_is() -> None:
    whole = name(*(attribute("CN", str(i)) for i in range(3 * MOST_PARTS)))
    assert parse_name(whole).common_name == str(MOST_PARTS - 1).encode()


@given(st.binary(max_size=120))
def test_arbitrary_bytes_never_raise(value: bytes) -> None:
    parsed = parse_name(value)
    assert json.loads(parsed.json)["aggregated"] == parsed.aggregated.decode()
