"""The walk, the lenient reader and `cryptography` agree, and no certificate is read outside its bytes."""

from __future__ import annotations

import json
import warnings
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from random import Random
from typing import Any

import numpy as np
import pytest
from cryptography import x509
from cryptography.x509.oid import NameOID
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from certstream.certs import lenient
from certstream.certs.columns import Certificates
from certstream.certs.der import SLOTS
from certstream.certs.extensions import read_oid
from certstream.certs.message import chain_certificates, domain_lists
from certstream.certs.times import NO_TIME
from certstream.ct.types import Spans
from certstream.simulator.certificates import (
    ATTRIBUTE_OIDS,
    alternative_names,
    attribute,
    basic_constraints,
    key_usage,
    name,
)
from certstream.simulator.der import BMP, IA5, PRINTABLE, T61, UNIVERSAL, UTF8, bits, context, time
from certstream.simulator.shapes import SHAPES, UNPARSEABLE, plain_leaf

Decoder = Callable[[Sequence[bytes]], Certificates]


def shaped(label: str, seed: int) -> dict[str, bytes]:
    """One certificate of each of the simulator's shapes, by the shape's name."""
    found = {}
    for shape in SHAPES:
        random = Random(f"{label} {shape.name} {seed}")
        draft = plain_leaf(f"{label} {shape.name} {seed}", random)
        shape.change(draft, random)
        found[shape.name] = draft.certificate(draft.tbs())
    for kind, write in UNPARSEABLE:
        random = Random(f"{label} {kind} {seed}")
        found[kind] = write(plain_leaf(f"{label} {kind} {seed}", random), random)
    return found


def read_by_cryptography(der: bytes) -> dict[str, Any]:
    """The fields that `cryptography` can read, each on its own."""
    try:
        certificate = x509.load_der_x509_certificate(der)
    except (ValueError, x509.InvalidVersion):
        return {}
    readers: dict[str, Callable[[], Any]] = {
        "serial": lambda: certificate.serial_number,
        "not_before": lambda: int(certificate.not_valid_before_utc.timestamp()),
        "not_after": lambda: int(certificate.not_valid_after_utc.timestamp()),
        "common_name": lambda: [a.value for a in certificate.subject.get_attributes_for_oid(NameOID.COMMON_NAME)],
        "dns": lambda: certificate.extensions.get_extension_for_class(
            x509.SubjectAlternativeName
        ).value.get_values_for_type(x509.DNSName),
        "is_ca": lambda: certificate.extensions.get_extension_for_class(x509.BasicConstraints).value.ca,
        "oid": lambda: certificate.signature_algorithm_oid.dotted_string,
        "issuer": lambda: [a.value for a in certificate.issuer.get_attributes_for_oid(NameOID.COMMON_NAME)],
        "organisation": lambda: [
            a.value for a in certificate.subject.get_attributes_for_oid(NameOID.ORGANIZATION_NAME)
        ],
        "key_usage": lambda: certificate.extensions.get_extension_for_class(x509.KeyUsage).value,
        "purposes": lambda: [
            oid.dotted_string for oid in certificate.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value
        ],
        "subject_key": lambda: certificate.extensions.get_extension_for_class(x509.SubjectKeyIdentifier).value.digest,
        "issuer_key": lambda: (
            certificate.extensions.get_extension_for_class(x509.AuthorityKeyIdentifier).value.key_identifier
        ),
        "policies": lambda: [
            policy.policy_identifier.dotted_string
            for policy in certificate.extensions.get_extension_for_class(x509.CertificatePolicies).value
        ],
    }
    fields = {}
    for key, read in readers.items():
        try:
            fields[key] = read()
        except (
            ValueError,
            TypeError,
            x509.ExtensionNotFound,
            x509.DuplicateExtension,
            x509.UnsupportedGeneralNameType,
        ):
            continue
    return fields


