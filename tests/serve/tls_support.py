"""Certificates that tests serve."""

from __future__ import annotations

import datetime
from dataclasses import dataclass
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    KeySerializationEncryption,
    NoEncryption,
    PrivateFormat,
)
from cryptography.x509.oid import NameOID

from certstream.serve.tls import TlsFiles

_BEGAN = datetime.datetime(2024, 1, 1, tzinfo=datetime.UTC)


@dataclass(frozen=True)
class Pair:
    """A certificate for 127.0.0.1 that signs itself, and its key."""

    certificate: x509.Certificate
    key: ec.EllipticCurvePrivateKey

    @property
    def der(self) -> bytes:
        return self.certificate.public_bytes(Encoding.DER)

    def certificate_pem(self) -> bytes:
        return self.certificate.public_bytes(Encoding.PEM)

    def key_pem(self, password: bytes | None = None) -> bytes:
        encryption: KeySerializationEncryption = BestAvailableEncryption(password) if password else NoEncryption()
        return self.key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, encryption)

    def write(self, files: TlsFiles) -> None:
        replace(files.certificate, self.certificate_pem())
        replace(files.key, self.key_pem())


def make_pair(name: str, days: int = 27_394) -> Pair:
    """A pair that is valid for so many days, by default until 2099."""
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    builder = x509.CertificateBuilder(
        subject, subject, key.public_key(), x509.random_serial_number(), _BEGAN, _BEGAN + datetime.timedelta(days=days)
    )
    return Pair(builder.sign(key, hashes.SHA256()), key)


def replace(path: Path, content: bytes) -> None:
    """As certbot and editors do: a new file by the old name."""
    new = path.with_suffix(".new")
    new.write_bytes(content)
    new.replace(path)
