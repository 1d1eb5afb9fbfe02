"""What /metrics says, and that its series are the ones that were counted."""

from __future__ import annotations

import asyncio
import contextlib
import math

import pytest
from prometheus_client.parser import text_string_to_metric_families

from certstream.archive_metrics import ARCHIVE_ERROR_KINDS
from certstream.metrics import DROP_REASONS, LOG_STATES, RELOAD_RESULTS, Metrics, watch_loop_lag


def samples(metrics: Metrics) -> dict[tuple[str, tuple[tuple[str, str], ...]], float]:
    families = text_string_to_metric_families(metrics.exposition().decode())
    return {
        (sample.name, tuple(sorted(sample.labels.items()))): sample.value
        for family in families
        for sample in family.samples
    }


def test_a_logs_series_carry_its_name_and_what_was_counted() -> None:
    metrics = Metrics()
    log = metrics.log("Google 'Argon2026h1'")
    log.entries.inc(256)
    log.position.set(1256)
    log.tree_size.set(2000)
    log.lag_entries.set(744)
    log.lag_seconds.set(1.5)
    for _ in range(2):
        log.request("429")
    log.error("FetchError")
    found = samples(metrics)
    name = ("log", "Google 'Argon2026h1'")
    assert found["certstream_log_entries_total", (name,)] == 256
    assert found["certstream_log_position", (name,)] == 1256
    assert found["certstream_log_tree_size", (name,)] == 2000
    assert found["certstream_log_lag_entries", (name,)] == 744
    assert found["certstream_log_lag_seconds", (name,)] == 1.5
    assert found["certstream_log_requests_total", (name, ("status", "429"))] == 2
    assert found["certstream_log_errors_total", (("kind", "FetchError"), name)] == 1


def test_exactly_one_state_of_a_log_is_set() -> None:
    metrics = Metrics()
    log = metrics.log("a")
    assert states(metrics) == {state: float(state == "starting") for state in LOG_STATES}
    log.state("following")
    assert states(metrics) == {state: float(state == "following") for state in LOG_STATES}


def states(metrics: Metrics) -> dict[str, float]:
    found = samples(metrics)
    return {state: found["certstream_log_state", (("log", "a"), ("state", state))] for state in LOG_STATES}


def test_the_same_name_gives_the_same_children() -> None:
    metrics = Metrics()
    assert metrics.log("a") is metrics.log("a")
    assert metrics.stream("lite") is metrics.stream("lite")


def test_stream_series_are_kept_apart_by_stream_transport_and_reason() -> None:
    metrics = Metrics()
    lite = metrics.stream("lite")
    lite.clients("websocket").inc(3)
    lite.clients("sse").inc()
    lite.messages_sent.inc(10)
    lite.bytes_sent.inc(9000)
    lite.dropped("backlog")
    metrics.stream("full")
    found = samples(metrics)
    stream = ("stream", "lite")
    assert found["certstream_stream_clients", (stream, ("transport", "websocket"))] == 3
    assert found["certstream_stream_clients", (stream, ("transport", "sse"))] == 1
    assert found["certstream_stream_messages_sent_total", (stream,)] == 10
    assert found["certstream_stream_sent_bytes_total", (stream,)] == 9000
    assert found["certstream_stream_clients_dropped_total", (("reason", "backlog"), stream)] == 1
    assert found["certstream_stream_messages_sent_total", (("stream", "full"),)] == 0


def test_what_counts_rare_trouble_is_0_from_the_start() -> None:
    metrics = Metrics()
    metrics.stream("lite")
    found = samples(metrics)
    for reason in DROP_REASONS:
        assert found["certstream_stream_clients_dropped_total", (("reason", reason), ("stream", "lite"))] == 0


def test_what_a_log_did_not_say_yet_is_unknown_and_not_0() -> None:
    metrics = Metrics()
    metrics.log("a")
    found = samples(metrics)
    assert math.isnan(found["certstream_log_head_timestamp_seconds", (("log", "a"),)])
    assert math.isnan(found["certstream_log_lag_seconds", (("log", "a"),)])


def test_the_state_file_is_asked_for_at_each_scrape() -> None:
    metrics, saved = Metrics(), [True]
    metrics.watch_state(lambda: saved[0])
    assert samples(metrics)["certstream_state_saved", ()] == 1
    saved[0] = False
    assert samples(metrics)["certstream_state_saved", ()] == 0


def test_decode_failures_are_counted_by_kind() -> None:
    metrics = Metrics()
    metrics.decode_failed("subject", 3)
    metrics.decode_failed("subject")
    metrics.decode_failed("certificate")
    found = samples(metrics)
    assert found["certstream_decode_failures_total", (("kind", "subject"),)] == 4
    assert found["certstream_decode_failures_total", (("kind", "certificate"),)] == 1


