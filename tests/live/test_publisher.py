"""From entries to messages and rows: for those who listen and the archive, in order, all or nothing."""

from __future__ import annotations

import asyncio
import json
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Sequence

import pytest

from certstream.certs.batch import CertificateBatch, StreamKind
from certstream.client.waits import Waits
from certstream.ct.rfc6962 import frame_entries
from certstream.ct.types import PRECERT_ENTRY, EntryBatch, LogInfo
from certstream.live.dedup import Deduplicator
from certstream.live.publisher import Publisher
from certstream.metrics import Metrics
from certstream.simulator.log import SimulatedLog

KINDS: tuple[StreamKind, ...] = ("full", "lite", "domains")
SEEN_S = 1_700_000_100.0


class Recorder:
    """Streams that keep what they get."""

    def __init__(self, *wanted: StreamKind) -> None:
        self.wanted = wanted
        self.published: dict[StreamKind, list[bytes]] = defaultdict(list)
        self.examples: dict[StreamKind, bytes] = {}

    def wants(self, kind: StreamKind) -> bool:
        return kind in self.wanted

    def publish(self, kind: StreamKind, messages: Sequence[bytes]) -> None:
        self.published[kind] += messages

    def wants_example(self, kind: StreamKind) -> bool:
        return kind not in self.examples

    def set_example(self, kind: StreamKind, message: bytes) -> None:
        self.examples[kind] = message

    def indices(self, kind: StreamKind) -> list[int]:
        return [json.loads(message)["data"]["cert_index"] for message in self.published[kind]]


class Keeper:
    """An archive that keeps what it gets."""

    def __init__(self) -> None:
        self.indices: list[int] = []
        self.threads: list[threading.Thread] = []

    def pack(self, batch: CertificateBatch) -> tuple[float, list[int]]:
        self.threads.append(threading.current_thread())
        rows = batch.to_arrow()
        return batch.seen_s, rows.column("cert_index").to_pylist()

    def take(self, rows: tuple[float, list[int]]) -> None:
        assert threading.current_thread() is threading.main_thread()
        assert rows[0] == SEEN_S
        self.indices += rows[1]


class Marks:
    """What keeps the indices of altered precertificates."""

    def __init__(self, *, compares: bool, then: Callable[[], object] = lambda: None) -> None:
        self.indices: list[int] = []
        self._compares = compares
        self._then = then

    def compares(self, log: LogInfo) -> bool:
        return self._compares

    def altered(self, batch: CertificateBatch, rows: Sequence[int]) -> None:
        assert threading.current_thread() is threading.main_thread()
        self._then()
        self.indices += [batch.start + row for row in rows]


def batch(count: int, *, name: str = "log", start: int = 0, seed: int = 1) -> EntryBatch:
    log = SimulatedLog(name, seed=seed, initial=start + count, epoch_ms=1_700_000_000_000)
    entries = [log.entry(index) for index in range(start, start + count)]
    parts = [part for entry in entries for part in (entry.leaf_input, entry.extra_data)]
    return frame_entries(LogInfo(name, f"https://{name}.example/", "rfc6962", name), start, parts)


def publisher(
    streams: Recorder,
    metrics: Metrics | None = None,
    dedup: Deduplicator | None = None,
    archive: Keeper | None = None,
    marks: Marks | None = None,
) -> Publisher:
    return Publisher(
        streams, metrics or Metrics(), kinds=KINDS, dedup=dedup, archive=archive, marks=marks, wall=lambda: SEEN_S
    )


@pytest.mark.parametrize("count", [1, 64, 300])
async def test_every_kind_that_is_wanted_gets_every_entry_in_order(count: int) -> None:
    streams = Recorder("full", "lite")
    await publisher(streams).publish(batch(count, start=5))
    assert streams.indices("full") == streams.indices("lite") == list(range(5, 5 + count))
    assert not streams.published["domains"]


async def test_what_making_the_archives_rows_takes_is_counted() -> None:
    class Slow(Keeper):
        def pack(self, batch: CertificateBatch) -> tuple[float, list[int]]:
            time.sleep(0.05)  # what it takes
            return super().pack(batch)

    waits = Waits(time.monotonic)
    await publisher(Recorder("lite"), archive=Slow()).publish(batch(5), waits)
    assert 0.05 <= waits.spent().seconds["archive"] < 5


async def test_without_an_archive_no_time_is_counted_for_it() -> None:
    waits = Waits(time.monotonic)
    await publisher(Recorder("lite")).publish(batch(5), waits)
    assert waits.spent().seconds["archive"] < 0.001


async def test_kinds_that_nobody_listens_to_get_an_example_only() -> None:
    streams = Recorder("lite")
    await publisher(streams).publish(batch(20))
    assert sorted(streams.examples) == ["domains", "full"]
    assert json.loads(streams.examples["full"])["data"]["cert_index"] == 19
    assert list(streams.published) == ["lite"]


async def test_what_another_log_showed_is_left_out_and_counted() -> None:
    streams, metrics = Recorder("lite"), Metrics()
    own = publisher(streams, metrics, Deduplicator(1000, 60, lambda: 0.0))
    await own.publish(batch(10, name="first"))
    await own.publish(batch(12, name="second"))
    assert streams.indices("lite") == [*range(10), 10, 11]
    exposition = metrics.exposition().decode()
    assert "certstream_duplicates_filtered_total 10.0" in exposition
    assert "certstream_entries_published_total 12.0" in exposition
    assert "certstream_dedup_certificates 12.0" in exposition


