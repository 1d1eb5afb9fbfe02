"""What clients send, frame by frame, whatever the pieces it comes in."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from certstream.serve.client_frames import BURST_FRAMES, FRAMES_PER_S, ClientFrames
from certstream.stream.framing import close_frame, pong_frame

MAX_BYTES = 64 << 10


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def frame(first: int, payload: bytes = b"", mask: bytes = b"\x01\x02\x03\x04") -> bytes:
    """A masked frame."""
    size = len(payload)
    length = bytes((0x80 | size,)) if size < 126 else b"\xfe" + size.to_bytes(2) if size < 1 << 16 else b""
    header = bytes((first,)) + (length or b"\xff" + size.to_bytes(8))
    return header + mask + bytes(byte ^ mask[n % 4] for n, byte in enumerate(payload))


def frames() -> ClientFrames:
    return ClientFrames(MAX_BYTES, Clock())


@given(
    payloads=st.lists(st.binary(max_size=125), max_size=20),
    message=st.binary(max_size=300),
    cuts=st.lists(st.integers(0, 3000), max_size=20),
    mask=st.binary(min_size=4, max_size=4),
)
def test_pings_are_answered_whatever_comes_between_and_in_whatever_pieces(
    payloads: list[bytes], message: bytes, cuts: list[int], mask: bytes
) -> None:
    sent = b"".join(
        frame(0x81, message, mask) + frame(0x89, payload, mask) + frame(0x8A, payload, mask) for payload in payloads
    )
    reader, answered, start = frames(), b"", 0
    for stop in [*sorted(cut for cut in cuts if cut < len(sent)), len(sent)]:
        answered += reader.feed(sent[start:stop])
        start = stop
    assert reader.end is None
    assert answered == b"".join(map(pong_frame, payloads))


@given(st.binary(max_size=2000))
def test_whatever_bytes_come_it_reads_on_or_ends(data: bytes) -> None:
    reader = frames()
    whole = reader.feed(data)
    apart = frames()
    pieces = b"".join(apart.feed(data[n : n + 1]) for n in range(len(data)))
    assert (reader.end, whole) == (apart.end, pieces)
    if reader.end is not None:
        assert reader.feed(frame(0x89)) == b""


@pytest.mark.parametrize(
    ("sent", "answer"),
    [
        pytest.param(b"", close_frame(), id="none"),
        pytest.param((1000).to_bytes(2) + b"bye", close_frame(1000), id="its own"),
        pytest.param((4999).to_bytes(2), close_frame(4999), id="private"),
        pytest.param((1005).to_bytes(2), close_frame(1002), id="one that is not to be sent"),
        pytest.param((70).to_bytes(2), close_frame(1002), id="one that there is not"),
        pytest.param(b"\x03", close_frame(1002), id="half a code"),
    ],
)
def test_a_close_is_answered_with_its_code_and_nothing_after_it_is_read(sent: bytes, answer: bytes) -> None:
    reader = frames()
    assert reader.feed(frame(0x88, sent) + frame(0x89)) == answer
    assert reader.end == "closed"


@pytest.mark.parametrize(
    "sent",
    [
        pytest.param(b"\x89\x00", id="without a mask"),
        pytest.param(frame(0xC1), id="compressed"),
        pytest.param(frame(0x83), id="unknown opcode"),
        pytest.param(frame(0x09), id="a ping in fragments"),
        pytest.param(b"\x89\xfe\x00\x7e", id="a ping of 126 bytes"),
        pytest.param(frame(0x80), id="a continuation of nothing"),
        pytest.param(frame(0x01, b"a") + frame(0x81, b"b"), id="a message within another"),
    ],
)
def test_what_breaks_the_protocol_is_1002(sent: bytes) -> None:
    reader = frames()
    assert reader.feed(sent)[2:4] == (1002).to_bytes(2)
    assert reader.end == "error"


def test_a_message_may_be_as_large_as_the_bound_and_no_larger() -> None:
    reader = frames()
    assert reader.feed(frame(0x82, bytes(MAX_BYTES)) + frame(0x01, bytes(MAX_BYTES)) + frame(0x80)) == b""
    assert reader.end is None
    assert reader.feed(frame(0x82, bytes(MAX_BYTES + 1))[:14])[2:4] == (1009).to_bytes(2)


def test_fragments_count_together() -> None:
    reader = frames()
    assert reader.feed(frame(0x01, bytes(MAX_BYTES)) + frame(0x00)) == b""
    assert reader.feed(frame(0x89, b"between"))[2:] == b"between"
    assert reader.feed(frame(0x00, b"x"))[2:4] == (1009).to_bytes(2)


def test_so_many_frames_at_once_are_read_and_no_more() -> None:
    reader = frames()
    reader.feed(frame(0x8A) * BURST_FRAMES)
    assert reader.end is None
    assert reader.feed(frame(0x89) * 2) == b""
    assert reader.end == "flood"


def test_large_messages_count_as_more_frames() -> None:
    reader = frames()
    reader.feed(frame(0x82, bytes(MAX_BYTES)) * (BURST_FRAMES // 17))
    assert reader.end is None
    reader.feed(frame(0x82, bytes(MAX_BYTES)))
    assert reader.end == "flood"


def test_at_the_steady_rate_a_client_may_go_on_for_ever() -> None:
    clock = Clock()
    reader = ClientFrames(MAX_BYTES, clock)
    for _ in range(2_000):
        assert reader.feed(frame(0x89)) == pong_frame(b"")
        clock.now += 1 / FRAMES_PER_S
    assert reader.end is None
