"""`custom_logs[]` and `static_logs[]`: what describes a log, checked strictly."""

from __future__ import annotations

import hashlib
import json
from base64 import b64encode
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import dsa, ec, ed25519, rsa
from cryptography.hazmat.primitives.asymmetric.types import PublicKeyTypes
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from certstream.config import Config, load_config
from certstream.ct.types import LogInfo
from certstream.errors import ConfigError


@pytest.fixture(autouse=True)
def _no_file(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("certstream.config.file.SEARCHED", ())


def load(**lists: list[dict[str, Any]]) -> Config:
    environ = {f"CERTSTREAM_{name.upper()}": json.dumps(logs) for name, logs in lists.items()}
    return load_config(None, environ).config


def mistake(**lists: list[dict[str, Any]]) -> str:
    with pytest.raises(ConfigError) as caught:
        load(**lists)
    (line,) = caught.value.mistakes
    return line


def spki(key: PublicKeyTypes) -> bytes:
    return key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)


P256 = spki(ec.generate_private_key(ec.SECP256R1()).public_key())
P256_ID = hashlib.sha256(P256).digest()
P256_TEXT = b64encode(P256).decode()


def log(**fields: Any) -> dict[str, Any]:
    return {"name": "a", "url": "https://ct.example.com/a/", **fields}


def test_a_log_of_name_and_url_is_followed_from_its_head() -> None:
    config = load(custom_logs=[log()], static_logs=[log(url="https://mon.example.com/b")])
    custom, static = config.custom_logs[0], config.static_logs[0]
    assert custom.info == LogInfo("a", "https://ct.example.com/a/", "rfc6962", "ct.example.com")
    assert static.info == LogInfo("a", "https://mon.example.com/b", "static", "mon.example.com")
    assert (custom.start, custom.batch_size, custom.poll_interval_ms) == ("head", None, None)


def test_key_id_origin_and_operator_reach_the_log() -> None:
    fields = {"key": P256_TEXT, "log_origin": "log.example.com/a", "operator": "Example", "start": 12}
    static = load(static_logs=[log(**fields)]).static_logs[0]
    assert static.info == LogInfo(
        "a",
        "https://ct.example.com/a/",
        "static",
        "Example",
        key=P256,
        log_id=P256_ID,
        origin="log.example.com/a",
    )
    assert static.start == 12


def test_the_log_id_of_the_key_may_be_repeated_or_stand_alone() -> None:
    text = b64encode(P256_ID).decode()
    assert load(custom_logs=[log(key=P256_TEXT, expected_log_id=text)]).custom_logs[0].info.log_id == P256_ID
    assert load(custom_logs=[log(expected_log_id=text)]).custom_logs[0].info.log_id == P256_ID


def test_a_log_id_that_is_not_that_of_the_key_is_a_mistake() -> None:
    line = mistake(custom_logs=[log(key=P256_TEXT, expected_log_id=b64encode(bytes(32)).decode())])
    assert line.startswith("custom_logs[0].expected_log_id: ")
    assert "must be the SHA-256 of the configured key" in line


@pytest.mark.parametrize(
    "text", ["", "abc", "!!!!" + b64encode(bytes(32)).decode(), b64encode(bytes(31)).decode(), "é"]
)
def test_a_log_id_is_base64_of_32_bytes(text: str) -> None:
    line = mistake(static_logs=[log(expected_log_id=text)])
    assert line.startswith("static_logs[0].expected_log_id: ")
    assert "must be base64 of 32 bytes" in line


RSA = rsa.generate_private_key(65537, 2048).public_key()


def test_an_rsa_key_of_2048_bits_is_a_logs_key() -> None:
    assert load(custom_logs=[log(key=b64encode(spki(RSA)).decode())]).custom_logs[0].info.key == spki(RSA)


NOT_KEYS = {
    "nothing": "",
    "no base64": "not base64",
    "padding missing": P256_TEXT.rstrip("="),
    "line break": P256_TEXT[:40] + "\n" + P256_TEXT[40:],
    "character before": "!" + P256_TEXT,
    "byte missing": b64encode(P256[:-1]).decode(),
    "byte too many": b64encode(P256 + b"\x00").decode(),
    "empty sequence": b64encode(b"\x30\x00").decode(),
    "P-384": b64encode(spki(ec.generate_private_key(ec.SECP384R1()).public_key())).decode(),
    "RSA 1024": b64encode(spki(rsa.generate_private_key(65537, 1024).public_key())).decode(),
    "Ed25519": b64encode(spki(ed25519.Ed25519PrivateKey.generate().public_key())).decode(),
    "DSA": b64encode(spki(dsa.generate_private_key(1024).public_key())).decode(),
    "PKCS 1": b64encode(RSA.public_bytes(Encoding.DER, PublicFormat.PKCS1)).decode(),
    "PEM": RSA.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo).decode(),
}


