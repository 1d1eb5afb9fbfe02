"""Tainted entries are read again, to verify them and for nothing else: nothing of it is streamed or archived.

That a log proves an entry now says nothing of what it sent before. So what it sends now, once that is proven, is
compared with what went out then: by leaf hashes, or by the archive's rows where those are forgotten since a restart.
Only where both are the same was the proven entry streamed.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from contextlib import aclosing
from dataclasses import dataclass, field, replace
from typing import Final, Protocol, TypeAlias

import numpy as np
import structlog

from certstream.app.verification.streamed import StreamedLeaves
from certstream.certs.batch import UPDATE_TYPES, decode
from certstream.certs.hexadecimal import colon_hex
from certstream.client.clock import Clock
from certstream.client.proofs import Prover
from certstream.client.range_proofs import RangeChecker, Unproven
from certstream.client.signed_heads import SignedHeads
from certstream.ct.edge import leaf_hashes
from certstream.ct.types import HASH_BYTES, MAX_TREE_SIZE, EntryBatch, LogInfo, TreeHead
from certstream.errors import FetchError, LogMisbehaviourError, RateLimitedError, StorageError
from certstream.evidence import Case
from certstream.intervals import Intervals
from certstream.serve.health import TaintedRange

# What kind of entry each row shows, and which certificate, as upper hex with colons; by index
Shown: TypeAlias = Mapping[int, tuple[str, str]]
Archived: TypeAlias = Callable[[LogInfo, int, int], Shown]  # of the rows [start, stop); blocks, raises StorageError

NOT_READ: Final = "not read again yet"
NOT_ARCHIVED: Final = "no row of it is archived, with which the log's entry could be compared"
NOT_KEPT: Final = "the log proves it now; what was streamed is not archived, so that it cannot be compared"
DIFFERS: Final = "the log proves another entry than was streamed"

_LOOK_S: Final = 5.0  # until it is looked for tainted entries again
_FIRST_S: Final = 15.0  # from one time that everything was tried to the next
_LONGEST_S: Final = 300.0
_REST: Final = 20  # times as long as all of it took, but not longer than _MOST_REST_S
_MOST_REST_S: Final = 3600.0
_CRASHED_S: Final = 30.0
_MOST_REASONS: Final = 1_000  # of a log
_SHOWN: Final = 100  # ranges

logger: structlog.stdlib.BoundLogger = structlog.get_logger(__name__)


class Rows(Protocol):
    """What keeps which entries are tainted; all is called in the event loop, and never raises."""

    def tainted_of(self, log: LogInfo) -> Intervals:
        """Those of a log that are tainted now."""

    def proven(self, log: LogInfo, start: int, stop: int) -> None:
        """The entries [start, stop) stand in a tree that the log has signed."""

    def altered(self, log: LogInfo, indices: Sequence[int]) -> None:
        """These entries are precertificates whose certificate is not that of their leaf."""


@dataclass(frozen=True, slots=True)
class Source:
    """Where entries are read again, and what proves them."""

    log: SignedHeads
    prover: Prover


@dataclass(slots=True)
class _Log:
    """How far a log is with its tainted entries."""

    source: Source
    checker: RangeChecker
    position: int = 0  # what is below was tried in this round
    round_at: float = 0.0  # when it began
    failures: int = 0  # rounds in a row that proved nothing
    due_at: float = 0.0
    settled: Intervals = field(default_factory=Intervals)  # another reading would change nothing
    reasons: list[Unproven] = field(default_factory=list)  # ascending, apart

    def explain(self, start: int, stop: int, reasons: Sequence[Unproven]) -> None:
        """Let these be the reasons of [start, stop)."""
        before = [replace(each, stop=min(each.stop, start)) for each in self.reasons if each.start < start]
        after = [replace(each, start=max(each.start, stop)) for each in self.reasons if each.stop > stop]
        self.reasons = [*before, *reasons, *after][:_MOST_REASONS]


@dataclass(frozen=True, slots=True)
class _Entries:
    """What was read of some entries, in order."""

    start: int
    leaves: bytes  # leaf hashes
    shown: list[tuple[str, str]]
    altered: list[int]  # indices

    def leaf(self, index: int) -> bytes:
        at = (index - self.start) * HASH_BYTES
        return self.leaves[at : at + HASH_BYTES]

    def row(self, index: int) -> tuple[str, str]:
        return self.shown[index - self.start]


@dataclass(frozen=True, slots=True)
class _Before:
    """What is known of what went out, by index."""

    leaves: Mapping[int, bytes]
    rows: Shown  # of the archive


class Rechecker:
    """Reads tainted entries of all logs again, one piece of one log at a time; until cancelled, from `run`.

    In memory are, of at most `most` entries, 32 bytes of hash and their fingerprints, and a batch with what its client
    has in flight. What a log cannot prove is tried again after 15 s, then twice as long up to 5 minutes, and longer
    where it takes long: no log is read for this for more than a twentieth of the time.
    """

    def __init__(
        self,
        rows: Rows,
        logs: Callable[[], Sequence[LogInfo]],
        source: Callable[[LogInfo], Source],
        *,
        streamed: StreamedLeaves,
        archived: Archived | None,
        evidence: Callable[[Case], None],
        most: Callable[[], int],
        hold: Callable[[], Awaitable[None]],
        clock: Clock | None = None,
    ) -> None:
        """`logs` are those that are verified now; `archived` is None where nothing is archived.

        `hold` is awaited before each piece.
        """
        self._rows = rows
        self._logs = logs
        self._source = source
        self._streamed = streamed
        self._archived = archived
        self._evidence = evidence
        self._most = most
        self._hold = hold
        self._clock = clock or Clock()
        self._known: dict[LogInfo, _Log] = {}

    async def run(self) -> None:
        """Read again what is tainted, until cancelled."""
        while True:
            try:
                found = await self.turn()
            except Exception:  # no bug of this ends the streams
                logger.exception("reading tainted entries again crashed, it is started again", after_s=_CRASHED_S)
                await self._clock.sleep(_CRASHED_S)
            else:
                if not found:
                    await self._clock.sleep(_LOOK_S)

    async def turn(self) -> bool:
        """Read a piece of each log again that has any due; whether there was one."""
        logs = self._logs()
        self._known = {log: known for log, known in self._known.items() if log in logs}
        found = False
        for log in logs:
            piece = self._due(log)
            if piece is not None:
                found = True
                await self._hold()
                await self._try(log, self._known[log], *piece)
        return found

    def tainted(self) -> list[TaintedRange]:
        """What is tainted, and why; the first _SHOWN ranges."""
        shown: list[TaintedRange] = []
        for log in self._logs():
            known = self._known.get(log)
            for start, stop in self._rows.tainted_of(log):
                shown += _explained(log, start, stop, [] if known is None else known.reasons)
                if len(shown) >= _SHOWN:
                    return shown[:_SHOWN]
        return shown

    def _due(self, log: LogInfo) -> tuple[int, int] | None:
        """The next piece of a log; at the end of a round it rests."""
        tainted = self._rows.tainted_of(log)
        known = self._known.get(log)
        if not len(tainted):
            self._known.pop(log, None)
            self._streamed.forget(log)
            return None
        if known is None:
            known = self._known[log] = _Log(*self._reading(log))
        left, now = tainted - known.settled, self._clock.monotonic()
        if not len(left) or now < known.due_at:
            return None
        if known.position == 0:
            known.round_at = now
        rest = left.within(known.position, MAX_TREE_SIZE)
        if not len(rest):
            known.position, known.failures = 0, known.failures + 1
            took_s = now - known.round_at
            pause_s = self._clock.backoff(known.failures, _FIRST_S, _LONGEST_S)
            known.due_at = now + max(pause_s, min(_REST * took_s, _MOST_REST_S))
            known.source, known.checker = self._reading(log)  # a client may keep what it fetched
            return None
        start, stop = next(iter(rest))
        return start, min(stop, start + self._most())

    def _reading(self, log: LogInfo) -> tuple[Source, RangeChecker]:
        source = self._source(log)
        return source, RangeChecker(source.prover, log)

    async def _try(self, log: LogInfo, known: _Log, start: int, stop: int) -> None:
        """Read a piece again; what became of it stands in `known`."""
        try:
            reasons = await self._reasons(log, known, start, stop)
        except RateLimitedError:
            known.due_at = self._clock.monotonic() + max(known.source.log.paused_s, _LOOK_S)
            return
        except (FetchError, LogMisbehaviourError, StorageError) as exc:
            reasons = [Unproven(start, stop, str(exc))]
        known.explain(start, stop, reasons)
        known.position = stop

    async def _reasons(self, log: LogInfo, known: _Log, start: int, stop: int) -> list[Unproven]:
        """Why what of the piece stays tainted; what does not is told. Raises FetchError and its kin, StorageError."""
        before = await self._before(log, start, stop)
        if self._archived is not None and not before.leaves and not before.rows:
            return [Unproven(start, stop, NOT_ARCHIVED)]
        head = await _head(known.source.log, stop)
        entries = await _read(known.source.log, start, stop)
        unproven = await known.checker.check_leaves(head, start, entries.leaves)
        proven = Intervals.of((start, stop)) - Intervals.of(*((each.start, each.stop) for each in unproven))
        same, other, missing = _compared(entries, before, proven)
        self._tell(log, known, entries, same)
        for first, last in other:
            self._accuse(log, head, entries, before, first, last)
        known.settled |= other if self._archived is not None else other | missing
        why = NOT_KEPT if self._archived is None else NOT_ARCHIVED
        reasons = [*unproven, *_because(other, DIFFERS), *_because(missing, why)]
        return sorted(reasons, key=lambda each: each.start)

    async def _before(self, log: LogInfo, start: int, stop: int) -> _Before:
        leaves = self._streamed.of(log, start, stop)
        if self._archived is None or len(leaves) == stop - start:
            return _Before(leaves, {})
        return _Before(leaves, await asyncio.to_thread(self._archived, log, start, stop))

    def _tell(self, log: LogInfo, known: _Log, entries: _Entries, same: Intervals) -> None:
        """These were streamed as they stand in the tree."""
        if len(same):
            known.failures = 0
            logger.info(
                "tainted entries are proven now, and were streamed as they are", log=log.name, entries=same.count
            )
        for start, stop in same:
            self._rows.proven(log, start, stop)
        altered = np.array(entries.altered, np.int64)
        self._rows.altered(log, altered[same.contains(altered)].tolist())

    def _accuse(self, log: LogInfo, head: TreeHead, entries: _Entries, before: _Before, start: int, stop: int) -> None:
        """What was streamed of [start, stop) stands in no tree."""
        logger.warning(
            "entries were streamed that the log does not have in its tree", log=log.name, start=start, stop=stop
        )
        hashes = {"leaf_proven": entries.leaf(start), "certificate_proven": _octets(entries.row(start)[1])}
        if start in before.leaves:
            hashes["leaf_streamed"] = before.leaves[start]
        if start in before.rows:
            hashes["certificate_streamed"] = _octets(before.rows[start][1])
        error = f"{log.name}: entry {start} was streamed as another than the one that is proven to stand there"
        # The head is no part of what tells cases apart: after a restart it is another, and the case the same
        bodies = {"head": head.note or b"%d %d %b" % (head.tree_size, head.timestamp_ms, head.root_hash.hex().encode())}
        self._evidence(Case("wrong_leaf", log, error, start=start, stop=stop, hashes=hashes, bodies=bodies))


async def _head(log: SignedHeads, stop: int) -> TreeHead:
    """A signed head of the tree that is known to be the log's, which covers `stop`."""
    head = await log.head()
    if head.tree_size < stop:
        raise FetchError(f"{log.log.name}: the head has {head.tree_size} entries only")
    await log.check(head, stop)
    return head


