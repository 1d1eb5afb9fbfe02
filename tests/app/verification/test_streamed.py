"""Leaf hashes of what went out and is tainted are kept, a bounded number of them."""

from __future__ import annotations

from certstream.app.verification.streamed import StreamedLeaves
from certstream.ct.types import LogInfo

LOG = LogInfo("log", "https://log.example/", "rfc6962", "example")
OTHER = LogInfo("other", "https://other.example/", "rfc6962", "example")


def leaves(start: int, stop: int) -> bytes:
    return b"".join(index.to_bytes(32) for index in range(start, stop))


def by_index(*indices: int) -> dict[int, bytes]:
    return {index: index.to_bytes(32) for index in indices}


def test_those_of_a_range_are_found_by_index() -> None:
    streamed = StreamedLeaves()
    streamed.keep(LOG, 10, leaves(10, 20))
    streamed.keep(LOG, 30, leaves(30, 33))
    streamed.keep(OTHER, 15, leaves(5, 9))
    assert streamed.of(LOG, 18, 31) == by_index(18, 19, 30)
    assert streamed.of(LOG, 20, 30) == {}
    assert streamed.of(OTHER, 0, 100) == {15 + at: (5 + at).to_bytes(32) for at in range(4)}


def test_the_first_ones_are_forgotten_past_the_bound() -> None:
    streamed = StreamedLeaves(most_bytes=3 * (10 * 32 + 256))
    for start in range(0, 50, 10):
        streamed.keep(LOG, start, leaves(start, start + 10))
    assert streamed.of(LOG, 0, 100) == by_index(*range(20, 50))
    streamed.keep(LOG, 40, leaves(40, 50))  # the same again takes no room
    assert streamed.of(LOG, 0, 100) == by_index(*range(20, 50))


def test_all_of_a_log_are_forgotten_and_of_no_other() -> None:
    streamed = StreamedLeaves()
    streamed.keep(LOG, 0, leaves(0, 3))
    streamed.keep(OTHER, 0, leaves(0, 3))
    streamed.forget(LOG)
    assert (streamed.of(LOG, 0, 9), streamed.of(OTHER, 0, 9)) == ({}, by_index(0, 1, 2))
