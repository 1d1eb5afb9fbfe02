"""Rows of the live feed that wait for the archive: packed, and bounded in bytes."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Final

import pyarrow as pa

from certstream.certs.arrow import SCHEMA
from certstream.certs.batch import CertificateBatch
from certstream.ct.types import LogInfo
from certstream.intervals import Intervals

_AGAIN_SHARE: Final = 4  # of the buffer, one part in so many is for rows that are read again
_DRAW_SHARE: Final = 4  # likewise, what is drawn at a time: room is left for what comes meanwhile


@dataclass(frozen=True, slots=True)
class PackedRows:
    """The rows of indices [start, stop) of one log, seen at one moment; more than none.

    `content` is a record batch of certs.arrow.SCHEMA as one Arrow IPC message. As an object a batch of three rows
    takes 36 KB, and of 9 KB it consists: packed, memory is what is counted.
    """

    log: LogInfo
    start: int
    stop: int
    content: pa.Buffer

    @property
    def url(self) -> str:
        """The log as `source_url` has it."""
        return self.log.base_url

    @property
    def size_bytes(self) -> int:
        """What it takes in memory."""
        return int(self.content.size)

    def __len__(self) -> int:
        return self.stop - self.start

    def unpacked(self) -> pa.RecordBatch:
        """The rows, which share the memory of `content`."""
        return pa.ipc.read_record_batch(self.content, SCHEMA)


def pack(batch: CertificateBatch) -> PackedRows:
    """Every row of a batch, for the archive; costly. The batch has at least one."""
    return PackedRows(batch.log, batch.start, batch.stop, batch.to_arrow().serialize())


class Buffer:
    """Rows that wait for a commit, and those that a commit is being made of.

    Of `cap_bytes` a quarter is for rows that are read again, so that they never take the room of live ones. At the
    bound `has_room` says no: rows that are read again wait then, live ones are let go. Where nothing of its kind
    waits a batch has room, however large.
    """

    def __init__(self, cap_bytes: int) -> None:
        again_bytes = cap_bytes // _AGAIN_SHARE
        self.live = Lane(cap_bytes - again_bytes, cap_bytes // _DRAW_SHARE)
        self.again = Lane(again_bytes, again_bytes)
        self._lanes = (self.live, self.again)

    @property
    def rows(self) -> int:
        """All rows held."""
        return self.live.rows + self.again.rows

    @property
    def size_bytes(self) -> int:
        """Bytes of all rows held."""
        return self.live.size_bytes + self.again.size_bytes

    @property
    def waiting_rows(self) -> int:
        """Rows that wait."""
        return self.live.waiting_rows + self.again.waiting_rows

    @property
    def fills_a_draw(self) -> bool:
        """Whether as much waits as `draw` takes."""
        return any(lane.waiting_bytes >= lane.draw_bytes for lane in self._lanes)

    def draw(self) -> list[PackedRows]:
        """Take the oldest rows in hand, until `settle` or `put_back`: a part of the buffer at a time."""
        return [rows for lane in self._lanes for rows in lane.draw()]

    def settle(self) -> None:
        """What is in hand is done with."""
        for lane in self._lanes:
            lane.settle()

    def put_back(self) -> None:
        """What is in hand waits again, before all else."""
        for lane in self._lanes:
            lane.put_back()

    def held(self, url: str) -> Intervals:
        """The indices held of a log; costs what its gaps do, however many batches there are."""
        return Intervals.of(*self.live.runs(url), *self.again.runs(url))


class Lane:
    """Rows in the order in which they came, at most `cap_bytes` of them."""

    def __init__(self, cap_bytes: int, draw_bytes: int) -> None:
        self.draw_bytes = draw_bytes
        self.rows = 0  # in hand or waiting
        self.size_bytes = 0
        self.waiting_rows = 0
        self.waiting_bytes = 0
        self._cap_bytes = cap_bytes
        self._waiting: deque[PackedRows] = deque()
        self._in_hand: list[PackedRows] = []
        self._runs: dict[str, list[tuple[int, int]]] = {}  # of each log: what is held, adjacent batches as one

    def __iter__(self) -> chain[PackedRows]:
        return chain(self._in_hand, self._waiting)

    def has_room(self, rows: PackedRows) -> bool:
        """Whether `add` may be called."""
        return not self._waiting or self.size_bytes + rows.size_bytes <= self._cap_bytes

    def add(self, rows: PackedRows) -> None:
        """Append rows, for which there is room."""
        self._waiting.append(rows)
        self._join(rows)
        self._count((rows,), 1)
        self._count_waiting((rows,), 1)

    def draw(self) -> Sequence[PackedRows]:
        """Take in hand what waits, from the oldest on: up to `draw_bytes`, at least one batch."""
        drawn_bytes = 0
        while self._waiting and (not drawn_bytes or drawn_bytes + self._waiting[0].size_bytes <= self.draw_bytes):
            drawn_bytes += self._waiting[0].size_bytes
            self._in_hand.append(self._waiting.popleft())
        self._count_waiting(self._in_hand, -1)
        return self._in_hand

    def settle(self) -> None:
        """What is in hand is done with."""
        self._count(self._in_hand, -1)
        self._in_hand = []
        self._join_all()

    def put_back(self) -> None:
        """What is in hand waits again, before all else."""
        self._waiting.extendleft(reversed(self._in_hand))
        self._count_waiting(self._in_hand, 1)
        self._in_hand = []

    def let_go(self) -> int:
        """Drop what waits; how many rows that were."""
        dropped = self.waiting_rows
        self._count(self._waiting, -1)
        self._count_waiting(self._waiting, -1)
        self._waiting.clear()
        self._join_all()
        return dropped

    def runs(self, url: str) -> Sequence[tuple[int, int]]:
        """What is held of a log as half-open spans, in the order in which it came."""
        return self._runs.get(url, ())

    def _join(self, rows: PackedRows) -> None:
        runs = self._runs.setdefault(rows.url, [])
        if runs and runs[-1][1] == rows.start:
            runs[-1] = runs[-1][0], rows.stop
        else:
            runs.append((rows.start, rows.stop))

    def _join_all(self) -> None:
        self._runs = {}
        for rows in self:
            self._join(rows)

    def _count(self, many: Sequence[PackedRows], sign: int) -> None:
        self.rows += sign * sum(len(rows) for rows in many)
        self.size_bytes += sign * sum(rows.size_bytes for rows in many)

    def _count_waiting(self, many: Sequence[PackedRows], sign: int) -> None:
        self.waiting_rows += sign * sum(len(rows) for rows in many)
        self.waiting_bytes += sign * sum(rows.size_bytes for rows in many)
