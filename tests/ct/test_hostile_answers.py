"""No answer of a log raises anything but MalformedError, and none takes time or memory out of proportion."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from certstream.ct.rfc6962 import (
    parse_consistency,
    parse_entry_and_proof,
    parse_get_entries,
    parse_proof_by_hash,
    parse_sth,
)
from certstream.errors import MalformedError
from fuzz.seeds import CLASSIC

PARSERS: dict[str, Callable[[bytes], Any]] = {
    "get-sth": parse_sth,
    "get-entries": lambda body: parse_get_entries(CLASSIC, 0, body),
    "get-sth-consistency": parse_consistency,
    "get-proof-by-hash": parse_proof_by_hash,
    "get-entry-and-proof": parse_entry_and_proof,
}
DEEP = 200_000


@pytest.mark.parametrize("name", PARSERS)
@pytest.mark.parametrize(
    "body", [b'{"x":' + b"[" * DEEP, b'{"x":' + b"[" * DEEP + b"]" * DEEP + b"}", b'{"x":' * DEEP, b"[" * DEEP]
)
def test_an_answer_that_nests_without_end_is_malformed(name: str, body: bytes) -> None:
    with pytest.raises(MalformedError, match=f"not a {name} answer"):
        PARSERS[name](body)
