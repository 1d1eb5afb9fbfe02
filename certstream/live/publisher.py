"""From raw entries to the streams and the archive: decode, leave out what another log showed, encode."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Callable, Collection, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Final, NamedTuple, Protocol, TypeVar, TypeVarTuple

import numpy as np
from numpy.typing import NDArray

from certstream.certs.batch import CertificateBatch, StreamKind, decode
from certstream.client.waits import Waits
from certstream.ct.types import EntryBatch, LogInfo, batch_bytes, slice_batch
from certstream.metrics import Metrics

# What is below both is decoded at once, in about 2 ms, 4 with an archive; the rest in the thread, so that the event
# loop stays free.
_INLINE_ENTRIES: Final = 64
_INLINE_BYTES: Final = 256 << 10

T = TypeVar("T")
Packed = TypeVar("Packed")
Ts = TypeVarTuple("Ts")


class Streams(Protocol):
    """Where messages go."""

    def wants(self, kind: StreamKind) -> bool:
        """Whether anybody listens to that kind."""

    def publish(self, kind: StreamKind, messages: Sequence[bytes]) -> None:
        """Send encoded messages to all who listen."""

    def wants_example(self, kind: StreamKind) -> bool:
        """Whether a new example is due though nobody listens."""

    def set_example(self, kind: StreamKind, message: bytes) -> None:
        """Keep one message as the newest of its kind."""


class Fresh(Protocol):
    """What says which certificates the streams have not had from another log."""

    def fresh(self, sha256: NDArray[np.uint8], log_key: str) -> NDArray[np.bool_]:
        """Say so for each row of (n, 32) digests."""

    def __len__(self) -> int:
        """Certificates remembered."""


class Archive(Protocol[Packed]):
    """What keeps every entry: those too that another log showed, and those that cannot be read."""

    def pack(self, batch: CertificateBatch) -> Packed:
        """Make the rows of a batch. The costly part, called in whatever thread; never raises."""

    def take(self, rows: Packed) -> None:
        """Take rows, at the moment when their messages go out; never raises."""


class Marks(Protocol):
    """What is told of precertificates that are not the ones that their log's hash covers."""

    def compares(self, log: LogInfo) -> bool:
        """Whether the precertificates of that log are compared with their leaves."""

    def altered(self, batch: CertificateBatch, rows: Sequence[int]) -> None:
        """Note those rows of a batch, at the moment when their messages go out; never raises."""


class Publisher:
    """Publishes the batches of all logs; each log's in the order in which it awaits `publish`.

    Holds nothing but the batches that are being published: one per log. A batch whose publishing is cancelled was
    given to the archive and all who listen, or to nobody.
    """

    def __init__(
        self,
        streams: Streams,
        metrics: Metrics,
        *,
        kinds: Collection[StreamKind],
        dedup: Fresh | None = None,
        archive: Archive[Any] | None = None,
        marks: Marks | None = None,
        wall: Callable[[], float] = time.time,
    ) -> None:
        self._streams = streams
        self._metrics = metrics
        self._kinds = tuple(kinds)
        self._dedup = dedup
        self._archive = archive
        self._marks = marks
        self._wall = wall
        # One thread: decoding is CPU work, two of them would only take turns at the interpreter.
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="decode")

    def close(self) -> None:
        """Let the thread end; what it has in hand is finished, what waits is dropped."""
        self._thread.shutdown(wait=False, cancel_futures=True)

    async def publish(self, entries: EntryBatch, waits: Waits | None = None) -> None:
        """Give one batch to the archive and its messages to all who listen; returns when they are handed over.

        What making the archive's rows takes is counted in `waits`.
        """
        seen_s = self._wall()
        compares = self._marks is not None and self._marks.compares(entries.log)
        batch, altered = await self._off_loop(entries, _decode, entries, seen_s, compares)
        rows = self._fresh_rows(batch)
        wanted = [kind for kind in self._kinds if self._streams.wants(kind)]
        encoded = await self._off_loop(entries, _encode, batch, wanted, rows, self._archive)
        if waits is not None:
            waits.add("archive", encoded.packing_s)
        await self._give_examples(entries, seen_s, wanted)
        # From here on nothing waits: a cancellation comes before all of it or after.
        if self._archive is not None:
            self._archive.take(encoded.packed)
        for kind in wanted:
            self._streams.publish(kind, encoded.messages[kind])
        if altered and self._marks is not None:
            self._marks.altered(batch, altered)
        self._metrics.entries_published.inc(len(rows))
        for field, count in encoded.failures.items():
            self._metrics.decode_failed(field, count)

    def _fresh_rows(self, batch: CertificateBatch) -> list[int]:
        rows = list(range(len(batch)))
        if self._dedup is not None:
            rows = np.flatnonzero(self._dedup.fresh(batch.sha256, batch.log.base_url)).tolist()
            self._metrics.duplicates_filtered.inc(len(batch) - len(rows))
            self._metrics.dedup_certificates.set(len(self._dedup))
        return rows

    async def _give_examples(self, entries: EntryBatch, seen_s: float, wanted: Collection[StreamKind]) -> None:
        """Encode the last entry alone for the kinds that nobody listens to."""
        due = [kind for kind in self._kinds if kind not in wanted and self._streams.wants_example(kind)]
        if due and len(entries):
            last = slice_batch(entries, entries.stop - 1, entries.stop)
            messages = await self._off_loop(last, _encode_alone, last, seen_s, due)
            for kind in due:
                for message in messages[kind]:
                    self._streams.set_example(kind, message)

    async def _off_loop(self, entries: EntryBatch, work: Callable[[*Ts], T], *args: *Ts) -> T:
        """Run `work` at once if the entries are small, else in the thread."""
        if len(entries) <= _INLINE_ENTRIES and batch_bytes(entries) <= _INLINE_BYTES:
            return work(*args)
        return await asyncio.get_running_loop().run_in_executor(self._thread, work, *args)


def _decode(entries: EntryBatch, seen_s: float, compares: bool) -> tuple[CertificateBatch, list[int]]:
    """The batch, and its rows whose precertificate is not that of the leaf, if they are compared."""
    batch = decode(entries, seen_s)
    _ = batch.sha256  # computed here, in the thread
    return batch, batch.altered_precertificates() if compares else []


class _Encoded(NamedTuple):
    messages: dict[StreamKind, list[bytes]]
    packed: Any  # for the archive
    packing_s: float  # that this took
    failures: Counter[str]  # what could not be read


def _encode(
    batch: CertificateBatch, kinds: Sequence[StreamKind], rows: list[int], archive: Archive[Any] | None
) -> _Encoded:
    """The messages of each kind for `rows`, and every row for the archive."""
    messages = {kind: batch.messages(kind, rows) for kind in kinds}
    began = time.perf_counter()
    packed = None if archive is None else archive.pack(batch)
    return _Encoded(messages, packed, time.perf_counter() - began, batch.failures())


def _encode_alone(entries: EntryBatch, seen_s: float, kinds: Sequence[StreamKind]) -> dict[StreamKind, list[bytes]]:
    batch = decode(entries, seen_s)
    return {kind: batch.messages(kind) for kind in kinds}
