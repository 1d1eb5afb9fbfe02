"""Frames as RFC 6455 and the SSE specification write them."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from certstream.stream.framing import SSE, WEBSOCKET, close_frame


@pytest.mark.parametrize(
    ("size", "header"),
    [
        (0, b"\x81\x00"),
        (1, b"\x81\x01"),
        (125, b"\x81\x7d"),
        (126, b"\x81\x7e\x00\x7e"),
        (65_535, b"\x81\x7e\xff\xff"),
        (65_536, b"\x81\x7f\x00\x00\x00\x00\x00\x01\x00\x00"),
    ],
)
def test_a_text_frame_has_the_shortest_header_that_holds_its_length(size: int, header: bytes) -> None:
    assert WEBSOCKET.frame([b"x" * size]) == header + b"x" * size


def parse(data: bytes) -> list[tuple[int, bytes]]:
    frames, pos = [], 0
    while pos < len(data):
        first, size, pos = data[pos], data[pos + 1], pos + 2
        width = {126: 2, 127: 8}.get(size, 0)
        size, pos = int.from_bytes(data[pos : pos + width]) if width else size, pos + width
        frames.append((first, data[pos : pos + size]))
        assert len(frames[-1][1]) == size
        pos += size
    return frames


@given(st.lists(st.binary(max_size=300)))
def test_frames_of_many_messages_follow_each_other(messages: list[bytes]) -> None:
    assert parse(WEBSOCKET.frame(messages)) == [(0x81, message) for message in messages]


@given(st.lists(st.dictionaries(st.text(), st.text()), min_size=1))
def test_each_message_is_one_event(values: list[dict[str, str]]) -> None:
    events = SSE.frame([json.dumps(value).encode() for value in values]).split(b"\n\n")
    assert events.pop() == b""
    assert [json.loads(event.removeprefix(b"data: ")) for event in events] == values


def test_the_keepalive_of_websockets_is_an_empty_ping_and_events_need_none() -> None:
    assert parse(WEBSOCKET.keepalive) == [(0x89, b"")]
    assert SSE.keepalive == b""


def test_a_close_frame_holds_code_and_reason_and_is_never_too_long_for_a_control_frame() -> None:
    assert parse(close_frame(1008, "too slow")) == [(0x88, b"\x03\xf0too slow")]
    assert parse(close_frame(1008, "x" * 200)) == [(0x88, b"\x03\xf0" + b"x" * 123)]
