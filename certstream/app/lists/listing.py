"""What `certstream --list-logs` prints: which logs are read, from where, in which state, and why others are not."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any, TypeAlias

import orjson
import pybase64

from certstream.client.log_list import ListStatus
from certstream.ct.log_choice import NO_STATE, ChosenLog, LogChoice, OmittedLog
from certstream.ct.types import LogInfo
from certstream.live.tailer import Start
from certstream.terminal import aligned, printable

_CONFIGURED = "configuration"  # where a log is from that no list brought
_LEFT = "left"  # the state of a log that no list has any more
_NONE = "-"
# What only a list says of a log
_LISTED = (
    "state", "list", "log_type", "mmd_s", "stop", "final_root_hash", "interval_start_ms", "interval_stop_ms",
    "poll_interval_s",
)  # fmt: skip
LeavingLog: TypeAlias = tuple[LogInfo, int]  # and the index before which it is read

_AGES = ((86_400, "d"), (3_600, "h"), (60, "min"), (1, "s"))  # seconds, unit


def logs_text(
    lists: Sequence[ListStatus],
    choice: LogChoice,
    configured: Sequence[LogInfo] = (),
    positions: Mapping[str, int] | None = None,
    starts: Mapping[str, Start] | None = None,
    leaving: Sequence[LeavingLog] = (),
) -> str:
    """Three tables: the lists, the logs that are read (`configured` ones first, `leaving` last), those that are not.

    `positions` are the indices that are read next, by base_url; a log without one was not read yet, and
    `starts` says where it begins.
    """
    known: dict[str, Start] = {**(starts or {}), **(positions or {})}
    followed = [
        *(_configured_row(info, known.get(info.base_url)) for info in configured),
        *(_chosen_row(each, known.get(each.info.base_url)) for each in choice.chosen),
        *(_leaving_row(info, stop, known.get(info.base_url)) for info, stop in leaving),
    ]
    tables = (
        ("log lists", ("LIST", "LOGS", "VERSION", "PUBLISHED", "CHECKED", "SIGNED", "FROM", "TROUBLE"),
         [_list_row(each) for each in lists]),
        ("followed", ("NAME", "OPERATOR", "KIND", "STATE", "NEXT", "UP TO", "LIST", "URL"), followed),
        ("not followed", ("NAME", "OPERATOR", "STATE", "LIST", "WHY"), [_omitted_row(each) for each in choice.omitted]),
    )  # fmt: skip
    return "\n".join(f"{title}: {len(rows)}\n{aligned([heads, *rows])}" for title, heads, rows in tables if rows)


def logs_json(
    lists: Sequence[ListStatus],
    choice: LogChoice,
    configured: Sequence[LogInfo] = (),
    positions: Mapping[str, int] | None = None,
    leaving: Sequence[LeavingLog] = (),
) -> str:
    """The same for programs: one object with `lists`, `followed` and `not_followed`; times in Unix ms, ages in s."""
    known = positions or {}
    followed = [
        *((info, {**_unlisted_json(info), "list": _CONFIGURED}) for info in configured),
        *((each.info, _chosen_json(each)) for each in choice.chosen),
        *((info, {**_unlisted_json(info), "state": _LEFT, "stop": stop}) for info, stop in leaving),
    ]
    document = {
        "lists": list(lists),
        "followed": [{**each, "position": known.get(info.base_url)} for info, each in followed],
        "not_followed": list(choice.omitted),
    }
    return orjson.dumps(document, option=orjson.OPT_INDENT_2).decode() + "\n"


def _list_row(status: ListStatus) -> tuple[str, ...]:
    published = "" if status.published_ms is None else _time(status.published_ms)
    # The column before it says which file or URL it is about
    trouble = (
        f"waits for {status.waits_for}"
        if status.waits_for
        else (status.error or "").removeprefix(f"{status.location}: ")
    )
    return (
        status.name,
        f"{status.logs:,}",
        status.version or _NONE,
        published or _NONE,
        _NONE if status.age_s is None else _age(status.age_s),
        "yes" if status.signed else "no",
        status.location,
        printable(trouble),
    )


def _next(position: Start | None) -> str:
    return "0" if position == "beginning" else position if isinstance(position, str) else _count(position)


def _configured_row(info: LogInfo, position: Start | None) -> tuple[str, ...]:
    name, operator = printable(info.name), printable(info.operator)
    return (name, operator, info.kind, _NONE, _next(position), _NONE, _CONFIGURED, info.url)


def _chosen_row(chosen: ChosenLog, position: Start | None) -> tuple[str, ...]:
    log = chosen.log
    over = ", interval over" if chosen.poll_interval_s is not None else ""
    state, stop = f"{log.state or NO_STATE}{over}", _count(chosen.stop)
    return (log.name, log.operator, log.kind, state, _next(position), stop, chosen.source, log.url)


def _leaving_row(info: LogInfo, stop: int, position: Start | None) -> tuple[str, ...]:
    name, operator = printable(info.name), printable(info.operator)
    return (name, operator, info.kind, _LEFT, _next(position), _count(stop), _NONE, printable(info.url))


def _count(number: int | None) -> str:
    return _NONE if number is None else f"{number:,}"


def _omitted_row(log: OmittedLog) -> tuple[str, ...]:
    why = printable(log.reason)
    return (log.name or log.url or _NONE, log.operator or _NONE, log.state or NO_STATE, log.source, why)


def _unlisted_json(info: LogInfo) -> dict[str, Any]:
    return {**_info_json(info), **dict.fromkeys(_LISTED)}


def _chosen_json(chosen: ChosenLog) -> dict[str, Any]:
    log = chosen.log
    head, interval = log.final_tree_head, log.interval
    return {
        **_info_json(log.info),
        "state": log.state,
        "list": chosen.source,
        "log_type": log.log_type,
        "mmd_s": log.mmd_s,
        "stop": chosen.stop,
        "final_root_hash": None if head is None else _base64(head.root_hash),
        "interval_start_ms": None if interval is None else interval.start_ms,
        "interval_stop_ms": None if interval is None else interval.stop_ms,
        "poll_interval_s": chosen.poll_interval_s,
    }


def _info_json(info: LogInfo) -> dict[str, Any]:
    return {
        "name": info.name,
        "operator": info.operator,
        "kind": info.kind,
        "url": info.url,
        "origin": info.origin,
        "log_id": None if info.log_id is None else _base64(info.log_id),
        "key": None if info.key is None else _base64(info.key),
    }


def _base64(data: bytes) -> str:
    return pybase64.b64encode(data).decode()


def _time(unix_ms: int) -> str:
    return datetime.fromtimestamp(unix_ms / 1000, UTC).strftime("%Y-%m-%d %H:%M UTC")


def _age(age_s: float) -> str:
    """In the largest unit that it holds once: 3 h ago."""
    size, unit = next(((size, unit) for size, unit in _AGES if age_s >= size), _AGES[-1])
    return f"{int(age_s // size)} {unit} ago"
