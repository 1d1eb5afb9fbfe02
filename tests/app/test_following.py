"""The logs that are followed change: what metrics show is of the logs that are followed now."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace

from certstream.app.following import Following
from certstream.app.settings import FollowedLog, LogRecipe, log_client, log_recipes
from certstream.client.http import FetchSettings, HttpClient
from certstream.client.issuers import IssuerCache
from certstream.config import CtLogConfig
from certstream.ct.types import EntryBatch, LogInfo
from certstream.live.tailer import Tailer
from certstream.metrics import Metrics
from certstream.simulator.log import SimulatedLog
from certstream.simulator.server import SimulatorServer

UNREACHABLE = "http://127.0.0.1:9/"


class Follows:
    """Logs that are followed from their beginning."""

    def __init__(self, http: HttpClient) -> None:
        self.http = http
        self.metrics = http.metrics
        self.following = Following(self._tailer, http.metrics)
        self._positions: dict[str, int] = {}
        self._moved = asyncio.Event()

    def _tailer(self, recipe: LogRecipe) -> Tailer:
        info = recipe.followed.info
        return Tailer(
            log_client(self.http, info, IssuerCache(self.http), recipe.read),
            publish=self._publish,
            advance=lambda index, _: self._advance(info, index),
            metrics=self.metrics.log(info.name),
            position=self._positions.get(info.base_url),
            start="beginning",
            settings=recipe.tail,
        )

    async def _publish(self, batch: EntryBatch) -> None:
        """Nobody listens."""

    def _advance(self, info: LogInfo, index: int) -> None:
        self._positions[info.base_url] = index
        self._moved.set()

    async def until_read(self, info: LogInfo, index: int) -> None:
        async with asyncio.timeout(30):
            while self._positions.get(info.base_url) != index:
                self._moved.clear()
                await self._moved.wait()

    async def change(self, *infos: LogInfo, batch_size: int = 1024) -> None:
        await self.following.change(recipes(infos, batch_size), between=lambda: None)

    def shown(self, name: str) -> dict[str, float]:
        """The metrics of the log with that name, by their names and further labels."""
        return {
            " ".join([sample.name, *(value for label, value in sample.labels.items() if label != "log")]): sample.value
            for family in self.metrics.registry.collect()
            for sample in family.samples
            if sample.labels.get("log") == name
        }


def recipes(infos: Sequence[LogInfo], batch_size: int = 1024) -> list[LogRecipe]:
    return log_recipes(CtLogConfig(batch_size=batch_size), [FollowedLog(info, start="beginning") for info in infos])


@asynccontextmanager
async def follows(*infos: LogInfo) -> AsyncIterator[Follows]:
    async with HttpClient(FetchSettings(), Metrics()) as http:
        own = Follows(http)
        own.following.begin(recipes(infos))
        running = asyncio.create_task(own.following.supervisor.run())
        try:
            yield own
        finally:
            await own.following.supervisor.stop(1)
            await running


async def test_a_log_that_is_left_is_shown_no_more_though_something_reads_it_still() -> None:
    log = SimulatedLog("log", kinds={"rfc6962"}, initial=10, seed=1)
    async with SimulatorServer([log]):
        info = log.info("rfc6962")
        async with follows(info) as own:
            await own.until_read(info, 10)
            await own.change()
            await own.http.get(info, "ct/v1/get-sth")
            assert own.shown("log") == {}
            await own.change(info)
            await own.http.get(info, "ct/v1/get-sth")
            assert own.shown("log")["certstream_log_requests_total 200"] >= 1


async def test_another_log_by_the_same_name_shows_nothing_of_the_one_before() -> None:
    log = SimulatedLog("log", kinds={"rfc6962"}, initial=10, seed=1)
    async with SimulatorServer([log]):
        info = log.info("rfc6962")
        async with follows(info) as own:
            await own.until_read(info, 10)
            assert own.shown("log")["certstream_log_tree_size"] == 10
            await own.change(replace(info, url=UNREACHABLE))
            shown = own.shown("log")
            head_timestamp_s = shown["certstream_log_head_timestamp_seconds"]
            assert (shown["certstream_log_tree_size"], shown["certstream_log_entries_total"]) == (0, 0)
            assert head_timestamp_s != head_timestamp_s, "NaN: not known yet"


async def test_a_log_that_is_followed_by_changed_options_keeps_its_counts() -> None:
    log = SimulatedLog("log", kinds={"rfc6962"}, initial=10, seed=1)
    async with SimulatorServer([log]):
        info = log.info("rfc6962")
        async with follows(info) as own:
            await own.until_read(info, 10)
            await own.change(info, batch_size=7)
            assert own.shown("log")["certstream_log_entries_total"] == 10
            log.grow(5)
            await own.until_read(info, 15)


async def test_of_two_logs_by_one_name_the_one_that_stays_is_shown_still() -> None:
    log = SimulatedLog("log", kinds={"rfc6962"}, initial=10, seed=1)
    async with SimulatorServer([log]):
        info = log.info("rfc6962")
        async with follows(info, replace(info, url=UNREACHABLE)) as own:
            await own.until_read(info, 10)
            before = own.shown("log")["certstream_log_entries_total"]
            await own.change(info)
            assert own.shown("log")["certstream_log_entries_total"] == before == 10
            log.grow(5)
            await own.until_read(info, 15)
