"""A table's position of a log that is wrong hides nothing."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from structlog.testing import capture_logs

from certstream.archive.commit import Committer
from certstream.ct.types import LogInfo
from certstream.intervals import Intervals
from tests.archive.archive_support import held, log_info, packed, url
from tests.archive.sink_support import MANUAL, running, sink, until

A = log_info(0)


async def test_a_position_beyond_what_is_archived_and_streamed_hides_nothing_that_is_missing(tmp_path: Path) -> None:
    Committer(tmp_path).add(starts={url(0): 5000})  # of a log of the same name, before it was created anew
    begun: list[LogInfo] = []
    with capture_logs() as lines:
        async with running(sink(tmp_path, MANUAL, on_begun=begun.append)) as own:
            own.take_up(A, 1000)
            await own.begin(A, 1000)
            assert (own.archived(url(0)), own.base(url(0))) == (5000, 1000)
            own.take(packed(A, 1000, 1040))
            assert own.status().lag_entries == 40
            assert own.missing(url(0)) == Intervals()
        async with running(sink(tmp_path, replace(MANUAL, batch_rows=20), on_begun=begun.append)) as own:
            own.take_up(A, 1100, 1000)  # a crash: from 1040 on it was streamed and not archived
            assert await own.wait_missing(url(0)) == Intervals.of((1040, 1100))
            assert own.base(url(0)) == 1000
            await own.take_again(packed(A, 1040, 1100))
            await until(own, lambda: own.status().lag_entries == 0)
            assert own.missing(url(0)) == Intervals()
    assert sum(line["event"].startswith("archive lacks rows below its position") for line in lines) == 2
    assert begun == []
    assert held(tmp_path) == {url(0): list(range(1000, 1100))}


async def test_a_wrong_position_is_relied_on_again_once_the_rows_below_it_are_there(tmp_path: Path) -> None:
    Committer(tmp_path).add(starts={url(0): 50})
    begun: list[LogInfo] = []
    async with running(sink(tmp_path, replace(MANUAL, batch_rows=30), on_begun=begun.append)) as own:
        own.take_up(A, 0)
        await own.begin(A, 0)
        own.take(packed(A, 0, 30))
        await until(own, lambda: own.status().buffered_rows == 0)
        assert (own.base(url(0)), begun) == (0, [])
        own.take(packed(A, 40, 70))  # what lies between never came
        await until(own, lambda: own.status().buffered_rows == 0)
        assert own.missing(url(0)) == Intervals.of((30, 40))
        await own.take_again(packed(A, 30, 40))
        own.take(packed(A, 70, 90))
        await until(own, lambda: own.status().buffered_rows == 0)
        assert (own.base(url(0)), own.archived(url(0)), begun) == (90, 90, [A])
    assert held(tmp_path) == {url(0): list(range(90))}