@pytest.mark.parametrize("text", NOT_KEYS.values(), ids=NOT_KEYS)
def test_a_key_is_base64_of_an_spki_that_logs_may_have(text: str) -> None:
    line = mistake(static_logs=[log(key=text)])
    assert line.startswith("static_logs[0].key: ")
    assert "must be base64 of a DER SubjectPublicKeyInfo" in line


@pytest.mark.parametrize(
    "url",
    [
        "",
        "ct.example.com/a",
        "//ct.example.com/a",
        "ftp://ct.example.com/",
        "file:///etc/passwd",
        "https://",
        "https:///a",
        "https://ct.example.com:0/",
        "https://ct.example.com:70000/",
        "https://ct.example.com:x/",
        "https://[::1/",
        "https://user:pw@ct.example.com/",
        "https://ct.example.com/?a",
        "https://ct.example.com/#a",
        "https://ct.example.com/a b",
        "https://ct.example.com/\n",
        "https://ct.exämple.com/",
        " https://ct.example.com/",
        "https:\\\\ct.example.com",
    ],
)
def test_a_url_is_http_and_nothing_else(url: str) -> None:
    line = mistake(custom_logs=[log(url=url)])
    assert line.startswith("custom_logs[0].url: ")
    assert "must be an http:// or https:// URL" in line
    assert "pw" not in line.replace("passwd", "")


@pytest.mark.parametrize(
    "url",
    ["http://127.0.0.1:8080", "https://[::1]:8443/log/", "https://ct.example.com", "HTTPS://ct.example.com/2026h1/"],
)
def test_a_url_stays_as_configured(url: str) -> None:
    assert load(custom_logs=[log(url=url)]).custom_logs[0].info.url == url


@pytest.mark.parametrize(
    ("first", "second"),
    [
        ("https://h/a", "https://h/a"),
        ("https://h/a", "https://h/a/"),
        ("https://h/a//", "https://h/a"),
        ("https://h/a", "https://H/a"),
        ("https://h/a", "https://h:443/a"),
        ("http://h:80/a", "http://h/a"),
    ],
)
def test_one_log_configured_twice_is_a_mistake(first: str, second: str) -> None:
    line = mistake(custom_logs=[log(name="a", url=first), log(name="b", url=second)])
    assert line.startswith(f'custom_logs[1].url: "{second}" is not allowed, is the log of custom_logs[0].url')
    line = mistake(custom_logs=[log(name="a", url=first)], static_logs=[log(name="b", url=second)])
    assert line.startswith("static_logs[0].url: ")


def test_logs_that_differ_are_not_one() -> None:
    urls = ["https://h/a", "https://h/A", "http://h/a", "https://h:444/a", "https://h/"]
    assert len(load(custom_logs=[log(name=url, url=url) for url in urls]).custom_logs) == 5


def test_one_name_for_two_logs_is_told() -> None:
    environ = {"CERTSTREAM_CUSTOM_LOGS": json.dumps([log(), log(url="https://b.example.com/")])}
    assert load_config(None, environ).warnings == (
        "more than one log is called 'a': metrics and messages cannot tell them apart",
    )


@pytest.mark.parametrize("start", ["head", "beginning", 0, 10**12])
def test_a_log_starts_at_its_head_its_beginning_or_an_index(start: Any) -> None:
    assert load(custom_logs=[log(start=start)]).custom_logs[0].start == start


@pytest.mark.parametrize("start", [-1, "tail", "5", 1.5, True, None, 1 << 63])
def test_any_other_start_is_a_mistake(start: Any) -> None:
    line = mistake(custom_logs=[log(start=start)])
    assert line.startswith("custom_logs[0].start: ")
    assert "must be head, beginning or an index from 0" in line


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"name": ""}, "custom_logs[0].name: "),
        ({"name": "a\nb"}, "custom_logs[0].name: "),
        ({"name": 5}, "custom_logs[0].name: "),
        ({"operator": " "}, "custom_logs[0].operator: "),
        ({"batch_size": 0}, "custom_logs[0].batch_size: 0 is not allowed, must be an integer from 1 to 10000 entries"),
        ({"poll_interval_ms": 1}, "custom_logs[0].poll_interval_ms: 1 is not allowed, must be an integer from 10 "),
        ({"log_origin": "x"}, 'custom_logs[0].log_origin: unknown option, set to "x"; '),
        ({"keys": "x"}, 'custom_logs[0].keys: unknown option, set to "x"; the nearest known is custom_logs[0].key'),
    ],
)
def test_other_options_of_a_log_are_checked_too(fields: dict[str, Any], said: str) -> None:
    assert mistake(custom_logs=[log(**fields)]).startswith(said)


@pytest.mark.parametrize(("missing", "known"), [("name", "url"), ("url", "name")])
def test_name_and_url_are_needed(missing: str, known: str) -> None:
    entry = {known: log()[known]}
    assert mistake(static_logs=[entry]).startswith(f"static_logs[0].{missing}: missing, must be ")
