"""The sink commits what it takes: every index once, in order, and the positions with it."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from deltalake import DeltaTable

from certstream.archive.commit import Committer
from certstream.archive.coverage import CoverageCache
from certstream.archive.datafile import write_file
from certstream.archive.schema import NATIVE
from certstream.archive.sink.sink import Sink
from certstream.certs.arrow import SCHEMA
from certstream.certs.batch import decode
from certstream.ct.rfc6962 import frame_entries
from certstream.ct.types import LogInfo
from certstream.errors import TableError
from certstream.intervals import Intervals
from certstream.live.dedup import Deduplicator
from certstream.live.publisher import Publisher
from certstream.metrics import Metrics
from certstream.simulator.log import SimulatedLog
from tests.archive.archive_support import (
    DATE,
    committed_files,
    data_files,
    held,
    log_info,
    make_reference_table,
    packed,
    rows,
    url,
)
from tests.archive.sink_support import MANUAL, SETTINGS, positions, running, sink, until

A, B = log_info(0), log_info(1)


async def test_all_rows_of_all_logs_are_committed_in_sorted_files(tmp_path: Path) -> None:
    async with running(sink(tmp_path, replace(MANUAL, batch_rows=120))) as own:
        for start in range(0, 60, 6):
            own.take(packed(B, 500 + start, 506 + start))
            own.take(packed(A, start, start + 6))
        await until(own, lambda: own.archived(url(1)) == 560)
        assert own.archived(url(0)) == 60
    assert held(tmp_path) == {url(0): list(range(60)), url(1): list(range(500, 560))}
    (file,) = committed_files(tmp_path)
    table = pq.read_table(tmp_path / file, columns=["source_url", "cert_index"], partitioning=None)
    keys = list(zip(table["source_url"].to_pylist(), table["cert_index"].to_pylist(), strict=True))
    assert keys == sorted(keys)


async def test_rows_of_one_commit_go_into_a_file_per_day(tmp_path: Path) -> None:
    async with running(sink(tmp_path, replace(MANUAL, batch_rows=30))) as own:
        own.take(packed(A, 0, 10))
        own.take(packed(B, 0, 10, date="2026-11-24"))
        own.take(packed(A, 10, 20, date="2026-11-24"))
        await until(own, lambda: own.archived(url(0)) == 20)
    assert DeltaTable(tmp_path).version() == 1
    dates = {file.split("/")[0]: pq.ParquetFile(tmp_path / file).metadata.num_rows for file in data_files(tmp_path)}
    assert dates == {"seen_date=2026-11-23": 10, "seen_date=2026-11-24": 20}


async def test_few_rows_are_committed_when_the_interval_has_passed(tmp_path: Path) -> None:
    async with running(sink(tmp_path, SETTINGS)) as own:
        own.take(packed(A, 5, 6))
        await until(own, lambda: own.archived(url(0)) == 6)
        own.take(packed(A, 6, 8))
        await until(own, lambda: own.archived(url(0)) == 8)
        assert own.status().buffered_rows == 0
    assert held(tmp_path) == {url(0): [5, 6, 7]}


async def test_positions_only_grow_and_no_version_has_one_beyond_its_rows(tmp_path: Path) -> None:
    async with running(sink(tmp_path, replace(SETTINGS, flush_interval_s=0.001))) as own:
        await asyncio.gather(own.begin(A, 3), own.begin(B, 1000))
        for start in range(0, 100, 5):
            own.take(packed(A, 3 + start, 8 + start))
            own.take(packed(B, 1000 + start, 1005 + start))
            if start % 20 == 0:
                await own.attempted()
        await until(own, lambda: (own.archived(url(0)), own.archived(url(1))) == (103, 1100))
    last = DeltaTable(tmp_path).version()
    assert last >= 6
    before = [3, 1000]
    for version in range(1, last + 1):
        table = DeltaTable(tmp_path, version=version).to_pyarrow_table(columns=["source_url", "cert_index"])
        now = positions(tmp_path, url(0), url(1), version=version)
        for number, start in enumerate((3, 1000)):
            position = now[number]
            assert position is not None
            assert position >= before[number]
            of_log = table.filter(pa.compute.field("source_url") == url(number))
            assert sorted(of_log["cert_index"].to_pylist()) == list(range(start, position))
            before[number] = position


async def test_starts_of_logs_that_begin_together_are_one_commit_and_there_before_the_first_row(
    tmp_path: Path,
) -> None:
    async with running(sink(tmp_path, MANUAL)) as own:
        await asyncio.gather(*(own.begin(log_info(number), 10 * number) for number in range(12)))
        assert DeltaTable(tmp_path).version() == 1
        assert positions(tmp_path, *(url(number) for number in range(12))) == list(range(0, 120, 10))
        assert [own.archived(url(number)) for number in range(12)] == list(range(0, 120, 10))
        own.take(packed(B, 10, 12))
        own.take_up(log_info(12), 120)
        await own.begin(log_info(12), 120)
        assert own.status().buffered_rows == 2  # no small file for each log that begins
        assert positions(tmp_path, url(12)) == [120]
        await own.begin(log_info(3), 77)  # once more: of no effect
        assert own.streamed(url(3)) == 30
        assert held(tmp_path) == {}
        assert DeltaTable(tmp_path).version() == 2


async def test_what_was_streamed_and_not_archived_is_missing_until_it_is_read_again(tmp_path: Path) -> None:
    async with running(sink(tmp_path, MANUAL)) as own:
        await own.begin(A, 10)
        own.take(packed(A, 10, 50))
    metrics = Metrics()
    async with running(sink(tmp_path, replace(MANUAL, batch_rows=30), metrics.archive)) as own:
        await own.begin(A, 80)  # the state file is ahead: a crash
        assert own.archived(url(0)) == 50
        assert await own.wait_missing(url(0)) == Intervals.of((50, 80))
        own.take(packed(A, 80, 90))
        assert own.missing(url(0)) == Intervals.of((50, 80))
        await own.take_again(packed(A, 50, 60))
        assert own.missing(url(0)) == Intervals.of((60, 80))
        await own.take_again(packed(A, 70, 80))
        await until(own, lambda: own.archived(url(0)) == 60)
        assert own.status().lag_entries == 10
        assert own.missing(url(0)) == Intervals.of((60, 70))
        await own.take_again(packed(A, 60, 70))
        assert own.missing(url(0)) == Intervals()
    assert held(tmp_path) == {url(0): list(range(10, 90))}
    assert positions(tmp_path, url(0)) == [90]
    assert metrics.registry.get_sample_value("certstream_delta_entries_reread_total") == 30


async def test_more_than_has_room_is_read_again_without_waiting_for_the_interval(tmp_path: Path) -> None:
    Committer(tmp_path).add(starts={url(0): 0})
    settings = replace(MANUAL, buffer_bytes=10 * packed(A, 0, 50).size_bytes)  # a quarter of it: two batches and a half
    async with running(sink(tmp_path, settings)) as own:
        await own.begin(A, 500)
        for start in range(0, 500, 50):
            await own.take_again(packed(A, start, start + 50))
        assert own.status().buffered_bytes <= settings.buffer_bytes
        assert own.missing(url(0)) == Intervals()
    assert held(tmp_path) == {url(0): list(range(500))}


async def test_a_batch_that_never_came_is_missing(tmp_path: Path) -> None:
    async with running(sink(tmp_path, MANUAL)) as own:
        own.take(packed(A, 0, 10))
        own.take(packed(A, 15, 20))
        assert own.missing(url(0)) == Intervals()  # the table was not asked yet
        await own.begin(A, 0)
        assert own.missing(url(0)) == Intervals.of((10, 15))
    assert held(tmp_path) == {url(0): [*range(10), *range(15, 20)]}
    assert positions(tmp_path, url(0)) == [10]


async def test_what_others_archived_or_dropped_on_purpose_is_not_missing_and_positions_pass_it(tmp_path: Path) -> None:
    committer = Committer(tmp_path)
    committer.add(starts={url(0): 0})
    other = write_file(tmp_path, NATIVE, DATE, rows(url(0), range(20, 40)), committer.settings)
    committer.add([other])
    committer.dropped.add({url(0): Intervals.of((0, 20), (45, 48))})
    async with running(sink(tmp_path, MANUAL)) as own:
        await own.begin(A, 50)
        assert own.archived(url(0)) == 40
        assert own.missing(url(0)) == Intervals.of((40, 45), (48, 50))
        backfilled = write_file(tmp_path, NATIVE, DATE, rows(url(0), range(40, 50)), committer.settings)
        await asyncio.to_thread(committer.add, [backfilled])
        own.take(packed(A, 50, 52))
    assert positions(tmp_path, url(0)) == [52]
    assert held(tmp_path) == {url(0): list(range(20, 52))}


async def test_rows_that_are_archived_already_are_committed_once(tmp_path: Path) -> None:
    async with running(sink(tmp_path, MANUAL)) as own:
        own.take(packed(A, 0, 60))
    metrics = Metrics()
    async with running(sink(tmp_path, MANUAL, metrics.archive)) as own:
        await own.begin(A, 20)  # the state file is behind: it was lost
        assert (own.archived(url(0)), own.streamed(url(0))) == (60, 20)
        assert own.missing(url(0)) == Intervals()
        for start in range(20, 90, 10):
            own.take(packed(A, start, start + 10))
        own.take(packed(A, 75, 95))  # a batch that a tailer publishes again, longer now
        own.take(packed(A, 60, 62))
        assert own.status().lag_entries == 35
    assert held(tmp_path) == {url(0): list(range(95))}
    assert positions(tmp_path, url(0)) == [95]
    assert metrics.registry.get_sample_value("certstream_delta_rows_written_total") == 35


async def test_rows_taken_during_a_flush_are_kept_for_the_next(tmp_path: Path) -> None:
    async with running(sink(tmp_path, replace(MANUAL, batch_rows=100))) as own:
        own.take(packed(A, 0, 100))
        end = 100
        committed = asyncio.create_task(own.attempted())
        while not committed.done():
            own.take(packed(A, end, end + 1))  # the event loop goes on meanwhile
            end += 1
            await asyncio.sleep(0)
        archived = own.archived(url(0))
        assert archived is not None
        assert 100 <= archived < end - 5
        assert own.missing(url(0)) == Intervals()
        assert own.status().buffered_rows == end - archived
    assert held(tmp_path) == {url(0): list(range(end))}
    assert DeltaTable(tmp_path).version() == 2


@pytest.mark.parametrize("turns", range(6))
async def test_a_sink_that_is_stopped_in_the_middle_of_a_flush_finishes_it_and_commits_the_rest(
    tmp_path: Path, turns: int
) -> None:
    async with sink(tmp_path, replace(MANUAL, batch_rows=50)) as own:
        task = asyncio.create_task(own.run())
        own.take(packed(A, 0, 50))
        for _ in range(turns):
            await asyncio.sleep(0)
        own.take(packed(A, 50, 55))
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
    assert own.status().buffered_rows == 0
    assert held(tmp_path) == {url(0): list(range(55))}
    assert data_files(tmp_path) == committed_files(tmp_path)
    assert positions(tmp_path, url(0)) == [55]


async def test_what_files_hold_is_remembered_for_the_next_start(tmp_path: Path) -> None:
    async with running(sink(tmp_path, MANUAL)) as own:
        await own.begin(A, 0)
        own.take(packed(A, 0, 5))
        own.take(packed(B, 0, 5))
    (file,) = committed_files(tmp_path)
    assert CoverageCache(tmp_path).load()[file].covers == {url(n): Intervals.of((0, 5)) for n in (0, 1)}


async def test_two_sinks_on_one_table_lose_and_double_nothing(tmp_path: Path) -> None:
    settings = replace(SETTINGS, flush_interval_s=0.0)
    async with running(sink(tmp_path, settings)) as one, running(sink(tmp_path, settings)) as other:
        await asyncio.gather(one.begin(A, 0), other.begin(A, 0))

        async def feed(own: Sink, start: int, stop: int) -> None:
            for index in range(start, stop, 10):
                own.take(packed(A, index, index + 10))
                await own.attempted()

        await asyncio.gather(feed(one, 0, 200), feed(other, 100, 300))
        await until(one, lambda: (one.archived(url(0)) or 0) >= 200)
        assert one.missing(url(0)) == Intervals()
        await other.take_again(packed(A, 0, 100))
        await until(other, lambda: other.archived(url(0)) == 300)
    assert held(tmp_path) == {url(0): list(range(300))}
    assert positions(tmp_path, url(0)) == [300]
    assert data_files(tmp_path) == committed_files(tmp_path)


@pytest.mark.parametrize("column", ["cert_index", "chain"])
async def test_a_table_with_other_columns_stops_the_start_and_names_them(tmp_path: Path, column: str) -> None:
    fields = [pa.field(field.name, pa.bool_()) if field.name == column else field for field in SCHEMA]
    DeltaTable.create(tmp_path, pa.schema([*fields, ("extra", pa.string())]), partition_by=["seen_date"])
    with pytest.raises(TableError, match=f"{column} is bool.*; extra is unknown"):
        async with sink(tmp_path):
            pytest.fail("was opened")
    assert DeltaTable(tmp_path).version() == 0


async def test_a_directory_with_other_things_stops_the_start(tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").write_text("all of it")
    with pytest.raises(TableError, match="no Delta table"):
        async with sink(tmp_path):
            pytest.fail("was opened")
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.txt"]


async def test_a_table_of_the_reference_server_goes_on_in_its_own_types(tmp_path: Path) -> None:
    make_reference_table(tmp_path)
    before = DeltaTable(tmp_path).schema().to_arrow()
    leaf = bytes(2) + (1).to_bytes(8) + b"\0\0" + b"\0\0\4junk" + b"\0\0"
    entries = frame_entries(A, 7, [leaf, b"\0\0\0"] * 3)
    async with running(sink(tmp_path, MANUAL)) as own:
        own.take(own.pack(decode(entries, 1_700_000_000.0)))
    table = DeltaTable(tmp_path)
    assert table.schema().to_arrow() == before
    found: list[dict[str, Any]] = table.to_pyarrow_table().to_pylist()
    assert sorted(row["cert_index"] for row in found) == [7, 8, 9]
    for row in found:
        assert row["as_der"] == "anVuaw=="
        assert (row["subject_aggregated"], row["not_before"], row["is_ca"], row["all_domains"]) == ("", 0, False, [])
    assert positions(tmp_path, url(0)) == [10]


async def test_every_published_entry_is_a_row_with_its_bytes_also_duplicates_and_what_does_not_parse(
    tmp_path: Path,
) -> None:
    metrics = Metrics()
    sources = [SimulatedLog(name, seed=4, initial=200, unparseable=0.2) for name in ("one", "two")]
    async with running(sink(tmp_path, MANUAL, metrics.archive)) as own:
        dedup = Deduplicator(1000, 60, lambda: 0.0)
        publisher = Publisher(_Nobody(), metrics, kinds=["full"], dedup=dedup, archive=own)
        for source in sources:
            log = LogInfo(source.name, f"https://{source.name}.example/", "rfc6962", "x")
            for start, stop in ((0, 3), (3, 40), (40, 200)):
                entries = [source.entry(index) for index in range(start, stop)]
                parts = [part for entry in entries for part in (entry.leaf_input, entry.extra_data)]
                await publisher.publish(frame_entries(log, start, parts))
        publisher.close()
    assert held(tmp_path) == {f"https://{name}.example": list(range(200)) for name in ("one", "two")}
    assert metrics.registry.get_sample_value("certstream_duplicates_filtered_total") == 200
    table = DeltaTable(tmp_path).to_pyarrow_table(columns=["source_url", "cert_index", "as_der", "not_before"])
    kept = {(row["source_url"], row["cert_index"]): row for row in table.to_pylist()}
    for index in range(200):
        assert kept["https://one.example", index]["as_der"] == kept["https://two.example", index]["as_der"] != b""
    assert sum(row["not_before"] is None for row in kept.values()) > 20


class _Nobody:
    """Streams without listeners."""

    def wants(self, kind: object) -> bool:
        return False

    def publish(self, kind: object, messages: object) -> None:
        pytest.fail("nobody listens")

    def wants_example(self, kind: object) -> bool:
        return False

    def set_example(self, kind: object, message: bytes) -> None:
        pytest.fail("nobody asked")


async def test_what_cannot_be_made_into_rows_is_missing_and_stops_nothing(tmp_path: Path) -> None:
    async with running(sink(tmp_path, MANUAL)) as own:
        assert own.pack(decode(frame_entries(A, 0, []), 0.0)) is None
        unmade = decode(frame_entries(A, 0, [bytes(15), b""]), 1e30)  # no such day
        assert own.pack(unmade) is None
        await own.begin(A, 0)
        own.take(None)
        own.take(packed(A, 1, 5))
        assert own.missing(url(0)) == Intervals.of((0, 1))
    assert held(tmp_path) == {url(0): [1, 2, 3, 4]}


async def test_status_and_metrics_say_how_it_stands(tmp_path: Path) -> None:
    metrics = Metrics()
    sample = metrics.registry.get_sample_value
    async with running(sink(tmp_path, MANUAL, metrics.archive, wall=lambda: 1234.5)) as own:
        await own.begin(A, 100)
        own.take(packed(A, 100, 120))
        status = own.status()
        assert (status.state, status.last_error, status.last_commit_s) == ("healthy", None, 1234.5)
        assert (status.buffered_rows, status.lag_entries) == (20, 20)
        assert status.buffered_bytes > 1000
        assert status.buffered_bytes == sample("certstream_delta_buffered_bytes")
        assert status.free_disk_bytes == sample("certstream_delta_free_disk_bytes")
        assert sample("certstream_delta_buffered_rows") == 20
        assert sample("certstream_delta_lag_entries", {"log": "log0"}) == 20
        assert sample("certstream_delta_archived_position", {"log": "log0"}) == 100
        assert sample("certstream_delta_flushes_total") == 0
    assert own.status().buffered_bytes == 0
    assert sample("certstream_delta_rows_written_total") == 20
    assert sample("certstream_delta_flushes_total") == 1
    assert sample("certstream_delta_flush_duration_seconds_count") == 1
    assert sample("certstream_delta_archived_position", {"log": "log0"}) == 120
    assert sample("certstream_delta_lag_entries", {"log": "log0"}) == 0
    assert sample("certstream_delta_available") == 1
    assert own.archived(url(1)) is None
    assert own.streamed(url(1)) is None
