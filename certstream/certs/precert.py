"""Whether the precertificate that was submitted is the one that its log's hash covers (RFC 6962 §3.2).

The hash of a precertificate's entry covers a TBSCertificate: that of the precertificate without the poison extension
and, where a Precertificate Signing Certificate signed it, with issuer and authority key identifier of that one's
issuer. The precertificate itself, which messages and archive show, no hash covers: so both are compared.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Final

import numpy as np
from numpy.typing import NDArray

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
    rows. What cannot be read counts as altered, but where the leaf holds the very same bytes: the hash covers them all.
    """
    found: list[int] = []
    first = 0
    for batch in batches:
        at = np.flatnonzero(batch.entry_type == PRECERT_ENTRY)
        leaf = _leaf_tbs(batch, at)
        for number in _unlike(certs, first + at, batch.data, leaf):
            row, tbs = first + int(at[number]), batch.data[leaf.start[number] : leaf.stop[number]]
            if certs.ders[row] != tbs and expected_tbs(certs.ders[row], issuer(row)) != tbs:
                found.append(row)
        first += len(batch)
    return found


def _leaf_tbs(batch: EntryBatch, at: NDArray[np.intp]) -> Spans:
    """The TBSCertificate in the leaf of each of these precertificates; its framing is known to hold."""
    start = batch.leaf.start[at] + _TBS_OFFSET - len(batch.leaf_prefix)
    return Spans(start, start + u24(np.frombuffer(batch.data, np.uint8), start - 3))


def _unlike(certs: Certificates, rows: Int64Array, data: bytes, leaf: Spans) -> list[int]:
    """Which of the rows, by their place among `rows`, are not seen to be right at once.

    What is right is the certificate's bytes in three pieces, with headers between them that all rows are asked for
    together: nothing is put together for a row of its own.
    """
    usual = _is_usual(certs, rows)
    pieces, fits = _pieces(certs, rows, data, leaf)
    usual &= fits
    there, cert = data.startswith, certs.data
    seen = np.flatnonzero(usual)
    wrong = [
        number
        for number, a, b, c, d, e, f, at, behind, last in zip(
            seen.tolist(), *(each[seen].tolist() for each in pieces), strict=True
        )
        if not (there(cert[a:b], at) and there(cert[c:d], behind) and there(cert[e:f], last))
    ]
    return sorted([*np.flatnonzero(~usual).tolist(), *wrong])


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
    fields, words = certs.fields, certs.octets.words
    tbs, start = fields.tbs.start[rows], fields.extensions.start[rows]
    body, listed = fields.tbs.stop[rows] - tbs - 4, fields.extensions.stop[rows] - start
    # As practically always all of two bytes, which one comparison tells
    wrapped = _two_byte_header(der.EXTENSIONS, listed + 4) | _two_byte_header(der.SEQUENCE, listed) << 32
    minimal: BoolArray = (words[start - 8] == wrapped) & (listed > 0xFF) & (listed + 4 <= 0xFFFF)
    minimal &= (words[tbs] & 0xFFFFFFFF == _two_byte_header(der.SEQUENCE, body)) & (body <= 0xFFFF)
    others = np.flatnonzero(~minimal)
    if len(others):
        minimal[others] = _is_der_of_any_size(certs, rows[others])
    return minimal


def _two_byte_header(tag: int, size: Int64Array) -> Int64Array:
    """Tag, 0x82 and length, as the first four bytes of a little-endian word."""
    return tag | 0x8200 | (size >> 8 & 0xFF) << 16 | (size & 0xFF) << 24


def _is_der_of_any_size(certs: Certificates, rows: Int64Array) -> BoolArray:
    element, fields = certs.octets.element, certs.fields
    tbs, tbs_stop = fields.tbs.start[rows], fields.tbs.stop[rows]
    start, stop = fields.extensions.start[rows], fields.extensions.stop[rows]
    _, body, _, _ = element(tbs, tbs_stop)
    outer, listed, outer_stop, _ = element(stop - _with_header(_with_header(stop - start)), stop)
    inner, content, inner_stop, _ = element(listed, stop)
    minimal: BoolArray = (body == tbs_stop - _content(tbs_stop - tbs)) & (content == start)
    minimal &= (outer == der.EXTENSIONS) & (outer_stop == stop) & (inner == der.SEQUENCE) & (inner_stop == stop)
    return minimal


def _pieces(
    certs: Certificates, rows: Int64Array, data: bytes, leaf: Spans
) -> tuple[tuple[Int64Array, ...], BoolArray]:
    """For each precertificate of the usual form: the three pieces that its leaf holds as well, and where in `data`.

    The fields before the extensions, the extensions before the poison and those after it: six bounds, three places.
    Besides, of which rows the leaf is as long as it must be, and has the headers between them that it must have.
    """
    fields = certs.fields
    tbs, tbs_stop = fields.tbs.start[rows], fields.tbs.stop[rows]
    start, stop = fields.extensions.start[rows], fields.extensions.stop[rows]
    poison = fields.extension_start[der.POISON, rows] - _POISON_VALUE
    body = tbs_stop - _content(tbs_stop - tbs)
    tagged = stop - _with_header(_with_header(stop - start))  # where [3] begins
    left = stop - start - len(_POISON)
    listed = _with_header(left)
    content = tagged - body + _with_header(listed)
    fits: BoolArray = leaf.stop - leaf.start == _with_header(content)
    own = leaf.stop - content
    outer, inner = own + (tagged - body), leaf.stop - listed
    for tag, size, at in (
        (der.SEQUENCE, content, leaf.start),
        (der.EXTENSIONS, listed, outer),
        (der.SEQUENCE, left, inner),
    ):
        fits &= _has_header(data, at, tag, size)
    behind = leaf.stop - left
    after = poison + len(_POISON)
    return (body, tagged, start, poison, after, stop, own, behind, behind + (poison - start)), fits


def _has_header(data: bytes, at: Int64Array, tag: int, size: Int64Array) -> BoolArray:
    """Whether at these places of `data` a header in DER of that tag and these sizes, below 2**24, begins."""
    words = np.ndarray((max(0, len(data) - 7),), "<i8", buffer=data, strides=(1,))
    inside = (at >= 0) & (at < len(words))
    long = (size > 0x7F).astype(np.int64) + (size > 0xFF) + (size > 0xFFFF)  # bytes of the length behind its first
    swapped = np.where(long == 1, size, np.where(long == 2, size >> 8 | (size & 0xFF) << 8, _swapped(size)))
    expected = tag | np.where(long == 0, size, 0x80 | long) << 8 | np.where(long == 0, 0, swapped << 16)
    mask = (np.int64(1) << 8 * (2 + long)) - 1
    there: BoolArray = inside & (size < 1 << 24) & (words[np.where(inside, at, 0)] & mask == expected)
    return there


def _swapped(size: Int64Array) -> Int64Array:
    """Three bytes in the other order."""
    return size >> 16 & 0xFF | size & 0xFF00 | (size & 0xFF) << 16


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
