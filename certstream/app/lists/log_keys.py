"""Every log that a configuration means, each with its key where one is known.

The key of a log that is configured without one comes from the log lists, by its id or URL; the logs that the lists
bring have one.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Final

import structlog
import uvloop

from certstream.app.lists.sources import asks_lists, follows_lists, lack_keys, listed_logs, log_lists
from certstream.app.settings import FollowedLog, configured_logs, fetch_settings
from certstream.client.http import HttpClient
from certstream.config import Config
from certstream.ct.log_list import ListedLog
from certstream.ct.types import LogInfo
from certstream.errors import ConfigError
from certstream.metrics import Metrics

_LISTS_OFF: Final = "log_lists.enabled is false"
_NOT_LISTED: Final = "no log list that can be had knows it"

logger: structlog.stdlib.BoundLogger = structlog.get_logger(__name__)


def with_keys(logs: Sequence[FollowedLog], find: Callable[[LogInfo], ListedLog | None]) -> list[FollowedLog]:
    """The logs, where a log list knows them: with its maximum merge delay, and those without a key with its key."""
    return [_with_key(log, find) for log in logs]


def _with_key(log: FollowedLog, find: Callable[[LogInfo], ListedLog | None]) -> FollowedLog:
    listed = find(log.info)
    if listed is None:
        return log
    info = log.info
    if info.key is None:
        info = replace(info, key=listed.key, log_id=listed.log_id)
    return replace(log, info=info, mmd_s=listed.mmd_s)


def refuse_without_keys(logs: Sequence[FollowedLog], config: Config) -> None:
    """Raise ConfigError naming the logs of `enforce` whose key is not known."""
    why = _LISTS_OFF if config.log_lists.enabled is False else _NOT_LISTED
    mistakes = [
        f"{log.info.name} ({log.info.url}): verification is enforce, and the log's key is not known: {why}; set its "
        "key, or verification: off for that log"
        for log in logs
        if log.verification == "enforce" and log.info.key is None
    ]
    if mistakes:
        raise ConfigError(mistakes)


async def keyed_logs(config: Config, http: HttpClient) -> list[FollowedLog]:
    """The logs that are configured, with their keys, and then those of the lists where these are followed.

    Takes the lists that the service keeps. Where there are none, or a key is not in them, those of which none is kept
    are fetched, for up to a minute, and not kept.
    """
    configured = configured_logs(config)
    if not asks_lists(config, configured):
        return configured
    lists = log_lists(config, http, configured, keep=False)
    choice = await lists.load()
    if lack_keys(with_keys(configured, lists.find)) or all(status.age_s is None for status in lists.statuses()):
        choice = await lists.start()
    keyed = with_keys(configured, lists.find)
    if not follows_lists(config):
        return keyed
    if not choice.chosen and all(status.age_s is None for status in lists.statuses()):
        logger.warning("no log list could be had, its logs are left out")
    return [*keyed, *listed_logs(config, choice.chosen)]


def command_logs(config: Config) -> list[FollowedLog]:
    """`keyed_logs` for a command whose event loop does not run yet."""

    async def keyed() -> list[FollowedLog]:
        async with HttpClient(fetch_settings(config.ct_log), Metrics()) as http:
            return await keyed_logs(config, http)

    configured = configured_logs(config)
    if not asks_lists(config, configured):
        return configured
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return runner.run(keyed())
