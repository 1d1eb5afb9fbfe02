"""The section `log_lists`: its defaults, and what it takes."""

from __future__ import annotations

import base64
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from pydantic import ValidationError

from certstream.config.log_lists import LogListsConfig
from certstream.config.option import options_of
from certstream.ct.signatures import spki_of


def text(data: bytes) -> str:
    return base64.b64encode(data).decode()


KEY = text(spki_of(rsa.generate_private_key(65537, 2048)))
SIGNED = {"name": "own", "location": "https://h/list.json", "signature": "https://h/list.sig", "key": KEY}
UNSIGNED = {"name": "file", "location": "lists/own.json", "unsigned": True}


def load(**options: Any) -> LogListsConfig:
    return LogListsConfig.model_validate(options)


def mistakes(**options: Any) -> list[tuple[str, str]]:
    """Path and message of each."""
    with pytest.raises(ValidationError) as caught:
        load(**options)
    return [(".".join(map(str, error["loc"])), error["msg"]) for error in caught.value.errors()]


def test_both_lists_are_read_once_an_hour_without_any_selection() -> None:
    texts = {f"{way}_{what}": () for way in ("include", "exclude") for what in ("operators", "names", "states")}
    assert load().model_dump() == {
        "enabled": None,
        "google": True,
        "apple": True,
        "refresh_interval_secs": 3600,
        **texts,
        "lists": (),
    }


def test_every_option_says_what_it_does_and_what_it_takes() -> None:
    options = list(options_of(LogListsConfig, "log_lists."))
    assert len(options) == 11
    for option in options:
        assert option.description.endswith(".")
        assert option.range or option.annotation is bool


def test_further_lists_are_signed_or_marked_as_unsigned() -> None:
    signed, unsigned = load(lists=[SIGNED, UNSIGNED]).lists
    assert (signed.name, signed.signature, signed.key, signed.unsigned) == ("own", "https://h/list.sig", KEY, False)
    assert (unsigned.location, unsigned.signature, unsigned.unsigned) == ("lists/own.json", None, True)


@pytest.mark.parametrize(
    ("changes", "path"),
    [
        ({"signature": None, "key": None}, "unsigned"),
        ({"unsigned": True}, "unsigned"),
        ({"key": None}, "key"),
        ({"signature": None}, "key"),
        ({"key": "AAAA"}, "key"),
        ({"key": "?"}, "key"),
        ({"key": text(spki_of(ec.generate_private_key(ec.SECP256R1())))}, "key"),
        ({"location": ""}, "location"),
        ({"location": "ftp://h/list.json"}, "location"),
        ({"location": "https://user:word@h/list.json"}, "location"),
        ({"signature": "a\nb"}, "signature"),
        ({"name": "Google"}, "name"),
        ({"name": "a b"}, "name"),
        ({"name": ""}, "name"),
        ({"log_id": "x"}, "log_id"),
    ],
)
def test_a_list_that_is_neither_signed_nor_unsigned_or_otherwise_wrong_is_a_mistake(
    changes: dict[str, Any], path: str
) -> None:
    (where, message), *more = mistakes(lists=[{**SIGNED, **changes}])
    assert (where, more) == (f"lists.0.{path}", [])
    assert "must be" in message or path == "log_id"


def test_two_lists_of_one_name_are_a_mistake() -> None:
    assert mistakes(lists=[SIGNED, {**UNSIGNED, "name": "OWN"}])[0][0] == "lists"


def test_states_are_words_in_upper_or_lower_case_and_only_those_that_are_read() -> None:
    assert load(include_states=["Usable", "NONE"]).include_states == ("usable", "none")
    for state in ("rejected", "retired", "usabl", "", 7):
        assert mistakes(exclude_states=[state])[0][0].startswith("exclude_states")


@pytest.mark.parametrize("option", ["include_operators", "include_names", "exclude_operators", "exclude_names"])
@pytest.mark.parametrize("wrong", ["", "  ", "a\x00", "a" * 201])
def test_a_text_that_would_match_all_or_nothing_is_a_mistake(option: str, wrong: str) -> None:
    assert load(**{option: ["Ärger & Co", "argon"]}).model_dump()[option] == ("Ärger & Co", "argon")
    assert mistakes(**{option: ["argon", wrong]})[0][0] == option


@pytest.mark.parametrize("seconds", [59, 604_801, 60.5, True])
def test_the_interval_has_bounds(seconds: float) -> None:
    assert mistakes(refresh_interval_secs=seconds)[0][0] == "refresh_interval_secs"
