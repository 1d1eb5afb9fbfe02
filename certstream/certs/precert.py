"""Whether the precertificate that was submitted is the one that its log's hash covers (RFC 6962 §3.2).

The hash of a precertificate's entry covers a TBSCertificate: that of the precertificate without the poison extension
and, where a Precertificate Signing Certificate signed it, with issuer and authority key identifier of that one's
issuer. The precertificate itself, which messages and archive show, no hash covers: so both are compared.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import lru_cache
from typing import Final

import numpy as np

from certstream.certs import der
from certstream.certs.columns import Certificates
from certstream.certs.der import BoolArray
from certstream.certs.lenient import Element, children, read_element
from certstream.ct.rfc6962 import u24
from certstream.ct.types import PRECERT_ENTRY, EntryBatch, Int64Array, Spans

# Extension { OID, critical TRUE, OCTET STRING { NULL } }, as every precertificate has it
_POISON: Final = bytes.fromhex("3013060a2b06010401d6790204030101ff04020500")
_POISON_VALUE: Final = len(_POISON) - 2  # where its value begins
_POISON_WORDS: Final = (0, 8, len(_POISON) - 8)  # of eight bytes, which are all of it
_PARTS: Final = 5  # header, fields, headers of the extensions, those before the poison, those after it
_TOGETHER: Final = 256  # rows: what is put together of more is beyond the cache
_TBS_OFFSET: Final = 48  # of a leaf's TBSCertificate, from the 0x00 that a leaf hash begins with
_SIGNING_PURPOSE: Final = bytes.fromhex(
    "060a2b06010401d679020404"
)  # Precertificate Signing Certificate (RFC 6962 §3.1)
_AKI_OID: Final = bytes.fromhex("551d23")
_EXTENDED_KEY_USAGE_OID: Final = bytes.fromhex("551d25")
_VERSION: Final = 0xA0


def altered_precertificates(
    batches: Sequence[EntryBatch], certs: Certificates, issuer: Callable[[int], bytes | None]
) -> list[int]:
    """Rows whose precertificate is not that of the leaf, ascending; `certs` are the certificates of all the batches.

    `issuer` gives the DER of the first certificate of a row's chain, None where it is not known; it is asked for few
    rows. What cannot be read counts as altered.
    """
    entry_type = np.concatenate([batch.entry_type for batch in batches])
    rows = np.flatnonzero(entry_type == PRECERT_ENTRY)
    leaves = [tbs for batch in batches for tbs in _leaf_tbs(batch)]
    return sorted(
        row
        for at in range(0, len(rows), _TOGETHER)
        for row, leaf in _unlike(certs, rows[at : at + _TOGETHER], leaves[at : at + _TOGETHER])
        if expected_tbs(certs.ders[row], issuer(row)) != leaf
    )


def _leaf_tbs(batch: EntryBatch) -> list[bytes]:
    """The TBSCertificate in the leaf of each precertificate; its framing is known to hold."""
    rows = np.flatnonzero(batch.entry_type == PRECERT_ENTRY)
    start = batch.leaf.start[rows] + _TBS_OFFSET - len(batch.leaf_prefix)
    stop = start + u24(np.frombuffer(batch.data, np.uint8), start - 3)
    return Spans(start, stop).slices(batch.data)


def _unlike(certs: Certificates, rows: Int64Array, leaves: list[bytes]) -> Iterator[tuple[int, bytes]]:
    """The rows, with their leaves, that are not seen to be right at once."""
    usual = _is_usual(certs, rows)
    if not usual.all():
        yield from (
            (row, leaf) for row, leaf, fits in zip(rows.tolist(), leaves, usual.tolist(), strict=True) if not fits
        )
        leaves = [leaf for leaf, fits in zip(leaves, usual.tolist(), strict=True) if fits]
        rows = rows[usual]
    sizes, parts = _without_poison(certs, rows)
    if sizes == list(map(len, leaves)) and b"".join(parts) == b"".join(leaves):
        return  # as nearly always: nothing was put together for a row of its own
    for at, (row, leaf) in enumerate(zip(rows.tolist(), leaves, strict=True)):
        if leaf != b"".join(parts[at * _PARTS : (at + 1) * _PARTS]):
            yield row, leaf


def _is_usual(certs: Certificates, rows: Int64Array) -> BoolArray:
    """Which rows the walk took and are DER, with one poison extension as every precertificate has it, and others."""
    fields, words = certs.fields, certs.octets.words
    value = fields.extension_start[der.POISON, rows]
    size = fields.extensions.stop[rows] - fields.extensions.start[rows]
    usual: BoolArray = fields.walked[rows] & (value >= _POISON_VALUE) & (size > len(_POISON))
    poison = np.where(usual, value - _POISON_VALUE, 0)
    for at in _POISON_WORDS:
        usual &= words[poison + at] == int.from_bytes(_POISON[at : at + 8], "little", signed=True)
    return usual & _is_der(certs, rows)


def _is_der(certs: Certificates, rows: Int64Array) -> BoolArray:
    """Whether the lengths around the poison are minimal (X.690 §10.1): of TBSCertificate, [3] and SEQUENCE."""
    element, fields = certs.octets.element, certs.fields
    tbs, tbs_stop = fields.tbs.start[rows], fields.tbs.stop[rows]
    start, stop = fields.extensions.start[rows], fields.extensions.stop[rows]
    _, body, _, _ = element(tbs, tbs_stop)
    outer, listed, outer_stop, _ = element(stop - _with_header(_with_header(stop - start)), stop)
    inner, content, inner_stop, _ = element(listed, stop)
    minimal: BoolArray = (body == tbs_stop - _content(tbs_stop - tbs)) & (content == start)
    minimal &= (outer == der.EXTENSIONS) & (outer_stop == stop) & (inner == der.SEQUENCE) & (inner_stop == stop)
    return minimal


def _without_poison(certs: Certificates, rows: Int64Array) -> tuple[list[int], list[bytes]]:
    """The TBSCertificate of each precertificate of the usual form, without poison: its size, and it in _PARTS parts."""
    fields, data = certs.fields, certs.data
    tbs, tbs_stop = fields.tbs.start[rows], fields.tbs.stop[rows]
    start, stop = fields.extensions.start[rows], fields.extensions.stop[rows]
    poison = fields.extension_start[der.POISON, rows] - _POISON_VALUE
    body = tbs_stop - _content(tbs_stop - tbs)
    tagged = stop - _with_header(_with_header(stop - start))  # where [3] begins
    left = stop - start - len(_POISON)
    content = tagged - body + _with_header(_with_header(left))
    parts = [b""] * (_PARTS * len(rows))
    parts[0::_PARTS] = map(_sequence_header, content.tolist())
    parts[1::_PARTS] = Spans(body, tagged).slices(data)
    parts[2::_PARTS] = map(_extension_headers, left.tolist())
    parts[3::_PARTS] = Spans(start, poison).slices(data)
    parts[4::_PARTS] = Spans(poison + len(_POISON), stop).slices(data)
    return _with_header(content).tolist(), parts


def _with_header(size: Int64Array) -> Int64Array:
    """Bytes of an element in DER whose content has `size` bytes."""
    return size + 2 + (size > 0x7F) + (size > 0xFF) + (size > 0xFFFF)


def _content(size: Int64Array) -> Int64Array:
    """Bytes of the content of an element in DER that has `size` bytes."""
    return size - 2 - (size > 0x7F + 2) - (size > 0xFF + 3) - (size > 0xFFFF + 4)


def _header(tag: int, size: int) -> bytes:
    """Tag and length in DER (X.690 §10.1)."""
    if size < 0x80:
        return bytes((tag, size))
    length = size.to_bytes((size.bit_length() + 7) // 8)
    return bytes((tag, 0x80 | len(length))) + length


@lru_cache(maxsize=4096)
def _sequence_header(size: int) -> bytes:
    return _header(der.SEQUENCE, size)


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
