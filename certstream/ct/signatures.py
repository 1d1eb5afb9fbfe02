"""Signatures of tree heads: what is signed, by which key, and how a checkpoint carries it (RFC 6962 §3.5)."""

from __future__ import annotations

import hashlib
from functools import lru_cache
from typing import TypeAlias

from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat, load_der_public_key

from certstream.ct.static_ct import key_id
from certstream.ct.tls import Reader
from certstream.ct.types import TreeHead
from certstream.errors import ConfigError, InvalidSignatureError, MalformedError

PublicKey: TypeAlias = ec.EllipticCurvePublicKey | rsa.RSAPublicKey
PrivateKey: TypeAlias = ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey

# DigitallySigned (RFC 5246 §4.7) starts with the hash and the signature algorithm.
_SHA256_ECDSA = b"\x04\x03"
_SHA256_RSA = b"\x04\x01"


def log_id(spki: bytes) -> bytes:
    """LogID of a key: SHA-256 of its DER SubjectPublicKeyInfo, 32 bytes (RFC 6962 §3.2)."""
    return hashlib.sha256(spki).digest()


def spki_of(key: PrivateKey) -> bytes:
    """DER SubjectPublicKeyInfo of the public half of a key."""
    return key.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)


@lru_cache(maxsize=512)  # more logs than any list holds; loading costs more than verifying
def load_key(spki: bytes) -> PublicKey:
    """Read a log's key, a DER SubjectPublicKeyInfo: ECDSA on P-256, or RSA of 2048 bits and more (RFC 6962 §2.1.4).

    Raises ConfigError for every other key, and for what is none.
    """
    try:
        key = load_der_public_key(spki)
    except (ValueError, UnsupportedAlgorithm) as exc:
        raise ConfigError(f"not a public key in DER: {exc}") from exc
    if isinstance(key, ec.EllipticCurvePublicKey) and isinstance(key.curve, ec.SECP256R1):
        return key
    if isinstance(key, rsa.RSAPublicKey) and key.key_size >= 2048:
        return key
    raise ConfigError("a log's key is ECDSA on P-256, or RSA of 2048 bits and more")


def tree_head_input(head: TreeHead) -> bytes:
    """The 50 bytes that a log signs: v1, tree_hash, timestamp, tree_size, root hash (RFC 6962 §3.5)."""
    return b"\x00\x01" + head.timestamp_ms.to_bytes(8) + head.tree_size.to_bytes(8) + head.root_hash


def verify_tree_head(head: TreeHead, spki: bytes) -> None:
    """Check a tree head's signature against its log's key, a DER SubjectPublicKeyInfo.

    Raises InvalidSignatureError where it does not verify, is of another kind than the key, or is
    not exactly one DigitallySigned; ConfigError where `spki` is no key of a log.
    """
    key = load_key(spki)
    signature = _parse_digitally_signed(head.signature, key)
    if len(head.root_hash) != 32 or head.tree_size >> 64 or head.timestamp_ms >> 64:
        raise InvalidSignatureError(f"no tree head of {head.tree_size} leaves can be signed like this")
    try:
        if isinstance(key, ec.EllipticCurvePublicKey):
            key.verify(signature, tree_head_input(head), ec.ECDSA(SHA256()))
        else:
            key.verify(signature, tree_head_input(head), padding.PKCS1v15(), SHA256())
    except InvalidSignature as exc:
        raise InvalidSignatureError(f"signature of the tree head of {head.tree_size} leaves does not verify") from exc


def _parse_digitally_signed(data: bytes, key: PublicKey) -> bytes:
    expected = _SHA256_ECDSA if isinstance(key, ec.EllipticCurvePublicKey) else _SHA256_RSA
    reader = Reader(data)
    try:
        algorithms = reader.take(2)
        signature = reader.vector(2)
        reader.end()
    except MalformedError as exc:
        raise InvalidSignatureError(f"not a DigitallySigned: {exc}") from exc
    if algorithms != expected:
        raise InvalidSignatureError(f"algorithms {algorithms.hex()} do not fit the key, {expected.hex()} do")
    return signature


def sign_tree_head(head: TreeHead, key: PrivateKey) -> bytes:
    """DigitallySigned of a tree head; the same head and key give the same bytes (RFC 6979 for ECDSA)."""
    data = tree_head_input(head)
    if isinstance(key, ec.EllipticCurvePrivateKey):
        signature = key.sign(data, ec.ECDSA(SHA256(), deterministic_signing=True))
        return _SHA256_ECDSA + len(signature).to_bytes(2) + signature
    signature = key.sign(data, padding.PKCS1v15(), SHA256())
    return _SHA256_RSA + len(signature).to_bytes(2) + signature


def note_signature(head: TreeHead, name: str, log_id: bytes) -> bytes:
    """The blob of a checkpoint's signature line: key id || u64 timestamp || DigitallySigned."""
    return key_id(name, log_id) + head.timestamp_ms.to_bytes(8) + head.signature
