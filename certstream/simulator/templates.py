"""Templates: log entries made once, in which each entry of a log replaces a few bytes by its own."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from random import Random

from certstream.ct.types import PRECERT_ENTRY, X509_ENTRY
from certstream.simulator import certificates as x509
from certstream.simulator.certificates import LABEL, SERIAL_MARK, Authority, Draft
from certstream.simulator.shapes import SHAPES, UNPARSEABLE, Shape, plain_leaf

_UNPARSEABLE_VARIANTS = 8
_PREISSUED = 0.05  # share of precertificates from a Precertificate Signing Certificate, where its authority issues
_WITHOUT_ROOT = 0.3  # share of chains that end below the root
_INDEX_EXTENSION = b"\x00\x08\x00\x00\x05" + bytes(5)  # static-ct-api, "SCT Extension": leaf_index, u40


@dataclass(frozen=True, slots=True)
class Template:
    """One entry before it has a timestamp, an index, a serial number and a label.

    `leaf` is the leaf_input with empty extensions; `names` and `common_name` hold LABEL.
    """

    shape: str
    weight: float
    entry_type: int
    leaf: bytes
    submitted: bytes  # u24 length || precertificate; empty for an X.509 entry
    certificate: bytes  # DER as submitted
    chain: tuple[bytes, ...]  # DER
    common_name: str | None
    names: tuple[str, ...]
    is_ca: bool

    def record(self, *, leaf_index: bool) -> tuple[bytes, int]:
        """0x00 || leaf_input || submitted, and the length up to the end of the leaf_input.

        The first byte makes a slice of the record what a leaf hash is taken of.
        """
        extensions = _INDEX_EXTENSION if leaf_index else b"\x00\x00"
        hashed = b"\x00" + self.leaf[:-2] + extensions
        return hashed + self.submitted, len(hashed)


def vector(width: int, content: bytes) -> bytes:
    """A variable-length vector of the TLS presentation language, its length in `width` bytes."""
    return len(content).to_bytes(width) + content


def chain_vector(chain: tuple[bytes, ...]) -> bytes:
    """A certificate chain as in extra_data: u24 total || (u24 length || DER)*."""
    return vector(3, b"".join(vector(3, der) for der in chain))


def fingerprints_vector(chain: tuple[bytes, ...]) -> bytes:
    """A certificate chain as in a data tile: u16 length || 32-byte SHA-256 of each."""
    return vector(2, b"".join(hashlib.sha256(der).digest() for der in chain))


def _leaf_input(entry_type: int, signed_entry: bytes) -> bytes:
    # version, leaf_type, room for the timestamp, entry_type, entry, no extensions (RFC 6962 §3.4)
    return b"\x00\x00" + bytes(8) + entry_type.to_bytes(2) + signed_entry + b"\x00\x00"


def _chain(issuer: Authority, random: Random) -> tuple[bytes, ...]:
    return issuer.chain[:-1] if random.random() < _WITHOUT_ROOT else issuer.chain


def _template(shape: Shape, variant: int) -> Template:
    label = f"{shape.name} {variant}"
    random = Random(label)
    draft = plain_leaf(label, random)
    shape.change(draft, random)
    share = shape.weight / shape.variants
    if random.random() < shape.precerts:
        return _precertificate(shape.name, share, draft, random)
    certificate = draft.certificate(draft.tbs(x509.sct_list(label)))
    return _finished(shape.name, share, draft, x509_leaf(certificate), b"", certificate, _chain(draft.issuer, random))


def _precertificate(shape: str, share: float, draft: Draft, random: Random) -> Template:
    final = draft.issuer
    leaf = precert_leaf(draft.tbs(), final.spki)
    if final is x509.authorities()[0] and random.random() < _PREISSUED and draft.extensions:
        draft.issuer = x509.preissuer()
        draft.extensions["authority_key"] = x509.authority_key(draft.issuer.spki)
    precertificate = draft.certificate(draft.tbs(x509.POISON))
    chain = _chain(draft.issuer, random)
    return _finished(shape, share, draft, leaf, vector(3, precertificate), precertificate, chain)


def _finished(
    shape: str,
    share: float,
    draft: Draft,
    leaf: bytes,
    submitted: bytes,
    certificate: bytes,
    chain: tuple[bytes, ...],
) -> Template:
    entry_type = PRECERT_ENTRY if submitted else X509_ENTRY
    names = tuple(draft.dns_names)
    return Template(
        shape, share, entry_type, leaf, submitted, certificate, chain, draft.common_name, names, draft.is_ca
    )


def x509_leaf(certificate: bytes) -> bytes:
    """The leaf_input of a certificate, its timestamp zero."""
    return _leaf_input(X509_ENTRY, vector(3, certificate))


def precert_leaf(tbs: bytes, issuer_spki: bytes) -> bytes:
    """The leaf_input of a precertificate, its timestamp zero."""
    return _leaf_input(PRECERT_ENTRY, hashlib.sha256(issuer_spki).digest() + vector(3, tbs))


def _garbage(shape: str, build: Callable[[Draft, Random], bytes], variant: int) -> Template:
    label = f"{shape} {variant}"
    random = Random(label)
    draft = plain_leaf(label, random)
    content = build(draft, random)
    draft.common_name, draft.dns_names = None, []
    chain = _chain(draft.issuer, random)
    if variant % 2:
        leaf = precert_leaf(content, draft.issuer.spki)
        return _finished(shape, 1.0, draft, leaf, vector(3, content), content, chain)
    return _finished(shape, 1.0, draft, x509_leaf(content), b"", content, chain)


@cache
def parseable() -> tuple[Template, ...]:
    """Templates of all SHAPES, made once per process (about 0.1 s)."""
    return tuple(_template(shape, variant) for shape in SHAPES for variant in range(shape.variants))


@cache
def unparseable() -> tuple[Template, ...]:
    """Templates of all UNPARSEABLE, made once per process."""
    return tuple(_garbage(*each, variant) for each in UNPARSEABLE for variant in range(_UNPARSEABLE_VARIANTS))


def occurrences(record: bytes, mark: bytes) -> list[int]:
    """Where `mark` stands in a record."""
    found, at = [], record.find(mark)
    while at >= 0:
        found.append(at)
        at = record.find(mark, at + len(mark))
    return found


MARKS = (SERIAL_MARK, LABEL.encode())  # each replaced by as many bytes of the entry's own
