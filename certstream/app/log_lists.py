"""From the section `log_lists` to what is fetched and chosen."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Final

from certstream.client.log_list_source import ListSource
from certstream.config.log_lists import APPLE, GOOGLE, LogListsConfig
from certstream.config.logs import base64_bytes
from certstream.ct.log_choice import Selection
from certstream.ct.log_list import GOOGLE_LIST_KEY

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
