from __future__ import annotations

import base64
import hashlib
import json
from collections import Counter
from datetime import datetime
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from hypothesis import given
from hypothesis import strategies as st

from certstream.ct.log_list import (
    GOOGLE_LIST_KEY,
    MAX_LIST_BYTES,
    MAX_LISTED_LOGS,
    FinalTreeHead,
    LogList,
    TemporalInterval,
    bare_url,
    parse_log_list,
    verify_log_list,
)
from certstream.ct.signatures import log_id, spki_of
from certstream.ct.static_ct import parse_checkpoint
from certstream.errors import ConfigError, InvalidSignatureError, MalformedError
from tests.ct.log_list_support import (
    APPLE,
    DATA,
    GOOGLE,
    GOOGLE_SIGNATURE,
    SIGNER,
    classic,
    document,
    listed,
    signed,
    spki,
    text,
    tiled,
)

READONLY = {"readonly": {"final_tree_head": {"tree_size": 7, "sha256_root_hash": text(bytes(32))}}}


def ms(when: str) -> int:
    return int(datetime.fromisoformat(when).timestamp() * 1000)


def test_googles_key_is_the_one_it_publishes() -> None:
    fingerprint = "f1d8b68e50210d8e73d9a3e97f571773c52d7f28c0b1a71beee81d8562e6fd85"
    assert hashlib.sha256(GOOGLE_LIST_KEY).hexdigest() == fingerprint


def test_googles_list_verifies_and_every_log_of_it_is_read() -> None:
    verify_log_list(GOOGLE, GOOGLE_SIGNATURE, GOOGLE_LIST_KEY)
    logs = parse_log_list(GOOGLE)
    assert (logs.version, logs.published_ms, logs.unusable) == ("89.25", ms("2026-08-20T13:34:57Z"), ())
    assert Counter(log.kind for log in logs.logs) == {"rfc6962": 42, "static": 75}
    assert Counter(log.state for log in logs.logs) == {
        "usable": 37, "pending": 16, "rejected": 14, "qualified": 6, "retired": 3, "readonly": 2, None: 39,
    }  # fmt: skip
    assert Counter(log.log_type for log in logs.logs) == {"prod": 80, "test": 24, "monitoring_only": 13}


def test_apples_list_is_read_by_the_same_layout() -> None:
    logs = parse_log_list(APPLE)
    assert (logs.version, logs.published_ms, len(logs.logs), logs.unusable) == ("511", None, 166, ())


def test_a_real_readonly_log_says_where_it_ends() -> None:
    log = next(log for log in parse_log_list(GOOGLE).logs if log.name == "Sectigo 'Mammoth2026h2'")
    root = base64.b64decode("vJHecZC18lG3qp9lV2jZoi+7nkPHQx2SmM4VWglNsIk=")
    assert (log.state, log.final_tree_head) == ("readonly", FinalTreeHead(57_634_084, root))
    assert log.interval == TemporalInterval(ms("2026-07-01T00:00:00Z"), ms("2027-01-01T00:00:00Z"))
    assert (log.operator, log.mmd_s, log.url) == ("Sectigo", 86_400, "https://mammoth2026h2.ct.sectigo.com/")


def test_a_real_tiled_log_is_read_below_its_monitoring_prefix_and_named_by_its_submission_prefix() -> None:
    info = next(log.info for log in parse_log_list(GOOGLE).logs if log.name == "Let's Encrypt 'Twig2026h1'")
    assert (info.kind, info.url, info.origin) == (
        "static", "https://mon.twig.ct.letsencrypt.org/2026h1/", "log.twig.ct.letsencrypt.org/2026h1",
    )  # fmt: skip
    assert info.key is not None
    assert info.log_id == hashlib.sha256(info.key).digest()


def test_the_origin_is_the_first_line_of_a_real_logs_checkpoint() -> None:
    metadata = json.loads((DATA.parent / "checkpoint" / "log.v3.json").read_text())
    checkpoint = (DATA.parent / "checkpoint" / "checkpoint").read_bytes()
    log = parse_log_list(json.dumps({"operators": [{"name": "Sunlight", "tiled_logs": [metadata]}]}).encode()).logs[0]
    assert parse_checkpoint(checkpoint, log.origin, log.log_id).signature


@pytest.mark.parametrize("changed", ["list", "signature", "key", "none", "cut"])
def test_what_the_signature_does_not_cover_does_not_verify(changed: str) -> None:
    body, signature, key = document(classic(1)), b"", spki_of(SIGNER)
    signature = signed(body)
    verify_log_list(body, signature, key)
    changes: dict[str, tuple[bytes, bytes, bytes]] = {
        "list": (body + b"\n", signature, key),
        "signature": (body, signature[:-1] + bytes([signature[-1] ^ 1]), key),
        "key": (body, signature, GOOGLE_LIST_KEY),
        "none": (body, b"", key),
        "cut": (body, signature[:-1], key),
    }
    with pytest.raises(InvalidSignatureError):
        verify_log_list(*changes[changed])


