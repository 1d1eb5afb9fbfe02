"""Stream messages: columns → JSON, in the profile of certstream-server-rust and -go.

A message is joined from ready pieces of bytes: most of them stand in a table already because issuers, extension
values and chains repeat.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import repeat

import numpy as np
import orjson

from certstream.certs import der
from certstream.certs.columns import Certificates
from certstream.certs.extensions import general_name_text, read_subject_key_identifier
from certstream.certs.hexadecimal import colon_hex, fixed_slices
from certstream.certs.names import EMPTY_NAME
from certstream.certs.strings import is_plain, json_string
from certstream.certs.times import NO_TIME
from certstream.ct.types import Int64Array

_SKI_BYTES = 22  # 04 14 and the SHA-1 that RFC 5280 §4.2.1.2 suggests
_BOOLEANS = {False: b"false", True: b"true"}
_JOIN = b"".join


def json_numbers(values: Sequence[float | None]) -> list[bytes]:
    """Each number as JSON, None as null."""
    return orjson.dumps(values)[1:-1].split(b",") if values else []


def leaf_heads(certs: Certificates) -> list[bytes]:
    """`{"subject":…` to `"is_ca":…` of each certificate, without closing brace."""
    sha1 = fixed_slices(colon_hex(certs.sha1), 59)
    sha256 = fixed_slices(colon_hex(certs.sha256), 95)
    return [
        _JOIN(
            (b'{"subject":', subject, b',"issuer":', issuer.json, b',"serial_number":', serial,
             b',"not_before":', before, b',"not_after":', after, b',"fingerprint":"', finger, b'","sha1":"', finger,
             b'","sha256":"', digest, b'","signature_algorithm":"', algorithm or b"unknown",
             b'","is_ca":', _BOOLEANS[is_ca])
        )
        for subject, issuer, serial, before, after, finger, digest, algorithm, is_ca in zip(
            _subjects(certs), certs.issuer, _serials(certs), _times(certs.not_before), _times(certs.not_after),
            sha1, sha256, certs.signature_algorithm, certs.is_ca, strict=True,
        )
    ]  # fmt: skip


def _subjects(certs: Certificates) -> list[bytes]:
    return [
        b'{"CN":"%b","aggregated":"/CN=%b"}' % (single, single) if single is not None else (parsed or EMPTY_NAME).json
        for single, parsed in zip(certs.single_name, certs.subject, strict=True)
    ]


def _serials(certs: Certificates) -> list[bytes]:
    return [b"null" if serial is None else b'"%b"' % serial for serial in certs.serial_number]


def _times(column: Int64Array) -> list[bytes]:
    return json_numbers([None if value == NO_TIME else value for value in column.tolist()])


def domain_lists(certs: Certificates) -> list[bytes]:
    """`["a","b"]`: all_domains of each certificate."""
    if is_plain(_JOIN(map(_JOIN, certs.all_domains))):
        return [b'["%b"]' % b'","'.join(names) if names else b"[]" for names in certs.all_domains]
    return [orjson.dumps([name.decode() for name in names]) for names in certs.all_domains]


def extension_objects(certs: Certificates, poisoned: Sequence[bool]) -> list[bytes]:
    """The `extensions` object of each certificate; `poisoned`: it is a precertificate, whatever it says itself."""
    aia, aki, constraints, policies, extended, usage = (
        certs.members(slot)
        for slot in (der.AIA, der.AKI, der.BASIC_CONSTRAINTS, der.POLICIES, der.EXTENDED_KEY_USAGE, der.KEY_USAGE)
    )
    poison = (certs.fields.extension_start[der.POISON] >= 0) | np.array(poisoned, np.bool_)
    last = [b'"ctlPoisonByte":true,' if bit else b"" for bit in poison.tolist()]
    columns = (aia, aki, constraints, policies, extended, usage, _san_members(certs), _ski_members(certs), last)
    return [b"{%b}" % _JOIN(parts)[:-1] for parts in zip(*columns, strict=True)]


def _ski_members(certs: Certificates) -> list[bytes]:
    start, stop = certs.fields.extension_start[der.SKI], certs.fields.extension_stop[der.SKI]
    common = (stop - start == _SKI_BYTES) & (certs.octets.words[np.maximum(start, 0)] & 0xFFFF == 0x1404)
    rows = np.flatnonzero(common)
    digests = certs.octets.bytes[start[rows][:, None] + np.arange(2, _SKI_BYTES)]
    texts = iter(fixed_slices(colon_hex(digests, lower=True), 59))
    others = certs.optional_slices(np.where(common, -1, start), stop)
    return [
        b'"subjectKeyIdentifier":"keyid:%b",' % next(texts) if quick else _ski_member(value)
        for quick, value in zip(common.tolist(), others, strict=True)
    ]


def _ski_member(value: bytes | None) -> bytes:
    text = None if value is None else read_subject_key_identifier(value)
    return b"" if text is None else b'"subjectKeyIdentifier":%b,' % json_string(text)


def _san_members(certs: Certificates) -> list[bytes]:
    names = certs.dns_names
    plain = is_plain(_JOIN(map(_JOIN, names)))
    members = [b'"subjectAltName":"DNS:%b",' % b", DNS:".join(row) if row else b"" for row in names]
    special = ~certs.dns_only if plain else np.ones(len(certs), np.bool_)
    for row in np.flatnonzero(special).tolist():
        members[row] = _mixed_san_member(certs, row)
    return members


def _mixed_san_member(certs: Certificates, row: int) -> bytes:
    fields = certs.fields
    first, last = np.searchsorted(fields.name_row, (row, row + 1)).tolist()
    texts = [
        general_name_text(tag, certs.data[start:stop])
        for tag, start, stop in zip(
            fields.name_tag[first:last].tolist(),
            fields.name.start[first:last].tolist(),
            fields.name.stop[first:last].tolist(),
            strict=True,
        )
    ]
    shown = ", ".join(text for text in texts if text is not None)
    return b'"subjectAltName":%b,' % json_string(shown) if shown else b""


def chain_certificates(certs: Certificates) -> list[bytes]:
    """Each certificate as an element of `chain`: as leaf_cert, without all_domains and as_der."""
    objects = extension_objects(certs, list(repeat(False, len(certs))))
    return [b'%b,"extensions":%b}' % pair for pair in zip(leaf_heads(certs), objects, strict=True)]
