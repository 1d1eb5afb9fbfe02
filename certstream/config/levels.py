"""Log levels, as words and as the directives that RUST_LOG takes (`info,certstream=debug`)."""

from __future__ import annotations

from typing import Literal, TypeAlias, cast

Level: TypeAlias = Literal["debug", "info", "warning", "error", "critical"]

_LEVELS: dict[str, Level] = {
    "trace": "debug",
    "debug": "debug",
    "info": "info",
    "warn": "warning",
    "warning": "warning",
    "error": "error",
    "critical": "critical",
    "off": "critical",
}
_MISTAKE = "must be debug, info, warning, error or critical; or trace, warn, off, or directives as in RUST_LOG"


def parse_level(text: str) -> Level:
    """Return the level that `text` gives this program, ValueError if it gives none.

    Of directives, one whose target begins with `certstream` goes before the one without a target; those for other
    targets have no meaning here.
    """
    ours: Level | None = None
    general: Level | None = None
    for directive in filter(None, (part.strip() for part in text.split(","))):
        target, separator, word = directive.rpartition("=")
        level = _LEVELS.get(word.strip().lower())
        if level is None or (separator and not target):
            raise ValueError(_MISTAKE)
        if not separator:
            general = level
        elif target.startswith("certstream"):
            ours = level
    if ours is None and general is None:
        raise ValueError(_MISTAKE)
    return cast("Level", ours or general)
