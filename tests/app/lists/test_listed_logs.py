"""Which logs are followed, as the lists, the configuration and the state file say together."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web
from structlog.testing import capture_logs

from certstream.app.lists.listed_logs import ListedLogs
from certstream.app.lists.sources import log_lists
from certstream.app.settings import FollowedLog, configured_logs
from certstream.config import Config
from certstream.ct.signatures import spki_of
from certstream.metrics import LogState
from certstream.state import StateStore
from tests.client.log_list_support import Publisher, client, publishing
from tests.client.reading_support import FakeTime
from tests.ct.log_list_support import SIGNER, classic, spki, text

URL = "https://ct.example.com"
PATIENCE_S = 20.0


def gone() -> web.Response:
    return web.Response(status=404)


@dataclass
class Following:
    """A publisher, and what follows its list."""

    publisher: Publisher
    lists: ListedLogs
    state: StateStore
    directory: Path
    states: dict[str, LogState]
    config: Config = field(default_factory=Config)
    wanted: list[FollowedLog] = field(default_factory=list)
    applied: asyncio.Event = field(default_factory=asyncio.Event)

    async def configure(self, lists: dict[str, Any] | None = None, **sections: Any) -> None:
        listed = {
            "name": "ours",
            "location": f"{self.publisher.base_url}/list.json",
            "signature": f"{self.publisher.base_url}/list.sig",
            "key": text(spki_of(SIGNER)),
        }
        section = {"google": False, "apple": False, "lists": [listed], **(lists or {})}
        state = {"state_file": str(self.directory / "state.json")}
        self.config = Config.model_validate({"log_lists": section, "ct_log": state, **sections})
        await self.lists.configure(self.config, configured_logs(self.config))
        self.take()

    def take(self) -> None:
        self.wanted = self.lists.wanted(self.config, configured_logs(self.config))
        self.applied.set()

    async def apply(self) -> None:
        self.take()

    async def until(self, enough: Callable[[], bool]) -> None:
        async with asyncio.timeout(PATIENCE_S):
            while not enough():
                self.applied.clear()
                await self.applied.wait()

    def names(self) -> list[str]:
        return [log.info.name for log in self.wanted]

    def read(self, name: str, index: int, tree_size: int) -> None:
        """The log with that name stands there."""
        url = next(log.info.base_url for log in self.wanted if log.info.name == name)
        if self.state.position(url) is None:
            self.state.begin(url, 0, tree_size)
        self.state.advance(url, index, tree_size, 1)
        self.lists.advanced(url, index, tree_size)


@asynccontextmanager
async def following(directory: Path) -> AsyncIterator[Following]:
    time, state, states = FakeTime(), StateStore(None), dict[str, LogState]()
    async with publishing() as publisher, client(time) as http:
        yield Following(publisher, ListedLogs(http, state, lambda: states), state, directory, states)


@asynccontextmanager
async def running(it: Following) -> AsyncIterator[None]:
    work = asyncio.create_task(it.lists.run(it.apply))
    try:
        yield
    finally:
        work.cancel()
        await asyncio.wait([work])


async def test_what_changes_in_the_list_is_followed_without_a_restart(tmp_path: Path) -> None:
    async with following(tmp_path) as it:
        it.publisher.publish(classic(1))
        await it.configure()
        assert it.names() == []
        async with running(it):
            await it.until(lambda: it.names() == ["Log 1"])
            assert it.wanted[0].start == "head"
            it.publisher.publish(classic(1), classic(2, mmd=60))
            await it.until(lambda: it.names() == ["Log 1", "Log 2"])
            assert [(log.start, log.mmd_s) for log in it.wanted] == [("head", 86_400), ("beginning", 60)]
            it.publisher.publish(classic(2))
            await it.until(lambda: it.names() == ["Log 2"])
    assert [each.failures for each in it.lists.statuses()] == [0]


async def test_a_log_that_is_left_stays_until_it_is_read_and_comes_back_as_it_was(tmp_path: Path) -> None:
    async with following(tmp_path) as it:
        it.publisher.publish(classic(1), classic(2))
        await it.configure()
        async with running(it):
            await it.until(lambda: len(it.wanted) == 2)
            before = list(it.wanted)
            it.read("Log 1", 5, 10)
            it.publisher.publish(classic(2))
            await it.until(lambda: any(log.leaving for log in it.wanted))
            assert [(log.info.name, log.leaving) for log in it.wanted] == [("Log 2", False), ("Log 1", True)]
            it.publisher.publish(classic(1), classic(2))
            await it.until(lambda: it.wanted == before)
            it.publisher.publish(classic(2))
            await it.until(lambda: any(log.leaving for log in it.wanted))
            it.read("Log 1", 10, 10)
            await it.until(lambda: it.names() == ["Log 2"])


async def test_logs_that_are_left_stay_known_while_no_list_is_followed(tmp_path: Path) -> None:
    async with following(tmp_path) as it:
        it.publisher.publish(classic(1), classic(2))
        await it.configure()
        async with running(it):
            await it.until(lambda: len(it.wanted) == 2)
            it.read("Log 1", 5, 10)
            it.publisher.publish(classic(2))
            await it.until(lambda: any(log.leaving for log in it.wanted))
            await it.configure({"enabled": False})
            assert it.wanted == []
        await it.configure()
        assert [(log.info.name, log.leaving) for log in it.wanted] == [("Log 2", False), ("Log 1", True)]
        it.read("Log 1", 10, 10)
        it.take()
        assert it.names() == ["Log 2"]


async def test_a_log_that_is_left_and_keeps_failing_is_given_up_until_a_list_has_it_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("certstream.app.lists.listed_logs._LOOK_S", 0.01)
    async with following(tmp_path) as it:
        it.publisher.publish(classic(1), classic(2))
        await it.configure()
        async with running(it):
            await it.until(lambda: len(it.wanted) == 2)
            it.read("Log 1", 5, 10)
            it.states[f"{URL}/1"] = "unhealthy"
            it.publisher.publish(classic(2))
            await it.until(lambda: it.names() == ["Log 2"])
            del it.states[f"{URL}/1"]
            it.publisher.publish(classic(1), classic(2))
            await it.until(lambda: it.names() == ["Log 1", "Log 2"])
            it.publisher.publish(classic(2))
            await it.until(lambda: [log.leaving for log in it.wanted] == [False, True])


async def test_a_log_that_is_left_and_then_configured_is_followed_once(tmp_path: Path) -> None:
    async with following(tmp_path) as it:
        it.publisher.publish(classic(1), classic(2))
        await it.configure({"enabled": True})
        async with running(it):
            await it.until(lambda: len(it.wanted) == 2)
            it.read("Log 1", 5, 10)
            it.publisher.publish(classic(2))
            await it.until(lambda: any(log.leaving for log in it.wanted))
            await it.configure({"enabled": True}, custom_logs=[{"name": "mine", "url": f"{URL}/1"}])
            await it.until(lambda: it.names() == ["mine", "Log 2"])
            assert [log.leaving for log in it.wanted] == [False, False]


async def test_a_url_at_which_another_log_stands_is_followed_once(tmp_path: Path) -> None:
    async with following(tmp_path) as it:
        it.publisher.publish(classic(1))
        await it.configure()
        async with running(it):
            await it.until(lambda: it.names() == ["Log 1"])
            it.read("Log 1", 5, 10)
            it.publisher.publish(classic(2, url=f"{URL}/1/"))
            await it.until(lambda: "Log 2" in it.names())
            assert [(log.info.name, log.leaving) for log in it.wanted] == [("Log 2", False)]


async def test_a_configured_log_gets_its_key_and_keeps_it_when_the_list_forgets_it(tmp_path: Path) -> None:
    mine: dict[str, Any] = {"custom_logs": [{"name": "mine", "url": f"{URL}/1"}]}
    async with following(tmp_path) as it:
        it.publisher.publish(classic(1, mmd=60), classic(2))
        await it.configure(**mine)
        assert it.names() == [], "it waits for its key"
        async with running(it):
            await it.until(lambda: [(log.info.key, log.mmd_s) for log in it.wanted] == [(spki(1), 60)])
            it.publisher.publish(classic(2))
            await it.until(lambda: it.lists.statuses()[0].logs == 1)
            assert it.wanted[0].info.key == spki(1)


async def test_without_a_list_a_log_is_read_unverified_after_a_while_and_never_under_enforce(tmp_path: Path) -> None:
    logs = [{"name": "a", "url": f"{URL}/1"}, {"name": "b", "url": f"{URL}/2", "verification": "enforce"}]
    async with following(tmp_path) as it:
        it.publisher.answers = [gone] * 1_000
        await it.configure(custom_logs=logs)
        async with running(it):
            await it.until(lambda: it.names() == ["a"])
            assert it.wanted[0].info.key is None
            assert [log.info.name for log in it.lists.without_key(configured_logs(it.config))] == ["b"]
            it.publisher.publish(classic(1), classic(2))
            it.publisher.answers = []
            await it.until(lambda: [log.info.key for log in it.wanted] == [spki(1), spki(2)])


async def test_where_the_lists_have_no_log_that_is_wanted_that_is_said_once(tmp_path: Path) -> None:
    said = "no log is followed: the log lists have none that is wanted, --list-logs says why"

    def times() -> int:
        return sum(line["event"] == said for line in lines)

    async with following(tmp_path) as it:
        it.publisher.publish(classic(1))
        with capture_logs() as lines:
            await it.configure({"include_names": ["another"]})
            assert (it.wanted, times()) == ([], 0), "there is no list yet"
            async with running(it):
                await it.until(lambda: times() == 1)
                it.take()
                assert times() == 1
                await it.configure({"include_names": ["Log 1"]})
                assert (it.names(), times()) == (["Log 1"], 1)
                await it.configure({"include_names": ["another"]})
                assert (it.wanted, times()) == ([], 2)
                await it.configure({"include_names": ["another"]}, custom_logs=[{"name": "mine", "url": f"{URL}/9"}])
                assert times() == 2


async def test_where_no_list_is_to_be_asked_none_is(tmp_path: Path) -> None:
    log = {"name": "a", "url": f"{URL}/1"}
    async with following(tmp_path) as it:
        it.publisher.publish(classic(1))
        await it.configure({"enabled": False}, custom_logs=[log])
        assert it.names() == ["a"]
        await it.configure(custom_logs=[{**log, "key": classic(1)["key"]}])
        assert it.names() == ["a"]
        await it.configure(custom_logs=[{**log, "verification": "off"}])
        assert it.names() == ["a"]
        assert it.lists.statuses() == []
        assert it.publisher.requests == []


async def test_a_protocol_that_is_off_takes_no_log_of_the_lists(tmp_path: Path) -> None:
    async with following(tmp_path) as it:
        it.publisher.publish(classic(1))
        await it.configure()
        async with running(it):
            await it.until(lambda: it.names() == ["Log 1"])
            await it.configure(ct_log={"state_file": str(tmp_path / "state.json"), "rfc6962_enabled": False})
            assert it.names() == []


async def test_a_log_that_takes_no_more_has_its_end_and_is_looked_at_once_a_minute(tmp_path: Path) -> None:
    final = {"tree_size": 7, "sha256_root_hash": text(bytes(32))}
    readonly = {"readonly": {"timestamp": "2026-01-01T00:00:00Z", "final_tree_head": final}}
    over = {"start_inclusive": "1971-01-01T00:00:00Z", "end_exclusive": "1972-01-01T00:00:00Z"}
    async with following(tmp_path) as it:
        it.publisher.publish(classic(1, state=readonly), classic(2, temporal_interval=over), classic(3))
        await it.configure()
        async with running(it):
            await it.until(lambda: len(it.wanted) == 3)
    assert [log.poll_interval_s for log in it.wanted] == [60, 60, None]
    assert [None if log.final is None else log.final.tree_size for log in it.wanted] == [7, None, None]


async def test_the_lists_are_looked_at_as_often_as_configured() -> None:
    time = FakeTime()
    options: dict[str, Any] = {"google": False, "apple": False, "refresh_interval_secs": 120}
    async with publishing() as publisher, client(time) as http:
        publisher.publish(classic(1))
        options["lists"] = [{"name": "ours", "location": f"{publisher.base_url}/list.json", "unsigned": True}]
        lists = log_lists(Config.model_validate({"log_lists": options, "ct_log": {"state_file": None}}), http, [])
        await lists.start()
        await lists.next()
        assert len(publisher.counted("/list.json")) == 2
    assert time.slept == [120]
