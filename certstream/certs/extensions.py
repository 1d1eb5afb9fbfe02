"""Values of X.509 extensions (content of their OCTET STRING) → the text that messages show.

Every reader gives None for a value that it cannot read, and never raises. The texts are those of
OpenSSL's and x509-parser's printers that the certstream format settled on.
"""

from __future__ import annotations

from collections.abc import Callable
from ipaddress import IPv4Address, IPv6Address

from certstream.certs import der
from certstream.certs.lenient import Element, children, read_element
from certstream.certs.memo import Memo
from certstream.certs.strings import decode_text, json_string

_KEY_USAGES = (  # RFC 5280 §4.2.1.3, bit 0 first
    "Digital Signature",
    "Content Commitment",
    "Key Encipherment",
    "Data Encipherment",
    "Key Agreement",
    "Certificate Signing",
    "CRL Signing",
    "Encipher Only",
    "Decipher Only",
)
_EXTENDED_KEY_USAGES = {  # RFC 5280 §4.2.1.12; shown in this order
    bytes.fromhex("2b06010505070301"): "serverAuth",
    bytes.fromhex("2b06010505070302"): "clientAuth",
    bytes.fromhex("2b06010505070303"): "codeSigning",
    bytes.fromhex("2b06010505070304"): "emailProtection",
    bytes.fromhex("2b06010505070308"): "timeStamping",
    bytes.fromhex("2b06010505070309"): "OCSPSigning",
    bytes.fromhex("551d2500"): "anyExtendedKeyUsage",
}
_AKI_KEY_ID = 0x80  # [0] IMPLICIT OCTET STRING of AuthorityKeyIdentifier


def _sequence(value: bytes) -> list[Element] | None:
    """The elements of the SEQUENCE that `value` is."""
    outer = read_element(value, 0, len(value))
    if outer is None or outer.tag != der.SEQUENCE:
        return None
    return children(value, outer.start, outer.stop)


def read_oid(content: bytes) -> str | None:
    """Dotted form of an OBJECT IDENTIFIER's content (X.690 §8.19); None where it is cut short or absurdly long."""
    if not content or content[-1] & 0x80 or len(content) > 64:
        return None
    arcs, value = [], 0
    for byte in content:
        value = value << 7 | byte & 0x7F
        if not byte & 0x80:
            arcs.append(value)
            value = 0
    first = min(arcs[0] // 40, 2)
    return ".".join(str(arc) for arc in (first, arcs[0] - 40 * first, *arcs[1:]))


def read_key_usage(value: bytes) -> str | None:
    """`Digital Signature, Key Encipherment`; bits after the ninth and a wrong count of unused bits do not matter."""
    bits = read_element(value, 0, len(value))
    if bits is None or bits.tag != der.BIT_STRING or bits.stop <= bits.start:
        return None
    octets = value[bits.start + 1 : bits.stop][:2].ljust(2, b"\0")
    number = int.from_bytes(octets)
    return ", ".join(name for bit, name in enumerate(_KEY_USAGES) if number & (0x8000 >> bit))


def read_extended_key_usage(value: bytes) -> str | None:
    """`serverAuth, clientAuth`: the known purposes, in this order whatever the certificate's."""
    elements = _sequence(value)
    if elements is None:
        return None
    oids = {value[e.start : e.stop] for e in elements if e.tag == der.OID}
    return ", ".join(name for oid, name in _EXTENDED_KEY_USAGES.items() if oid in oids)


def read_basic_constraints(value: bytes) -> str | None:
    """`CA:TRUE` or `CA:FALSE`."""
    elements = _sequence(value)
    if elements is None:
        return None
    is_ca = bool(elements) and elements[0].tag == der.BOOLEAN and any(value[elements[0].start : elements[0].stop])
    return "CA:TRUE" if is_ca else "CA:FALSE"


def read_policies(value: bytes) -> str | None:
    """`Policy: <oid>` and a newline for each."""
    texts = []
    for policy in _sequence(value) or ():
        oid = read_element(value, policy.start, policy.stop)
        text = read_oid(value[oid.start : oid.stop]) if oid is not None and oid.tag == der.OID else None
        if text is not None:
            texts.append(f"Policy: {text}\n")
    return "".join(texts) or None


def read_authority_info_access(value: bytes) -> str | None:
    """`URI:…, URI:…` in the order of the certificate; other kinds of location are left out."""
    texts = []
    for access in _sequence(value) or ():
        parts = children(value, access.start, access.stop, 2)
        if len(parts) == 2 and parts[1].tag == der.URI:
            texts.append(f"URI:{decode_text(der.URI, value[parts[1].start : parts[1].stop])}")
    return ", ".join(texts) or None


def read_authority_key_identifier(value: bytes) -> str | None:
    """`keyid:aa:bb:…`."""
    for element in _sequence(value) or ():
        if element.tag == _AKI_KEY_ID:
            return f"keyid:{value[element.start : element.stop].hex(':')}"
    return None


def read_subject_key_identifier(value: bytes) -> str | None:
    """`keyid:aa:bb:…`."""
    element = read_element(value, 0, len(value))
    if element is None or element.tag != der.OCTET_STRING:
        return None
    return f"keyid:{value[element.start : element.stop].hex(':')}"


def general_name_text(tag: int, content: bytes) -> str | None:
    """One subject alternative name as text: `DNS:…, email:…, URI:…, IP Address:…`; None for other kinds."""
    if tag == der.DNS:
        return f"DNS:{decode_text(tag, content)}"
    if tag == der.EMAIL:
        return f"email:{decode_text(tag, content)}"
    if tag == der.URI:
        return f"URI:{decode_text(tag, content)}"
    if tag == der.IP_ADDRESS and len(content) == 4:
        return f"IP Address:{IPv4Address(content)}"
    if tag == der.IP_ADDRESS and len(content) == 16:
        return f"IP Address:{_ipv6_text(IPv6Address(content))}"
    return None


def _ipv6_text(address: IPv6Address) -> str:
    """As Python 3.13 and other languages write it: the last 32 bits of a mapped IPv4 address in decimal."""
    return str(address) if address.ipv4_mapped is None else f"::ffff:{address.ipv4_mapped}"


def _member(key: str, read: Callable[[bytes], str | None]) -> Memo[bytes]:
    """Extension value → `"key":"text",` of the message's object; empty where it cannot be read."""

    def parse(value: bytes) -> bytes:
        text = read(value)
        return b"" if text is None else b'"%b":%b,' % (key.encode(), json_string(text))

    return Memo(parse, len, most_bytes=2 << 20)


# The members of `extensions` that repeat from certificate to certificate, by slot.
MEMBERS: dict[int, Memo[bytes]] = {
    der.AIA: _member("authorityInfoAccess", read_authority_info_access),
    der.AKI: _member("authorityKeyIdentifier", read_authority_key_identifier),
    der.BASIC_CONSTRAINTS: _member("basicConstraints", read_basic_constraints),
    der.POLICIES: _member("certificatePolicies", read_policies),
    der.EXTENDED_KEY_USAGE: _member("extendedKeyUsage", read_extended_key_usage),
    der.KEY_USAGE: _member("keyUsage", read_key_usage),
}
IS_CA: Memo[bool] = Memo(lambda value: read_basic_constraints(value) == "CA:TRUE", lambda _: 0, most_bytes=1 << 18)
