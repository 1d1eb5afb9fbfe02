"""What differs between two configurations, as lines for the operator, and one with some options of another."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from certstream.config.environment import OPTIONS
from certstream.config.mistakes import shown
from certstream.config.model import Config
from certstream.config.option import Option


@dataclass(frozen=True, slots=True)
class Change:
    """One option that has another value; secrets are masked in both."""

    path: str
    before: str
    after: str

    def __str__(self) -> str:
        return f"{self.path}: {self.before} → {self.after}"


def changes(before: Config, after: Config) -> list[Change]:
    """The options that differ, in the order of the model."""
    return [
        Change(path, _shown(option, value_of(before, path)), _shown(option, value_of(after, path)))
        for path, option in OPTIONS.items()
        if value_of(before, path) != value_of(after, path)
    ]


def value_of(config: Config, path: str) -> Any:
    """The value of the option with that full path (`ct_log.batch_size`)."""
    value: Any = config
    for name in path.split("."):
        value = getattr(value, name)
    return value


def with_options_of(config: Config, other: Config, chosen: Callable[[Option], bool]) -> Config:
    """Return `config`, but with the chosen options as `other` has them."""
    update: dict[str, Any] = {}
    sections: dict[str, dict[str, Any]] = {}
    for path, option in OPTIONS.items():
        if chosen(option):
            section, _, name = path.rpartition(".")
            (sections.setdefault(section, {}) if section else update)[name] = value_of(other, path)
    for section, values in sections.items():
        update[section] = getattr(config, section).model_copy(update=values)
    return config.model_copy(update=update)


def _shown(option: Option, value: Any) -> str:
    if isinstance(value, tuple):
        value = [item if isinstance(item, str) else item.model_dump(mode="json") for item in value]
    return shown(value, option.path, secret=option.secret)