def assert_agrees_with_cryptography(certs: Certificates, row: int, der: bytes) -> int:
    """Compare what both can read; how many fields that were."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        theirs = read_by_cryptography(der)
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
    assert_shows(json.loads(chain_certificates(certs)[row]), theirs)
    return len(theirs)


def assert_shows(shown: dict[str, Any], theirs: dict[str, Any]) -> None:
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


def assert_walk_agrees_with_lenient(certs: Certificates) -> None:
    """Every row that the walk took reads the same one by one."""
    fields = certs.fields
    bounds = np.searchsorted(fields.name_row, np.arange(len(certs) + 1))
    for row in np.flatnonzero(fields.walked).tolist():
        found = lenient.salvage(certs.data, int(certs.cert.start[row]), int(certs.cert.stop[row]))
        assert found.readable
        for spans, value in (
            (fields.serial, found.serial),
            (fields.signature_oid, found.signature_oid),
            (fields.issuer, found.issuer),
            (fields.subject, found.subject),
        ):
            assert (spans.start[row], spans.stop[row]) == value
        assert (fields.not_before[row], fields.not_after[row]) == (found.not_before, found.not_after)
        walked = {
            slot: (int(fields.extension_start[slot, row]), int(fields.extension_stop[slot, row]))
            for slot in range(SLOTS)
            if fields.extension_start[slot, row] >= 0
        }
        assert walked == found.extensions
        at = slice(bounds[row], bounds[row + 1])
        names = zip(fields.name_tag[at], fields.name.start[at], fields.name.stop[at], strict=True)
        assert list(names) == [tuple(name) for name in found.names]


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


@pytest.mark.parametrize("seed", range(4))
def test_three_readers_agree_on_every_shape(decoded: Decoder, seed: int) -> None:
    shapes = shaped("agree", seed)
    certs = decoded(list(shapes.values()))
    assert_walk_agrees_with_lenient(certs)
    assert_spans_inside(certs)
    compared = {
        name: assert_agrees_with_cryptography(certs, row, der) for row, (name, der) in enumerate(shapes.items())
    }
    assert sum(count > 0 for count in compared.values()) > 30
    assert not any(compared[name] for name, _ in UNPARSEABLE)


def test_three_readers_agree_on_real_certificates(decoded: Decoder, real_certificates: list[bytes]) -> None:
    certs = decoded(real_certificates)
    assert_walk_agrees_with_lenient(certs)
    for row, der in enumerate(real_certificates):
        assert assert_agrees_with_cryptography(certs, row, der) or row >= 80


def test_ordinary_shapes_take_the_walk(decoded: Decoder) -> None:
    shapes = shaped("walk", 1)
    certs = decoded(list(shapes.values()))
    walked = {name for name, took in zip(shapes, certs.fields.walked, strict=True) if took}
    assert {"rsa-leaf", "ecdsa-leaf", "wildcard", "many-names", "idn", "organisation", "authority"} <= walked
    assert not walked & {"version-1", "same-extension-twice", *(name for name, _ in UNPARSEABLE)}


@st.composite
def certificates(draw: st.DrawFn) -> bytes:
    """A certificate of generated fields, most of them as the specification wants them."""
    draft = plain_leaf("generated", Random(draw(st.integers(0, 50))))
    draft.serial = draw(st.one_of(st.binary(min_size=1, max_size=24), st.just(bytes(3) + b"\x7f")))
    kinds = st.sampled_from(sorted(ATTRIBUTE_OIDS))
    tags = st.sampled_from([None, UTF8, PRINTABLE, T61, IA5, BMP, UNIVERSAL])
    attributes = draw(
        st.lists(st.tuples(kinds, st.one_of(st.text(max_size=12), st.binary(max_size=12)), tags), max_size=5)
    )
    draft.subject = name(*(attribute(kind, value, tag) for kind, value, tag in attributes))
    moments = st.datetimes(datetime(1950, 1, 1), datetime(9999, 12, 31)).map(lambda m: m.replace(tzinfo=UTC))  # noqa: DTZ001
    draft.not_before, draft.not_after = time(draw(moments)), time(draw(moments))
    tag_of_name = st.sampled_from([1, 2, 6, 7, 8])
    names = draw(st.lists(st.tuples(tag_of_name, st.binary(max_size=200)), max_size=12))
    assert draft.extensions is not None
    draft.extensions["names"] = alternative_names(*(context(tag, value) for tag, value in names))
    draft.extensions["key_usage"] = key_usage(bits(draw(st.binary(min_size=1, max_size=2)), draw(st.integers(0, 7))))
    draft.extensions["basic_constraints"] = basic_constraints(draw(st.booleans()), draw(st.none() | st.integers(0, 9)))
    shuffled = draw(st.permutations(sorted(draft.extensions)))
    kept = shuffled[: draw(st.integers(0, len(shuffled)))]
    draft.extensions = {key: draft.extensions[key] for key in kept}
    return draft.certificate(draft.tbs())


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(ders=st.lists(certificates(), min_size=1, max_size=4))
def test_three_readers_agree_on_generated_certificates(decoded: Decoder, ders: list[bytes]) -> None:
    certs = decoded(ders)
    assert_spans_inside(certs)
    assert_walk_agrees_with_lenient(certs)
    for row, der in enumerate(ders):
        assert_agrees_with_cryptography(certs, row, der)


def mutated(der: bytes, random: Random) -> bytes:
    """A few bytes changed, left out, doubled or cut off."""
    data = bytearray(der)
    for _ in range(random.randrange(1, 5)):
        if not data:
            break
        at = random.randrange(len(data))
        size = random.randrange(1, 1 + min(16, len(data)))
        match random.randrange(6):
            case 0:
                data[at] = random.randrange(256)
            case 1:
                data[at] = random.choice((0, 0x30, 0x7F, 0x80, 0x81, 0x82, 0x84, 0xFF, 0xA3, 0x04, 0x17))
            case 2:
                del data[at : at + size]
            case 3:
                data[at:at] = data[at : at + size]
            case 4:
                data[at : at + size] = random.randbytes(size)
            case _:
                if random.randrange(4) == 0:
                    del data[at:]
    return bytes(data)


def texts_of(certs: Certificates) -> list[tuple[bytes, bytes]]:
    return list(zip(chain_certificates(certs), domain_lists(certs), strict=True))


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(seed=st.integers(0, 2**32))
def test_mutations_read_the_same_alone_and_among_others(
    decoded: Decoder, real_certificates: list[bytes], seed: int
) -> None:
    """Neighbours differ, the result does not: nothing outside a certificate is read; and nothing raises."""
    random = Random(seed)
    sources = [*random.sample(real_certificates, 12), *random.sample(list(shaped("mutate", 0).values()), 12)]
    victims = [mutated(der, random) for der in sources]
    together = decoded(victims)
    assert_spans_inside(together)
    assert_walk_agrees_with_lenient(together)
    texts = texts_of(together)
    for row in random.sample(range(len(victims)), 4):
        among = Certificates([b"\xff" * 7, victims[row], b"\xa0" * random.randrange(70)])
        assert texts_of(among)[1] == texts[row]
    for row, der in enumerate(victims):
        assert_agrees_with_cryptography(together, row, der)


@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(blobs=st.lists(st.binary(max_size=300), max_size=8))
def test_arbitrary_bytes_give_a_row_each(decoded: Decoder, blobs: list[bytes]) -> None:
    certs = decoded(blobs)
    assert len(texts_of(certs)) == len(blobs)
    assert_spans_inside(certs)


def test_a_value_that_only_one_field_spoils_leaves_the_others(decoded: Decoder) -> None:
    shapes = shaped("spoil", 0)
    certs = decoded([shapes["utctime-nonsense"], shapes["broken-alternative-names"]])
    assert certs.fields.not_before[0] == NO_TIME
    assert certs.serial_number[0]
    assert certs.all_domains[0]
    assert certs.fields.not_before[1] != NO_TIME
    assert certs.common_name[1]
