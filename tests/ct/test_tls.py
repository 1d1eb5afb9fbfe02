"""The bounded reader never reads past its end."""

from __future__ import annotations

import pytest

from certstream.ct.tls import Reader
from certstream.errors import MalformedError


def test_reads_integers_and_vectors_in_order() -> None:
    reader = Reader(b"\x01\x02\x03\x00\x02hi!")
    assert (reader.uint(1), reader.uint(2), reader.vector(2), reader.take(1)) == (1, 0x0203, b"hi", b"!")
    reader.end()


def test_stops_where_it_was_told_to() -> None:
    reader = Reader(b"abcdef", 1, 3)
    assert reader.take(2) == b"bc"
    with pytest.raises(MalformedError, match="1 bytes wanted at offset 3, 0 left"):
        reader.take(1)
    assert reader.pos == 3


def test_what_is_left_over_is_an_error() -> None:
    with pytest.raises(MalformedError, match="2 bytes left over at offset 0"):
        Reader(b"ab").end()
