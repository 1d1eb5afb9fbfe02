"""Every parser of what comes from outside, with what the search begins with and what must hold."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

from fuzz import decoding, protocol, reading, seeds
from fuzz.entries import mutated_entry, mutated_tile
from fuzz.mutation import Mutator, mutated, mutated_der, mutated_json


@dataclass(frozen=True, slots=True)
class Target:
    """One parser, or some that take the same input."""

    name: str
    seeds: Callable[[], Sequence[bytes]]
    mutate: Mutator
    check: Callable[[Sequence[bytes]], None]  # raises whatever is not documented, AssertionError where something fails
    at_once: int = 1  # inputs that are checked together
    memory_bytes: int = 1 << 20  # that a check may take whatever the size of its input


def _single(check: Callable[[bytes], None]) -> Callable[[Sequence[bytes]], None]:
    def check_each(inputs: Sequence[bytes]) -> None:
        for data in inputs:
            check(data)

    return check_each


_SINGLE: Final[tuple[tuple[str, Callable[[], Sequence[bytes]], Mutator, Callable[[bytes], None]], ...]] = (
    ("tile", seeds.tiles, mutated_tile, decoding.check_tile),
    ("name", seeds.names, mutated_der, decoding.check_name),
    ("value", seeds.values, mutated_der, decoding.check_value),
    ("time", lambda: seeds.TIMES, mutated, decoding.check_time),
    ("answer", seeds.answers, mutated_json, protocol.check_answer),
    ("page", seeds.pages, mutated_json, protocol.check_page),
    ("checkpoint", seeds.checkpoints, mutated, protocol.check_checkpoint),
    ("proof", seeds.proofs, mutated, protocol.check_proof),
    ("edge", seeds.edges, mutated, protocol.check_edge),
    ("hash-tiles", seeds.hash_tiles, mutated, protocol.check_hash_tiles),
    ("signature", seeds.signatures, mutated_der, protocol.check_signature),
    ("log-list", seeds.log_lists, mutated_json, protocol.check_log_list),
    ("url", lambda: seeds.URLS, mutated, protocol.check_url),
    ("body", reading.bodies, mutated, reading.check_body),
    ("pages", reading.page_answers, mutated, reading.check_pages),
    ("retry-after", lambda: reading.RETRY_AFTERS, mutated, reading.check_retry_after),
    ("state", reading.states, mutated_json, reading.check_state),
    ("ledger", reading.ledgers, reading.mutated_ledger, reading.check_ledger),
)

TARGETS: Final[dict[str, Target]] = {
    "certificate": Target("certificate", seeds.certificates, mutated_der, decoding.check_certificates, at_once=64),
    "entry": Target("entry", seeds.entries, mutated_entry, decoding.check_entries, at_once=64),
    "kept-list": Target(
        "kept-list", reading.kept_lists, mutated_json, _single(reading.check_kept_list), memory_bytes=5 << 20
    ),
    **{name: Target(name, begin, mutate, _single(check)) for name, begin, mutate, check in _SINGLE},
}
