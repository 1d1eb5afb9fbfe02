"""`CERTSTREAM_*` variables: which option each one sets, and what container platforms put among them."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, get_args

from certstream.config.levels import parse_level
from certstream.config.mistakes import nearest, shown
from certstream.config.model import Config
from certstream.config.option import Option, options_of, without_none

PREFIX = "CERTSTREAM_"
OPTIONS: dict[str, Option] = {option.path: option for option in options_of(Config)}
# What stands in one of them under a wrong name may be a secret too
SECRET_SECTIONS = frozenset(path.partition(".")[0] for path, option in OPTIONS.items() if option.secret)

# certstream-server-rust's names that are not section and field
_OTHER_NAMES = {
    "WS_ENABLED": "protocols.websocket",
    "SSE_ENABLED": "protocols.sse",
    "METRICS_ENABLED": "protocols.metrics",
    "HEALTH_ENABLED": "protocols.health",
    "EXAMPLE_JSON_ENABLED": "protocols.example_json",
    "API_ENABLED": "protocols.api",
    "STREAM_FULL_ENABLED": "streams.full",
    "STREAM_LITE_ENABLED": "streams.lite",
    "STREAM_DOMAINS_ONLY_ENABLED": "streams.domains_only",
    "RFC6962_ENABLED": "ct_log.rfc6962_enabled",
    "STATIC_CT_ENABLED": "ct_log.static_ct_enabled",
    "USER_AGENT": "ct_log.user_agent",
}
NAMES: dict[str, Option] = {
    **{PREFIX + name: OPTIONS[path] for name, path in _OTHER_NAMES.items()},
    **{option.environment: option for option in OPTIONS.values()},
}
CONFIG_NAME = PREFIX + "CONFIG"
_SECRET_PREFIXES = tuple(f"{PREFIX}{section.upper()}_" for section in sorted(SECRET_SECTIONS))

# Kubernetes service variables and Docker links of a service called certstream or certstream-<anything>
_INJECTED_NAME = re.compile(
    r"CERTSTREAM(_[A-Z0-9_]+)?("
    r"_SERVICE_HOST|_SERVICE_PORT(_[A-Z0-9_]+)?|_PORT_[0-9]+_(TCP|UDP|SCTP)(_(PROTO|PORT|ADDR))?|_ENV_.+)"
)
_INJECTED_PORT = re.compile(r"(tcp|udp|sctp)://")


@dataclass(frozen=True, slots=True)
class Environment:
    """What the environment sets: values by option path, and the variable each one came from."""

    values: Mapping[str, Any]
    names: Mapping[str, str]
    mistakes: tuple[str, ...]
    warnings: tuple[str, ...]


def read_environment(environ: Mapping[str, str]) -> Environment:
    """Read every `CERTSTREAM_*` variable, and RUST_LOG. An empty one counts as not set."""
    values: dict[str, Any] = {}
    names: dict[str, str] = {}
    mistakes: list[str] = []
    injected: list[str] = []
    for name, text in sorted(environ.items()):
        if not name.startswith(PREFIX) or name == CONFIG_NAME or not text:
            continue
        option = NAMES.get(name)
        if is_injected(name, text, known=option is not None):
            injected.append(name)
        elif option is None:
            mistakes.append(_unknown(name, text))
        elif option.path in values and values[option.path] != parse_value(option, text):
            mistakes.append(f"{option.path}: set twice, by {names[option.path]} and {name}, to different values")
        else:
            values[option.path] = parse_value(option, text)
            names[option.path] = name
    warnings = [f"ignored, set by the container platform: {', '.join(injected)}"] if injected else []
    warnings.extend(_apply_rust_log(environ.get("RUST_LOG", ""), values, names))
    return Environment(values, names, tuple(mistakes), tuple(warnings))


def is_injected(name: str, text: str, *, known: bool) -> bool:
    """Whether a container platform set this variable for a service called certstream."""
    if name.endswith("_PORT") and _INJECTED_PORT.match(text):
        return True
    if known:
        return False
    return bool(_INJECTED_NAME.fullmatch(name)) or (name.endswith("_NAME") and text.startswith("/"))


def _unknown(name: str, text: str) -> str:
    near = nearest(name, [*NAMES, CONFIG_NAME])
    secret = name.startswith(_SECRET_PREFIXES) or (near in NAMES and NAMES[near].secret)
    hint = f"; the nearest known is {near}" if near else ""
    return f"{name}: unknown environment variable, set to {shown(text, name, secret=secret)}{hint}"


def _apply_rust_log(text: str, values: dict[str, Any], names: dict[str, str]) -> Iterator[str]:
    if not text.strip():
        return
    try:
        level = parse_level(text)
    except ValueError:
        yield f"RUST_LOG={shown(text, 'RUST_LOG')} names no level for certstream and is ignored"
        return
    values["log_level"] = level
    names["log_level"] = "RUST_LOG"


def parse_value(option: Option, text: str) -> Any:
    """Return the value that a variable's text stands for.

    Where the text has not the form of the option's type it comes back unchanged, for the model to refuse.
    """
    annotation = option.annotation
    if annotation is bool:
        return {"true": True, "1": True, "yes": True, "on": True}.get(text.lower(), _false(text))
    if annotation in (int, float) and re.fullmatch(r"-?[0-9]{1,20}", text):
        return int(text)
    if annotation is float and re.fullmatch(r"-?[0-9]{1,20}\.[0-9]{1,20}", text):
        return float(text)
    if annotation in (int, float, str):
        return text
    return _parse_structure(annotation, text)


def _false(text: str) -> bool | str:
    return False if text.lower() in ("false", "0", "no", "off") else text


def _parse_structure(annotation: Any, text: str) -> Any:
    """Read a list of strings (commas, or JSON), or a list of logs or a mapping (JSON); a literal stays as it is."""
    arguments = get_args(annotation)
    if text.lstrip().startswith(("[", "{")):
        try:
            return json.loads(text)
        except ValueError:
            return text
    if arguments and without_none(arguments[0]) is str and Ellipsis in arguments:
        return [part for part in (piece.strip() for piece in text.split(",")) if part]
    return text
