"""The catalogue: every shape of certificate that the simulator logs, from the daily to the broken."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from ipaddress import ip_address
from random import Random

from certstream.simulator import certificates as x509
from certstream.simulator.certificates import LABEL, SERIAL_MARK, Draft, attribute, name, noise
from certstream.simulator.der import (
    BMP,
    GENERALIZED_TIME,
    IA5,
    PRINTABLE,
    SEQUENCE,
    SET,
    T61,
    UNIVERSAL,
    UTC_TIME,
    UTF8,
    bits,
    context,
    integer,
    oid,
    sequence,
    time,
    tlv,
)

WORDS = ("alder", "birch", "cedar", "dune", "ember", "fjord", "grove", "heath", "inlet", "juniper", "knoll", "larch")
TOPS = ("example.com", "example.net", "example.org", "example", "test")
_IDN = ("xn--bcher-kva", "xn--mnchen-3ya", "xn--fiqs8s", "xn--80ak6aa92e", "xn--e1afmkfd")


@dataclass(frozen=True, slots=True)
class Shape:
    """One kind of certificate. `weight` is its share among all; `variants` how many templates it gets."""

    name: str
    weight: float
    variants: int
    change: Callable[[Draft, Random], None]
    precerts: float = 0.6  # share of its templates that are precertificates


def domain(random: Random, unique: str = LABEL) -> str:
    """A made-up domain with the label that each entry replaces by its own."""
    return f"{unique}.{random.choice(WORDS)}{random.randrange(100)}.{random.choice(TOPS)}"


def plain_leaf(label: str, random: Random) -> Draft:
    """The leaf that all shapes start from: one host name and what a certificate of today has."""
    issuer = random.choice(x509.authorities())
    start, stop = x509.validity(random)
    host = domain(random)
    spki = x509.public_key(random.choice(("rsa", "p256", "p256", "p384")), random.randrange(12))
    draft = Draft(label, issuer, b"", spki, b"", {}, start, stop)
    draft.serial = bytes((random.randrange(1, 0x80),)) + noise(f"serial {label}", 7) + SERIAL_MARK
    draft.extensions = {
        "key_usage": x509.key_usage(bits(b"\xa0", 5)),
        "extended_key_usage": x509.extension("2.5.29.37", sequence(oid("1.3.6.1.5.5.7.3.1"), oid("1.3.6.1.5.5.7.3.2"))),
        "basic_constraints": x509.basic_constraints(False),
        "subject_key": x509.unique_subject_key(spki),
        "authority_key": x509.authority_key(issuer.spki),
        "authority_info": _authority_information(random),
        "names": b"",
        "policies": x509.extension("2.5.29.32", sequence(sequence(oid("2.23.140.1.2.1")))),
    }
    set_names(draft, [host])
    return draft


def _authority_information(random: Random) -> bytes:
    number = random.randrange(4)
    ocsp = sequence(oid("1.3.6.1.5.5.7.48.1"), context(6, f"http://o{number}.pki.example".encode()))
    issuers = sequence(oid("1.3.6.1.5.5.7.48.2"), context(6, f"http://i{number}.pki.example/ca.der".encode()))
    return x509.extension("1.3.6.1.5.5.7.1.1", sequence(ocsp, issuers))


def set_names(draft: Draft, names: list[str], *more: bytes, common_name: bool = True) -> None:
    """Give a draft its host names, and GeneralNames of other kinds after them."""
    draft.dns_names = names
    assert draft.extensions is not None
    draft.extensions["names"] = x509.alternative_names(*map(x509.dns_name, names), *more)
    set_subject(draft, names[0] if common_name and names else None)


def set_subject(draft: Draft, common_name: str | None, *before: bytes) -> None:
    """Give a draft its subject: the attributes `before`, then a common name."""
    draft.common_name = common_name
    draft.subject = name(*before, *([] if common_name is None else [attribute("CN", common_name)]))


def _rsa(draft: Draft, random: Random) -> None:
    draft.spki = x509.public_key("rsa", random.randrange(12))
    host = domain(random)
    set_names(draft, [host, f"www.{host}", *(f"{word}.{host}" for word in WORDS[: random.randrange(3)])])


def _ecdsa(draft: Draft, random: Random) -> None:
    draft.spki = x509.public_key(random.choice(("p256", "p384")), random.randrange(12))


def _wildcard(draft: Draft, random: Random) -> None:
    host = domain(random)
    set_names(draft, [f"*.{host}", host][:: random.choice((1, -1))])


def _many_names(draft: Draft, random: Random) -> None:
    host = domain(random)
    set_names(draft, [f"h{number}.{host}" for number in range(random.choice((10, 20, 40, 100)))])


def _idn(draft: Draft, random: Random) -> None:
    host = domain(random)
    set_names(draft, [f"{random.choice(_IDN)}.{host}", f"*.{random.choice(_IDN)}.{host}"])


def address(text: str) -> bytes:
    """An iPAddress as GeneralName."""
    return context(7, ip_address(text).packed)


def _ip_only(draft: Draft, random: Random) -> None:
    v4 = f"192.0.2.{random.randrange(256)}"
    addresses = [address(v4), address(f"2001:db8::{random.randrange(1 << 16):x}")][: random.randrange(1, 3)]
    set_names(draft, [], *addresses)
    if random.random() < 0.5:
        set_subject(draft, v4)


def _no_common_name(draft: Draft, random: Random) -> None:
    set_names(draft, [domain(random)], common_name=False)


def _organisation(draft: Draft, random: Random) -> None:
    before = (
        attribute("C", random.choice(("DE", "FR", "JP", "US"))),
        attribute("ST", random.choice(("Île-de-France", "Bayern", "東京都"))),
        attribute("L", random.choice(("Paris", "München", "新宿区"))),
        attribute("O", f"{random.choice(WORDS).title()} & Söhne, Inc."),
        attribute("OU", "Web / Operations"),
    )
    set_subject(draft, draft.dns_names[0], *before)


def _long_subject(draft: Draft, random: Random) -> None:
    long = " ".join(random.choice(WORDS) for _ in range(random.choice((40, 200))))
    units = [attribute("OU", f"{unit} {number}") for number, unit in enumerate(WORDS)]
    set_subject(draft, draft.dns_names[0], attribute("O", long), *units, attribute("STREET", long[:120]))


def _multi_valued(draft: Draft, random: Random) -> None:
    both = tlv(SET, attribute("OU", "left"), attribute("SERIAL", str(random.randrange(10**6)), PRINTABLE))
    draft.subject = tlv(SEQUENCE, both, tlv(SET, attribute("CN", draft.dns_names[0])))


def _email_subject(draft: Draft, random: Random) -> None:
    mail = attribute("EMAIL", f"{random.choice(WORDS)}@example.com", IA5)
    set_subject(draft, draft.dns_names[0], mail, attribute("DC", "example", IA5))


def _authority(draft: Draft, random: Random) -> None:
    root = draft.issuer.above[0]
    draft.issuer, draft.is_ca, draft.dns_names = root, True, []
    draft.extensions = dict(x509.authority_extensions(draft.spki, root.spki, random.choice((None, 0, 1))))
    draft.extensions["subject_key"] = x509.unique_subject_key(draft.spki)
    set_subject(draft, f"Simulated Authority {LABEL}", attribute("C", "XX"), attribute("O", "Simulated Trust"))


def _other_algorithm(draft: Draft, random: Random) -> None:
    draft.algorithm = random.choice(sorted(x509.SIGNATURE_ALGORITHMS))
    if draft.algorithm == "ed25519":
        draft.spki = x509.public_key("ed25519", random.randrange(4))


def _odd_string(tag: int, organisation: bytes) -> Callable[[Draft, Random], None]:
    def change(draft: Draft, random: Random) -> None:
        set_subject(draft, draft.dns_names[0], attribute("O", organisation, tag))

    return change


def _serial(prefix: bytes) -> Callable[[Draft, Random], None]:
    def change(draft: Draft, random: Random) -> None:
        draft.serial = prefix + SERIAL_MARK

    return change


def _zero_serial(draft: Draft, random: Random) -> None:
    draft.serial = b"\x00"  # what sets entries apart are their names


def _version_1(draft: Draft, random: Random) -> None:
    draft.version, draft.extensions, draft.dns_names = b"", None, []


def _no_extensions(draft: Draft, random: Random) -> None:
    draft.extensions, draft.dns_names = None, []


def _without(*keys: str) -> Callable[[Draft, Random], None]:
    def change(draft: Draft, random: Random) -> None:
        assert draft.extensions is not None
        for key in keys:
            del draft.extensions[key]
        if "names" in keys:
            draft.dns_names = []

    return change


def _odd_names(draft: Draft, random: Random) -> None:
    upn = context(
        0,
        oid("1.3.6.1.4.1.311.20.2.3"),
        context(0, tlv(UTF8, b"someone@example.com"), constructed=True),
        constructed=True,
    )
    directory = context(4, name(attribute("O", "Directory"), attribute("CN", "not a host")), constructed=True)
    others = [
        context(1, b"admin@example.com"),
        context(6, b"https://example.com/path?q=1"),
        directory,
        upn,
        context(8, oid("1.3.6.1.4.1.99999.7")[2:]),
        address("198.51.100.7"),
        context(7, b"\x0a\x00"),  # an address of two octets
    ]
    random.shuffle(others)
    set_names(draft, [domain(random)], *others)


def _replaced(key: str, value: bytes) -> Callable[[Draft, Random], None]:
    def change(draft: Draft, random: Random) -> None:
        assert draft.extensions is not None
        draft.extensions[key] = value
        if key == "names":
            draft.dns_names = []

    return change


def _dates(not_before: bytes, not_after: bytes) -> Callable[[Draft, Random], None]:
    def change(draft: Draft, random: Random) -> None:
        draft.not_before, draft.not_after = not_before, not_after

    return change


def _utc(start: str, stop: str) -> Callable[[Draft, Random], None]:
    return _dates(tlv(UTC_TIME, start.encode()), tlv(UTC_TIME, stop.encode()))


def _generalized(start: str, stop: str) -> Callable[[Draft, Random], None]:
    return _dates(tlv(GENERALIZED_TIME, start.encode()), tlv(GENERALIZED_TIME, stop.encode()))


def _long_lengths(draft: Draft, random: Random) -> None:
    assert draft.extensions is not None
    value = sequence(oid("1.3.6.1.5.5.7.3.1"))
    ber = b"\x30\x81" + value[1:]  # X.690 §10.1 wants the short form here
    draft.extensions["extended_key_usage"] = x509.extension("2.5.29.37", ber)


def _same_extension_twice(draft: Draft, random: Random) -> None:
    assert draft.extensions is not None
    draft.extensions["again"] = x509.alternative_names(x509.dns_name(f"second.{domain(random)}"))


_FOREVER = datetime(9999, 12, 31, 23, 59, 59, tzinfo=UTC)
_YEAR_2051 = datetime(2051, 6, 1, tzinfo=UTC)
_START = "260301000000"

SHAPES: tuple[Shape, ...] = (
    Shape("rsa-leaf", 24, 60, _rsa),
    Shape("ecdsa-leaf", 34, 60, _ecdsa),
    Shape("wildcard", 14, 40, _wildcard),
    Shape("no-common-name", 8, 30, _no_common_name),
    Shape("many-names", 2.5, 24, _many_names),
    Shape("idn", 4, 20, _idn),
    Shape("organisation", 4, 24, _organisation),
    Shape("ip-only", 1.5, 16, _ip_only),
    Shape("long-subject", 0.7, 8, _long_subject),
    Shape("authority", 0.8, 14, _authority, precerts=0.2),
    Shape("other-algorithm", 1, 33, _other_algorithm),
    Shape("multi-valued-subject", 0.2, 4, _multi_valued),
    Shape("email-subject", 0.4, 4, _email_subject),
    Shape("bmp-subject", 0.2, 4, _odd_string(BMP, "Müller Ω".encode("utf-16-be"))),
    Shape("bmp-odd-length-subject", 0.1, 2, _odd_string(BMP, b"\x00A\x00B\x00")),
    Shape("t61-subject", 0.2, 4, _odd_string(T61, "Müller & Söhne".encode("latin-1"))),
    Shape("universal-subject", 0.2, 4, _odd_string(UNIVERSAL, "Ünïversal 😀".encode("utf-32-be"))),
    Shape("not-utf8-subject", 0.2, 4, _odd_string(UTF8, "Müller".encode("latin-1"))),
    Shape("8-bit-printable-subject", 0.2, 4, _odd_string(PRINTABLE, "M\xfcller_*@".encode("latin-1"))),
    Shape("nul-in-subject", 0.1, 2, _odd_string(UTF8, b"before\x00after")),
    Shape("empty-attribute", 0.1, 2, _odd_string(UTF8, b"")),
    Shape("negative-serial", 0.3, 4, _serial(b"\x9c")),
    Shape("long-serial", 0.2, 4, _serial(b"\x42" + noise("long serial", 23))),
    Shape("padded-serial", 0.2, 4, _serial(b"\x00\x00\x01")),
    Shape("zero-serial", 0.1, 4, _zero_serial),
    Shape("version-1", 0.3, 6, _version_1, precerts=0),
    Shape("no-extensions", 0.2, 4, _no_extensions, precerts=0),
    Shape("few-extensions", 0.3, 6, _without("key_usage", "extended_key_usage", "policies", "authority_info")),
    Shape("no-alternative-names", 0.3, 4, _without("names")),
    Shape("odd-alternative-names", 0.4, 10, _odd_names),
    Shape("empty-alternative-names", 0.1, 2, _replaced("names", x509.alternative_names())),
    Shape("broken-alternative-names", 0.1, 2, _replaced("names", x509.extension("2.5.29.17", b"\x30\x0a\x82\x20oops"))),
    Shape("padded-key-usage", 0.2, 4, _replaced("key_usage", x509.key_usage(bits(b"\xa0\x00", 0)))),
    Shape("key-usage-unused-9", 0.2, 4, _replaced("key_usage", x509.key_usage(bits(b"\xa0", 9)))),
    Shape("key-usage-without-bits", 0.2, 4, _replaced("key_usage", x509.key_usage(b"\x03\x00"))),
    Shape("key-usage-garbage", 0.2, 4, _replaced("key_usage", x509.key_usage(b"\x02\x05\xff"))),
    Shape(
        "explicit-false", 0.3, 4, _replaced("basic_constraints", x509.extension("2.5.29.19", b"\x30\x03\x01\x01\x00"))
    ),
    Shape(
        "unknown-critical",
        0.2,
        4,
        _replaced("unknown", x509.extension("1.3.6.1.4.1.99999.3", b"\x05\x00", critical=True)),
    ),
    Shape("same-extension-twice", 0.1, 2, _same_extension_twice),
    Shape("long-form-lengths", 0.2, 4, _long_lengths),
    Shape("utctime-without-zone", 0.2, 4, _utc(_START, "270301000000")),
    Shape("utctime-without-seconds", 0.2, 4, _utc("2603010000Z", "2703010000Z")),
    Shape("utctime-with-offset", 0.2, 4, _utc(f"{_START}+0130", "270301000000-0800")),
    Shape("utctime-nonsense", 0.1, 2, _utc("261332256161Z", "not a time")),
    Shape("generalized-fraction", 0.1, 2, _generalized(f"20{_START}.5Z", "20270301000000.25Z")),
    Shape("generalized-before-2050", 0.2, 2, _generalized(f"20{_START}Z", "20270301000000Z")),
    Shape("expires-after-2050", 0.2, 4, _dates(time(datetime(2026, 3, 1, tzinfo=UTC)), time(_YEAR_2051))),
    Shape("never-expires", 0.2, 4, _dates(time(datetime(2026, 3, 1, tzinfo=UTC)), time(_FOREVER))),
)


def _random_bytes(draft: Draft, random: Random) -> bytes:
    return noise(draft.label, random.randrange(20, 900)) + SERIAL_MARK


def _cut_short(draft: Draft, random: Random) -> bytes:
    whole = draft.certificate(draft.tbs())
    return whole[: whole.index(SERIAL_MARK) + 8 + random.randrange(60)]


def _not_der(draft: Draft, random: Random) -> bytes:
    return b"<html><body>504 Gateway Time-out " + SERIAL_MARK + b"</body></html>"


def _wrong_tags(draft: Draft, random: Random) -> bytes:
    return tlv(0x31, tlv(0x24, noise(draft.label, 300), SERIAL_MARK), integer(7), noise(draft.label, 40))


def _length_beyond_end(draft: Draft, random: Random) -> bytes:
    return b"\x30\x84\x7f\xff\xff\xff" + noise(draft.label, 300) + SERIAL_MARK


UNPARSEABLE: tuple[tuple[str, Callable[[Draft, Random], bytes]], ...] = (
    ("garbage-random", _random_bytes),
    ("garbage-cut-short", _cut_short),
    ("garbage-not-der", _not_der),
    ("garbage-wrong-tags", _wrong_tags),
    ("garbage-length-beyond-end", _length_beyond_end),
)
"""Certificates that nothing can be read of, by name; each keeps SERIAL_MARK once."""
