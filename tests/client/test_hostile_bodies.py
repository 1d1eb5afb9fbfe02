"""A body costs memory in proportion, in whatever pieces it comes."""

from __future__ import annotations

import tracemalloc

import pytest

from certstream.client.inflate import BodyBuffer


@pytest.mark.parametrize("size", [1, 2, 3, 50])
def test_a_body_in_tiny_pieces_takes_no_more_memory_than_twice_its_size(size: int) -> None:
    pieces = [b"x" * size for _ in range(3)]
    count = (1 << 19) // size
    tracemalloc.start()
    buffer = BodyBuffer("", 1 << 20)
    for index in range(count):
        buffer.feed(pieces[index % 3][:1] + bytes(size - 1))
    body = buffer.finish()
    peak_bytes = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert len(body) == count * size
    assert peak_bytes < 2.5 * len(body)


def test_pieces_of_any_size_stay_in_order() -> None:
    sizes = [1, 4_095, 4_096, 2, 3, 10_000, 4_096, 1]
    pieces = [bytes([index]) * size for index, size in enumerate(sizes)]
    buffer = BodyBuffer("", 1 << 20)
    for piece in pieces:
        buffer.feed(piece)
    assert buffer.finish() == b"".join(pieces)