def test_the_backlog_is_asked_for_at_each_scrape() -> None:
    metrics = Metrics()
    backlog = [7]
    metrics.watch_backlog(lambda: backlog[0], lambda: 2)
    assert samples(metrics)["certstream_stream_backlog_bytes", ()] == 7
    backlog[0] = 9
    assert samples(metrics)["certstream_stream_backlog_bytes", ()] == 9
    assert samples(metrics)["certstream_stream_held_bytes", ()] == 2


ARCHIVE_NAMES = {
    "certstream_delta_rows_written_total",
    "certstream_delta_flushes_total",
    "certstream_delta_errors_total",
    "certstream_delta_buffered_rows",
    "certstream_delta_buffered_bytes",
    "certstream_delta_flush_duration_seconds_count",
    "certstream_delta_archived_position",
    "certstream_delta_lag_entries",
    "certstream_delta_free_disk_bytes",
    "certstream_delta_entries_let_go_total",
    "certstream_delta_entries_reread_total",
    "certstream_delta_available",
    "certstream_backfill_running",
    "certstream_backfill_entries_planned",
    "certstream_backfill_entries_written_total",
    "certstream_backfill_entries_skipped_total",
    "certstream_backfill_failed_ranges",
    "certstream_backfill_last_success_timestamp_seconds",
    "certstream_backfill_last_failure_timestamp_seconds",
    "certstream_merge_running",
    "certstream_merge_rows_inserted_total",
    "certstream_merge_rows_skipped_total",
    "certstream_merge_last_success_timestamp_seconds",
    "certstream_merge_last_failure_timestamp_seconds",
    "certstream_maintenance_running",
    "certstream_maintenance_files_rewritten_total",
    "certstream_maintenance_last_success_timestamp_seconds",
    "certstream_maintenance_last_failure_timestamp_seconds",
}


def archive_names(metrics: Metrics) -> set[str]:
    prefixes = ("certstream_delta_", "certstream_backfill_", "certstream_merge_", "certstream_maintenance_")
    return {name for name, _ in samples(metrics) if name.startswith(prefixes)}


def test_without_an_archive_none_of_its_series_is_shown() -> None:
    metrics = Metrics()
    metrics.log("a")
    assert archive_names(metrics) == set()


def test_with_an_archive_all_of_its_series_are_shown() -> None:
    metrics = Metrics()
    metrics.archive.log("a")
    of_the_histogram = {"certstream_delta_flush_duration_seconds_bucket", "certstream_delta_flush_duration_seconds_sum"}
    assert archive_names(metrics) == ARCHIVE_NAMES | of_the_histogram
    assert metrics.archive is metrics.archive
    assert metrics.archive.log("a") is metrics.archive.log("a")


def test_the_archives_series_carry_what_was_counted() -> None:
    metrics = Metrics()
    archive = metrics.archive
    archive.rows_written.inc(10_000)
    archive.buffered_bytes.set(7)
    archive.flush_seconds.observe(45)
    archive.log("Argon").position.set(500)
    archive.log("Argon").lag_entries.set(12)
    archive.backfill_entries_written.inc(3)
    archive.merge_rows_skipped.inc(2)
    archive.maintenance_files_rewritten.inc(9)
    archive.backfill_last_failure_timestamp_seconds.set(1_790_000_000)
    found = samples(metrics)
    log = ("log", "Argon")
    assert found["certstream_delta_rows_written_total", ()] == 10_000
    assert found["certstream_delta_buffered_bytes", ()] == 7
    assert found["certstream_delta_flush_duration_seconds_bucket", (("le", "30.0"),)] == 0
    assert found["certstream_delta_flush_duration_seconds_bucket", (("le", "60.0"),)] == 1
    assert found["certstream_delta_archived_position", (log,)] == 500
    assert found["certstream_delta_lag_entries", (log,)] == 12
    assert found["certstream_backfill_entries_written_total", ()] == 3
    assert found["certstream_merge_rows_skipped_total", ()] == 2
    assert found["certstream_maintenance_files_rewritten_total", ()] == 9
    assert found["certstream_backfill_last_failure_timestamp_seconds", ()] == 1_790_000_000
    assert found["certstream_backfill_last_success_timestamp_seconds", ()] == 0


def test_errors_of_the_archive_are_of_a_bounded_set_and_all_shown_from_the_start() -> None:
    metrics = Metrics()
    metrics.archive.error("disk_full")
    found = samples(metrics)
    shown = {kind: found["certstream_delta_errors_total", (("kind", kind),)] for kind in ARCHIVE_ERROR_KINDS}
    assert shown == {"disk_full": 1, "storage": 0, "conflict": 0, "schema": 0}


