"""How `certstream tail` writes a message: as JSON, or for a person."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final, TypeAlias

from certstream.errors import StreamError
from certstream.terminal import cells_of, cut_to, printable

_LOG_CELLS: Final = range(8, 33)
_LEAST_NAME_CELLS: Final = 20  # with less room for names the log is left out
_DIM, _LOG, _NAME, _RESET = "\x1b[2m", "\x1b[36m", "\x1b[1m", "\x1b[0m"


# From a message, as it came and as what that says, to whole lines
Format: TypeAlias = Callable[[bytes, Mapping[str, Any]], str]


def json_line(data: bytes, message: Mapping[str, Any]) -> str:
    """The message as it came, on one line; StreamError where it cannot be brought onto one."""
    text = data.decode(errors="replace").strip()
    broken = "\n" in text or "\r" in text
    return f"{_json(message, ascii_only=False) if broken else text}\n"


def safe_json_line(_data: bytes, message: Mapping[str, Any]) -> str:
    """The message for a terminal: in ASCII, so that no name steers it; StreamError where it cannot be written."""
    return f"{_json(message, ascii_only=True).replace(chr(127), '?')}\n"


def _json(message: Mapping[str, Any], *, ascii_only: bool) -> str:
    try:
        return json.dumps(message, ensure_ascii=ascii_only)
    except RecursionError as exc:  # nested just so deeply that it could be read
        raise StreamError("a message that is nested too deeply") from exc


class PersonFormat:
    """Lines for a person: time, log, names; as much of the names as fits into the terminal's width.

    With `whole` all names are there, and lines may be longer than the terminal is wide. The column of the log grows to
    the longest name that came, up to a bound.
    """

    def __init__(
        self,
        width: Callable[[], int],
        *,
        color: bool,
        whole: bool = False,
        now: Callable[[], float] = time.time,
    ) -> None:
        self._width = width
        self._color = color
        self._whole = whole
        self._now = now  # Unix seconds, where a message has no time
        self._log_cells = _LOG_CELLS.start

    def __call__(self, _data: bytes, message: Mapping[str, Any]) -> str:
        """One line, however hostile the names are."""
        data = message.get("data")
        fields = data if isinstance(data, dict) else {}
        clock = _clock_time(fields.get("seen"), self._now())
        names = [printable(name) for name in names_of(message)]
        width = self._width()
        log = self._log_column(fields, width)
        room = width - len(clock) - 2
        if log and room - cells_of(log) - 2 >= _LEAST_NAME_CELLS:
            room -= cells_of(log) + 2
            log = f"{self._paint(_LOG, log)}  "
        else:
            log = ""
        return f"{self._paint(_DIM, clock)}  {log}{self._names(names, room)}\n"

    def _log_column(self, fields: Mapping[str, Any], width: int) -> str:
        source = fields.get("source")
        name = source.get("name") if isinstance(source, dict) else None
        if not isinstance(name, str):
            return ""
        most = min(_LOG_CELLS.stop - 1, max(width // 3, _LOG_CELLS.start))
        shown = cut_to(printable(name), most)
        self._log_cells = max(self._log_cells, cells_of(shown))
        return shown + " " * (min(self._log_cells, most) - cells_of(shown))

    def _names(self, names: Sequence[str], room: int) -> str:
        if not names:
            return self._paint(_DIM, "no names")
        shown, left = [*names], ""
        if not self._whole:
            shown, left = _fitting(names, room)
        rest = "".join(f", {name}" for name in shown[1:])
        return f"{self._paint(_NAME, shown[0])}{rest}{self._paint(_DIM, left)}"

    def _paint(self, color: str, text: str) -> str:
        return f"{color}{text}{_RESET}" if self._color and text else text


def names_of(message: Mapping[str, Any]) -> list[str]:
    """The names of a certificate, of whatever stream; its subject where it has none."""
    data = message.get("data")
    if isinstance(data, list):
        return [name for name in data if isinstance(name, str)]
    leaf = data.get("leaf_cert") if isinstance(data, dict) else None
    if not isinstance(leaf, dict):
        return []
    subject = leaf.get("subject")
    aggregated = subject.get("aggregated") if isinstance(subject, dict) else None
    names = leaf.get("all_domains")
    found = [name for name in names if isinstance(name, str)] if isinstance(names, list) else []
    return found or ([aggregated] if isinstance(aggregated, str) and aggregated else [])


def _fitting(names: Sequence[str], room: int) -> tuple[list[str], str]:
    """As many names as fit beside the number of those that do not; of the first one at least a part."""
    taken = cells_of(names[0])
    count = 1
    while count < len(names):
        taken += 2 + cells_of(names[count])
        if taken + len(_more(len(names) - count - 1)) > room:
            break
        count += 1
    left = _more(len(names) - count)
    if count > 1:
        return [*names[:count]], left
    room -= len(left)
    return [names[0] if cells_of(names[0]) <= room else f"{cut_to(names[0], room - 1)}…"], left


def _more(count: int) -> str:
    return f" +{count}" if count else ""


def _clock_time(seen_s: Any, now_s: float) -> str:
    """Hours, minutes and seconds where the terminal is."""
    try:
        at = time.localtime(seen_s if isinstance(seen_s, int | float) else now_s)
    except (OverflowError, ValueError, OSError):  # a time that no calendar has
        at = time.localtime(now_s)
    return time.strftime("%H:%M:%S", at)
