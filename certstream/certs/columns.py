"""Certificates as columns: every field of n certificates, decoded together.

The walk and the lenient reader leave ranges of the shared bytes; here they become the texts that
messages and the archive show. A column is computed when it is first asked for, and once.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Sequence
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from certstream.certs import der, lenient
from certstream.certs.der import BoolArray, Fields, Octets
from certstream.certs.extensions import IS_CA, MEMBERS
from certstream.certs.hexadecimal import integer_hex
from certstream.certs.lazy import lazy
from certstream.certs.names import EMPTY_NAME, ISSUERS, SUBJECTS, ParsedName
from certstream.certs.strings import PLAIN, decode_text, is_plain
from certstream.certs.times import NO_TIME
from certstream.ct.types import Int64Array, Spans

_SIGNATURE_ALGORITHMS = {
    bytes.fromhex(oid): text
    for oid, text in {
        "2a864886f70d01010b": b"sha256, rsa",
        "2a864886f70d01010c": b"sha384, rsa",
        "2a864886f70d01010d": b"sha512, rsa",
        "2a864886f70d010105": b"sha1, rsa",
        "2a864886f70d010104": b"md5, rsa",
        "2a864886f70d010102": b"md2, rsa",
        "2a864886f70d01010a": b"sha256, rsa-pss",
        "2a8648ce3d040302": b"ecdsa, sha256",
        "2a8648ce3d040303": b"ecdsa, sha384",
        "2a8648ce3d040304": b"ecdsa, sha512",
        "2a8648ce3d0401": b"ecdsa, sha1",
        "2b6570": b"ed25519",
        "2a8648ce380403": b"dsa, sha1",
        "608648016503040302": b"dsa, sha256",
    }.items()
}
_UNKNOWN = b"unknown"

_MEMBER_NAMES = {
    der.AIA: "authority_info_access",
    der.AKI: "authority_key_identifier",
    der.BASIC_CONSTRAINTS: "basic_constraints",
    der.POLICIES: "certificate_policies",
    der.EXTENDED_KEY_USAGE: "extended_key_usage",
    der.KEY_USAGE: "key_usage",
}

# A subject that is one commonName of up to 114 bytes, which most are: 30 L 31 L-2 30 L-4 06 03 55 04 03 tag L-11
_SINGLE_HEAD = 13
_SINGLE_OID = int.from_bytes(bytes.fromhex("0603550403"), "little")
_SINGLE_STRINGS = (0x0C, 0x13, 0x16)  # UTF8String, PrintableString, IA5String


class Certificates:
    """n certificates as they were submitted, `ders`; they lie in `data` at the spans `cert`, one behind the other.

    Lists have one item per certificate; text is UTF-8 bytes. None stands for what is missing or
    cannot be read. Nothing here raises for what a certificate holds.
    """

    def __init__(self, ders: Sequence[bytes]) -> None:
        self.ders = ders
        # Nothing but certificates, so that what the walk reads here and there is near in memory
        self.data, self.cert = der.joined(ders)
        self.octets = Octets(self.data)
        self.fields = der.walk(self.octets, self.cert)
        self._names_cut = 0
        self._members: dict[int, list[bytes]] = {}
        self._salvage()

    def __len__(self) -> int:
        return len(self.cert.start)

    def _salvage(self) -> None:
        """Read one by one what the walk did not take."""
        fields = self.fields
        found: list[Int64Array] = []
        for row in np.flatnonzero(~fields.walked).tolist():
            rescued = lenient.salvage(self.data, int(self.cert.start[row]), int(self.cert.stop[row]))
            lenient.fill(fields, row, rescued)
            found.append(_name_rows(row, rescued.names))
            self._names_cut += rescued.names_cut
        if found:
            _merge_names(fields, np.concatenate(found))

    @lazy
    def sha1(self) -> NDArray[np.uint8]:
        """(n, 20): SHA-1 of the DER."""
        new = hashlib.sha1
        return np.frombuffer(b"".join([new(d).digest() for d in self.ders]), np.uint8).reshape(-1, 20)

    @lazy
    def sha256(self) -> NDArray[np.uint8]:
        """(n, 32): SHA-256 of the DER."""
        new = hashlib.sha256
        return np.frombuffer(b"".join([new(d).digest() for d in self.ders]), np.uint8).reshape(-1, 32)

    @lazy
    def serial_number(self) -> list[bytes | None]:
        """Upper hex, an even number of digits."""
        return integer_hex(self.octets.bytes, self.fields.serial)

    @property
    def not_before(self) -> Int64Array:
        """Unix seconds, NO_TIME where missing."""
        return self.fields.not_before

    @property
    def not_after(self) -> Int64Array:
        """Unix seconds, NO_TIME where missing."""
        return self.fields.not_after

    @lazy
    def signature_algorithm(self) -> list[bytes | None]:
        """`sha256, rsa` and so on, `unknown` for others."""
        get = _SIGNATURE_ALGORITHMS.get
        oids = self.optional_slices(self.fields.signature_oid.start, self.fields.signature_oid.stop)
        return [None if oid is None else get(oid, _UNKNOWN) for oid in oids]

    @lazy
    def is_ca(self) -> list[bool]:
        """Whether basicConstraints say that it is a CA."""
        values = self.extension(der.BASIC_CONSTRAINTS)
        return [value is not None and IS_CA[value] for value in values]

    @lazy
    def issuer(self) -> list[ParsedName]:
        """The issuer; EMPTY_NAME where it is missing."""
        values = self.optional_slices(*self.fields.issuer)
        return [EMPTY_NAME if value is None else ISSUERS[value] for value in values]

    @lazy
    def single_name(self) -> list[bytes | None]:
        """The commonName where it is all of the subject and plain text: the common case, read for all rows at once."""
        start, stop = self.fields.subject.start, self.fields.subject.stop
        size = stop - start
        words = self.octets.words
        at = np.maximum(start, 0)
        head, oid = words[at], words[at + 6]
        expected = 0x30 | (size - 2) << 8 | 0x31 << 16 | (size - 4) << 24 | 0x30 << 32 | (size - 6) << 40
        fits = (start >= 0) & (size > _SINGLE_HEAD) & (size < 0x80) & (head & 0xFFFFFFFFFFFF == expected)
        fits &= (oid & 0xFFFFFFFFFF == _SINGLE_OID) & ((oid >> 48) & 0xFF == size - _SINGLE_HEAD)
        fits &= np.isin((oid >> 40) & 0xFF, _SINGLE_STRINGS)
        names = self.optional_slices(np.where(fits, start + _SINGLE_HEAD, -1), stop)
        if b"".join([name for name in names if name is not None]).translate(None, PLAIN):
            return [name if name is not None and is_plain(name) else None for name in names]
        return names

    @lazy
    def subject(self) -> list[ParsedName | None]:
        """The subject where `single_name` does not say it all; EMPTY_NAME where it is missing."""
        single = np.array([name is not None for name in self.single_name], np.bool_)
        start, stop = self.fields.subject
        values = self.optional_slices(np.where(single, -1, start), stop)
        return [
            None if alone else EMPTY_NAME if value is None else SUBJECTS[value]
            for alone, value in zip(single.tolist(), values, strict=True)
        ]

    @lazy
    def common_name(self) -> list[bytes | None]:
        """The last commonName of the subject."""
        pairs = zip(self.single_name, self.subject, strict=True)
        return [single if subject is None else subject.common_name for single, subject in pairs]

    @lazy
    def subject_aggregated(self) -> list[bytes]:
        """`/C=…/CN=…`, empty if there is none."""
        pairs = zip(self.single_name, self.subject, strict=True)
        return [b"/CN=%b" % (single or b"") if subject is None else subject.aggregated for single, subject in pairs]

    @lazy
    def dns_only(self) -> BoolArray:
        """Which certificates have no other subject alternative names than DNS names."""
        others = np.bincount(self.fields.name_row[self.fields.name_tag != der.DNS], minlength=len(self))
        alone: BoolArray = others == 0
        return alone

    @lazy
    def dns_names(self) -> list[list[bytes]]:
        """The DNS names among the subject alternative names, in their order."""
        fields = self.fields
        chosen = fields.name_tag == der.DNS
        names = Spans(fields.name.start[chosen], fields.name.stop[chosen]).slices(self.data)
        if not b"".join(names).isascii():
            names = [decode_text(der.DNS, name).encode() for name in names]
        bounds = np.searchsorted(fields.name_row[chosen], np.arange(len(self) + 1)).tolist()
        return [names[a:b] for a, b in pairwise(bounds)]

    @lazy
    def all_domains(self) -> list[list[bytes]]:
        """The commonName, if not of a CA and not empty, then the DNS names, without repetition."""
        names = self.fields.name
        rows = zip(self.common_name, self.is_ca, self.dns_names, strict=True)
        if (names.start == names.stop).any():
            return [_domains(common_name, is_ca, [name for name in dns if name]) for common_name, is_ca, dns in rows]
        return [_domains(common_name, is_ca, dns) for common_name, is_ca, dns in rows]

    def extension(self, slot: int) -> list[bytes | None]:
        """The value of an extension (content of its OCTET STRING)."""
        return self.optional_slices(self.fields.extension_start[slot], self.fields.extension_stop[slot])

    def optional_slices(self, start: Int64Array, stop: Int64Array) -> list[bytes | None]:
        """The bytes of each range, None where start is -1."""
        data = self.data
        return [data[a:b] if a >= 0 else None for a, b in zip(start.tolist(), stop.tolist(), strict=True)]

    def members(self, slot: int) -> list[bytes]:
        """`"key":"text",` of an extension for the message's object, empty where it is missing or cannot be read."""
        known = self._members.get(slot)
        if known is None:
            table = MEMBERS[slot]
            known = self._members[slot] = [b"" if value is None else table[value] for value in self.extension(slot)]
        return known

    def failures(self) -> Counter[str]:
        """How many values are missing that every certificate has, or are there and give nothing to show, by field.

        `certificate`: nothing could be read. `names`: subject alternative names, also where there are too many.
        """
        fields = self.fields
        lost = {
            "serial_number": fields.serial.start < 0,
            "signature_algorithm": fields.signature_oid.start < 0,
            "issuer": fields.issuer.start < 0,
            "subject": fields.subject.start < 0,
            "not_before": fields.not_before == NO_TIME,
            "not_after": fields.not_after == NO_TIME,
        }
        nothing = np.logical_and.reduce(list(lost.values()))
        counts = {name: int(np.count_nonzero(column & ~nothing)) for name, column in lost.items()}
        counts["certificate"] = int(np.count_nonzero(nothing))
        nameless = np.bincount(fields.name_row, minlength=len(self)) == 0
        counts["names"] = self._names_cut + int(np.count_nonzero((fields.extension_start[der.SAN] >= 0) & nameless))
        for slot, name in _MEMBER_NAMES.items():
            there = int(np.count_nonzero(fields.extension_start[slot] >= 0))
            counts[name] = there - sum(map(bool, self.members(slot)))
        return Counter({name: count for name, count in counts.items() if count})


def _domains(common_name: bytes | None, is_ca: bool, names: list[bytes]) -> list[bytes]:
    """`names` are not empty."""
    if common_name and not is_ca:
        # The common cases first: the common name is the first of one or two names
        if names and names[0] == common_name and (len(names) == 1 or (len(names) == 2 and names[1] != common_name)):
            return names
        return list(dict.fromkeys((common_name, *names)))
    return names if len(names) < 2 else list(dict.fromkeys(names))


def _name_rows(row: int, names: list[lenient.Name]) -> Int64Array:
    """(k, 4): row, tag, start, stop of each name."""
    rows = np.array(names, np.int64).reshape(-1, 3)
    return np.insert(rows, 0, row, axis=1)


def _merge_names(fields: Fields, found: Int64Array) -> None:
    """Add (row, tag, start, stop) of salvaged names, each certificate's in its own order."""
    row = np.concatenate([fields.name_row, found[:, 0]])
    order = np.argsort(row, kind="stable")
    fields.name_row = row[order]
    fields.name_tag = np.concatenate([fields.name_tag, found[:, 1]])[order]
    fields.name = Spans(
        np.concatenate([fields.name.start, found[:, 2]])[order],
        np.concatenate([fields.name.stop, found[:, 3]])[order],
    )
