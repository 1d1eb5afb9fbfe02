"""The vectorised walk: the DER of all certificates of a batch, read in lockstep.

Each step reads the same field of every certificate: one gather of eight bytes per certificate gives
its tag and length, numpy does the rest for all rows at once. What the walk accepts is the ordinary
version 3 certificate (RFC 5280 §4.1) in strict nesting:

    Certificate    SEQUENCE { TBSCertificate, AlgorithmIdentifier, BIT STRING }
    TBSCertificate SEQUENCE { [0] version 2, INTEGER, AlgorithmIdentifier, Name, Validity, Name,
                              SubjectPublicKeyInfo, [3] SEQUENCE OF Extension }
    Extension      SEQUENCE { OBJECT IDENTIFIER, BOOLEAN OPTIONAL, OCTET STRING }

A row that does not fit is marked (`Fields.walked` False) and left to `lenient`. A field is a range of
the shared bytes; text is made only when a message or a column needs it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, TypeAlias

import numpy as np
from numpy.typing import NDArray

from certstream.certs.times import NO_TIME, read_times
from certstream.ct.types import PADDING, Int64Array, Spans

BoolArray: TypeAlias = NDArray[np.bool_]

SEQUENCE, INTEGER, BIT_STRING, OCTET_STRING, OID, BOOLEAN = 0x30, 0x02, 0x03, 0x04, 0x06, 0x01
EXTENSIONS = 0xA3  # [3] EXPLICIT of TBSCertificate
OTHER_NAME, EMAIL, DNS, DIRECTORY_NAME, URI, IP_ADDRESS = 0xA0, 0x81, 0x82, 0xA4, 0x86, 0x87
_GENERAL_NAMES = frozenset((OTHER_NAME, EMAIL, DNS, 0xA3, DIRECTORY_NAME, 0xA5, URI, IP_ADDRESS, 0x88))

# Rows of Fields.extension_start and extension_stop.
SAN, AKI, SKI, KEY_USAGE, EXTENDED_KEY_USAGE, BASIC_CONSTRAINTS, POLICIES, AIA, POISON = range(9)
SLOTS: Final = 9

# The last byte of OIDs 2.5.29.x (RFC 5280 §4.2.1); -1 where the extension is not read.
_SLOT_OF_2_5_29 = np.full(256, -1, np.int64)
_SLOT_OF_2_5_29[[17, 35, 14, 15, 37, 19, 32]] = [
    SAN, AKI, SKI, KEY_USAGE, EXTENDED_KEY_USAGE, BASIC_CONSTRAINTS, POLICIES,
]  # fmt: skip
AIA_OID = bytes.fromhex("2b06010505070101")  # 1.3.6.1.5.5.7.1.1
POISON_OID = bytes.fromhex("2b06010401d679020403")  # 1.3.6.1.4.1.11129.2.4.3 (RFC 6962 §3.1)
_AIA_WORD = int.from_bytes(AIA_OID, "little", signed=True)
_POISON_WORD = int.from_bytes(POISON_OID[:8], "little", signed=True)
_VERSION_3 = int.from_bytes(bytes.fromhex("a003020102"), "little")

_MOST_EXTENSIONS = 40  # a certificate with more is read one by one
_MOST_NAME_BYTES = 1 << 15  # likewise one with more bytes of subject alternative names
_LOCKSTEP_NAMES = 6  # SAN names read in lockstep; what remains of longer lists is read one by one


@dataclass(slots=True)
class Fields:
    """Where the fields of n certificates lie in the shared bytes; start -1 where there is none.

    The walk fills the rows it can take, `lenient` the others.
    """

    walked: BoolArray  # the walk took the row
    readable: BoolArray  # the nesting down to the extensions could be read
    # Only of rows that the walk took: whole TBSCertificate; where its content, [3] in it and SEQUENCE in that begin
    tbs: Spans
    tbs_content: Int64Array
    extensions_tagged: Int64Array
    extensions_listed: Int64Array
    serial: Spans  # content of the INTEGER
    signature_oid: Spans  # content of the OBJECT IDENTIFIER outside the TBSCertificate
    issuer: Spans  # whole Name
    subject: Spans  # whole Name
    not_before: Int64Array  # Unix s, NO_TIME where there is none
    not_after: Int64Array
    extensions: Spans  # content of the SEQUENCE OF Extension; only of rows that the walk took
    extension_start: Int64Array  # (SLOTS, n): content of the OCTET STRING
    extension_stop: Int64Array
    name_row: Int64Array  # subject alternative names of all rows, in the order of rows and certificates
    name_tag: Int64Array
    name: Spans  # content of each GeneralName


def joined(ders: Sequence[bytes]) -> tuple[bytes, Spans]:
    """The certificates one behind the other, and where each lies.

    Behind the last is PADDING: a reader of a few bytes at any end stays inside.
    """
    stop = np.cumsum(np.fromiter(map(len, ders), np.int64, len(ders)))
    start = np.concatenate([np.zeros(1, np.int64), stop[:-1]]) if len(ders) else stop
    return b"".join([*ders, PADDING]), Spans(start, stop)


class Octets:
    """The shared bytes of a batch, made by `joined`, for gathers of single bytes and of eight at once."""

    __slots__ = ("bytes", "data", "words")

    def __init__(self, data: bytes) -> None:
        self.data = data
        self.bytes = np.frombuffer(data, np.uint8)
        self.words: Int64Array = np.ndarray((len(data) - 7,), "<i8", buffer=data, strides=(1,))

    def element(self, pos: Int64Array, limit: Int64Array) -> tuple[Int64Array, Int64Array, Int64Array, BoolArray]:
        """Tag, content start, content stop of the element at each `pos`, and whether it ends by `limit`.

        Starts and stops are cut at `limit`, so that whatever is read next stays inside the parent. Lengths of up
        to three bytes; a longer or an indefinite one does not fit any certificate here.
        """
        word = self.words[pos]
        tag = word & 0xFF
        length = (word >> 8) & 0xFF
        start = pos + 2
        long = np.flatnonzero(length > 0x7F)
        if len(long):
            length[long], start[long] = _long_lengths(word[long], start[long])
        stop = start + length
        fits = stop <= limit
        return tag, np.minimum(start, limit), np.minimum(stop, limit), fits


def _long_lengths(word: Int64Array, start: Int64Array) -> tuple[Int64Array, Int64Array]:
    count = (word >> 8) & 0x7F
    count = np.where(count > 3, 0, count)
    b0, b1, b2 = (word >> 16) & 0xFF, (word >> 24) & 0xFF, (word >> 32) & 0xFF
    length = np.where(count == 1, b0, np.where(count == 2, b0 << 8 | b1, b0 << 16 | b1 << 8 | b2))
    return np.where(count == 0, np.int64(1 << 40), length), start + count


def walk(octets: Octets, cert: Spans) -> Fields:
    """The fields of all certificates at once, of those rows that the walk can take."""
    fields = _empty_fields(len(cert.start))
    fields.walked = _walk_certificate(octets, cert, fields)
    _walk_extensions(octets, fields)
    _walk_names(octets, fields)
    fields.readable = fields.walked.copy()
    return fields


def _empty_fields(n: int) -> Fields:
    none = np.full(n, -1, np.int64)
    empty = np.zeros(0, np.int64)
    return Fields(
        walked=np.zeros(n, np.bool_),
        readable=np.zeros(n, np.bool_),
        tbs=Spans(none, none),
        tbs_content=none,
        extensions_tagged=none,
        extensions_listed=none,
        serial=Spans(none, none),
        signature_oid=Spans(none, none),
        issuer=Spans(none, none),
        subject=Spans(none, none),
        not_before=np.full(n, NO_TIME, np.int64),
        not_after=np.full(n, NO_TIME, np.int64),
        extensions=Spans(none, none),
        extension_start=np.full((SLOTS, n), -1, np.int64),
        extension_stop=np.full((SLOTS, n), -1, np.int64),
        name_row=empty,
        name_tag=empty,
        name=Spans(empty, empty),
    )


def _walk_certificate(octets: Octets, cert: Spans, fields: Fields) -> BoolArray:
    """Everything but what is in the extensions: which rows fit."""
    element = octets.element
    tag, outer, outer_stop, good = element(cert.start, cert.stop)
    good &= (tag == SEQUENCE) & (outer_stop == cert.stop)
    tag, pos, tbs_stop, ok = element(outer, outer_stop)
    fields.tbs, fields.tbs_content = Spans(outer, tbs_stop), pos
    good &= ok & (tag == SEQUENCE) & (octets.words[pos] & 0xFFFFFFFFFF == _VERSION_3)
    tag, start, stop, ok = element(np.minimum(pos + 5, tbs_stop), tbs_stop)
    good &= ok & (tag == INTEGER) & (stop > start)
    fields.serial = Spans(start, stop)
    tag, _, stop, ok = element(stop, tbs_stop)
    good &= ok & (tag == SEQUENCE)
    pos = stop
    tag, _, stop, ok = element(pos, tbs_stop)
    good &= ok & (tag == SEQUENCE)
    fields.issuer = Spans(pos, stop)
    tag, start, stop, ok = element(stop, tbs_stop)
    good &= ok & (tag == SEQUENCE) & _walk_validity(octets, start, stop, fields)
    pos = stop
    tag, _, stop, ok = element(pos, tbs_stop)
    good &= ok & (tag == SEQUENCE)
    fields.subject = Spans(pos, stop)
    tag, _, stop, ok = element(stop, tbs_stop)
    good &= ok & (tag == SEQUENCE)
    fields.extensions_tagged = stop
    tag, start, stop, ok = element(stop, tbs_stop)
    good &= ok & (tag == EXTENSIONS) & (stop == tbs_stop)
    fields.extensions_listed = start
    tag, start, stop, ok = element(start, stop)
    good &= ok & (tag == SEQUENCE) & (stop == tbs_stop) & _walk_signature(octets, tbs_stop, outer_stop, fields)
    fields.extensions = Spans(start, stop)
    return good


def _walk_validity(octets: Octets, start: Int64Array, stop: Int64Array, fields: Fields) -> BoolArray:
    first_tag, first, first_stop, first_ok = octets.element(start, stop)
    last_tag, last, last_stop, last_ok = octets.element(first_stop, stop)
    fields.not_before, before_ok = read_times(octets.bytes, first_tag, first, first_stop)
    fields.not_after, after_ok = read_times(octets.bytes, last_tag, last, last_stop)
    good: BoolArray = first_ok & last_ok & (last_stop == stop) & before_ok & after_ok
    return good


def _walk_signature(octets: Octets, pos: Int64Array, limit: Int64Array, fields: Fields) -> BoolArray:
    tag, start, stop, good = octets.element(pos, limit)
    good &= tag == SEQUENCE
    tag, oid, oid_stop, ok = octets.element(start, stop)
    good &= ok & (tag == OID)
    fields.signature_oid = Spans(oid, oid_stop)
    tag, _, stop, ok = octets.element(stop, limit)
    good &= ok & (tag == BIT_STRING) & (stop == limit)
    return good


def _walk_extensions(octets: Octets, fields: Fields) -> None:
    """Where the k-th extension of every row lies, for k = 0, 1, …; then what all of them are, at once."""
    rows = np.flatnonzero(fields.walked)
    pos, limit = fields.extensions.start[rows], fields.extensions.stop[rows]
    found: list[tuple[Int64Array, Int64Array, Int64Array]] = []
    for _ in range(_MOST_EXTENSIONS):
        live = pos < limit
        if not live.all():
            rows, pos, limit = rows[live], pos[live], limit[live]
        if not len(rows):
            break
        tag, start, stop, good = octets.element(pos, limit)
        good &= tag == SEQUENCE
        if not good.all():
            fields.walked[rows[~good]] = False
            rows, start, stop, limit = rows[good], start[good], stop[good], limit[good]
        found.append((rows, start, stop))
        pos = stop
    else:
        fields.walked[rows[pos < limit]] = False
    if found:
        _read_extensions(octets, fields, *(np.concatenate(column) for column in zip(*found, strict=True)))


def _read_extensions(octets: Octets, fields: Fields, rows: Int64Array, start: Int64Array, stop: Int64Array) -> None:
    """Put the extensions whose content lies at [start, stop) into their rows' slots."""
    tag, oid, oid_stop, good = octets.element(start, stop)
    good &= tag == OID
    tag, value, value_stop, ok = octets.element(oid_stop, stop)
    critical = np.flatnonzero(tag == BOOLEAN)
    if len(critical):
        good[critical] &= ok[critical] & (value_stop[critical] - value[critical] == 1)
        tag[critical], value[critical], value_stop[critical], ok[critical] = octets.element(
            value_stop[critical], stop[critical]
        )
    good &= ok & (tag == OCTET_STRING) & (value_stop == stop)
    fields.walked[rows[~good]] = False
    slot = _slots(octets, oid, oid_stop)
    known = slot >= 0
    slot, rows = slot[known], rows[known]
    fields.extension_start[slot, rows] = value[known]
    fields.extension_stop[slot, rows] = value_stop[known]
    n = len(fields.walked)
    repeated = np.bincount(rows * SLOTS + slot, minlength=n * SLOTS).reshape(n, SLOTS) > 1
    fields.walked[repeated.any(axis=1)] = False


