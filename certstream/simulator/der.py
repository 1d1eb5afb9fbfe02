"""Writes DER (X.690), and on request what only looks like it."""

from __future__ import annotations

from datetime import datetime

BOOLEAN, INTEGER, BIT_STRING, OCTET_STRING, NULL, OID, UTF8 = 0x01, 0x02, 0x03, 0x04, 0x05, 0x06, 0x0C
PRINTABLE, T61, IA5, UTC_TIME, GENERALIZED_TIME, UNIVERSAL, BMP = 0x13, 0x14, 0x16, 0x17, 0x18, 0x1C, 0x1E
SEQUENCE, SET = 0x30, 0x31

TRUE = b"\x01\x01\xff"


def tlv(tag: int, *contents: bytes) -> bytes:
    """One element with the shortest length that fits."""
    content = b"".join(contents)
    size = len(content)
    if size < 0x80:
        return bytes((tag, size)) + content
    length = size.to_bytes((size.bit_length() + 7) // 8)
    return bytes((tag, 0x80 | len(length))) + length + content


def sequence(*contents: bytes) -> bytes:
    """A SEQUENCE of ready elements."""
    return tlv(SEQUENCE, *contents)


def context(number: int, *contents: bytes, constructed: bool = False) -> bytes:
    """An element with the context-specific tag `number`."""
    return tlv(0x80 | (0x20 if constructed else 0) | number, *contents)


def integer(value: int) -> bytes:
    """An INTEGER with the fewest octets."""
    return tlv(INTEGER, value.to_bytes(value.bit_length() // 8 + 1, signed=True))


def oid(dotted: str) -> bytes:
    """An OBJECT IDENTIFIER from its dotted form."""
    first, second, *rest = (int(arc) for arc in dotted.split("."))
    return tlv(OID, b"".join(_base128(arc) for arc in (40 * first + second, *rest)))


def _base128(arc: int) -> bytes:
    octets = [arc & 0x7F]
    while arc := arc >> 7:
        octets.append(0x80 | arc & 0x7F)
    return bytes(reversed(octets))


def bits(content: bytes, unused: int = 0) -> bytes:
    """A BIT STRING; `unused` bits at its end do not count, or make it invalid where they cannot."""
    return tlv(BIT_STRING, bytes((unused,)), content)


def time(when: datetime) -> bytes:
    """A Time of RFC 5280 §4.1.2.5: UTCTime through 2049, GeneralizedTime from 2050."""
    if when.year < 2050:
        return tlv(UTC_TIME, f"{when:%y%m%d%H%M%SZ}".encode())
    return tlv(GENERALIZED_TIME, f"{when:%Y%m%d%H%M%SZ}".encode())
