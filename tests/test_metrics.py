"""What /metrics says, and that its series are the ones that were counted."""

from __future__ import annotations

import asyncio
import contextlib

import pytest
from prometheus_client.parser import text_string_to_metric_families

from certstream.metrics import LOG_STATES, Metrics, watch_loop_lag


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


def block_for(seconds: float) -> None:
    loop = asyncio.get_running_loop()
    end = loop.time() + seconds
    while loop.time() < end:
        pass
