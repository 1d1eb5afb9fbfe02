"""ASN.1 character strings → text that is always valid Unicode, and text → JSON."""

from __future__ import annotations

from typing import Final

import orjson

BMP_STRING, UNIVERSAL_STRING = 0x1E, 0x1C

# Bytes that stand for themselves in UTF-8 and in a JSON string.
PLAIN: Final = bytes(b for b in range(0x20, 0x7F) if b not in b'"\\')


def is_plain(value: bytes) -> bool:
    """Whether `value` can be copied into a JSON string as it is."""
    return not value.translate(None, PLAIN)


def decode_text(tag: int, value: bytes) -> str:
    """The text of an ASN.1 string; never fails.

    BMPString is UTF-16BE, UniversalString UTF-32BE; every other type is read as UTF-8 and, where it is
    none, as Latin-1, which is what 8-bit strings of old certificates hold whatever type they claim.
    """
    if tag == BMP_STRING:
        return value.decode("utf-16-be", "replace")
    if tag == UNIVERSAL_STRING:
        return value.decode("utf-32-be", "replace")
    try:
        return value.decode()
    except UnicodeDecodeError:
        return value.decode("latin-1")


def json_string(text: str) -> bytes:
    """`text` as a JSON string, quotes included."""
    return orjson.dumps(text)
