"""What clients read of the messages, and of which type it has to be."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, Final

_NAME_FIELDS: Final = {"C", "CN", "L", "O", "OU", "ST", "email_address", "aggregated"}
_EXTENSIONS: Final = {
    "authorityInfoAccess", "authorityKeyIdentifier", "basicConstraints", "certificatePolicies", "extendedKeyUsage",
    "keyUsage", "subjectAltName", "subjectKeyIdentifier", "ctlPoisonByte",
}  # fmt: skip
_SHA1: Final = r"(?:[0-9A-F]{2}:){19}[0-9A-F]{2}"
_SHA256: Final = r"(?:[0-9A-F]{2}:){31}[0-9A-F]{2}"


class FormatError(Exception):
    """A message is not what clients of certstream servers expect."""


def check(stream: str, message: Any) -> bool:
    """Check a message of `lite`, `full` or `domains`; whether it was a heartbeat. Raises FormatError."""
    _need(isinstance(message, dict), "an object", message)
    kind = message.get("message_type")
    if kind == "heartbeat":
        _need(isinstance(message.get("timestamp"), float), "a heartbeat with a timestamp in seconds", message)
        return True
    if stream == "domains":
        names = message.get("data")
        _need(kind == "dns_entries" and _strings(names) and bool(names), "dns_entries with names", message)
        return False
    _need(kind == "certificate_update", "a certificate_update", message)
    _check_data(stream, message["data"])
    return False


def _check_data(stream: str, data: Mapping[str, Any]) -> None:
    _need(data["update_type"] in ("X509LogEntry", "PrecertLogEntry"), "a known update_type", data["update_type"])
    _need(isinstance(data["cert_index"], int) and data["cert_index"] >= 0, "an index", data["cert_index"])
    _need(str(data["cert_link"]).startswith("http"), "a link", data["cert_link"])
    for name in ("seen", "submission_timestamp"):
        _need(isinstance(data[name], float) and data[name] > 1e9, f"{name} in seconds", data[name])
    source = data["source"]
    _need(isinstance(source["name"], str) and source["url"].startswith("http"), "a source", source)
    _check_certificate(data["leaf_cert"])
    _need(_strings(data["leaf_cert"]["all_domains"]), "all_domains", data["leaf_cert"])
    _need(("as_der" in data["leaf_cert"]) == (stream == "full"), "as_der in the full stream alone", [*data])
    _need(("chain" in data) == (stream == "full"), "a chain in the full stream alone", [*data])
    for certificate in data.get("chain", ()):
        _check_certificate(certificate)


def _check_certificate(certificate: Mapping[str, Any]) -> None:
    for name in ("subject", "issuer"):
        fields = certificate[name]
        _need(fields.keys() <= _NAME_FIELDS and all(map(_text, fields.values())), f"a {name} of strings", fields)
        _need("aggregated" in fields, f"a {name} with aggregated", fields)
    serial = certificate["serial_number"]
    _need(serial is None or bool(re.fullmatch(r"(?:[0-9A-F]{2})*", serial)), "a serial number in hex", serial)
    for name in ("not_before", "not_after"):
        _need(certificate[name] is None or isinstance(certificate[name], int), f"{name} in seconds", certificate[name])
    for name, pattern in (("fingerprint", _SHA1), ("sha1", _SHA1), ("sha256", _SHA256)):
        _need(bool(re.fullmatch(pattern, certificate[name])), f"a {name}", certificate[name])
    _need(_text(certificate["signature_algorithm"]), "a signature algorithm", certificate["signature_algorithm"])
    _need(isinstance(certificate["is_ca"], bool), "is_ca", certificate["is_ca"])
    extensions = certificate["extensions"]
    _need(extensions.keys() <= _EXTENSIONS, "known extensions", extensions)
    _need(all(v is True if k == "ctlPoisonByte" else _text(v) for k, v in extensions.items()), "strings", extensions)


def _strings(value: Any) -> bool:
    return isinstance(value, list) and all(map(_text, value))


def _text(value: Any) -> bool:
    return isinstance(value, str)


def _need(condition: bool, what: str, got: Any) -> None:
    if not condition:
        raise FormatError(f"{what} expected, got {got!r:.300}")
