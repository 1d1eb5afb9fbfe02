"""The configuration file: which one it is, and YAML read strictly and within bounds."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from certstream.config.environment import CONFIG_NAME
from certstream.errors import ConfigError

# Where certstream-server-rust looks, in its order
SEARCHED = (Path("config.yaml"), Path("config.yml"), Path("/etc/certstream/config.yaml"))
_MOST_BYTES = 1 << 20
_MOST_VALUES = 100_000
_QUOTED = re.compile(r" '[^']*'")


def find_file(path: Path | None, environ: Mapping[str, str]) -> Path | None:
    """Return the file that `--config`, CERTSTREAM_CONFIG or the search names; None if there is none to read."""
    if path is not None:
        return path
    if named := environ.get(CONFIG_NAME):
        return Path(named)
    return next((candidate for candidate in SEARCHED if candidate.is_file()), None)


def read_file(path: Path) -> dict[Any, Any]:
    """Read a configuration file; an empty one has no options. ConfigError if it cannot be read or is no mapping."""
    try:
        with path.open("rb") as file:
            content = file.read(_MOST_BYTES + 1)
    except OSError as exc:
        raise ConfigError(f"{path}: cannot be read: {exc.strerror or exc}") from exc
    if len(content) > _MOST_BYTES:
        raise ConfigError(f"{path}: larger than {_MOST_BYTES} bytes")
    document = _parse(path, content)
    if document is None:
        return {}
    if not isinstance(document, dict):
        raise ConfigError(f"{path}: must be a mapping of options, is a {type(document).__name__}")
    return document


def _parse(path: Path, content: bytes) -> Any:
    try:
        loader = yaml.SafeLoader(content)
        try:
            node = loader.get_single_node()
            if node is None:
                return None
            if _size(node, {}) > _MOST_VALUES:
                raise ConfigError(f"{path}: more than {_MOST_VALUES} values, aliases counted as what they stand for")
            return loader.construct_document(node)
        finally:
            loader.dispose()
    except (yaml.YAMLError, ValueError, RecursionError) as exc:  # ValueError: a date like 2024-13-45
        raise ConfigError(f"{path}: not valid YAML: {_one_line(exc)}") from exc


def _size(node: yaml.Node, known: dict[int, int]) -> int:
    """Return how many values a node stands for, its aliases written out.

    Raises MarkedYAMLError for a key given twice, which YAML forbids and PyYAML lets pass.
    """
    if isinstance(node, yaml.ScalarNode):
        return 1
    if id(node) in known:
        return known[id(node)]
    known[id(node)] = _MOST_VALUES + 1  # until it is known: what holds itself never ends
    children = node.value
    if isinstance(node, yaml.MappingNode):
        _check_keys(node)
        children = [part for pair in node.value for part in pair]
    known[id(node)] = 1 + sum(_size(child, known) for child in children)
    return known[id(node)]


def _check_keys(node: yaml.MappingNode) -> None:
    seen: set[str] = set()
    for key, _ in node.value:
        if not isinstance(key, yaml.ScalarNode) or key.tag == "tag:yaml.org,2002:merge":
            continue
        if key.value in seen:
            raise yaml.MarkedYAMLError(problem=f"key {key.value!r} is given twice", problem_mark=key.start_mark)
        seen.add(key.value)


def _one_line(exc: Exception) -> str:
    if isinstance(exc, yaml.MarkedYAMLError) and exc.problem_mark is not None:
        mark = exc.problem_mark
        problem = exc.problem or exc.context or ""
        if isinstance(exc, yaml.composer.ComposerError | yaml.constructor.ConstructorError):
            problem = _QUOTED.sub("", problem)  # an alias or a tag: perhaps a token that begins with `*` or `!`
        return f"line {mark.line + 1}, column {mark.column + 1}: {problem}"
    return " ".join(str(exc).split())
