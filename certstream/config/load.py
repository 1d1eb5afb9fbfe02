"""defaults < file < environment → one `Config`, or every mistake at once."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import ValidationError
from pydantic_core import ErrorDetails

from certstream.config.environment import OPTIONS, SECRET_SECTIONS, read_environment
from certstream.config.file import find_file, read_file
from certstream.config.mistakes import nearest_path, shown
from certstream.config.model import Config
from certstream.config.option import Option, list_item_of, options_of
from certstream.ct.urls import url_identity
from certstream.errors import ConfigError

SECTIONS = frozenset(path.partition(".")[0] for path in OPTIONS if "." in path)
_ITEMS: dict[str, dict[str, Option]] = {
    path: {option.path: option for option in options_of(item)}
    for path, parent in OPTIONS.items()
    if (item := list_item_of(parent.field)) is not None
}
# Names of certstream-server-rust up to 1.5.3 that have neither a meaning nor a default here
_FOREIGN = frozenset(
    {
        "additional_log_lists",
        "ct_log.catalog_authority_overrides",
        "rate_limit.max_tokens",
        "rate_limit.refill_rate",
        "rate_limit.burst",
    }
)


@dataclass(frozen=True, slots=True)
class LoadedConfig:
    """A configuration that holds, and what is to be said of where it came from."""

    config: Config
    path: Path | None  # the file that was read
    ignored: tuple[str, ...]  # full paths that were set and have no meaning here
    warnings: tuple[str, ...]


def load_config(path: Path | None, environ: Mapping[str, str]) -> LoadedConfig:
    """Load the file that `path` (`--config`), CERTSTREAM_CONFIG or the search names, then the environment over it.

    Raises ConfigError with one line per mistake: the key's full path, the value, what is allowed, the nearest known.
    """
    path = find_file(path, environ)
    file = _flatten({} if path is None else read_file(path), str(path))
    environment = read_environment(environ)
    values = {**file.values, **environment.values}
    sources = {**dict.fromkeys(file.values, str(path)), **environment.names}
    mistakes = [*file.mistakes, *environment.mistakes]
    config: Config | None = None
    try:
        config = Config.model_validate(_nest(values))
    except ValidationError as exc:
        mistakes.extend(_line(error, sources) for error in exc.errors(include_url=False))
    mistakes.extend(_duplicate_urls(values, sources))
    if mistakes or config is None:
        raise ConfigError(mistakes)
    ignored = tuple(sorted({*file.foreign, *(name for name in values if _is_ignored(OPTIONS[name], values[name]))}))
    return LoadedConfig(config, path, ignored, (*environment.warnings, *_warnings(config)))


@dataclass(frozen=True, slots=True)
class _Flat:
    values: dict[str, Any]  # by option path
    foreign: tuple[str, ...]
    mistakes: tuple[str, ...]


def _flatten(document: Mapping[Any, Any], source: str) -> _Flat:
    """Take a file apart into options; names that no option has are mistakes."""
    values: dict[str, Any] = {}
    foreign: list[str] = []
    mistakes: list[str] = []
    for path, value in _leaves(document):
        if path in OPTIONS:
            values[path] = value
        elif path in _FOREIGN:
            foreign.append(path)
        elif path in SECTIONS:
            value = shown(value, path, secret=path in SECRET_SECTIONS)
            mistakes.append(f"{path}: {value} is not allowed, must be a section with options [{source}]")
        else:
            mistakes.append(f"{_unknown(path, value, OPTIONS)} [{source}]")
    return _Flat(values, tuple(foreign), tuple(mistakes))


def _leaves(document: Mapping[Any, Any]) -> Iterator[tuple[str, Any]]:
    """Path and value of each key. One without a value at the top (`ct_log:` and no more) is as if it were not there."""
    for name, value in document.items():
        if value is None:
            if str(name) not in OPTIONS and str(name) not in SECTIONS:
                yield str(name), None
        elif str(name) in SECTIONS and isinstance(value, dict):
            yield from ((f"{name}.{key}", inner) for key, inner in value.items())
        else:
            yield str(name), value


def _nest(values: Mapping[str, Any]) -> dict[str, Any]:
    nested: dict[str, Any] = {}
    for path, value in values.items():
        section, _, name = path.rpartition(".")
        (nested.setdefault(section, {}) if section else nested)[name] = value
    return nested


def _unknown(path: str, value: Any, known: Mapping[str, Option]) -> str:
    near = nearest_path(path, [*known, *SECTIONS] if known is OPTIONS else known)
    section = path.rpartition(".")[0]
    secret = not SECRET_SECTIONS.isdisjoint((section, near)) or (
        near is not None and near in known and known[near].secret
    )
    siblings = ", ".join(other.rpartition(".")[2] for other in known if other.rpartition(".")[0] == section)
    hint = f"the nearest known is {near}" if near else f"known are {siblings}"
    return f"{path}: unknown option, set to {shown(value, path, secret=secret)}; {hint}"


def _line(error: ErrorDetails, sources: Mapping[str, str]) -> str:
    """Turn one validation error into its line."""
    path, option = _locate(error["loc"])
    source = next((f" [{sources[name]}]" for name in _outwards(error["loc"]) if name in sources), "")
    if error["type"] == "extra_forbidden":
        place = path.rpartition(".")[0]
        items = next(_ITEMS[name] for name in _outwards(error["loc"]) if name in _ITEMS)
        known = {f"{place}.{name}": inner for name, inner in items.items()}
        return f"{_unknown(path, error['input'], known)}{source}"
    if error["type"] == "missing":
        return f"{path}: missing, must be {option.allowed if option else 'set'}{source}"
    secret = path.partition(".")[0] in SECRET_SECTIONS or (option is not None and option.secret)
    value = shown(error["input"], path, secret=secret)
    return f"{path}: {value} is not allowed, {_demand(error, option)}{source}"


def _locate(loc: tuple[int | str, ...]) -> tuple[str, Option | None]:
    """Return the full path of a place in the model, and the option that it lies in."""
    path = re.sub(r"\.\[", "[", ".".join(f"[{part}]" if isinstance(part, int) else part for part in loc))
    for name in _outwards(loc):
        inside = name.count(".") + 2  # past the list's own path and the number of its element
        if name in _ITEMS and len(loc) > inside:
            return path, _ITEMS[name].get(str(loc[inside]))
        if name in OPTIONS:
            return path, OPTIONS[name]
    return path, None


def _outwards(loc: tuple[int | str, ...]) -> Iterator[str]:
    for length in range(len(loc), 0, -1):
        yield ".".join(map(str, loc[:length]))


def _demand(error: ErrorDetails, option: Option | None) -> str:
    cause = error.get("ctx", {}).get("error")
    if isinstance(cause, ValueError):
        return str(cause)
    return f"must be {option.allowed}" if option is not None else error["msg"]


def _duplicate_urls(values: Mapping[str, Any], sources: Mapping[str, str]) -> Iterator[str]:
    seen: dict[str, str] = {}
    for path in _ITEMS:
        logs = values.get(path)
        for number, log in enumerate(logs if isinstance(logs, list) else ()):
            url = log.get("url") if isinstance(log, dict) else None
            identity = url_identity(url) if isinstance(url, str) else None
            if identity is None:
                continue
            place = f"{path}[{number}].url"
            if identity in seen:
                yield f"{place}: {shown(url, place)} is not allowed, is the log of {seen[identity]} [{sources[path]}]"
            seen.setdefault(identity, place)


def _is_ignored(option: Option, value: Any) -> bool:
    """Whether to list an option as without meaning: a switch that is off asks for nothing."""
    return option.inert and value is not False


def _warnings(config: Config) -> Iterator[str]:
    names = [log.name for log in (*config.custom_logs, *config.static_logs)]
    for name in sorted({name for name in names if names.count(name) > 1}):
        yield f"more than one log is called {name!r}: metrics and messages cannot tell them apart"
    if not config.auth.enabled:
        for name in ("protect_health", "protect_metrics"):
            if getattr(config.auth, name):
                yield f"auth.{name} has no effect while auth.enabled is off"
    if not config.delta_sink.enabled and (config.backfill.on_start or config.backfill.interval_secs is not None):
        yield "backfill.on_start and backfill.interval_secs have no effect while delta_sink.enabled is off"
