"""What must hold of decoded certificates, whatever they are: three readers agree, and none looks outside.

The readers are the vectorised walk, the lenient one, and `cryptography` for what that accepts.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import orjson
from cryptography import x509
from cryptography.x509.oid import NameOID

from certstream.certs import lenient
from certstream.certs.columns import Certificates
from certstream.certs.der import SLOTS
from certstream.certs.extensions import read_oid
from certstream.certs.message import chain_certificates
from certstream.ct.types import Spans

_REFUSED = (
    ValueError,
    TypeError,
    x509.InvalidVersion,
    x509.ExtensionNotFound,
    x509.DuplicateExtension,
    x509.UnsupportedGeneralNameType,
)


def assert_spans_inside(certs: Certificates) -> None:
    """No field of a certificate lies outside its bytes."""
    fields = certs.fields
    spans = [
        fields.serial, fields.signature_oid, fields.issuer, fields.subject,
        *(Spans(fields.extension_start[slot], fields.extension_stop[slot]) for slot in range(SLOTS)),
    ]  # fmt: skip
    for span in spans:
        there = span.start >= 0
        assert (span.start >= certs.cert.start)[there].all()
        assert (span.stop <= certs.cert.stop)[there].all()
        assert (span.start <= span.stop)[there].all()
    assert (fields.name.start >= certs.cert.start[fields.name_row]).all()
    assert (fields.name.stop <= certs.cert.stop[fields.name_row]).all()
    assert (fields.name.start <= fields.name.stop).all()


def assert_walk_agrees_with_lenient(certs: Certificates) -> None:
    """Every row that the walk took reads the same one by one."""
    fields = certs.fields
    bounds = np.searchsorted(fields.name_row, np.arange(len(certs) + 1)).tolist()
    single = (fields.serial, fields.signature_oid, fields.issuer, fields.subject)
    places = np.stack([each for spans in single for each in spans], axis=1).tolist()
    slots = np.stack((fields.extension_start, fields.extension_stop), axis=2).tolist()
    names = np.stack((fields.name_tag, *fields.name), axis=1).tolist()
    for row in np.flatnonzero(fields.walked).tolist():
        found = lenient.salvage(certs.data, int(certs.cert.start[row]), int(certs.cert.stop[row]))
        assert found.readable
        read = (found.serial, found.signature_oid, found.issuer, found.subject)
        assert list(zip(places[row][::2], places[row][1::2], strict=True)) == list(read)
        assert (fields.not_before[row], fields.not_after[row]) == (found.not_before, found.not_after)
        walked = {slot: tuple(slots[slot][row]) for slot in range(SLOTS) if slots[slot][row][0] >= 0}
        assert walked == found.extensions
        assert names[bounds[row] : bounds[row + 1]] == [list(name) for name in found.names]


def assert_agrees_with_cryptography(certs: Certificates, ders: Sequence[bytes]) -> list[int]:
    """Compare what both can read of each certificate; how many fields that were."""
    shown = chain_certificates(certs)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        read = [read_by_cryptography(der) for der in ders]
    for row, theirs in enumerate(read):
        if theirs:
            _assert_reads(certs, row, theirs)
            _assert_shows(orjson.loads(shown[row]), theirs)
    return [len(theirs) for theirs in read]


def read_by_cryptography(der: bytes) -> dict[str, Any]:
    """The fields that `cryptography` can read, each on its own."""
    try:
        certificate = x509.load_der_x509_certificate(der)
    except _REFUSED:
        return {}
    fields = {}
    for key, read in _readers(certificate).items():
        try:
            fields[key] = read()
        except _REFUSED:
            continue
    return fields


def _readers(certificate: x509.Certificate) -> dict[str, Callable[[], Any]]:
    def extension(kind: type[Any]) -> Any:
        return certificate.extensions.get_extension_for_class(kind).value

    def attributes(name: x509.Name, oid: x509.ObjectIdentifier) -> list[Any]:
        return [attribute.value for attribute in name.get_attributes_for_oid(oid)]

    return {
        "serial": lambda: certificate.serial_number,
        "not_before": lambda: int(certificate.not_valid_before_utc.timestamp()),
        "not_after": lambda: int(certificate.not_valid_after_utc.timestamp()),
        "common_name": lambda: attributes(certificate.subject, NameOID.COMMON_NAME),
        "dns": lambda: extension(x509.SubjectAlternativeName).get_values_for_type(x509.DNSName),
        "is_ca": lambda: extension(x509.BasicConstraints).ca,
        "oid": lambda: certificate.signature_algorithm_oid.dotted_string,
        "issuer": lambda: attributes(certificate.issuer, NameOID.COMMON_NAME),
        "organisation": lambda: attributes(certificate.subject, NameOID.ORGANIZATION_NAME),
        "key_usage": lambda: extension(x509.KeyUsage),
        "purposes": lambda: [oid.dotted_string for oid in extension(x509.ExtendedKeyUsage)],
        "subject_key": lambda: extension(x509.SubjectKeyIdentifier).digest,
        "issuer_key": lambda: extension(x509.AuthorityKeyIdentifier).key_identifier,
        "policies": lambda: [policy.policy_identifier.dotted_string for policy in extension(x509.CertificatePolicies)],
    }


def _assert_reads(certs: Certificates, row: int, theirs: dict[str, Any]) -> None:
    fields = certs.fields
    if "serial" in theirs and theirs["serial"] >= 0:
        assert int(certs.serial_number[row] or b"", 16) == theirs["serial"]
    if "not_before" in theirs:
        assert fields.not_before[row] == theirs["not_before"]
    if "not_after" in theirs:
        assert fields.not_after[row] == theirs["not_after"]
    if "common_name" in theirs:
        ours = certs.common_name[row]
        assert (None if ours is None else ours.decode()) == ([None, *theirs["common_name"]][-1])
    if "dns" in theirs:
        assert [name.decode() for name in certs.dns_names[row]] == theirs["dns"]
    if "is_ca" in theirs:
        assert certs.is_ca[row] == theirs["is_ca"]
    if "oid" in theirs:
        assert read_oid(certs.data[fields.signature_oid.start[row] : fields.signature_oid.stop[row]]) == theirs["oid"]
    if "issuer" in theirs:
        issuer = certs.issuer[row].common_name
        assert (None if issuer is None else issuer.decode()) == ([None, *theirs["issuer"]][-1])


def _assert_shows(shown: dict[str, Any], theirs: dict[str, Any]) -> None:
    """Compare the JSON of a certificate with the fields that `cryptography` reads."""
    extensions = shown["extensions"]
    if "organisation" in theirs:
        assert shown["subject"].get("O") == [None, *theirs["organisation"]][-1]
    if "key_usage" in theirs:
        usage = theirs["key_usage"]
        texts = {
            "Digital Signature": usage.digital_signature, "Content Commitment": usage.content_commitment,
            "Key Encipherment": usage.key_encipherment, "Data Encipherment": usage.data_encipherment,
            "Key Agreement": usage.key_agreement, "Certificate Signing": usage.key_cert_sign,
            "CRL Signing": usage.crl_sign,
        }  # fmt: skip
        listed = set(extensions["keyUsage"].split(", ")) - {"Encipher Only", "Decipher Only"}
        assert listed - {""} == {text for text, bit in texts.items() if bit}
    if "purposes" in theirs:
        known = {"1.3.6.1.5.5.7.3.1": "serverAuth", "1.3.6.1.5.5.7.3.2": "clientAuth"}
        listed = set(extensions["extendedKeyUsage"].split(", "))
        assert listed & set(known.values()) == {known[oid] for oid in theirs["purposes"] if oid in known}
    if "subject_key" in theirs:
        assert extensions["subjectKeyIdentifier"] == f"keyid:{theirs['subject_key'].hex(':')}"
    if theirs.get("issuer_key") is not None:
        assert extensions["authorityKeyIdentifier"] == f"keyid:{theirs['issuer_key'].hex(':')}"
    if theirs.get("policies"):
        assert extensions["certificatePolicies"] == "".join(f"Policy: {oid}\n" for oid in theirs["policies"])
