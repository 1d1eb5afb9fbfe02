"""The configuration as YAML: the commented file that is shipped, and what is in effect."""

from __future__ import annotations

import inspect
import json
import textwrap
from collections.abc import Iterator
from typing import Any

import yaml

from certstream.config.environment import OPTIONS
from certstream.config.mistakes import MASK, without_user_info
from certstream.config.model import Config
from certstream.config.option import Option, list_item_of, options_of, section_of

_WIDTH = 118
_HEAD = """\
Configuration of certstream. Every option stands here with its default; `certstream --validate-config` shows what is
in effect. The environment goes before this file: CERTSTREAM_<SECTION>_<OPTION>, for example CERTSTREAM_PORT or
CERTSTREAM_CT_LOG_STATE_FILE; lists of strings with commas, lists of logs and mappings as JSON; an empty variable
counts as not set. Unknown names, wrong types and values out of range stop the start.

This file is written from the model: `make config`."""
_INERT = """\
Names of certstream-server-rust that have no meaning in this version: accepted, and listed in one line at the start."""

_EXAMPLES: dict[str, dict[str, Any]] = {
    "custom_logs": {"name": "Google 'Argon2026h2' log", "url": "https://ct.googleapis.com/logs/us1/argon2026h2/"},
    "static_logs": {
        "name": "Let's Encrypt 'Sycamore2026h2'",
        "url": "https://mon.sycamore.ct.letsencrypt.org/2026h2/",
        "log_origin": "log.sycamore.ct.letsencrypt.org/2026h2",
    },
    "log_lists.lists": {"name": "ours", "location": "/etc/certstream/logs.json", "unsigned": True},
}


def effective_yaml(config: Config) -> str:
    """Return every option with the value in effect, secrets masked."""
    dump = config.model_dump(mode="json")
    for option in OPTIONS.values():
        if option.secret:
            section, _, name = option.path.rpartition(".")
            dump[section][name] = [MASK] * len(dump[section][name])
    text: str = yaml.safe_dump(dump, sort_keys=False, allow_unicode=True, width=_WIDTH)
    return without_user_info(text)


def shipped_yaml() -> str:
    """Return `config.yaml` as it is shipped: every option with its default, what it does, unit and range."""
    active = [option for option in OPTIONS.values() if not option.inert]
    dormant = [option for option in OPTIONS.values() if option.inert]
    lines = [*_comment(_HEAD), *_render(active)]
    lines += ["", "", *_comment(_INERT), "#", *(f"# {line}".rstrip() for line in _render(dormant))]
    return "\n".join(lines) + "\n"


def _render(options: list[Option]) -> Iterator[str]:
    section = ""
    for option in options:
        parent, _, name = option.path.rpartition(".")
        if parent != section or not parent:
            yield ""
        if parent and parent != section:
            yield from _comment(inspect.getdoc(section_of(Config.model_fields[parent]) or Config) or "")
            yield f"{parent}:"
        section = parent
        indent = "  " if parent else ""
        yield from _comment(_about(option), indent)
        yield from (f"{indent}{line}" for line in _item_options(option))
        yield f"{indent}{name}: {_scalar(option.default)}"


def _about(option: Option) -> str:
    return f"{option.description} [{option.range}]" if option.range else option.description


def _comment(text: str, indent: str = "") -> Iterator[str]:
    """Wrap a text; its paragraphs are parted by an empty comment."""
    for number, paragraph in enumerate(text.split("\n\n")):
        if number:
            yield f"{indent}#"
        for line in textwrap.wrap(paragraph, _WIDTH - 2 - len(indent), break_long_words=False, break_on_hyphens=False):
            yield f"{indent}# {line}"


def _scalar(value: Any) -> str:
    return json.dumps(list(value) if isinstance(value, tuple) else value)


def _item_options(option: Option) -> Iterator[str]:
    """Say what each item of a list of sections can have, as an example to copy."""
    item = list_item_of(option.field)
    if item is None:
        return
    yield "#"
    yield f"# {option.path.rpartition('.')[2]}:"
    for number, inner in enumerate(options_of(item)):
        yield from (f"#     {line}" for line in _comment(_about(inner)))
        value = _EXAMPLES[option.path].get(inner.path, inner.default)
        yield f"#   {'- ' if number == 0 else '  '}{inner.path}: {_scalar(value)}"
