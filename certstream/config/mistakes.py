"""Mistakes of a configuration as lines for the operator: where, what, what is allowed, what was perhaps meant."""

from __future__ import annotations

import difflib
import json
import re
from collections.abc import Iterable
from typing import Any

MASK = "***"
_SECRET_NAME = re.compile(r"token|secret|passw|credential", re.IGNORECASE)
_USER_INFO = re.compile(r"//[^/@\s\"]*@")
_LONGEST = 80


def shown(value: Any, name: str, *, secret: bool = False) -> str:
    """Return a value as one short line; masked is what is a secret, or what has a name, in it too, that sounds so."""
    if secret or _SECRET_NAME.search(name):
        return MASK
    value = _masked(value)
    try:
        text = json.dumps(value, ensure_ascii=False, default=str)
    except (ValueError, TypeError):  # keys that JSON does not have
        text = str(value)
    text = "".join(c if c.isprintable() else f"\\u{ord(c):04x}" for c in without_user_info(text))
    return text if len(text) <= _LONGEST else text[: _LONGEST - 1] + "…"


def _masked(value: Any) -> Any:
    """A whole section may stand where none is expected: under a misspelt name."""
    if isinstance(value, dict):
        return {key: MASK if _SECRET_NAME.search(str(key)) else _masked(inner) for key, inner in value.items()}
    return [_masked(inner) for inner in value] if isinstance(value, list) else value


def without_user_info(text: str) -> str:
    """Mask user name and password of URLs in a text."""
    return _USER_INFO.sub(f"//{MASK}@", text)


def nearest(name: str, known: Iterable[str]) -> str | None:
    """Return the known name that `name` was most likely meant to be, None if none is near."""
    matches = difflib.get_close_matches(name, list(known), n=1, cutoff=0.7)
    return matches[0] if matches else None


def nearest_path(path: str, known: Iterable[str]) -> str | None:
    """Return the known option path nearest to `path`: one of the same section, else one whose last name is near."""
    paths = list(known)
    section, _, name = path.rpartition(".")
    siblings = [other for other in paths if other.rpartition(".")[0] == section]
    if near := nearest(name, (other.rpartition(".")[2] for other in siblings)):
        return f"{section}.{near}".removeprefix(".")
    by_name: dict[str, str] = {}
    for other in paths:
        by_name.setdefault(other.rpartition(".")[2], other)
    if near := nearest(name, by_name):
        return by_name[near]
    return nearest(path, (other for other in paths if ("." in other) == ("." in path)))
