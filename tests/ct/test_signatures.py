from __future__ import annotations

import base64
import json
from dataclasses import replace
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from certstream.ct.signatures import (
    PrivateKey,
    load_key,
    log_id,
    note_signature,
    sign_tree_head,
    spki_of,
    tree_head_input,
    verify_tree_head,
)
from certstream.ct.static_ct import parse_checkpoint
from certstream.ct.types import TreeHead
from certstream.errors import ConfigError, InvalidSignatureError

DATA = Path(__file__).parents[1] / "data" / "checkpoint"
METADATA = json.loads((DATA / "log.v3.json").read_text())
REAL_KEY = base64.b64decode(METADATA["key"])
ORIGIN = METADATA["description"]

ECDSA_KEY = ec.derive_private_key(0x5EED, ec.SECP256R1())
RSA_KEY = rsa.generate_private_key(65537, 2048)
HEAD = TreeHead(tree_size=300, timestamp_ms=1_767_139_200_000, root_hash=bytes(range(32)), signature=b"")


def signed(key: PrivateKey) -> TreeHead:
    return replace(HEAD, signature=sign_tree_head(HEAD, key))


@pytest.fixture(params=[ECDSA_KEY, RSA_KEY], ids=["ecdsa", "rsa"])
def key(request: pytest.FixtureRequest) -> PrivateKey:
    chosen: PrivateKey = request.param
    return chosen


def test_log_id_is_the_one_that_a_real_log_publishes() -> None:
    assert base64.b64encode(log_id(REAL_KEY)).decode() == METADATA["log_id"]


def test_a_real_checkpoint_verifies() -> None:
    head = parse_checkpoint((DATA / "checkpoint").read_bytes(), ORIGIN, log_id(REAL_KEY))
    verify_tree_head(head, REAL_KEY)
    assert (head.tree_size, head.timestamp_ms) == (300, METADATA["final_tree_head"]["timestamp"])


def test_the_blob_of_a_real_checkpoint_is_what_its_head_encodes_to() -> None:
    body = (DATA / "checkpoint").read_bytes()
    head = parse_checkpoint(body, ORIGIN, log_id(REAL_KEY))
    assert base64.b64encode(note_signature(head, ORIGIN, log_id(REAL_KEY))) in body


@pytest.mark.parametrize("change", [{"tree_size": 301}, {"timestamp_ms": 1}, {"root_hash": bytes(32)}])
def test_a_real_signature_covers_size_timestamp_and_root(change: dict[str, int | bytes]) -> None:
    head = parse_checkpoint((DATA / "checkpoint").read_bytes(), ORIGIN, log_id(REAL_KEY))
    with pytest.raises(InvalidSignatureError):
        verify_tree_head(replace(head, **change), REAL_KEY)  # type: ignore[arg-type]


def test_what_is_signed_is_50_bytes_in_the_order_of_the_specification() -> None:
    assert tree_head_input(HEAD).hex() == "0001" + "0000019b71b44c00" + "000000000000012c" + bytes(range(32)).hex()


def test_a_signed_head_verifies_and_signing_again_gives_the_same_bytes(key: PrivateKey) -> None:
    head = signed(key)
    verify_tree_head(head, spki_of(key))
    assert sign_tree_head(HEAD, key) == head.signature


@pytest.mark.parametrize("change", [{"tree_size": 301}, {"timestamp_ms": 1}, {"root_hash": bytes(32)}])
def test_a_signature_of_either_kind_covers_size_timestamp_and_root(
    key: PrivateKey, change: dict[str, int | bytes]
) -> None:
    with pytest.raises(InvalidSignatureError, match="does not verify"):
        verify_tree_head(replace(signed(key), **change), spki_of(key))  # type: ignore[arg-type]


OTHER_RSA_KEY = rsa.generate_private_key(65537, 2048)


@pytest.mark.parametrize(
    ("signer", "other"), [(ECDSA_KEY, REAL_KEY), (RSA_KEY, spki_of(OTHER_RSA_KEY))], ids=["ecdsa", "rsa"]
)
def test_another_key_of_the_same_kind_is_refused(signer: PrivateKey, other: bytes) -> None:
    with pytest.raises(InvalidSignatureError, match="does not verify"):
        verify_tree_head(signed(signer), other)


@pytest.mark.parametrize(("signer", "verifier"), [(ECDSA_KEY, RSA_KEY), (RSA_KEY, ECDSA_KEY)])
def test_a_key_of_the_other_kind_is_refused(signer: PrivateKey, verifier: PrivateKey) -> None:
    with pytest.raises(InvalidSignatureError, match="do not fit the key"):
        verify_tree_head(signed(signer), spki_of(verifier))


@pytest.mark.parametrize("algorithms", ["0303", "0201", "0301", "0402", "0400", "0503"])
def test_algorithm_bytes_other_than_those_of_the_key_are_refused(key: PrivateKey, algorithms: str) -> None:
    head = signed(key)
    with pytest.raises(InvalidSignatureError, match="do not fit the key"):
        verify_tree_head(replace(head, signature=bytes.fromhex(algorithms) + head.signature[2:]), spki_of(key))


def test_trailing_and_missing_bytes_are_refused(key: PrivateKey) -> None:
    head = signed(key)
    for signature in (head.signature + b"\x00", head.signature[:-1], head.signature[:3], b""):
        with pytest.raises(InvalidSignatureError, match="not a DigitallySigned"):
            verify_tree_head(replace(head, signature=signature), spki_of(key))


@pytest.mark.parametrize("change", [{"root_hash": b"short"}, {"tree_size": 2**64}, {"timestamp_ms": 2**64}])
def test_a_head_that_cannot_be_encoded_is_refused(change: dict[str, int | bytes]) -> None:
    with pytest.raises(InvalidSignatureError, match="no tree head"):
        verify_tree_head(replace(signed(ECDSA_KEY), **change), spki_of(ECDSA_KEY))  # type: ignore[arg-type]


def spki(key: ec.EllipticCurvePublicKey | rsa.RSAPublicKey | ed25519.Ed25519PublicKey) -> bytes:
    return key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)


def test_keys_that_the_specification_does_not_allow_are_refused() -> None:
    p384 = spki(ec.derive_private_key(7, ec.SECP384R1()).public_key())
    edwards = spki(ed25519.Ed25519PrivateKey.from_private_bytes(bytes(32)).public_key())
    short = spki(rsa.generate_private_key(65537, 1024).public_key())
    for refused in (p384, edwards, short, b"", REAL_KEY[:-1]):
        with pytest.raises(ConfigError):
            load_key(refused)
