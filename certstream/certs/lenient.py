"""One certificate at a time: whatever the vectorised walk cannot take, with every field that can be salvaged.

The reader never raises and never looks outside its certificate: an element that reaches past its parent
is cut there, a field whose tag is wrong is missing, and what comes after it is still tried.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import NamedTuple

from certstream.certs import der
from certstream.certs.times import GENERALIZED_TIME, NO_TIME, UTC_TIME, read_lenient_time

MOST_PARTS = 1_000  # elements read of one SEQUENCE: memory stays in proportion whatever a certificate claims
MOST_NAMES = 20_000  # subject alternative names read of one certificate; what comes after them is counted as unread
_VERSION = 0xA0  # [0] EXPLICIT of TBSCertificate
_TIMES = (UTC_TIME, GENERALIZED_TIME)
_SLOT_OF_OID = {
    bytes.fromhex("551d11"): der.SAN,
    bytes.fromhex("551d23"): der.AKI,
    bytes.fromhex("551d0e"): der.SKI,
    bytes.fromhex("551d0f"): der.KEY_USAGE,
    bytes.fromhex("551d25"): der.EXTENDED_KEY_USAGE,
    bytes.fromhex("551d13"): der.BASIC_CONSTRAINTS,
    bytes.fromhex("551d20"): der.POLICIES,
    der.AIA_OID: der.AIA,
    der.POISON_OID: der.POISON,
}


class Element(NamedTuple):
    """One DER element: its tag, where it and its content begin, where it ends (cut at its parent's end)."""

    tag: int
    outer: int
    start: int
    stop: int


class Name(NamedTuple):
    """One GeneralName: its tag and the range of its content."""

    tag: int
    start: int
    stop: int


@dataclass(slots=True)
class Salvage:
    """What could be read of one certificate: ranges of the shared bytes, None for what is missing."""

    serial: tuple[int, int] | None = None
    signature_oid: tuple[int, int] | None = None
    issuer: tuple[int, int] | None = None
    subject: tuple[int, int] | None = None
    not_before: int = NO_TIME
    not_after: int = NO_TIME
    readable: bool = False  # the nesting down to the extensions could be read
    extensions: dict[int, tuple[int, int]] = field(default_factory=dict)  # slot → value
    names: list[Name] = field(default_factory=list)
    names_cut: bool = False  # there are more than MOST_NAMES


def read_element(data: bytes, pos: int, limit: int) -> Element | None:
    """The element at `pos`, cut at `limit`; None where not even its header fits."""
    if pos + 2 > limit:
        return None
    length, start = data[pos + 1], pos + 2
    if length > 0x7F:
        count = length & 0x7F
        start += count
        if not 0 < count <= 4 or start > limit:
            return None
        length = int.from_bytes(data[pos + 2 : start])
    return Element(data[pos], pos, start, min(start + length, limit))


def children(data: bytes, start: int, stop: int, most: int = MOST_PARTS) -> list[Element]:
    """The first `most` elements one after the other in [start, stop); what follows a broken header is left out."""
    found: list[Element] = []
    while len(found) < most and (element := read_element(data, start, stop)) is not None:
        found.append(element)
        start = element.stop
    return found


def salvage(data: bytes, start: int, stop: int) -> Salvage:
    """Every field that can be read of the certificate at [start, stop)."""
    found = Salvage()
    outer = read_element(data, start, stop)
    if outer is None or outer.tag != der.SEQUENCE:
        return found
    parts = children(data, outer.start, outer.stop)
    if not parts or parts[0].tag != der.SEQUENCE:
        return found
    tbs = children(data, parts[0].start, parts[0].stop)
    if tbs and tbs[0].tag == _VERSION:
        tbs = tbs[1:]
    algorithms = [part for part in (*parts[1:2], *tbs[1:2]) if part.tag == der.SEQUENCE]
    found.signature_oid = _algorithm(data, algorithms)
    _read_body(data, tbs, found)
    return found


def _algorithm(data: bytes, candidates: list[Element]) -> tuple[int, int] | None:
    for candidate in candidates:
        oid = read_element(data, candidate.start, candidate.stop)
        if oid is not None and oid.tag == der.OID:
            return oid.start, oid.stop
    return None


def _read_body(data: bytes, tbs: list[Element], found: Salvage) -> None:
    """serialNumber; signature, issuer, validity, subject, subjectPublicKeyInfo, all SEQUENCEs; [1], [2], [3].

    Where one of the five is missing, those around the validity, which alone begins with a time, are still known.
    """
    if tbs and tbs[0].tag == der.INTEGER and tbs[0].stop > tbs[0].start:
        found.serial = tbs[0].start, tbs[0].stop
    parts = [element for element in tbs if element.tag == der.SEQUENCE]
    usual_first = (2, *range(len(parts)))
    at = next((i for i in usual_first if i < len(parts) and _is_validity(data, parts[i])), None)
    issuer, subject, key = (2, 4, 5) if at is None else (at, at + 2, at + 3)  # as stops, from 1
    if at is not None:
        _read_validity(data, parts[at], found)
    if 1 < issuer <= len(parts):
        found.issuer = parts[issuer - 1].outer, parts[issuer - 1].stop
    if subject <= len(parts):
        found.subject = parts[subject - 1].outer, parts[subject - 1].stop
    found.readable = key <= len(parts)
    for element in tbs:
        if element.tag == der.EXTENSIONS:
            _read_extensions(data, element, found)


def _is_validity(data: bytes, part: Element) -> bool:
    first = read_element(data, part.start, part.stop)
    return first is not None and first.tag in _TIMES


def _read_validity(data: bytes, validity: Element, found: Salvage) -> None:
    times = [element for element in children(data, validity.start, validity.stop) if element.tag in _TIMES]
    moments = [read_lenient_time(element.tag, data[element.start : element.stop]) for element in times[:2]]
    before, after = [*moments, None, None][:2]
    found.not_before = NO_TIME if before is None else before
    found.not_after = NO_TIME if after is None else after


def _read_extensions(data: bytes, wrapper: Element, found: Salvage) -> None:
    """The last of repeated extensions wins; the names of all of them count."""
    sequence = read_element(data, wrapper.start, wrapper.stop)
    if sequence is None:
        return
    for extension in children(data, sequence.start, sequence.stop):
        parts = children(data, extension.start, extension.stop)
        if len(parts) < 2 or parts[0].tag != der.OID or parts[-1].tag != der.OCTET_STRING:
            continue
        slot = _SLOT_OF_OID.get(data[parts[0].start : parts[0].stop])
        if slot is None:
            continue
        found.extensions[slot] = parts[-1].start, parts[-1].stop
        if slot == der.SAN:
            _read_names(data, parts[-1], found)


def _read_names(data: bytes, value: Element, found: Salvage) -> None:
    sequence = read_element(data, value.start, value.stop)
    if sequence is not None and sequence.tag == der.SEQUENCE:
        room = MOST_NAMES - len(found.names)
        elements = children(data, sequence.start, sequence.stop, room + 1)
        found.names_cut |= len(elements) > room
        found.names += [Name(e.tag, e.start, e.stop) for e in elements[:room]]


def fill(fields: der.Fields, row: int, found: Salvage) -> None:
    """Put what was salvaged of one certificate into its row; the names are merged by the caller."""
    fields.readable[row] = found.readable
    fields.not_before[row], fields.not_after[row] = found.not_before, found.not_after
    for spans, value in (
        (fields.serial, found.serial),
        (fields.signature_oid, found.signature_oid),
        (fields.issuer, found.issuer),
        (fields.subject, found.subject),
    ):
        spans.start[row], spans.stop[row] = value or (-1, -1)
    for slot in range(der.SLOTS):
        value = found.extensions.get(slot, (-1, -1))
        fields.extension_start[slot, row], fields.extension_stop[slot, row] = value
