"""Inputs from inputs: bytes changed anywhere, DER by its elements, JSON by its members.

A change somewhere in DER or JSON leaves all around it well-formed, so that parsers are reached behind the first check
of a length. All chance comes from the `Random` that is given.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from random import Random
from typing import Any, Final, TypeAlias

import orjson

from certstream.certs.lenient import Element, read_element
from certstream.simulator.der import tlv

Mutator: TypeAlias = Callable[[bytes, Random], bytes]  # another input of about that size, by at most twice as large

_TAGS: Final = bytes.fromhex("00010203040506090a0c13141617181c1e30313f5f7f80818283848586878889a0a1a2a3a4a5a6bfff")
_LENGTHS: Final = bytes.fromhex("0001207e7f8081828384858889fefe ff")
_OIDS: Final = tuple(
    bytes.fromhex(text)
    for text in (
        "0603551d11", "0603551d23", "0603551d0e", "0603551d0f", "0603551d25", "0603551d13", "0603551d20",
        "06082b06010505070101", "060a2b06010401d679020403", "060a2b06010401d679020404", "060a2b06010401d679020402",
        "0603550403", "0603550406", "060355040a", "060355040b", "0603550407", "0603550408",
        "06092a864886f70d010901", "06092a864886f70d01010b", "06082a8648ce3d040302", "06032b6570", "0604551d2500",
    )
)  # fmt: skip
_VALUES: Final = (
    b"", b"\x00", b"\xff", b"\x80", b"\x7f\xff", bytes(9), b"\xff" * 9, b'"\\\x00\x1f', b"\xed\xa0\x80", b"\xf4\x90",
    b"\xd8\x00\xdc\x00", b"20260101000000Z", b"260101000000Z", b"99991231235959Z", b"500101000000-2359", b"\xc3\x28",
    b"*.\xe2\x80\xae.example", b"\x01\x01\xff", b"\x05\x00", b"\x30\x80\x00\x00", b"\x30\x84\xff\xff\xff\xff",
)  # fmt: skip
DICTIONARY: Final = (*_OIDS, *_VALUES, b"\x30\x82", b"\xa3\x82", b"\xa0\x03\x02\x01\x02", b"\x04\x82")
_DEPTH: Final = 12  # of elements in elements that are looked into

JSON_VALUES: Final[tuple[Any, ...]] = (
    None, True, False, 0, 1, -1, 1.5, -0.0, 2**31, 2**53 + 1, 2**63 - 1, 2**63, 2**64 - 1, 1e300, "", " ", "0", "\x00",
    "AAAA", "AA==", "=", "é", "\ud7ff", "\u202e", "x" * 300, [], {}, [[]], {"": {}}, "https://x/", "HTTPS://X:443/",
    "http://[::1]/", "http://[", "https://x:99999/", "9999-12-31T23:59:59Z", "2026-02-30T00:00:00Z",
    "0001-01-01T00:00:00+23:59", "2026-01-01T00:00:00.123456789-23:59",
)  # fmt: skip
_JSON_TOKENS: Final = (
    b"[" * 2_000, b'{"":' * 2_000, b"]", b"}", b",", b":", b'"',
    b"\\", b"\\ud800", b"\\u0000", b"1e999", b"-", b"0" * 30,
    b"9" * 5_000, b"NaN", b"null", b"true", b"\xff", b"\xed\xa0\x80", b"\xef\xbb\xbf", b"\x00", b" " * 100,
)  # fmt: skip


def mutated(data: bytes, random: Random, tokens: Sequence[bytes] = DICTIONARY) -> bytes:
    """A few bytes changed, left out, doubled, exchanged for one of `tokens`, or cut off."""
    changed = bytearray(data)
    for _ in range(random.choice((1, 1, 1, 2, 3, 5))):
        at = random.randrange(len(changed) + 1)
        size = random.randrange(1, 17)
        match random.randrange(9):
            case 0 if at < len(changed):
                changed[at] ^= 1 << random.randrange(8)
            case 1 if at < len(changed):
                changed[at] = random.choice(_TAGS + _LENGTHS)
            case 2:
                del changed[at : at + size]
            case 3:
                changed[at:at] = changed[at : at + size]
            case 4:
                changed[at : at + size] = random.randbytes(size)
            case 5:
                token = random.choice(tokens)
                changed[at : at + random.choice((0, len(token)))] = token
            case 6:
                changed[at : at + size] = changed[(other := random.randrange(len(changed) + 1)) : other + size]
            case 7:
                changed[at : at + size] = random.choice((b"\x00", b"\xff", b"\x80")) * size
            case _ if random.randrange(4) == 0:
                del changed[at:]
    return bytes(changed[: 2 * len(data) + 64])


def mutated_der(data: bytes, random: Random) -> bytes:
    """Some element changed and the lengths around it right again, or bytes anywhere."""
    changed = data
    for _ in range(random.choice((1, 1, 2, 3))):
        changed = mutated(changed, random) if random.randrange(4) == 0 else _with_changed_element(changed, random)
    return changed[: 2 * len(data) + 4096]


def _with_changed_element(data: bytes, random: Random) -> bytes:
    path = _path(data, random)
    if not path:
        return mutated(data, random)
    element = path.pop()
    new = _changed_element(data, element, random)
    for parent in reversed(path):
        new = tlv(parent.tag, data[parent.start : element.outer], new, data[element.stop : parent.stop])
        element = parent
    return data[: element.outer] + new + data[element.stop :]


def _path(data: bytes, random: Random) -> list[Element]:
    """Elements from the outermost inwards, each chosen among its siblings."""
    path: list[Element] = []
    start, stop = 0, len(data)
    while len(path) < _DEPTH:
        inside = _elements(data, start, stop)
        if not inside:
            break
        path.append(random.choice(inside))
        start, stop = path[-1].start, path[-1].stop
        if random.randrange(8) == 0:
            break
    return path


def _elements(data: bytes, start: int, stop: int) -> list[Element]:
    """The elements that [start, stop) consists of, none where it does not."""
    found: list[Element] = []
    while start < stop:
        element = read_element(data, start, stop)
        if element is None or not element.tag:
            return []
        found.append(element)
        start = element.stop
    return found


def _changed_element(data: bytes, element: Element, random: Random) -> bytes:
    whole, content = data[element.outer : element.stop], data[element.start : element.stop]
    match random.randrange(10):
        case 0:
            return tlv(random.choice(_TAGS), content)
        case 1:
            return b""
        case 2:
            return whole * random.choice((2, 2, 3, 50))
        case 3:
            return _oddly_long(element.tag, content, random)
        case 4:
            return tlv(element.tag, random.choice((*_VALUES, *_OIDS)))
        case 5:
            return whole + tlv(random.choice(_TAGS), random.choice((*_VALUES, *_OIDS)))
        case 6:
            return tlv(element.tag, whole)
        case 7:
            return random.choice((*_OIDS, *_VALUES))
        case 8:
            return _shuffled(data, element, random)
        case _:
            return tlv(element.tag, mutated(content, random))


def _oddly_long(tag: int, content: bytes, random: Random) -> bytes:
    """A length of more bytes than needed, an indefinite one, or one that is wrong."""
    size = len(content)
    match random.randrange(4):
        case 0:
            width = random.randrange(1, 6)
            return bytes((tag, 0x80 | width)) + (size & (1 << 8 * width) - 1).to_bytes(width) + content
        case 1:
            return bytes((tag, 0x80)) + content + b"\x00\x00"
        case 2:
            return bytes((tag, random.choice(_LENGTHS))) + content
        case _:
            return bytes((tag, 0x82)) + max(0, size + random.randrange(-3, 4)).to_bytes(4)[-2:] + content


def _shuffled(data: bytes, element: Element, random: Random) -> bytes:
    inside = [data[each.outer : each.stop] for each in _elements(data, element.start, element.stop)]
    random.shuffle(inside)
    return tlv(element.tag, *inside)


def mutated_json(data: bytes, random: Random) -> bytes:
    """Some member changed, or bytes anywhere."""
    if random.randrange(3) == 0:
        return mutated(data, random, _JSON_TOKENS)
    try:
        document = orjson.loads(data)
    except ValueError:
        return mutated(data, random, _JSON_TOKENS)
    for _ in range(random.choice((1, 1, 2, 4))):
        document = _changed_json(document, random)
    return orjson.dumps(document)


def _changed_json(value: Any, random: Random) -> Any:
    here = random.randrange(6) == 0
    if isinstance(value, dict) and value and not here:
        key = random.choice(list(value))
        return {**value, key: _changed_json(value[key], random)}
    if isinstance(value, list) and value and not here:
        at = random.randrange(len(value))
        return [*value[:at], _changed_json(value[at], random), *value[at + 1 :]]
    return _other_json(value, random)


def _other_json(value: Any, random: Random) -> Any:
    match random.randrange(5):
        case 0 if isinstance(value, str):
            return mutated(value.encode(), random, _JSON_TOKENS).decode("utf-8", "replace")
        case 1 if isinstance(value, dict) and value:
            left_out = random.choice(list(value))
            return {key: each for key, each in value.items() if key != left_out}
        case 2 if isinstance(value, list):
            return [*value, *value][:100]
        case 3 if isinstance(value, int) and not isinstance(value, bool):
            return max(-(2**63), min(2**64 - 1, value + random.choice((-1, 1, -value - 1, 2**32, 2**62))))
        case _:
            return random.choice(JSON_VALUES)