async def _read(log: SignedHeads, start: int, stop: int) -> _Entries:
    """Entries [start, stop), of which as little as is needed is kept. Raises FetchError, LogMisbehaviourError."""
    leaves: list[bytes] = []
    shown: list[tuple[str, str]] = []
    altered: list[int] = []
    async with aclosing(log.batches(start, stop)) as batches:
        async for batch in batches:
            part = await asyncio.to_thread(_digested, batch)
            leaves.append(part.leaves)
            shown += part.shown
            altered += part.altered
    return _Entries(start, b"".join(leaves), shown, altered)


def _digested(batch: EntryBatch) -> _Entries:
    decoded = decode(batch, 0.0)
    text = colon_hex(decoded.sha256).decode()
    width = len(text) // max(1, len(decoded))
    kinds = [UPDATE_TYPES[kind].decode() for kind in decoded.entry_type.tolist()]
    shown = [(kind, text[at * width : (at + 1) * width]) for at, kind in enumerate(kinds)]
    altered = [batch.start + row for row in decoded.altered_precertificates()]
    return _Entries(batch.start, leaf_hashes(batch), shown, altered)


def _compared(entries: _Entries, before: _Before, proven: Intervals) -> tuple[Intervals, Intervals, Intervals]:
    """Which of the proven entries were streamed like that, which otherwise, and of which it is not known."""
    same: list[int] = []
    other: list[int] = []
    missing: list[int] = []
    for start, stop in proven:
        for index in range(start, stop):
            if index in before.leaves:
                is_same = before.leaves[index] == entries.leaf(index)
            elif index in before.rows:
                is_same = before.rows[index] == entries.row(index)
            else:
                missing.append(index)
                continue
            (same if is_same else other).append(index)
    return _intervals(same), _intervals(other), _intervals(missing)


def _intervals(indices: Sequence[int]) -> Intervals:
    return Intervals.from_indices(np.array(indices, np.int64))


def _because(indices: Intervals, error: str) -> Iterator[Unproven]:
    return (Unproven(start, stop, error) for start, stop in indices)


def _explained(log: LogInfo, start: int, stop: int, reasons: Sequence[Unproven]) -> Iterator[TaintedRange]:
    """The range in pieces, ascending, each with its reason."""
    for each in reasons:
        first, last = max(start, each.start), min(stop, each.stop)
        if first < last:
            if start < first:
                yield TaintedRange(log.name, start, first, NOT_READ)
            yield TaintedRange(log.name, first, last, each.error)
            start = last
    if start < stop:
        yield TaintedRange(log.name, start, stop, NOT_READ)


def _octets(text: str) -> bytes:
    """What is shown as hexadecimal digits with colons, as bytes; as it is where it is something else."""
    try:
        return bytes.fromhex(text.replace(":", " "))
    except ValueError:
        return text.encode()
