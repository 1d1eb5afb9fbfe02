"""The sink's buffer: in order, counted to the byte, and with room for each kind of rows."""

from __future__ import annotations

from collections.abc import Sequence

import pyarrow as pa
from hypothesis import given
from hypothesis import strategies as st

from certstream.archive.sink.buffer import Buffer, Lane, PackedRows, pack
from certstream.certs.batch import decode
from certstream.ct.rfc6962 import frame_entries
from certstream.intervals import Intervals
from certstream.simulator.log import SimulatedLog
from tests.archive.archive_support import log_info

A = log_info()


def part(start: int, stop: int, size_bytes: int = 100) -> PackedRows:
    return PackedRows(A, start, stop, pa.py_buffer(bytes(size_bytes)))


def spans(parts: Sequence[PackedRows]) -> list[tuple[int, int]]:
    return [(rows.start, rows.stop) for rows in parts]


def test_packed_rows_are_the_rows_and_take_little_more_than_their_values() -> None:
    source = SimulatedLog("log", initial=3)
    entries = [source.entry(index) for index in range(3)]
    parts = [part for entry in entries for part in (entry.leaf_input, entry.extra_data)]
    batch = decode(frame_entries(A, 40, parts), 1_700_000_000.0)
    rows = pack(batch)
    assert (rows.url, rows.start, rows.stop, len(rows)) == (A.base_url, 40, 43, 3)
    assert rows.unpacked() == batch.to_arrow()
    assert rows.size_bytes < batch.to_arrow().nbytes + 4096


def test_what_is_in_hand_comes_back_before_what_came_meanwhile() -> None:
    buffer = Buffer(10_000)
    for start in range(3):
        buffer.live.add(part(start, start + 1))
    assert spans(buffer.draw()) == [(0, 1), (1, 2), (2, 3)]
    buffer.live.add(part(3, 4))
    assert buffer.waiting_rows == 1
    buffer.put_back()
    assert spans(buffer.draw()) == [(0, 1), (1, 2), (2, 3), (3, 4)]
    buffer.settle()
    assert (buffer.rows, buffer.size_bytes, buffer.waiting_rows, buffer.fills_a_draw) == (0, 0, 0, False)


def test_a_part_of_a_full_buffer_is_drawn_at_a_time_so_that_room_is_left() -> None:
    buffer = Buffer(4000)
    for start in range(30):
        assert buffer.live.has_room(part(start, start + 1))
        buffer.live.add(part(start, start + 1))
    assert not buffer.live.has_room(part(30, 31))
    assert buffer.fills_a_draw
    assert len(buffer.draw()) == 10
    assert buffer.live.let_go() == 20
    assert buffer.live.has_room(part(30, 31))
    assert buffer.held(A.base_url) == Intervals.of((0, 10))


def test_rows_read_again_have_room_of_their_own() -> None:
    buffer = Buffer(4000)
    for start in range(10):
        assert buffer.again.has_room(part(start, start + 1))
        buffer.again.add(part(start, start + 1))
    assert not buffer.again.has_room(part(10, 11))
    assert buffer.live.has_room(part(50, 51, 2500))
    buffer.live.add(part(50, 51, 2500))
    assert not buffer.live.has_room(part(51, 52, 2500))
    assert buffer.live.let_go() == 1
    assert buffer.held(A.base_url) == Intervals.of((0, 10))


def test_the_only_batch_of_its_kind_has_room_however_large() -> None:
    buffer = Buffer(1000)
    assert buffer.live.has_room(part(0, 1, 5000))
    buffer.live.add(part(0, 1, 5000))
    assert buffer.again.has_room(part(0, 1, 5000))
    assert not buffer.live.has_room(part(1, 2, 1))
    assert len(buffer.draw()) == 1
    assert buffer.live.has_room(part(1, 2, 5000))


@given(st.lists(st.sampled_from(["add", "add", "draw", "settle", "put_back", "let_go"]), max_size=40))
def test_counts_are_those_of_the_rows_that_are_held(steps: list[str]) -> None:
    lane = Lane(1000, 300)
    waiting: list[PackedRows] = []
    in_hand: list[PackedRows] = []
    for number, step in enumerate(steps):
        rows = part(number, number + 1 + number % 3, 60 + number)  # some follow on one another, some overlap
        if step == "add" and lane.has_room(rows):
            lane.add(rows)
            waiting = [*waiting, rows]
        elif step == "draw" and not in_hand:
            in_hand = list(lane.draw())
            assert in_hand == waiting[: len(in_hand)]
            assert in_hand or not waiting
            waiting = waiting[len(in_hand) :]
        elif step == "settle":
            lane.settle()
            in_hand = []
        elif step == "put_back":
            lane.put_back()
            waiting, in_hand = in_hand + waiting, []
        elif step == "let_go":
            assert lane.let_go() == sum(map(len, waiting))
            waiting = []
        assert list(lane) == in_hand + waiting
        assert (lane.rows, lane.size_bytes) == _counts(in_hand + waiting)
        assert (lane.waiting_rows, lane.waiting_bytes) == _counts(waiting)
        assert Intervals.of(*lane.runs(A.base_url)) == Intervals.of(*spans(in_hand + waiting))


def test_what_is_held_of_a_log_is_known_without_looking_at_each_batch() -> None:
    buffer = Buffer(1 << 20)
    for start in range(500):
        buffer.live.add(part(start, start + 1))
        buffer.live.add(PackedRows(log_info(1), 2 * start, 2 * start + 1, pa.py_buffer(b"")))
    buffer.again.add(part(700, 710))
    buffer.live.add(part(498, 505))  # a batch that a tailer publishes again, longer now
    assert [*buffer.live.runs(A.base_url)] == [(0, 500), (498, 505)]
    assert buffer.held(A.base_url) == Intervals.of((0, 505), (700, 710))
    assert len(buffer.held(log_info(1).base_url)) == 500
    assert buffer.held(log_info(2).base_url) == Intervals()


def _counts(parts: Sequence[PackedRows]) -> tuple[int, int]:
    return sum(map(len, parts)), sum(rows.size_bytes for rows in parts)
