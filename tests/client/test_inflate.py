from __future__ import annotations

import gzip
import tracemalloc
import zlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from certstream.client.inflate import BodyBuffer
from certstream.errors import FetchError


def fed(encoding: str, body: bytes, *, cap_bytes: int = 1 << 20, chunk: int = 1000) -> bytes:
    buffer = BodyBuffer(encoding, cap_bytes)
    for i in range(0, len(body), chunk):
        buffer.feed(body[i : i + chunk])
    return buffer.finish()


@given(body=st.binary(max_size=5000), chunk=st.integers(2, 6000), encoding=st.sampled_from(["gzip", "x-gzip", "GZIP "]))
def test_a_body_arrives_whole_packed_or_not(body: bytes, chunk: int, encoding: str) -> None:
    assert fed(encoding, gzip.compress(body), chunk=chunk) == body
    assert fed("deflate", zlib.compress(body), chunk=chunk) == body
    assert fed("", b"{" + body, chunk=chunk) == b"{" + body


def test_gzip_that_no_header_announces_is_inflated() -> None:
    assert fed("", gzip.compress(b"tile")) == b"tile"


def test_gzip_members_follow_one_another() -> None:
    assert fed("gzip", gzip.compress(b"one ") + gzip.compress(b"two"), chunk=7) == b"one two"


def test_a_bomb_stops_at_the_cap_without_filling_memory() -> None:
    bomb = gzip.compress(bytes(300 << 20), compresslevel=1)
    buffer = BodyBuffer("gzip", 1 << 20)
    tracemalloc.start()
    with pytest.raises(FetchError) as caught:
        buffer.feed(bomb)
    peak_bytes = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert caught.value.status == "too_large"
    assert peak_bytes < 8 << 20


def test_a_body_of_exactly_the_cap_is_taken_and_one_byte_more_is_not() -> None:
    assert len(fed("gzip", gzip.compress(bytes(5000)), cap_bytes=5000)) == 5000
    assert len(fed("", bytes(5000), cap_bytes=5000)) == 5000
    for body, encoding in ((gzip.compress(bytes(5001)), "gzip"), (bytes(5001), "")):
        with pytest.raises(FetchError, match="larger than 5000") as caught:
            fed(encoding, body, cap_bytes=5000)
        assert caught.value.status == "too_large"


@pytest.mark.parametrize(
    ("encoding", "body"),
    [
        ("gzip", gzip.compress(b"x" * 5000, mtime=0)[:-9]),
        ("gzip", gzip.compress(b"x" * 5000, mtime=0)[:20]),
        ("gzip", b"<html>"),
        ("gzip", gzip.compress(b"one", mtime=0) + b"trailing"),
        ("br", b"x"),
        ("gzip", gzip.compress(b"", mtime=0) * 1000),
    ],
)
def test_a_damaged_body_is_a_failure(encoding: str, body: bytes) -> None:
    with pytest.raises(FetchError) as caught:
        fed(encoding, body)
    assert caught.value.status == "body"
