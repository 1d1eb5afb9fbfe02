"""Certificates written byte by byte: real in form, their signatures noise that nothing verifies.

Everything follows from constants, so every process makes the same ones. Two markers stand where each
entry of a log gets bytes of its own: SERIAL_MARK in the serial number and in what hardly two
certificates share (key identifier, SCTs), LABEL in the names.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from functools import cache
from random import Random
from typing import Literal, TypeAlias

from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from certstream.simulator.der import (
    OCTET_STRING,
    PRINTABLE,
    SET,
    TRUE,
    UTF8,
    bits,
    context,
    integer,
    oid,
    sequence,
    time,
    tlv,
)

SERIAL_MARK = bytes.fromhex("f1e2d3c4b5a69788")
LABEL = "qzlabelqzx"

Extensions: TypeAlias = dict[str, bytes]  # in order, by a name for shapes to address them
KeyKind: TypeAlias = Literal["rsa", "p256", "p384", "ed25519"]

_NULL = b"\x05\x00"
_EPOCH = datetime(2026, 1, 1, tzinfo=UTC)
_SCT_TIMESTAMP_MS = int(_EPOCH.timestamp() * 1000)

ATTRIBUTE_OIDS = {
    "CN": "2.5.4.3", "C": "2.5.4.6", "L": "2.5.4.7", "ST": "2.5.4.8", "O": "2.5.4.10", "OU": "2.5.4.11",
    "SERIAL": "2.5.4.5", "STREET": "2.5.4.9", "DC": "0.9.2342.19200300.100.1.25",
    "EMAIL": "1.2.840.113549.1.9.1",
}  # fmt: skip
_PSS = sequence(
    context(0, sequence(oid("2.16.840.1.101.3.4.2.1"), _NULL), constructed=True),
    context(1, sequence(oid("1.2.840.113549.1.1.8"), sequence(oid("2.16.840.1.101.3.4.2.1"), _NULL)), constructed=True),
    context(2, integer(32), constructed=True),
)
SIGNATURE_ALGORITHMS = {
    "sha1-rsa": sequence(oid("1.2.840.113549.1.1.5"), _NULL),
    "sha256-rsa": sequence(oid("1.2.840.113549.1.1.11"), _NULL),
    "sha384-rsa": sequence(oid("1.2.840.113549.1.1.12"), _NULL),
    "sha512-rsa": sequence(oid("1.2.840.113549.1.1.13"), _NULL),
    "sha256-rsa-pss": sequence(oid("1.2.840.113549.1.1.10"), _PSS),
    "ecdsa-sha256": sequence(oid("1.2.840.10045.4.3.2")),
    "ecdsa-sha384": sequence(oid("1.2.840.10045.4.3.3")),
    "ecdsa-sha512": sequence(oid("1.2.840.10045.4.3.4")),
    "dsa-sha256": sequence(oid("2.16.840.1.101.3.4.3.2")),
    "ed25519": sequence(oid("1.3.101.112")),
    "unknown": sequence(oid("1.3.6.1.4.1.99999.1.42")),
}


def noise(label: str, size: int) -> bytes:
    """Bytes that look random and are the same for the same label."""
    return hashlib.shake_256(label.encode()).digest(size)


@cache
def public_key(kind: KeyKind, number: int) -> bytes:
    """DER SubjectPublicKeyInfo number `number` of its kind; no one holds the private half of an RSA one."""
    label = f"key {kind} {number}"
    if kind == "rsa":
        modulus = int.from_bytes(noise(label, 256)) | 1 << 2047 | 1
        return sequence(sequence(oid("1.2.840.113549.1.1.1"), _NULL), bits(sequence(integer(modulus), integer(65537))))
    if kind == "ed25519":
        return sequence(sequence(oid("1.3.101.112")), bits(noise(label, 32)))
    curve = ec.SECP256R1() if kind == "p256" else ec.SECP384R1()
    private = ec.derive_private_key(int.from_bytes(noise(label, 31)), curve)
    return private.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)


def key_identifier(spki: bytes) -> bytes:
    """20 bytes that identify a key (RFC 7093 §2, method 1: the leftmost 160 bits of the SHA-256)."""
    return hashlib.sha256(spki).digest()[:20]


def attribute(kind: str, value: str | bytes, tag: int | None = None) -> bytes:
    """One AttributeTypeAndValue; text is UTF8String, a country PrintableString, unless `tag` says else."""
    tag = tag or (PRINTABLE if kind == "C" else UTF8)
    return sequence(oid(ATTRIBUTE_OIDS[kind]), tlv(tag, value.encode() if isinstance(value, str) else value))


def name(*attributes: bytes) -> bytes:
    """A Name with one attribute to each relative distinguished name."""
    return sequence(*(tlv(SET, each) for each in attributes))


def extension(dotted: str, value: bytes, *, critical: bool = False) -> bytes:
    """One Extension around the DER of its value."""
    return sequence(oid(dotted), TRUE if critical else b"", tlv(OCTET_STRING, value))


def key_usage(value: bytes) -> bytes:
    """A keyUsage extension around a ready BIT STRING, or what is given for one."""
    return extension("2.5.29.15", value, critical=True)


def basic_constraints(is_ca: bool, path_length: int | None = None) -> bytes:
    """A basicConstraints extension."""
    value = sequence(TRUE if is_ca else b"", b"" if path_length is None else integer(path_length))
    return extension("2.5.29.19", value, critical=True)


def subject_key(identifier: bytes) -> bytes:
    """A subjectKeyIdentifier extension."""
    return extension("2.5.29.14", tlv(OCTET_STRING, identifier))


def unique_subject_key(spki: bytes) -> bytes:
    """A subjectKeyIdentifier of which each entry replaces a part: in a real log hardly two are the same."""
    return subject_key(key_identifier(spki)[:12] + SERIAL_MARK)


def authority_key(spki: bytes) -> bytes:
    """An authorityKeyIdentifier extension of the issuer's key."""
    return extension("2.5.29.35", sequence(context(0, key_identifier(spki))))