def _slots(octets: Octets, oid: Int64Array, oid_stop: Int64Array) -> Int64Array:
    word = octets.words[oid]
    length = oid_stop - oid
    slot = np.where((length == 3) & (word & 0xFFFF == 0x1D55), _SLOT_OF_2_5_29[(word >> 16) & 0xFF], -1)
    slot[(length == 8) & (word == _AIA_WORD)] = AIA
    poison = np.flatnonzero((length == 10) & (word == _POISON_WORD))
    if len(poison):
        tail = octets.words[oid[poison] + 8] & 0xFFFF
        slot[poison[tail == int.from_bytes(POISON_OID[8:], "little")]] = POISON
    return slot


def _walk_names(octets: Octets, fields: Fields) -> None:
    """The subject alternative names: the k-th of every row for small k, the rest of long lists one by one."""
    rows = np.flatnonzero(fields.walked & (fields.extension_start[SAN] >= 0))
    limit = fields.extension_stop[SAN, rows]
    tag, pos, stop, good = octets.element(fields.extension_start[SAN, rows], limit)
    good &= (tag == SEQUENCE) & (stop == limit) & (stop - pos <= _MOST_NAME_BYTES)
    found: list[tuple[Int64Array, Int64Array, Int64Array, Int64Array]] = []
    for _ in range(_LOCKSTEP_NAMES):
        if not good.all():
            fields.walked[rows[~good]] = False
        live = good & (pos < limit)
        if not live.all():
            rows, pos, limit = rows[live], pos[live], limit[live]
        if not len(rows):
            break
        tag, start, stop, good = octets.element(pos, limit)
        good &= _IS_GENERAL_NAME[tag]
        found.append((rows, tag, start, stop))
        pos = stop
    else:
        fields.walked[rows[~good]] = False
        found.append(_read_long_lists(octets, fields, rows[good], pos[good], limit[good]))
    _collect_names(fields, found)


