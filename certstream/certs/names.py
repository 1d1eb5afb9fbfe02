"""Distinguished names: DER of a Name → its attributes, as stream messages and the archive show them.

Name ::= SEQUENCE OF SET OF SEQUENCE { OBJECT IDENTIFIER, string }    (RFC 5280 §4.1.2.4)
"""

from __future__ import annotations

from dataclasses import dataclass

import orjson

from certstream.certs import der
from certstream.certs.lenient import MOST_PARTS, Element, children, read_element
from certstream.certs.memo import Memo
from certstream.certs.strings import decode_text

_KEY_OF_OID = {
    bytes.fromhex("550403"): "CN",
    bytes.fromhex("550406"): "C",
    bytes.fromhex("550407"): "L",
    bytes.fromhex("550408"): "ST",
    bytes.fromhex("55040a"): "O",
    bytes.fromhex("55040b"): "OU",
    bytes.fromhex("2a864886f70d010901"): "email_address",
}
_X520 = bytes.fromhex("06035504")
_KEY_OF_X520 = {oid[2]: key for oid, key in _KEY_OF_OID.items() if oid.startswith(_X520[2:])}
_COMMON_HEAD = 11
_KEYS = ("C", "CN", "L", "O", "OU", "ST", "email_address")
_AGGREGATED = ("C", "CN", "L", "O", "OU", "ST")


@dataclass(frozen=True, slots=True)
class ParsedName:
    """One distinguished name."""

    json: bytes  # the object of a message: C, CN, L, O, OU, ST, email_address where present, aggregated
    aggregated: bytes  # UTF-8, `/C=…/CN=…/L=…/O=…/OU=…/ST=…`, present parts only
    common_name: bytes | None  # UTF-8


def parse_name(name: bytes) -> ParsedName:
    """The attributes of a DER Name; the last of a repeated one wins, what cannot be read is left out."""
    attributes = _common_attributes(name)
    if attributes is None:
        attributes = _attributes(name)
    aggregated = "".join(f"/{key}={attributes[key]}" for key in _AGGREGATED if key in attributes)
    present = {key: attributes[key] for key in _KEYS if key in attributes}
    common_name = attributes.get("CN")
    return ParsedName(
        json=orjson.dumps({**present, "aggregated": aggregated}),
        aggregated=aggregated.encode(),
        common_name=None if common_name is None else common_name.encode(),
    )


def _common_attributes(name: bytes) -> dict[str, str] | None:
    """The attributes where each is alone in its SET, of X.520 and short, as mostly; None of any other name.

    SET and SEQUENCE with a length of one byte, the OID 2.5.4.x, then the string: 31 L 30 L-2 06 03 55 04 x tag L-9 …
    """
    outer = read_element(name, 0, len(name))
    if outer is None or outer.stop != len(name):
        return None
    attributes: dict[str, str] = {}
    at, end, left = outer.start, outer.stop, MOST_PARTS
    while at < end:
        size = name[at + 1] if at + _COMMON_HEAD <= end else 0
        stop = at + 2 + size
        if name[at + 4 : at + 8] != _X520 or not _COMMON_HEAD - 2 <= size < 0x80 or stop > end or not left:
            return None
        if name[at] != 0x31 or name[at + 2] != 0x30 or name[at + 3] != size - 2 or name[at + 10] != size - 9:
            return None
        key, tag = _KEY_OF_X520.get(name[at + 8]), name[at + 9]
        if key is not None:
            attributes[key] = decode_text(tag, name[at + _COMMON_HEAD : stop])
        at, left = stop, left - 1
    return attributes


def _attributes(name: bytes) -> dict[str, str]:
    """The attributes of any name."""
    attributes: dict[str, str] = {}
    outer = read_element(name, 0, len(name))
    if outer is not None:
        for rdn in children(name, outer.start, outer.stop):
            for attribute in children(name, rdn.start, rdn.stop):
                _read_attribute(name, children(name, attribute.start, attribute.stop, 2), attributes)
    return attributes


def _read_attribute(name: bytes, parts: list[Element], attributes: dict[str, str]) -> None:
    if len(parts) == 2 and parts[0][0] == der.OID:
        (_, _, oid, oid_stop), (tag, _, start, stop) = parts
        key = _KEY_OF_OID.get(name[oid:oid_stop])
        if key is not None:
            attributes[key] = decode_text(tag, name[start:stop])


def _size(name: ParsedName) -> int:
    return len(name.json) + 2 * len(name.aggregated) + 128


ISSUERS: Memo[ParsedName] = Memo(parse_name, _size, most_bytes=2 << 20)
SUBJECTS: Memo[ParsedName] = Memo(
    parse_name, _size, most_bytes=2 << 20
)  # of organisations, which get many certificates
EMPTY_NAME = parse_name(b"")