@pytest.mark.parametrize(
    "key",
    [b"", spki(1), spki_of(rsa.generate_private_key(65537, 1024))],
    ids=["none", "ecdsa", "short"],
)
def test_a_list_is_signed_with_rsa_alone(key: bytes) -> None:
    with pytest.raises(ConfigError):
        verify_log_list(b"", b"", key)


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        (b"", "not JSON"),
        (b"<!DOCTYPE html>", "not JSON"),
        (b"[" * 2000, "not JSON"),
        (b"[]", "no array `operators`"),
        (b'{"operators": {}}', "no array `operators`"),
        (b'{"operators": []}', "none of the log list's 0 logs"),
        (b'{"operators": [7, {"name": "A", "logs": 7}]}', "none of the log list's 2 logs"),
        (document(classic(1, key="?"), classic(2, url="ftp://a")), "none of the log list's 2 logs"),
        (b" " * (MAX_LIST_BYTES + 1), f"{MAX_LIST_BYTES} are allowed"),
        (b'{"operators": [%s]}' % b",".join([b"0"] * (MAX_LISTED_LOGS + 1)), f"more than {MAX_LISTED_LOGS}"),
    ],
    ids=range(10),
)
def test_what_is_no_list_is_refused(body: bytes, reason: str) -> None:
    with pytest.raises(MalformedError, match=reason):
        parse_log_list(body)


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"key": text(spki(3))}, "log_id is not the SHA-256 of key"),
        ({"log_id": text(bytes(32))}, "log_id is not the SHA-256 of key"),
        ({"log_id": text(log_id(spki(2)))[:-1]}, "not base64"),
        ({"key": None}, "key is None, not base64"),
        ({"key": text(spki_of(ec.generate_private_key(ec.SECP384R1())))}, "key: a log's key is ECDSA on P-256"),
        ({"url": "https://user@ct.example.com/"}, "url is 'https://user@ct.example.com/'"),
        ({"url": "https://ct.example.com/?a"}, "not an http:// or https:// URL"),
        ({"url": 7}, "url is 7"),
        ({"url": f"https://ct.example.com/{'a' * 1000}"}, "not an http:// or https:// URL"),
        ({"mmd": -1}, "mmd is -1"),
        ({"mmd": True}, "mmd is True"),
        ({"mmd": 1.5}, "mmd is 1.5"),
        ({"state": {}}, "state is not exactly one"),
        ({"state": {"usable": {}, "retired": {}}}, "state is not exactly one"),
        ({"state": "usable"}, "state is not exactly one"),
        ({"state": {"usable": True}}, "state 'usable' is not known"),
        ({"state": {"suspended": {}}}, "state 'suspended' is not known"),
        ({"state": {"readonly": {}}}, "readonly without final_tree_head"),
        ({"state": {"readonly": {"final_tree_head": {"sha256_root_hash": text(bytes(32))}}}}, "tree_size is None"),
        ({"state": {"readonly": {"final_tree_head": {"tree_size": 1, "sha256_root_hash": "AA=="}}}}, "of 1 bytes"),
        ({"temporal_interval": {}}, "temporal_interval is not a time and a later one"),
        (
            {"temporal_interval": {"start_inclusive": "2026-01-01T00:00:00Z", "end_exclusive": "2026-13-01T00:00:00Z"}},
            "temporal_interval is not a time and a later one",
        ),
        (
            {"temporal_interval": {"start_inclusive": "2026-01-01T00:00:00Z", "end_exclusive": "2026-01-01T00:00:00Z"}},
            "temporal_interval is not a time and a later one",
        ),
        ({"temporal_interval": []}, "temporal_interval is not an object"),
        ({"log_type": 7}, "log_type is not a text"),
    ],
)  # fmt: skip
def test_a_log_that_cannot_be_used_is_left_out_and_the_others_stay(changes: dict[str, Any], reason: str) -> None:
    bad = {**classic(2), **changes}
    if changes.get("key", "") is None:
        del bad["key"]
    logs = listed(classic(1), bad, tiled(3))
    assert [log.name for log in logs.logs] == ["Log 1", "Log 3"]
    assert [(log.name, log.operator) for log in logs.unusable] == [("Log 2", "Example")]
    assert reason in logs.unusable[0].reason


def test_a_tiled_log_needs_both_its_prefixes() -> None:
    logs = listed(classic(1), tiled(2, submission_url=None), tiled(3, monitoring_url=None))
    assert [log.name for log in logs.logs] == ["Log 1"]
    assert [log.reason.split()[0] for log in logs.unusable] == ["submission_url", "monitoring_url"]


def test_of_two_logs_with_one_id_or_one_url_the_first_stands() -> None:
    again = tiled(1, description="Log 1, tiled")
    same_url = classic(2, url="HTTPS://CT.example.com:443/1")
    logs = listed(classic(1), same_url, again)
    assert [log.name for log in logs.logs] == ["Log 1"]
    assert [log.reason for log in logs.unusable] == [
        "has the URL of Log 1, which stands before it",
        "has the log id of Log 1, which stands before it",
    ]