def alternative_names(*names: bytes, critical: bool = False) -> bytes:
    """A subjectAltName extension of ready GeneralNames."""
    return extension("2.5.29.17", sequence(*names), critical=critical)


def dns_name(text: str) -> bytes:
    """A dNSName as GeneralName."""
    return context(2, text.encode("ascii"))


POISON = extension("1.3.6.1.4.1.11129.2.4.3", _NULL, critical=True)


def sct_list(label: str) -> bytes:
    """An SCT list extension (RFC 6962 §3.3) of two SCTs of no log, each entry's its own."""
    scts = b"".join(_sct(f"sct {label} {number}") for number in range(2))
    return extension("1.3.6.1.4.1.11129.2.4.2", tlv(OCTET_STRING, len(scts).to_bytes(2) + scts))


def _sct(label: str) -> bytes:
    signed = _ecdsa(label, 32)[:-8] + SERIAL_MARK
    head = b"\x00" + noise(label, 32) + _SCT_TIMESTAMP_MS.to_bytes(8) + b"\x00\x00\x04\x03"
    sct = head + len(signed).to_bytes(2) + signed
    return len(sct).to_bytes(2) + sct


def _ecdsa(label: str, size: int) -> bytes:
    # the top bits keep both integers positive and of full length
    r, s = (int.from_bytes(noise(f"{label} {part}", size)) | 1 << (8 * size - 1) for part in "rs")
    return sequence(integer(r), integer(s))


def signature(algorithm: str, label: str) -> bytes:
    """A BIT STRING in the form of the algorithm's signatures, signing nothing."""
    if "rsa" in algorithm:
        return bits(noise(label, 256))
    if algorithm == "ed25519":
        return bits(noise(label, 64))
    return bits(_ecdsa(label, 48 if algorithm.endswith("384") else 32))


@dataclass(frozen=True, slots=True)
class Authority:
    """Someone who signs certificates, and the certificates above them."""

    subject: bytes  # DER Name
    spki: bytes
    algorithm: str  # of what it signs, a key of SIGNATURE_ALGORITHMS
    der: bytes
    above: tuple[Authority, ...] = ()

    @property
    def chain(self) -> tuple[bytes, ...]:
        """DER from this authority up to its root."""
        return (self.der, *(authority.der for authority in self.above))


