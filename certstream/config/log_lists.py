"""The section `log_lists`: which lists name the logs to read, and which of those are wanted."""

from __future__ import annotations

from typing import Annotated, Any, Final

from pydantic import AfterValidator, BeforeValidator, Field, ValidationInfo, field_validator

from certstream.config.logs import base64_bytes
from certstream.config.option import Section, option
from certstream.ct.log_choice import NO_STATE, READ_STATES
from certstream.ct.log_list import load_list_key
from certstream.ct.urls import is_log_url
from certstream.errors import ConfigError

GOOGLE: Final = "google"
APPLE: Final = "apple"

_NAME = f"1 to 40 letters, digits, dots, dashes and underscores; not {GOOGLE} or {APPLE}"
_PLACE = "a path, or an http:// or https:// URL without user name, query and fragment"
_KEY = "base64 of a DER SubjectPublicKeyInfo with an RSA key of at least 2048 bits"
_TEXTS = "a list of strings, each 1 to 200 printable characters"
_STATES = (*READ_STATES, NO_STATE)
_STATE_TEXTS = f"a list of {', '.join(_STATES[:-1])} or {_STATES[-1]}"
_LISTS = "a list of log lists, each with a name of its own"


def _checked_name(name: str) -> str:
    plain = name.isascii() and all(c.isalnum() or c in "._-" for c in name)
    if not 1 <= len(name) <= 40 or not plain or name.casefold() in (GOOGLE, APPLE):
        raise ValueError(f"must be {_NAME}")
    return name


def _checked_place(place: str) -> str:
    is_url = "://" in place
    if not place.strip() or not place.isprintable() or (is_url and not is_log_url(place)):
        raise ValueError(f"must be {_PLACE}")
    return place


def _checked_key(text: str) -> str:
    try:
        load_list_key(base64_bytes(text))
    except (ValueError, ConfigError) as exc:
        raise ValueError(f"must be {_KEY}") from exc
    return text


def _checked_texts(texts: tuple[str, ...]) -> tuple[str, ...]:
    if not all(text.strip() and len(text) <= 200 and text.isprintable() for text in texts):
        raise ValueError(f"must be {_TEXTS}")
    return texts


def _lower(value: Any) -> Any:
    return [text.lower() if isinstance(text, str) else text for text in value] if isinstance(value, list) else value


def _checked_states(states: tuple[str, ...]) -> tuple[str, ...]:
    if not set(states) <= {*_STATES}:
        raise ValueError(f"must be {_STATE_TEXTS}")
    return states


_Texts = Annotated[tuple[str, ...], Field(strict=False), AfterValidator(_checked_texts)]
_States = Annotated[tuple[str, ...], Field(strict=False), AfterValidator(_checked_states), BeforeValidator(_lower)]


class LogListConfig(Section):
    """One further list, in the layout that Google's has. Either signed or marked as unsigned."""

    name: Annotated[str, AfterValidator(_checked_name)] = option(
        ..., "How the list is called in health, metrics and `certstream --list-logs`.", allowed=_NAME
    )
    location: Annotated[str, AfterValidator(_checked_place)] = option(..., "Where the list is.", allowed=_PLACE)
    signature: Annotated[str, AfterValidator(_checked_place)] | None = option(
        None, "Where the signature over it is: RSA PKCS#1 v1.5 with SHA-256, over the list's bytes.", allowed=_PLACE
    )
    key: Annotated[str, AfterValidator(_checked_key)] | None = option(
        None, "The key of its signer. Set together with signature.", allowed=_KEY, validate_default=True
    )
    unsigned: bool = option(
        False, "Whether the list is taken as it is, for want of a signature.", validate_default=True
    )

    @field_validator("key")
    @classmethod
    def _signature_and_key(cls, key: str | None, info: ValidationInfo) -> str | None:
        if "signature" in info.data and (key is None) != (info.data["signature"] is None):
            raise ValueError("must be set where signature is, and only there")
        return key

    @field_validator("unsigned")
    @classmethod
    def _signed_or_not(cls, unsigned: bool, info: ValidationInfo) -> bool:
        if {"signature", "key"} <= info.data.keys() and unsigned == (info.data["signature"] is not None):
            raise ValueError("must be true where there is no signature, and false where there is one")
        return unsigned


class LogListsConfig(Section):
    """Logs from lists that are kept current: with Google's and Apple's as they are in 2026, about 65.

    All of them together have 2,000 to 4,000 entries a second. Following them takes 5 to 12 MB/s from the network (40 to
    100 Mbit/s, up to 1 TB a day) and half a core; archiving them with delta_sink takes 90 to 360 GB of disk a day.
    Choose fewer below, or by custom_logs and static_logs.

    What an earlier list says of a log holds, later ones only add: Google's, Apple's, then `lists`. Usable, qualified
    and pending logs are read, readonly ones to their end, retired and rejected ones not. Logs for tests, and those
    without a state, are read only where include_names has their whole name or URL. A log is read from its head where
    it is there at the first look at its list, from its first entry where it appears later. `certstream --list-logs`
    shows which logs are read, and why others are not.
    """

    enabled: bool | None = option(
        None,
        "Whether their logs are read. Null: where custom_logs and static_logs are empty; else they are asked for no "
        "more than the keys of configured logs that have none. False: they are never asked.",
        allowed="true or false",
    )
    google: bool = option(True, "Google's list of all logs, checked against its signature.")
    apple: bool = option(True, "Apple's list, for logs that Google does not know. It is not signed.")
    refresh_interval_secs: int = option(3_600, "Time between looks at the lists.", unit="seconds", ge=60, le=604_800)
    include_operators: _Texts = option(
        (), "Only logs with one of these texts in their operator's name. An empty list takes all.", allowed=_TEXTS
    )
    include_names: _Texts = option(
        (), "Only logs with one of these texts in their name or URL. An empty list takes all.", allowed=_TEXTS
    )
    include_states: _States = option(
        (), "Only logs in one of these states. An empty list takes all.", allowed=_STATE_TEXTS
    )
    exclude_operators: _Texts = option((), "No logs with such a text in their operator's name.", allowed=_TEXTS)
    exclude_names: _Texts = option((), "No logs with such a text in their name or URL.", allowed=_TEXTS)
    exclude_states: _States = option((), "No logs in such a state.", allowed=_STATE_TEXTS)
    lists: Annotated[tuple[LogListConfig, ...], Field(strict=False)] = option(
        (), "Further lists, which add logs that those before them do not know.", allowed=_LISTS
    )

    @field_validator("lists")
    @classmethod
    def _own_names(cls, lists: tuple[LogListConfig, ...]) -> tuple[LogListConfig, ...]:
        if len({each.name.casefold() for each in lists}) != len(lists):
            raise ValueError(f"must be {_LISTS}")
        return lists