@pytest.mark.parametrize("description", [None, "", "  ", 7, "bell\x07", "a" * 201])
def test_a_log_without_a_usable_description_is_named_by_its_url(description: Any) -> None:
    entry = {**classic(1), "description": description}
    logs = parse_log_list(json.dumps({"operators": [{"name": "A", "logs": [entry]}]}).encode())
    assert [log.name for log in logs.logs] == ["ct.example.com/1"]


@pytest.mark.parametrize("operator", [None, 7, "", "a\nb", "a" * 201])
def test_logs_of_an_operator_without_a_name_are_left_out(operator: Any) -> None:
    operators = [{"name": operator, "logs": [classic(1)]}, {"name": "B", "logs": [classic(2)]}]
    logs = parse_log_list(json.dumps({"operators": operators}).encode())
    assert [log.name for log in logs.logs] == ["Log 2"]
    assert [(log.name, log.reason) for log in logs.unusable] == [("Log 1", "has an operator without a name")]


def test_what_an_operator_that_is_no_object_and_logs_that_are_no_array_hold_is_left_out() -> None:
    operators = [None, {"name": "A", "logs": "x", "tiled_logs": [tiled(1)]}]
    logs = parse_log_list(json.dumps({"operators": operators}).encode())
    assert [log.name for log in logs.logs] == ["Log 1"]
    assert [(log.operator, log.reason) for log in logs.unusable] == [
        ("", "is not an object"),
        ("A", "is not an object"),
    ]


def test_times_with_fraction_and_offset_are_read() -> None:
    interval = {"start_inclusive": "2026-01-01T01:00:00+01:00", "end_exclusive": "2026-07-01T00:00:00.5Z"}
    log = listed(classic(1, temporal_interval=interval, state=READONLY)).logs[0]
    assert log.interval == TemporalInterval(ms("2026-01-01T00:00:00Z"), ms("2026-07-01T00:00:00Z") + 500)


@pytest.mark.parametrize(
    "when",
    [
        "2026-01-01",
        "2026-01-01 00:00:00Z",
        "yesterday",
        7,
        "٢٠٢٦-01-01T00:00:00Z",
        "2026-01-01T00:00:60Z",
        "0001-01-01T00:00:00+23:59",
        "9999-12-31T23:59:59-23:59",
    ],
)
def test_a_publishing_time_that_is_none_is_not_known(when: Any) -> None:
    logs = parse_log_list(document(classic(1), log_list_timestamp=when))
    assert (logs.published_ms, len(logs.logs)) == (None, 1)


def test_a_bare_url_has_neither_scheme_nor_trailing_slashes() -> None:
    assert bare_url("https://rome.ct.example.com/2024h1//") == "rome.ct.example.com/2024h1"


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=6,
)
_FULL = [
    classic(1, temporal_interval={"start_inclusive": "2026-01-01T00:00:00Z", "end_exclusive": "2027-01-01T00:00:00Z"}),
    {**classic(2), "state": READONLY},
    tiled(3, log_type="test"),
]


def check(logs: LogList) -> None:
    """What holds of every list that was read."""
    assert logs.logs
    assert len({log.log_id for log in logs.logs}) == len({log.url for log in logs.logs}) == len(logs.logs)
    for log in logs.logs:
        assert hashlib.sha256(log.key).digest() == log.log_id
        assert log.name.isprintable()
        assert (log.final_tree_head is not None) == (log.state == "readonly")
        assert (log.origin is not None) == (log.kind == "static")
    for bad in logs.unusable:
        assert bad.reason.isprintable()
        assert len(bad.reason) < 400


def places(value: Any) -> list[tuple[Any, Any]]:
    """Every container and key of a document."""
    keys = list(value) if isinstance(value, dict) else list(range(len(value))) if isinstance(value, list) else []
    return [(value, key) for key in keys] + [place for key in keys for place in places(value[key])]


@given(st.data())
def test_a_list_with_anything_in_any_place_is_read_or_refused_and_nothing_else(data: st.DataObject) -> None:
    value = json.loads(document(*_FULL, log_list_timestamp="2026-01-01T00:00:00Z"))
    container, key = data.draw(st.sampled_from(places(value)))
    container[key] = data.draw(JSON)
    try:
        logs = parse_log_list(json.dumps(value).encode())
    except MalformedError:
        return
    check(logs)


@given(st.integers(0, len(APPLE) - 1), st.binary(max_size=4))
def test_a_real_list_with_bytes_overwritten_is_read_or_refused_and_nothing_else(at: int, patch: bytes) -> None:
    body = APPLE[: at % 4000] + patch + APPLE[at % 4000 + len(patch) : 4000]
    for each in (body, body[: body.rfind(b'"url"')] + b'"url": "https://a.example.com/"}]}]}'):
        try:
            logs = parse_log_list(each)
        except MalformedError:
            continue
        check(logs)


@given(st.binary(max_size=60) | JSON.map(lambda value: json.dumps(value).encode()))
def test_anything_else_is_refused(body: bytes) -> None:
    with pytest.raises(MalformedError):
        parse_log_list(body)
