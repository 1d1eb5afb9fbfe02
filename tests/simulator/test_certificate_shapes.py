from __future__ import annotations

import hashlib
import warnings
from collections.abc import Iterator
from itertools import pairwise

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.utils import CryptographyDeprecationWarning

from certstream.ct.types import PRECERT_ENTRY
from certstream.simulator import certificates
from certstream.simulator.certificates import SERIAL_MARK
from certstream.simulator.shapes import SHAPES
from certstream.simulator.templates import Template, occurrences, parseable, unparseable

STRICT = {"rsa-leaf", "ecdsa-leaf", "wildcard", "no-common-name", "many-names", "idn", "organisation", "ip-only"}
TEMPLATES = {shape.name: [each for each in parseable() if each.shape == shape.name] for shape in SHAPES}


@pytest.fixture(autouse=True)
def _negative_serials() -> Iterator[None]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", CryptographyDeprecationWarning)
        yield


def load(template: Template) -> x509.Certificate:
    return x509.load_der_x509_certificate(template.certificate)


def dns_names(certificate: x509.Certificate) -> tuple[str, ...]:
    names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    return tuple(names.get_values_for_type(x509.DNSName))


@pytest.mark.parametrize("shape", sorted(STRICT))
def test_everyday_certificates_read_as_what_is_said_of_them(shape: str) -> None:
    for template in TEMPLATES[shape]:
        certificate = load(template)
        common_names = [each.value for each in certificate.subject.get_attributes_for_oid(x509.NameOID.COMMON_NAME)]
        assert dns_names(certificate) == template.names
        assert common_names == ([template.common_name] if template.common_name else [])
        assert isinstance(certificate.public_key(), rsa.RSAPublicKey | ec.EllipticCurvePublicKey)


def test_the_catalogue_has_what_a_reader_meets() -> None:
    sizes = {len(each.names) for each in TEMPLATES["many-names"]}
    keys = {type(load(each).public_key()).__name__ for each in TEMPLATES["ecdsa-leaf"] + TEMPLATES["rsa-leaf"]}
    assert {10, 100} <= sizes
    assert len(keys) == 2
    assert all(each.is_ca for each in TEMPLATES["authority"])
    assert any(name.startswith("*.") for each in TEMPLATES["wildcard"] for name in each.names)
    assert all(name.removeprefix("*.").startswith("xn--") for each in TEMPLATES["idn"] for name in each.names)
    assert all(not each.names for each in TEMPLATES["ip-only"])
    assert all(load(each).serial_number < 0 for each in TEMPLATES["negative-serial"])
    assert all(load(each).version is x509.Version.v1 for each in TEMPLATES["version-1"])
    assert {len(each.chain) for each in parseable()} >= {0, 1, 2}


@pytest.mark.parametrize(
    "shape",
    [
        "t61-subject",
        "not-utf8-subject",
        "8-bit-printable-subject",
        "bmp-odd-length-subject",
        "odd-alternative-names",
        "broken-alternative-names",
        "key-usage-unused-9",
        "key-usage-without-bits",
        "key-usage-garbage",
        "same-extension-twice",
        "long-form-lengths",
        "utctime-without-zone",
        "utctime-without-seconds",
        "utctime-with-offset",
        "utctime-nonsense",
        "generalized-fraction",
    ],
)
def test_odd_certificates_stop_a_strict_parser(shape: str) -> None:
    for template in TEMPLATES[shape]:
        with pytest.raises((ValueError, x509.DuplicateExtension)):  # noqa: PT012 - which of the steps is up to it
            certificate = load(template)
            assert certificate.subject
            assert dns_names(certificate)


def test_nothing_can_be_read_of_unparseable_certificates() -> None:
    for template in unparseable():
        with pytest.raises(ValueError, match="pars"):
            load(template)
        assert (template.common_name, template.names) == (None, ())
        assert template.certificate.count(SERIAL_MARK) == 1


def test_precertificates_have_poison_that_their_leaf_has_not() -> None:
    poison = certificates.POISON
    precerts = [each for each in parseable() if each.entry_type == PRECERT_ENTRY]
    assert precerts
    assert all(poison in each.certificate and poison not in each.leaf for each in precerts)
    assert not any(poison in each.certificate for each in parseable() if each.entry_type != PRECERT_ENTRY)


def test_a_precertificate_names_the_key_of_who_issues_the_certificate() -> None:
    by_hash = {hashlib.sha256(each.spki).digest(): each for each in certificates.authorities()}
    by_hash |= {hashlib.sha256(each.above[0].spki).digest(): each.above[0] for each in certificates.authorities()}
    for template in parseable():
        if template.entry_type == PRECERT_ENTRY:
            assert by_hash[template.leaf[12:44]].subject in template.leaf


def test_some_precertificates_come_from_a_precertificate_signing_certificate() -> None:
    signer = certificates.preissuer()
    signed = [each for each in parseable() if each.chain and each.chain[0] == signer.der]
    assert signed
    assert all(signer.subject in each.submitted and signer.subject not in each.leaf for each in signed)


def test_every_entry_can_be_told_from_every_other() -> None:
    for template in parseable() + unparseable():
        record, _ = template.record(leaf_index=False)
        expected = template.shape == "zero-serial"
        assert (not occurrences(template.certificate, SERIAL_MARK)) <= expected
        assert occurrences(record, SERIAL_MARK) or occurrences(record, certificates.LABEL.encode())


def test_chains_are_certificates_that_each_name_the_next() -> None:
    for chain in {each.chain for each in parseable()}:
        loaded = [x509.load_der_x509_certificate(der) for der in chain]
        assert all(below.issuer == above.subject for below, above in pairwise(loaded))
