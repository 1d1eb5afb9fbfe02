"""The log lists in the running service: which of their logs are followed, from where, and until when."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

import pybase64
import structlog

from certstream.app.lists.beginnings import Beginnings
from certstream.app.lists.departures import Departures, is_read, others
from certstream.app.lists.log_keys import with_keys
from certstream.app.lists.sources import (
    asks_lists,
    follows_lists,
    list_sources,
    listed_logs,
    lists_directory,
    log_lists,
    log_selection,
)
from certstream.app.settings import FollowedLog
from certstream.app.until_stop import finished
from certstream.client.http import HttpClient
from certstream.client.log_list import ListStatus, LogLists
from certstream.client.log_list_source import ListSource
from certstream.config import Config
from certstream.ct.log_list import ListedLog
from certstream.ct.types import LogInfo
from certstream.metrics import LogState
from certstream.state import StateStore

_KEYS_S: Final = 15.0  # that a log waits for its key at the first start, then it is read unverified
_LOOK_S: Final = 60.0  # between looks at whether a log that is left fails
_CRASHED_S: Final = 30.0

Apply = Callable[[], Awaitable[object]]

logger: structlog.stdlib.BoundLogger = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Asked:
    """What makes other lists necessary when it changes."""

    sources: tuple[ListSource, ...]
    directory: Path | None
    interval_s: float


class ListedLogs:
    """Which logs are to be followed, from the configuration, the lists and the state file.

    `configure` it before anything else and whenever the configuration changes, then ask `wanted`; `run` keeps the lists
    current. Bounded by the lists.
    """

    def __init__(self, http: HttpClient, state: StateStore, states: Callable[[], Mapping[str, LogState]]) -> None:
        """`states` says how each followed log is doing, by base URL."""
        self._http = http
        self._clock = http.clock
        self._state = state
        self._states = states
        self._beginnings = Beginnings(state)
        self._departures = Departures(state)
        self._asked: Asked | None = None
        self._lists: LogLists | None = None
        self._are_others = asyncio.Event()  # lists than before
        self._is_settled = False  # the lists were asked once: a key that they do not know will not come soon
        self._known = asyncio.Event()  # and what they say is applied
        self._found: dict[LogInfo, ListedLog] = {}  # configured logs whose key a list knew, also if it does no more
        self._listed: dict[bytes, FollowedLog] = {}  # from the lists, as `wanted` said last
        self._wish = ""
        self._is_none_said = False
        self._had: set[str] = set()  # names of the lists that `_listed` is from
        self._given_up: set[bytes] = set()  # that are left, and keep failing
        self._ended = asyncio.Event()  # a log that is left is read to its end, or given up

    async def settled(self) -> None:
        """Wait until the lists were asked once and their logs are followed, but not for long."""
        await self._known.wait()

    def statuses(self) -> list[ListStatus]:
        """How each list is doing."""
        return [] if self._lists is None else self._lists.statuses()

    async def configure(self, config: Config, configured: Sequence[FollowedLog]) -> None:
        """Ask for the lists of that configuration from now on; those that are kept are taken at once."""
        asked = asked_of(config) if asks_lists(config, configured) else None
        if self._lists is not None and asked == self._asked:
            self._lists.select(log_selection(config.log_lists), [log.info for log in configured])
            return
        self._asked, self._lists = asked, None
        if asked is None:
            self._is_settled = True
            self._known.set()
        else:
            self._lists = log_lists(config, self._http, configured)
            await self._lists.load()
        self._are_others.set()

    async def fetch(self, stop: asyncio.Event) -> None:
        """Fetch the lists, for up to a minute, or until `stop`."""
        if self._lists is None:
            return
        await finished(self._lists.refresh(), stop)
        self._is_settled = True
        self._known.set()

    def wanted(self, config: Config, configured: Sequence[FollowedLog]) -> list[FollowedLog]:
        """The logs to follow now: the configured ones, with their keys, then those of the lists.

        A configured log that waits for its key is not among them yet, and where it says enforce, not without one.
        """
        keyed = [log for log in with_keys(configured, self._find) if not self._waits(log)]
        return [*keyed, *self._of_lists(config, keyed)]

    def without_key(self, logs: Sequence[FollowedLog]) -> list[FollowedLog]:
        """Those of the configured logs that are not followed: they say enforce, and no key is known."""
        return [log for log in with_keys(logs, self._find) if log.verification == "enforce" and log.info.key is None]

    def settle(self, logs: Sequence[FollowedLog]) -> None:
        """Let the positions of logs that moved to another URL move along; say so while neither URL is read."""
        urls = {log.info.base_url for log in logs}
        for log in logs:
            log_id = log.info.log_id
            if log_id is None or log_id not in self._listed:
                continue
            url = log.info.base_url
            before = self._state.settle(url, pybase64.b64encode(log_id).decode(), urls - {url})
            if before is not None:
                logger.info("log has another URL, its position goes along", log=log.info.name, url=url, before=before)

    def advanced(self, url: str, index: int, tree_size: int) -> None:
        """Note a log's position: one that is left may be at its end."""
        if index >= tree_size and any(log.leaving and log.info.base_url == url for log in self._listed.values()):
            self._ended.set()

    async def run(self, apply: Apply) -> None:
        """Keep the lists current, and `apply` when other logs may be wanted; until cancelled."""
        async with asyncio.TaskGroup() as group:
            group.create_task(self._again_and_again(self._keep_current, apply), name="log lists:refresh")
            group.create_task(self._again_and_again(self._leave, apply), name="log lists:leave")

    async def _again_and_again(self, work: Callable[[Apply], Awaitable[None]], apply: Apply) -> None:
        """No bug here ends the streams: what crashes is begun again after a while."""
        while True:
            try:
                await work(apply)
            except Exception:
                logger.exception("following the log lists crashed, it is started again", after_s=_CRASHED_S)
                await self._clock.sleep(_CRASHED_S)

    async def _keep_current(self, apply: Apply) -> None:
        lists = self._lists
        self._are_others.clear()
        working: list[asyncio.Future[Any]] = [asyncio.ensure_future(self._are_others.wait())]
        if lists is not None:
            working += [
                asyncio.ensure_future(each) for each in (self._refresh(lists, apply), self._wait_for_keys(apply))
            ]
        try:
            while not self._are_others.is_set():
                done, _ = await asyncio.wait(working, return_when=asyncio.FIRST_COMPLETED)
                for each in done:
                    each.result()
                working = [each for each in working if each not in done]
        finally:
            for each in working:
                each.cancel()
            if working:
                await asyncio.wait(working)

    async def _refresh(self, lists: LogLists, apply: Apply) -> None:
        while True:
            await lists.next()
            await self._settle(apply)

    async def _settle(self, apply: Apply) -> None:
        self._is_settled = True
        await apply()
        self._known.set()

    async def _wait_for_keys(self, apply: Apply) -> None:
        await self._clock.sleep(_KEYS_S)
        if not self._known.is_set():
            await self._settle(apply)

    async def _leave(self, apply: Apply) -> None:
        """Look at the logs that are left: each ends when it is read, or keeps failing."""
        while True:
            with suppress(TimeoutError):
                async with asyncio.timeout(_LOOK_S):
                    await self._ended.wait()
            self._ended.clear()
            states = self._states()
            leaving = {log_id: log for log_id, log in self._listed.items() if log.leaving}
            for log_id, log in leaving.items():
                if states.get(log.info.base_url) == "unhealthy":
                    logger.warning("log that no list has any more fails, it is left before its end", log=log.info.name)
                    self._given_up.add(log_id)
            if leaving:
                await apply()

    def _find(self, info: LogInfo) -> ListedLog | None:
        found = None if self._lists is None else self._lists.find(info)
        if found is not None:
            self._found[info] = found
        return self._found.get(info)

    def _waits(self, log: FollowedLog) -> bool:
        if log.info.key is not None or log.verification == "off":
            return False
        return log.verification == "enforce" or not self._is_settled

    def _of_lists(self, config: Config, configured: Sequence[FollowedLog]) -> list[FollowedLog]:
        if self._lists is None or not follows_lists(config):
            self._wish, self._listed = "", {}  # those that are left stay known, for when lists are followed again
            return []
        chosen, wish = self._lists.choice.chosen, wish_of(config)
        had = had_lists(self._lists.statuses())
        starts = self._beginnings.of(chosen, had, wish) if had else {}
        listed = {
            log_id: replace(log, start=starts[log_id])
            for log in listed_logs(config, chosen)
            if (log_id := log.info.log_id) is not None
        }
        if not self._wish:  # the first look of this process
            self._wish, self._listed = wish, self._departures.known(wish, config.ct_log.verification)
        if wish == self._wish:
            gone = others(self._listed, [log.info for log in (*listed.values(), *configured)])
            listed |= self._leaving(gone) if had >= self._had else gone  # for want of a list no log disappears
            had |= self._had
        self._wish, self._had, self._listed = wish, had, listed
        self._departures.keep([log for log in listed.values() if log.leaving], wish)
        self._given_up &= listed.keys()
        self._say_none(is_none=bool(had) and not listed and not configured)
        return list(listed.values())

    def _say_none(self, *, is_none: bool) -> None:
        if is_none and not self._is_none_said:
            logger.warning("no log is followed: the log lists have none that is wanted, --list-logs says why")
        self._is_none_said = is_none

    def _leaving(self, gone: Mapping[bytes, FollowedLog]) -> dict[bytes, FollowedLog]:
        """Of the logs that no list has any more, those that are not read to their last head."""
        return {
            log_id: replace(log, leaving=True)
            for log_id, log in gone.items()
            if log_id not in self._given_up and not is_read(self._state.position(log.info.base_url))
        }


def had_lists(statuses: Sequence[ListStatus]) -> set[str]:
    """The names of the lists that could be had, and are used."""
    return {status.name for status in statuses if status.age_s is not None and not status.waits_for}


def wish_of(config: Config) -> str:
    """What is wanted of the lists, in one text."""
    names = [source.name for source in list_sources(config.log_lists)]
    ct_log = config.ct_log
    return repr((names, log_selection(config.log_lists), ct_log.rfc6962_enabled, ct_log.static_ct_enabled))


def asked_of(config: Config) -> Asked:
    """The lists of that configuration."""
    return Asked(
        tuple(list_sources(config.log_lists)),
        lists_directory(config.ct_log.state_file),
        config.log_lists.refresh_interval_secs,
    )
