"""From the section `log_lists` to what is fetched and chosen."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Final

from certstream.app.settings import FollowedLog
from certstream.client.http import HttpClient
from certstream.client.log_list import ListStatus, LogLists
from certstream.client.log_list_source import ListSource
from certstream.config import Config
from certstream.config.log_lists import APPLE, GOOGLE, LogListsConfig
from certstream.config.logs import base64_bytes
from certstream.ct.log_choice import OVER_POLL_INTERVAL_S, ChosenLog, Selection
from certstream.ct.log_list import GOOGLE_LIST_KEY
from certstream.ct.types import LogKind
from certstream.serve.health import ListHealth
from certstream.trust_metrics import ListFigures

GOOGLE_LIST: Final = ListSource(
    GOOGLE,
    "https://www.gstatic.com/ct/log_list/v3/all_logs_list.json",
    "https://www.gstatic.com/ct/log_list/v3/all_logs_list.sig",
    GOOGLE_LIST_KEY,
)
# Without Google's, it would bring logs that Google rejects; where that is off, it stands for itself
APPLE_LIST: Final = ListSource(
    APPLE, "https://valid.apple.com/ct/log_list/current_log_list.json", needs=GOOGLE_LIST.name
)
_DIRECTORY: Final = "log_lists"


def follows_lists(config: Config) -> bool:
    """Whether the logs of the lists are read."""
    enabled = config.log_lists.enabled
    if not _names_lists(config):
        return False
    return not (config.custom_logs or config.static_logs) if enabled is None else enabled


def asks_lists(config: Config, configured: Iterable[FollowedLog]) -> bool:
    """Whether lists are read at all: for their logs, or for the key of a configured one."""
    if config.log_lists.enabled is False or not _names_lists(config):
        return False
    return follows_lists(config) or lack_keys(configured)


def _names_lists(config: Config) -> bool:
    return any(list_sources(config.log_lists))


def lack_keys(logs: Iterable[FollowedLog]) -> bool:
    """Whether a log that is to be verified has no key."""
    return any(log.info.key is None and log.verification != "off" for log in logs)


def log_lists(config: Config, http: HttpClient, configured: Sequence[FollowedLog], *, keep: bool = True) -> LogLists:
    """The lists, and the logs that are chosen from them; `keep` false leaves the kept lists as they are."""
    return LogLists(
        http,
        list(list_sources(config.log_lists)),
        log_selection(config.log_lists),
        directory=lists_directory(config.ct_log.state_file),
        keep=keep,
        interval_s=config.log_lists.refresh_interval_secs,
        configured=[log.info for log in configured],
    )


def is_kind_followed(config: Config, kind: LogKind) -> bool:
    """Whether logs of that protocol are read."""
    return config.ct_log.static_ct_enabled if kind == "static" else config.ct_log.rfc6962_enabled


def listed_logs(config: Config, chosen: Iterable[ChosenLog]) -> list[FollowedLog]:
    """The chosen logs, without those of a protocol that is switched off. They begin at 0."""
    return [
        FollowedLog(
            each.info,
            start="beginning",
            poll_interval_s=each.poll_interval_s if each.stop is None else OVER_POLL_INTERVAL_S,
            verification=config.ct_log.verification,
            final=each.log.final_tree_head,
            mmd_s=each.log.mmd_s,
        )
        for each in chosen
        if is_kind_followed(config, each.log.kind)
    ]


def list_sources(config: LogListsConfig) -> Iterator[ListSource]:
    """The lists, those that go before others first."""
    if config.google:
        yield GOOGLE_LIST
    if config.apple:
        yield APPLE_LIST
    for each in config.lists:
        yield ListSource(each.name, each.location, each.signature, None if each.key is None else base64_bytes(each.key))


def log_selection(config: LogListsConfig) -> Selection:
    """Which logs of them are wanted."""
    return Selection(
        include_operators=config.include_operators,
        include_names=config.include_names,
        include_states=config.include_states,
        exclude_operators=config.exclude_operators,
        exclude_names=config.exclude_names,
        exclude_states=config.exclude_states,
    )


def lists_directory(state_file: str | None) -> Path | None:
    """Where the last good lists are kept: beside the state file, nowhere without one."""
    return None if state_file is None else Path(state_file).parent / _DIRECTORY


def list_health(statuses: Iterable[ListStatus]) -> list[ListHealth]:
    """The lists as /health/deep shows them."""
    return [
        ListHealth(
            name=status.name,
            location=status.location,
            signed=status.signed,
            version=status.version or None,
            published_s=None if status.published_ms is None else status.published_ms / 1000,
            age_s=status.age_s,
            logs=status.logs,
            waits_for=status.waits_for,
            last_error=status.error,
        )
        for status in statuses
    ]


def lacks_lists(statuses: Sequence[ListStatus]) -> bool:
    """Whether there are lists, and none of them could be had yet, from its publisher or from the disk."""
    return bool(statuses) and all(status.age_s is None for status in statuses)


def list_figures(statuses: Iterable[ListStatus]) -> list[ListFigures]:
    """The lists as metrics show them."""
    return [ListFigures(status.name, status.age_s, status.logs, status.failures) for status in statuses]