_IS_GENERAL_NAME = np.zeros(256, np.bool_)
_IS_GENERAL_NAME[[*_GENERAL_NAMES]] = True


def _read_long_lists(
    octets: Octets, fields: Fields, rows: Int64Array, pos: Int64Array, limit: Int64Array
) -> tuple[Int64Array, Int64Array, Int64Array, Int64Array]:
    """Names of the rows that have more than _LOCKSTEP_NAMES: found one by one on the bytes, then read at once."""
    data, known = octets.data, _GENERAL_NAMES
    found: list[int] = []
    bounds = [0]  # of each row in `found`
    for row, at, end in zip(rows.tolist(), pos.tolist(), limit.tolist(), strict=True):
        while at < end:
            length = data[at + 1]
            stop = at + 2 + length
            if length > 0x7F:
                count = length & 0x7F
                start = at + 2 + count
                stop = start + int.from_bytes(data[at + 2 : start]) if 0 < count <= 3 else end + 1
            if stop > end or data[at] not in known:
                fields.walked[row] = False
                break
            found.append(at)
            at = stop
        bounds.append(len(found))
    ends = np.array(bounds, np.int64)
    counts = ends[1:] - ends[:-1]
    tag, name, name_stop, _ = octets.element(np.array(found, np.int64), np.repeat(limit, counts))
    return np.repeat(rows, counts), tag, name, name_stop


def _collect_names(fields: Fields, found: list[tuple[Int64Array, Int64Array, Int64Array, Int64Array]]) -> None:
    """Names in the order of rows, and of each certificate within its row; none of rows that were given up."""
    if not found:
        return
    row, tag, start, stop = (np.concatenate(column) for column in zip(*found, strict=True))
    order = np.argsort(row, kind="stable")
    order = order[fields.walked[row[order]]]
    fields.name_row, fields.name_tag = row[order], tag[order]
    fields.name = Spans(start[order], stop[order])
