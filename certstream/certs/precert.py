"""Whether the precertificate that was submitted is the one that its log's hash covers (RFC 6962 §3.2).

The hash of a precertificate's entry covers a TBSCertificate: that of the precertificate without the poison extension
and, where a Precertificate Signing Certificate signed it, with issuer and authority key identifier of that one's
issuer. The precertificate itself, which messages and archive show, no hash covers: so both are compared.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from functools import lru_cache
from itertools import islice
from typing import Any, Final

import numpy as np

from certstream.certs import der
from certstream.certs.columns import Certificates
from certstream.certs.der import BoolArray
from certstream.certs.lenient import Element, children, read_element
from certstream.ct.types import PRECERT_ENTRY, EntryBatch, Int64Array

# Extension { OID, critical TRUE, OCTET STRING { NULL } }, as every precertificate has it
_POISON: Final = bytes.fromhex("3013060a2b06010401d6790204030101ff04020500")
_POISON_VALUE: Final = len(_POISON) - 2  # where its value begins
_TBS_OFFSET: Final = 45  # of the length of a leaf's TBSCertificate, from the 0x00 that a leaf hash begins with
_LENGTH_BYTES: Final = 3
_SIZES: Final = 1 << 12  # headers that are remembered: certificates are of few hundred sizes
_SIGNING_PURPOSE: Final = bytes.fromhex(
    "060a2b06010401d679020404"
)  # Precertificate Signing Certificate (RFC 6962 §3.1)
_ISSUERS: Final = 1 << 10  # remembered, each with its bytes
_NO_CHAIN: Final = 0
_SERIAL_OFFSET: Final = 18  # in a chain, of its first certificate's serial number
_AKI_OID: Final = bytes.fromhex("551d23")
_EXTENDED_KEY_USAGE_OID: Final = bytes.fromhex("551d25")
_VERSION: Final = 0xA0


def altered_precertificates(
    batches: Sequence[EntryBatch], certs: Certificates, issuer: Callable[[int], bytes | None]
) -> list[int]:
    """Rows whose precertificate is not that of the leaf, ascending; `certs` are the certificates of all the batches.

    `issuer` gives the DER of the first certificate of a row's chain, None where it is not known; it is asked for one
    row of each issuer, and few others. What cannot be read counts as altered, but where the leaf holds the very same
    bytes: the hash covers them all.
    """
    is_precert = [batch.entry_type == PRECERT_ENTRY for batch in batches]
    rows = np.flatnonzero(np.concatenate(is_precert))
    leaf = np.concatenate([batch.leaf.start - len(batch.leaf_prefix) for batch in batches])[rows] + _TBS_OFFSET
    usual = _is_usual(certs, rows) & ~_by_signing_certificates(batches, is_precert, rows, issuer)
    columns = rows, leaf, usual, *_pieces(certs, rows)
    precerts = zip(*(column.tolist() for column in columns), strict=True)
    found: list[int] = []
    for batch, chosen in zip(batches, is_precert, strict=True):
        for row, at in _doubtful(certs.data, batch.data, islice(precerts, int(chosen.sum()))):
            start = at + _LENGTH_BYTES
            tbs = batch.data[start : start + int.from_bytes(batch.data[at:start])]
            if certs.ders[row] != tbs and expected_tbs(certs.ders[row], issuer(row)) != tbs:
                found.append(row)
    return found


def _doubtful(cert: bytes, data: bytes, precerts: Iterable[tuple[Any, ...]]) -> list[tuple[int, int]]:
    """The rows that are not seen to be right at once, and where in `data` the length of their leaf's TBSCertificate is.

    What is right is the certificate's bytes in three pieces, behind headers that fit: where they lie follows from the
    walk, for all rows together, so that each row's bytes are read but once.
    """
    there, join, tbs_header, extension_headers = data.startswith, b"".join, _tbs_header, _extension_headers
    return [
        (row, at)
        for row, at, is_usual, content, tagged, size, left, start, poison, after, stop in precerts
        if not is_usual
        or cert[poison:after] != _POISON
        or not there(
            join((
                tbs_header(size), cert[content:tagged], extension_headers(left), cert[start:poison], cert[after:stop]
            )),
            at,
        )
    ]  # fmt: skip


def _by_signing_certificates(
    batches: Sequence[EntryBatch],
    is_precert: Sequence[BoolArray],
    rows: Int64Array,
    issuer: Callable[[int], bytes | None],
) -> BoolArray:
    """Which rows Precertificate Signing Certificates signed: their leaves hold other names than they do."""
    marks = np.concatenate([_issuer_marks(batch, chosen) for batch, chosen in zip(batches, is_precert, strict=True)])
    found, first = np.unique(marks, return_index=True)
    row_of = dict(zip(found.tolist(), rows[first].tolist(), strict=True))
    row_of.pop(_NO_CHAIN, None)
    signers = [mark for mark, row in row_of.items() if (signer := issuer(row)) and _signs_precertificates(signer)]
    return np.isin(marks, signers)


def _issuer_marks(batch: EntryBatch, chosen: BoolArray) -> Int64Array:
    """Eight bytes of each chosen entry's chain by which issuers are told apart, _NO_CHAIN where none need be.

    Nobody gains by an issuer that has the bytes of another: no hash covers a chain, which may be any as well.
    """
    start, stop = batch.chain.start[chosen], batch.chain.stop[chosen]
    if batch.log.kind == "static" and not any(map(_signs_precertificates, batch.issuers.values())):
        return np.full(len(start), _NO_CHAIN)  # as it is but for few, so that no row has to be looked at
    words = der.Octets(batch.data).words
    at = start if batch.log.kind == "static" else start + _SERIAL_OFFSET
    marks: Int64Array = np.where(start < stop, words[np.minimum(at, len(words) - 1)], _NO_CHAIN)
    return marks


def _is_usual(certs: Certificates, rows: Int64Array) -> BoolArray:
    """Which rows the walk took and are DER around the poison extension, which may be as every one is, beside others."""
    fields = certs.fields
    stop, start, listed = fields.extensions.stop[rows], fields.extensions.start[rows], fields.extensions_listed[rows]
    tagged, content = fields.extensions_tagged[rows], fields.tbs_content[rows]
    usual: BoolArray = fields.walked[rows] & (stop - start > len(_POISON))
    usual &= fields.extension_start[der.POISON, rows] - _POISON_VALUE >= start
    for header, behind in ((fields.tbs.start[rows], content), (tagged, listed), (listed, start)):
        usual &= behind - header == _header_bytes(stop - behind)  # minimal (X.690 §10.1)
    return usual


def _pieces(certs: Certificates, rows: Int64Array) -> tuple[Int64Array, ...]:
    """For each precertificate of the usual form, where what its leaf holds as well lies.

    Where the fields before the extensions begin and end, how many bytes the leaf's TBSCertificate and its extensions
    have, and the bounds of the extensions before and behind the poison.
    """
    fields = certs.fields
    content, tagged = fields.tbs_content[rows], fields.extensions_tagged[rows]
    start, stop = fields.extensions.start[rows], fields.extensions.stop[rows]
    poison = fields.extension_start[der.POISON, rows] - _POISON_VALUE
    left = stop - start - len(_POISON)
    listed = left + _header_bytes(left)
    size = tagged - content + listed + _header_bytes(listed)
    return content, tagged, size, left, start, poison, poison + len(_POISON), stop


def _header_bytes(size: Int64Array) -> Int64Array:
    """Bytes of tag and length in DER, before `size` bytes of content."""
    return 2 + (size > 0x7F) + (size > 0xFF) + (size > 0xFFFF)


@lru_cache(_SIZES)
def _tbs_header(size: int) -> bytes:
    """What a leaf has before `size` bytes of content of a TBSCertificate: its length, and its header."""
    header = _header(der.SEQUENCE, size)
    return (len(header) + size).to_bytes(_LENGTH_BYTES) + header


def _header(tag: int, size: int) -> bytes:
    """Tag and length in DER (X.690 §10.1)."""
    if size < 0x80:
        return bytes((tag, size))
    length = size.to_bytes((size.bit_length() + 7) // 8)
    return bytes((tag, 0x80 | len(length))) + length


@lru_cache(_SIZES)
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


@lru_cache(_ISSUERS)
def _signs_precertificates(certificate: bytes) -> bool:
    if _SIGNING_PURPOSE not in certificate:
        return False
    tbs = _tbs(certificate) or []
    usages = [
        each for each in _extensions(certificate, tbs) or () if _oid(certificate, each) == _EXTENDED_KEY_USAGE_OID
    ]
    return any(_SIGNING_PURPOSE in certificate[each.start : each.stop] for each in usages)
