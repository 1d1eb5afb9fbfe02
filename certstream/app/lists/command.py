"""`certstream --list-logs`: takes the lists that the service keeps, asks for newer ones, and prints what follows."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Final

import uvloop

from certstream.app.lists.beginnings import MEMBER as BEGINNINGS
from certstream.app.lists.beginnings import Beginnings
from certstream.app.lists.departures import MEMBER as DEPARTURES
from certstream.app.lists.departures import Departures, is_read, others
from certstream.app.lists.listed_logs import had_lists, wish_of
from certstream.app.lists.listing import LeavingLog, logs_json, logs_text
from certstream.app.lists.log_keys import with_keys
from certstream.app.lists.sources import asks_lists, follows_lists, is_kind_followed, lacks_lists, log_lists
from certstream.app.settings import FollowedLog, configured_logs, fetch_settings
from certstream.app.until_stop import finished
from certstream.client.http import HttpClient
from certstream.client.log_list import ListStatus, LogLists
from certstream.config import Config, LoadedConfig
from certstream.ct.log_choice import LogChoice, OmittedLog
from certstream.ct.types import LogInfo
from certstream.live.tailer import Start
from certstream.metrics import Metrics
from certstream.signals import Signals
from certstream.state import LogPosition, StateStore, read_member, read_positions

_NO_LIST: Final = (
    "No log list can be had, so no log is followed. Let this machine reach what the table names, or give lists in "
    "log_lists.lists, or name logs in custom_logs and static_logs; certstream --demo needs no network."
)

_NO_LOGS: Final = (
    "No log is configured, and no log list is asked. Name logs in custom_logs and static_logs, or let log_lists do it."
)


def list_logs(loaded: LoadedConfig, *, as_json: bool) -> int:
    """Print which logs are read and why others are not; 1 where there is neither a list nor a configured log."""
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return runner.run(_list_logs(loaded.config, as_json=as_json))


async def _list_logs(config: Config, *, as_json: bool) -> int:
    configured = configured_logs(config)
    async with HttpClient(fetch_settings(config.ct_log), Metrics()) as http:
        asked = asks_lists(config, configured)
        lists = log_lists(config, http, configured, keep=False) if asked else None
        with Signals(hang_up_ends=True) as signals:
            if lists is not None and not await finished(_refresh(lists), signals.stop):
                return 1
        keyed = configured if lists is None else with_keys(configured, lists.find)
        choice = _followed(config, lists.choice) if lists is not None and follows_lists(config) else LogChoice()
        statuses = [] if lists is None else lists.statuses()
    infos, known = [log.info for log in keyed], _positions(config)
    positions = {url: position.current_index for url, position in known.items()}
    state = _kept_state(config)
    leaving = _leaving(config, state, [*infos, *(each.info for each in choice.chosen)], known)
    if as_json:
        print(logs_json(statuses, choice, infos, positions, leaving), end="")
    else:
        starts = _starts(config, state, keyed, statuses, choice)
        print(logs_text(statuses, choice, infos, positions, starts, leaving), end="")
    if configured or (statuses and not lacks_lists(statuses)):
        return 0
    print(_NO_LIST if statuses else _NO_LOGS, file=sys.stderr)
    return 1


def _positions(config: Config) -> dict[str, LogPosition]:
    """How far each log is read, as the state file has it. Raises StateError where it cannot be read."""
    path = config.ct_log.state_file
    return {} if path is None else read_positions(Path(path))


def _kept_state(config: Config) -> StateStore:
    """What the state file says of the lists; what is decided now is not kept. Raises StateError likewise."""
    state, path = StateStore(None), config.ct_log.state_file
    if path is not None:
        for name in (BEGINNINGS, DEPARTURES):
            state.set_member(name, read_member(Path(path), name))
    return state


def _leaving(
    config: Config, state: StateStore, followed: Sequence[LogInfo], positions: Mapping[str, LogPosition]
) -> list[LeavingLog]:
    """The logs that no list has any more, and that are not read to their last heads."""
    if not follows_lists(config):
        return []
    logs = Departures(state).known(wish_of(config), config.ct_log.verification)
    left = [(log.info, positions.get(log.info.base_url)) for log in others(logs, followed).values()]
    return [(info, position.tree_size) for info, position in left if position is not None and not is_read(position)]


def _starts(
    config: Config,
    state: StateStore,
    configured: Sequence[FollowedLog],
    statuses: Sequence[ListStatus],
    choice: LogChoice,
) -> dict[str, Start]:
    """Where the service would begin with each log that it has not read yet."""
    found = Beginnings(state).of(choice.chosen, had_lists(statuses), wish_of(config))
    listed: dict[str, Start] = {each.info.base_url: found[each.log.log_id] for each in choice.chosen}
    return {**listed, **{log.info.base_url: log.start for log in configured}}


async def _refresh(lists: LogLists) -> None:
    """Take what is kept, and what is newer."""
    await lists.load()
    await lists.refresh()


def _followed(config: Config, choice: LogChoice) -> LogChoice:
    """The choice without the logs of a protocol that is switched off."""
    off = [each for each in choice.chosen if not is_kind_followed(config, each.log.kind)]
    omitted = [
        OmittedLog(
            each.log.name,
            each.log.url,
            each.log.operator,
            each.log.state,
            each.source,
            f"ct_log.{'static_ct' if each.log.kind == 'static' else 'rfc6962'}_enabled is off",
        )
        for each in off
    ]
    chosen = tuple(each for each in choice.chosen if each not in off)
    return replace(choice, chosen=chosen, omitted=(*omitted, *choice.omitted))
