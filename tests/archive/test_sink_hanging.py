"""A table that does not answer looks like one that fails, and keeps nothing else."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from structlog.testing import capture_logs

from certstream.archive.commit import Committer
from certstream.metrics import Metrics
from tests.archive.archive_support import held, log_info, packed, url
from tests.archive.sink_support import MANUAL, Hanging, Unopenable, running, sink, until

A = log_info(0)


async def meanwhile(what: Callable[[], bool]) -> None:
    """Wait for something during an attempt to commit."""
    async with asyncio.timeout(60):
        while not what():  # noqa: ASYNC110 - an attempt tells of its end alone
            await asyncio.sleep(0.005)


async def test_a_commit_that_hangs_is_a_failure_until_it_ends(tmp_path: Path) -> None:
    Committer(tmp_path).add(starts={url(0): 0})
    metrics = Metrics()
    sample = metrics.registry.get_sample_value
    with capture_logs() as lines, Hanging(tmp_path) as hanging:
        async with running(sink(tmp_path, replace(MANUAL, hung_after_s=0.05), metrics.archive)) as own:
            own.take_up(A, 0)
            own.take(packed(A, 0, 20))
            await hanging.reached()
            await meanwhile(lambda: own.is_failing)
            status = own.status()
            assert (status.state, status.buffered_rows) == ("failing", 20)
            assert status.last_error is not None
            assert "does not answer" in status.last_error
            assert sample("certstream_delta_available") == 0
            await own.begin(A, 0)  # waits for nothing
            hanging.end()
            await until(own, lambda: own.archived(url(0)) is not None)
            assert (own.status().state, own.status().last_error) == ("healthy", status.last_error)
            assert sample("certstream_delta_available") == 1
    assert held(tmp_path) == {url(0): list(range(20))}
    assert [line["event"] for line in lines if line["event"] != "archiving log"] == [
        "archive cannot be written, rows are kept", "table answers again",
    ]  # fmt: skip


async def test_a_table_that_hangs_as_it_is_opened_is_waited_for_no_longer_than_the_service_is_wanted(
    tmp_path: Path,
) -> None:
    with Unopenable(tmp_path):  # whoever opens it waits for a writer, and there is none
        own = sink(tmp_path, replace(MANUAL, begin_wait_s=3600, close_wait_s=3600))
        stop = asyncio.Event()
        own.heed(stop)
        async with asyncio.timeout(60):
            entering = asyncio.create_task(own.__aenter__())
            assert not (await asyncio.wait([entering], timeout=0.1))[0]
            stop.set()
            assert await entering is own
            assert own.is_failing
            own.take(packed(A, 0, 20))
            await own.__aexit__(None, None, None)
    assert own.status().buffered_rows == 20


async def test_a_table_that_hangs_as_it_is_opened_is_archived_to_once_it_answers(tmp_path: Path) -> None:
    with Unopenable(tmp_path) as table:
        settings = replace(MANUAL, begin_wait_s=0.1, retry_initial_s=0.01)
        async with running(sink(tmp_path, settings)) as own:
            assert own.is_failing
            own.take(packed(A, 0, 20))
            table.end()
            await until(own, lambda: own.archived(url(0)) == 20)
            assert own.status().state == "healthy"
    assert held(tmp_path) == {url(0): list(range(20))}


async def test_a_commit_that_takes_less_is_none(tmp_path: Path) -> None:
    Committer(tmp_path).add(starts={url(0): 0})
    with Hanging(tmp_path) as hanging:
        async with running(sink(tmp_path, replace(MANUAL, hung_after_s=3600))) as own:
            own.take_up(A, 0)
            await hanging.reached()
            assert own.status().state == "healthy"
            hanging.end()
            await until(own, lambda: own.archived(url(0)) == 0)
            assert own.status().state == "healthy"