async def test_values_that_cannot_be_read_are_counted() -> None:
    metrics = Metrics()
    leaf = bytes(2) + (1).to_bytes(8) + b"\0\0" + b"\0\0\4junk" + b"\0\0"
    entries = frame_entries(LogInfo("x", "https://x.example/", "rfc6962", "x"), 0, [leaf, b"\0\0\0"] * 3)
    streams = Recorder("full")
    await publisher(streams, metrics).publish(entries)
    assert 'certstream_decode_failures_total{kind="certificate"} 3.0' in metrics.exposition().decode()
    assert streams.indices("full") == [0, 1, 2]


def suspends(own: Publisher, entries: EntryBatch) -> bool:
    """Whether publishing gives the event loop a turn."""
    coroutine = own.publish(entries)
    try:
        coroutine.send(None)
    except StopIteration:
        return False
    coroutine.close()
    return True


async def test_only_small_batches_are_decoded_on_the_event_loop() -> None:
    small, many = batch(64), batch(65)
    leaf = bytes(2) + (1).to_bytes(8) + b"\0\0" + (300_000).to_bytes(3) + bytes(300_000) + b"\0\0"
    large = frame_entries(LogInfo("x", "https://x.example/", "rfc6962", "x"), 0, [leaf, b"\0\0\0"])
    assert not suspends(publisher(Recorder("lite")), small)
    assert suspends(publisher(Recorder("lite")), many)
    assert suspends(publisher(Recorder("lite")), large)


@pytest.mark.parametrize("archived", [True, False])
@pytest.mark.parametrize("steps", range(3))
async def test_cancelled_batch_reaches_nobody_and_no_archive(*, archived: bool, steps: int) -> None:
    streams, archive = Recorder("full", "lite"), Keeper()
    own = publisher(streams, archive=archive if archived else None)
    task = asyncio.create_task(own.publish(batch(400)))
    for _ in range(steps):
        await asyncio.sleep(0)  # it is begun
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert not streams.published
    assert not archive.indices


@pytest.mark.parametrize("listeners", [(), ("lite",), KINDS])
@pytest.mark.parametrize("count", [1, 64, 300])
async def test_the_archive_gets_every_entry_whoever_listens(listeners: tuple[StreamKind, ...], count: int) -> None:
    streams, archive = Recorder(*listeners), Keeper()
    await publisher(streams, archive=archive).publish(batch(count, start=7))
    assert archive.indices == list(range(7, 7 + count))


async def test_the_archive_gets_what_another_log_showed_and_what_cannot_be_read() -> None:
    streams, metrics, archive = Recorder("lite"), Metrics(), Keeper()
    own = publisher(streams, metrics, Deduplicator(1000, 60, lambda: 0.0), archive)
    await own.publish(batch(10, name="first"))
    await own.publish(batch(10, name="second"))
    assert archive.indices == [*range(10), *range(10)]
    leaf = bytes(2) + (1).to_bytes(8) + b"\0\0" + b"\0\0\4junk" + b"\0\0"
    await own.publish(frame_entries(LogInfo("x", "https://x.example/", "rfc6962", "x"), 20, [leaf, b"\0\0\0"] * 3))
    assert archive.indices[20:] == [20, 21, 22]
    assert streams.indices("lite")[:10] == list(range(10))
    assert 'certstream_decode_failures_total{kind="certificate"} 3.0' in metrics.exposition().decode()


async def test_rows_of_large_batches_are_made_off_the_event_loop() -> None:
    archive = Keeper()
    own = publisher(Recorder(), archive=archive)
    await own.publish(batch(64))
    await own.publish(batch(65))
    assert archive.threads[0] is threading.main_thread()
    assert archive.threads[1] is not threading.main_thread()


def exchanged(count: int) -> tuple[EntryBatch, list[int]]:
    """Entries of which two have each other's precertificate, and their indices."""
    log = SimulatedLog("log", seed=1, initial=count, epoch_ms=1_700_000_000_000)
    entries = [log.entry(index) for index in range(count)]
    first, second = [index for index in range(count) if entries[index].entry_type == PRECERT_ENTRY][:2]
    extra = [entry.extra_data for entry in entries]
    extra[first], extra[second] = extra[second], extra[first]
    parts = [part for entry, sent in zip(entries, extra, strict=True) for part in (entry.leaf_input, sent)]
    return frame_entries(LogInfo("log", "https://log.example/", "rfc6962", "log"), 0, parts), [first, second]


@pytest.mark.parametrize("count", [30, 300])  # decoded at once, and in the thread
async def test_altered_precertificates_are_marked_once_their_messages_are_out(count: int) -> None:
    streams = Recorder("lite")
    entries, altered = exchanged(count)
    marks = Marks(compares=True, then=lambda: len(streams.published["lite"]) == count or pytest.fail("too early"))
    part = publisher(streams, marks=marks)
    await part.publish(entries)
    await part.publish(batch(20, start=count))
    assert marks.indices == altered
    assert streams.indices("lite") == list(range(count + 20))
    part.close()


async def test_nothing_is_compared_where_the_log_is_not_verified() -> None:
    marks = Marks(compares=False)
    part = publisher(Recorder("lite"), marks=marks)
    await part.publish(exchanged(30)[0])
    assert marks.indices == []
    part.close()