def test_free_disk_that_nobody_looked_at_is_unknown_and_not_0() -> None:
    metrics = Metrics()
    metrics.archive.log("a")
    assert math.isnan(samples(metrics)["certstream_delta_free_disk_bytes", ()])


def test_the_archive_is_available_until_a_commit_fails() -> None:
    metrics = Metrics()
    metrics.archive.log("a")
    assert samples(metrics)["certstream_delta_available", ()] == 1


def test_build_and_process_are_described() -> None:
    text = Metrics(version="1.2.3").exposition().decode()
    assert "certstream_build_info{" in text
    assert 'version="1.2.3"' in text
    assert "process_resident_memory_bytes" in text
    assert "python_gc_collections_total" in text


def test_counters_have_no_created_series_and_end_in_total() -> None:
    metrics = Metrics()
    metrics.log("a").request("200")
    metrics.stream("lite").dropped("backlog")
    metrics.archive.error("storage")
    for family in text_string_to_metric_families(metrics.exposition().decode()):
        assert not family.name.endswith("_created")
        if family.type == "counter":
            assert all(sample.name.endswith("_total") for sample in family.samples)


def test_two_services_in_one_process_do_not_share_metrics() -> None:
    first, second = Metrics(), Metrics()
    first.entries_published.inc()
    assert samples(second)["certstream_entries_published_total", ()] == 0


async def test_a_blocked_loop_shows_as_lag() -> None:
    metrics = Metrics()
    observed = asyncio.Event()
    observe = metrics.loop_lag.observe
    values: list[float] = []

    def note(value: float) -> None:
        values.append(value)
        observe(value)
        observed.set()

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(metrics.loop_lag, "observe", note)
        watch = asyncio.create_task(watch_loop_lag(metrics, interval_s=0.01))
        await asyncio.sleep(0)
        block_for(0.1)
        await asyncio.wait_for(observed.wait(), 5)
        watch.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await watch
    assert values[0] >= 0.08
    assert samples(metrics)["certstream_event_loop_lag_seconds_count", ()] == len(values)


async def test_a_scrape_is_the_whole_exposition_and_lets_others_run_meanwhile() -> None:
    metrics = Metrics()
    for number in range(200):
        metrics.log(f"log {number}")
        metrics.archive.log(f"log {number}")
    scrape = asyncio.create_task(metrics.scrape())
    turns = 0
    while not scrape.done():
        await asyncio.sleep(0)
        turns += 1
    assert turns > 3
    names = [family.name for family in text_string_to_metric_families(scrape.result().decode())]
    assert names == [family.name for family in text_string_to_metric_families(metrics.exposition().decode())]
    assert scrape.result().count(b"certstream_log_state{") == 200 * len(LOG_STATES)


def block_for(seconds: float) -> None:
    loop = asyncio.get_running_loop()
    end = loop.time() + seconds
    while loop.time() < end:
        pass


def test_a_log_that_is_forgotten_leaves_no_series_and_may_come_again() -> None:
    metrics = Metrics()
    for name in ("gone", "stays"):
        log = metrics.log(name)
        log.entries.inc(3)
        log.lag_seconds.set_function(lambda: 1.0)
        log.request("200")
        log.request("timeout")
        log.error("FetchError")
        metrics.archive.log(name).lag_entries.set_function(lambda: 1.0)
    metrics.forget_log("gone")
    metrics.archive.forget_log("gone")
    metrics.forget_log("never known")
    metrics.archive.forget_log("never known")
    logs = [dict(labels).get("log") for _, labels in samples(metrics)]
    assert "gone" not in logs
    assert "stays" in logs
    metrics.log_request("gone", "200")  # of a backfill that goes on
    metrics.log_request("gone", "500")
    assert "gone" not in [dict(labels).get("log") for _, labels in samples(metrics)]
    metrics.log("gone").entries.inc()
    metrics.log_request("gone", "200")
    assert samples(metrics)["certstream_log_requests_total", (("log", "gone"), ("status", "200"))] == 1
    assert samples(metrics)["certstream_log_entries_total", (("log", "gone"),)] == 1


def test_reloads_are_counted_by_their_result_and_the_file_is_in_effect_until_somebody_says_otherwise() -> None:
    metrics = Metrics()
    metrics.config_reloaded("invalid")
    found = samples(metrics)
    counts = {result: found["certstream_config_reloads_total", (("result", result),)] for result in RELOAD_RESULTS}
    assert counts == {"applied": 0, "invalid": 1, "failed": 0}
    assert found["certstream_config_in_effect", ()] == 1