@dataclass(slots=True)
class Draft:
    """A certificate to be: what shapes change before it is written."""

    label: str  # of the noise in it
    issuer: Authority
    subject: bytes
    spki: bytes
    serial: bytes  # content octets
    extensions: Extensions | None
    not_before: bytes  # DER
    not_after: bytes  # DER
    precert: bool = False
    version: bytes = context(0, integer(2), constructed=True)
    algorithm: str = ""  # empty: the issuer's
    common_name: str | None = None
    dns_names: list[str] = field(default_factory=list)
    is_ca: bool = False

    def tbs(self, *added: bytes, issuer: Authority | None = None) -> bytes:
        """TBSCertificate with `added` after the draft's own extensions."""
        extensions = b""
        if self.extensions is not None:
            listed = sequence(*self.extensions.values(), *added)
            extensions = context(3, listed, constructed=True)
        return sequence(
            self.version,
            tlv(0x02, self.serial),
            SIGNATURE_ALGORITHMS[self.algorithm or self.issuer.algorithm],
            (issuer or self.issuer).subject,
            sequence(self.not_before, self.not_after),
            self.subject,
            self.spki,
            extensions,
        )

    def certificate(self, tbs: bytes) -> bytes:
        """The Certificate around a TBSCertificate of this draft."""
        algorithm = self.algorithm or self.issuer.algorithm
        return sequence(tbs, SIGNATURE_ALGORITHMS[algorithm], signature(algorithm, f"signature {self.label}"))


def validity(random: Random, days: int = 90) -> tuple[bytes, bytes]:
    """Two Times, `days` apart, from some second of 2026 on."""
    start = _EPOCH + timedelta(seconds=random.randrange(300 * 86_400))
    return time(start), time(start + timedelta(days=days, seconds=-1))


def authority_extensions(spki: bytes, issuer_spki: bytes, path_length: int | None) -> Extensions:
    """What stands in the certificate of an authority."""
    return {
        "basic_constraints": basic_constraints(True, path_length),
        "key_usage": key_usage(bits(b"\x06", 1)),
        "subject_key": subject_key(key_identifier(spki)),
        "authority_key": authority_key(issuer_spki),
    }


def _authority(subject: bytes, kind: KeyKind, algorithm: str, above: Sequence[Authority], preissuer: bool) -> Authority:
    random = Random(subject)
    spki = public_key(kind, random.randrange(1 << 30))
    issuer = above[0] if above else Authority(subject, spki, algorithm, b"")
    extensions = authority_extensions(spki, issuer.spki, 0 if above else None)
    if preissuer:  # Precertificate Signing Certificate, RFC 6962 §3.1
        extensions["extended_key_usage"] = extension("2.5.29.37", sequence(oid("1.3.6.1.4.1.11129.2.4.4")))
    start, stop = validity(random, days=3650)
    draft = Draft(subject.hex(), issuer, subject, spki, noise(subject.hex(), 15), extensions, start, stop)
    draft.serial = b"\x11" + draft.serial
    return Authority(subject, spki, algorithm, draft.certificate(draft.tbs()), tuple(above))


_TRUST: tuple[tuple[KeyKind, str, tuple[tuple[str, KeyKind, str], ...]], ...] = (
    ("rsa", "sha256-rsa", (("R10", "rsa", "sha256-rsa"), ("R11", "rsa", "sha256-rsa"), ("E5", "p384", "ecdsa-sha384"))),
    ("p384", "ecdsa-sha384", (("WE1", "p256", "ecdsa-sha256"), ("E6", "p384", "ecdsa-sha384"))),
    ("rsa", "sha384-rsa", (("OV CA 2", "rsa", "sha384-rsa"), ("EV CA 3", "rsa", "sha512-rsa"))),
)  # each root: its key, how it signs, and the authorities below it


@cache
def authorities() -> tuple[Authority, ...]:
    """Those who sign the certificates of the simulator: RSA and ECDSA, below three roots."""
    found: list[Authority] = []
    for number, (kind, algorithm, below) in enumerate(_TRUST, 1):
        country, organisation = attribute("C", "XX"), attribute("O", f"Simulated Trust {number}")
        root_name = name(country, organisation, attribute("CN", f"Simulated Root X{number}"))
        root = _authority(root_name, kind, algorithm, (), preissuer=False)
        for common_name, own_kind, own_algorithm in below:
            subject = name(country, organisation, attribute("CN", common_name))
            found.append(_authority(subject, own_kind, own_algorithm, (root,), preissuer=False))
    return tuple(found)


@cache
def preissuer() -> Authority:
    """A Precertificate Signing Certificate below the first authority."""
    first = authorities()[0]
    subject = name(attribute("C", "XX"), attribute("CN", "Simulated Precertificate Signer"))
    return _authority(subject, "rsa", "sha256-rsa", (first, *first.above), preissuer=True)
