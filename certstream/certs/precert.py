"""Whether the precertificate that was submitted is the one that its log's hash covers (RFC 6962 §3.2).

The hash of a precertificate's entry covers a TBSCertificate: that of the precertificate without the poison extension
and, where a Precertificate Signing Certificate signed it, with issuer and authority key identifier of that one's
issuer. The precertificate itself, which messages and archive show, no hash covers: so both are compared.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from typing import Final

import numpy as np

from certstream.certs import der
from certstream.certs.columns import Certificates
from certstream.certs.lenient import Element, children, read_element
from certstream.ct.types import PRECERT_ENTRY, EntryBatch, Int64Array

# Extension { OID, critical TRUE, OCTET STRING { NULL } }, as every precertificate has it
_POISON: Final = bytes.fromhex("3013060a2b06010401d6790204030101ff04020500")
_POISON_VALUE: Final = len(_POISON) - 2  # where its value begins
_TBS_OFFSET: Final = 48  # of a leaf's TBSCertificate, from the 0x00 that a leaf hash begins with
_SIGNING_PURPOSE: Final = bytes.fromhex(
    "060a2b06010401d679020404"
)  # Precertificate Signing Certificate (RFC 6962 §3.1)
_AKI_OID: Final = bytes.fromhex("551d23")
_EXTENDED_KEY_USAGE_OID: Final = bytes.fromhex("551d25")
_VERSION: Final = 0xA0


def altered_precertificates(batch: EntryBatch, certs: Certificates, issuer: Callable[[int], bytes | None]) -> list[int]:
    """Rows of a batch whose precertificate is not that of the leaf, ascending; `certs` are the batch's certificates.

    `issuer` gives the DER of the first certificate of a row's chain, None where it is not known; it is asked for few
    rows. What cannot be read counts as altered.
    """
    rows = np.flatnonzero(batch.entry_type == PRECERT_ENTRY)
    leaves = _leaf_tbs(batch, rows)
    quick = _quick(certs, rows)
    doubtful = [row for row, leaf, expected in zip(rows.tolist(), leaves, quick, strict=True) if leaf != expected]
    by_row = dict(zip(rows.tolist(), leaves, strict=True))
    return [row for row in doubtful if expected_tbs(certs.ders[row], issuer(row)) != by_row[row]]


def _leaf_tbs(batch: EntryBatch, rows: Int64Array) -> list[bytes]:
    """The TBSCertificate in the leaf of each precertificate; its framing is known to hold."""
    data = batch.data
    at = batch.leaf.start[rows] + _TBS_OFFSET - len(batch.leaf_prefix)
    return [data[a : a + int.from_bytes(data[a - 3 : a])] for a in at.tolist()]


def _quick(certs: Certificates, rows: Int64Array) -> list[bytes | None]:
    """What the leaf must hold where a precertificate is of the usual form; None for the others.

    All positions are computed for all rows at once; put together are then five pieces of each.
    """
    fields, data = certs.fields, certs.data
    start, stop = fields.extensions.start[rows], fields.extensions.stop[rows]
    value = fields.extension_start[der.POISON, rows]
    usual = fields.walked[rows] & (value >= 0) & (stop - start > len(_POISON))
    _, outer, outer_stop, _ = certs.octets.element(certs.cert.start[rows], certs.cert.stop[rows])
    _, body, _, _ = certs.octets.element(outer, outer_stop)
    listed = _with_header(stop - start)
    tagged = start - (listed - (stop - start)) - (_with_header(listed) - listed)  # where [3] begins, in DER
    poison = value - _POISON_VALUE
    columns = (usual, poison, body, tagged, start, poison, stop)
    return [
        _without_poison(data, *positions) if fits and data[at : at + len(_POISON)] == _POISON else None
        for fits, at, *positions in zip(*(column.tolist() for column in columns), strict=True)
    ]


def _without_poison(data: bytes, body: int, tagged: int, start: int, poison: int, stop: int) -> bytes:
    rest = poison + len(_POISON)
    headers = _extension_headers(stop - start - len(_POISON))
    fields = data[body:tagged]
    size = len(fields) + len(headers) + stop - start - len(_POISON)
    return b"".join((_header(0x30, size), fields, headers, data[start:poison], data[rest:stop]))


def _with_header(size: Int64Array) -> Int64Array:
    """Bytes of an element in DER whose content has `size` bytes."""
    return size + 2 + (size > 0x7F) + (size > 0xFF) + (size > 0xFFFF)


@lru_cache(maxsize=4096)
def _header(tag: int, size: int) -> bytes:
    """Tag and length in DER (X.690 §10.1)."""
    if size < 0x80:
        return bytes((tag, size))
    length = size.to_bytes((size.bit_length() + 7) // 8)
    return bytes((tag, 0x80 | len(length))) + length


@lru_cache(maxsize=4096)
def _extension_headers(size: int) -> bytes:
    """[3] and SEQUENCE before `size` bytes of extensions."""
    listed = _header(der.SEQUENCE, size)
    return _header(der.EXTENSIONS, len(listed) + size) + listed


def expected_tbs(precertificate: bytes, issuer: bytes | None) -> bytes | None:
    """The TBSCertificate that the entry of a precertificate must hold, None where it cannot be read or is not DER.

    `issuer` is the certificate that signed it, which matters only where that is a Precertificate Signing Certificate.
    """
    tbs = _tbs(precertificate)
    listed = _extensions(precertificate, tbs or [])
    if tbs is None or listed is None:
        return None
    parts = [precertificate[part.outer : part.stop] for part in tbs[:-1]]
    extensions = [(_oid(precertificate, each), precertificate[each.outer : each.stop]) for each in listed]
    submitted = _written(parts, extensions)
    if precertificate[tbs[-1].stop - len(submitted) : tbs[-1].stop] != submitted:
        return None  # lengths that are not minimal, or reach elsewhere
    kept = [(oid, text) for oid, text in extensions if oid != der.POISON_OID]
    if len(extensions) - len(kept) != 1:
        return None
    if issuer is not None and _signs_precertificates(issuer):
        _as_issued_by(issuer, parts, kept)
    return _written(parts, kept)


def _written(parts: list[bytes], extensions: list[tuple[bytes | None, bytes]]) -> bytes:
    """A TBSCertificate in DER."""
    content = b"".join(text for _, text in extensions)
    body = b"".join((*parts, _extension_headers(len(content)) + content if content else b""))
    return _header(der.SEQUENCE, len(body)) + body


def _as_issued_by(signer: bytes, parts: list[bytes], extensions: list[tuple[bytes | None, bytes]]) -> None:
    """Put in issuer and authority key identifier of a Precertificate Signing Certificate, as logs do it.

    The identifier is replaced by that one's, removed where it has none, added at the end where only it has one
    (BuildPrecertTBS of certificate-transparency-go's x509, which most logs run).
    """
    theirs = _tbs(signer) or []
    issuer = _issuer_place(theirs)
    if issuer < len(theirs):
        parts[3] = signer[theirs[issuer].outer : theirs[issuer].stop]
    identifier = next((each for each in _extensions(signer, theirs) or () if _oid(signer, each) == _AKI_OID), None)
    given = [] if identifier is None else [(_AKI_OID, signer[identifier.outer : identifier.stop])]
    at = next((at for at, (oid, _) in enumerate(extensions) if oid == _AKI_OID), len(extensions))
    extensions[at : at + 1] = given


def _issuer_place(tbs: list[Element]) -> int:
    return 3 if tbs and tbs[0].tag == _VERSION else 2


def _tbs(certificate: bytes) -> list[Element] | None:
    """The elements of a certificate's TBSCertificate, all of it."""
    outer = read_element(certificate, 0, len(certificate))
    tbs = None if outer is None else read_element(certificate, outer.start, outer.stop)
    return None if tbs is None or tbs.tag != der.SEQUENCE else children(certificate, tbs.start, tbs.stop)


def _extensions(certificate: bytes, tbs: list[Element]) -> list[Element] | None:
    """The extensions of a certificate whose TBSCertificate has these elements; None where it has none in order."""
    if len(tbs) < 5 or tbs[-1].tag != der.EXTENSIONS:
        return None
    listed = read_element(certificate, tbs[-1].start, tbs[-1].stop)
    if listed is None or listed.tag != der.SEQUENCE or listed.stop != tbs[-1].stop:
        return None
    return children(certificate, listed.start, listed.stop)


def _oid(certificate: bytes, extension: Element) -> bytes | None:
    oid = read_element(certificate, extension.start, extension.stop)
    return None if oid is None or oid.tag != der.OID else certificate[oid.start : oid.stop]


def _signs_precertificates(certificate: bytes) -> bool:
    tbs = _tbs(certificate) or []
    usages = [
        each for each in _extensions(certificate, tbs) or () if _oid(certificate, each) == _EXTENDED_KEY_USAGE_OID
    ]
    return any(_SIGNING_PURPOSE in certificate[each.start : each.stop] for each in usages)
