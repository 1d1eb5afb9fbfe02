"""Several log lists as one, and which of its logs are read. No I/O.

The lists go one before the other: a later one only adds logs that those before it do not know, so that what the first
says of a log, holds. Usable, qualified and pending logs are read, readonly ones up to their final tree head; retired
and rejected ones are not. A log without a state, or of a `log_type` other than prod, is read only where
`Selection.include_names` holds its whole name or URL: part of one, as "2026h2", must not bring in test logs.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Final

from certstream.ct.log_list import PROD, ListedLog, LogList, LogState, bare_url
from certstream.ct.types import LogInfo
from certstream.ct.urls import url_identity

NO_STATE: Final = "none"  # what a selection calls the state of a log that has none
READ_STATES: Final[tuple[LogState, ...]] = ("usable", "qualified", "pending", "readonly")
OVER_POLL_INTERVAL_S: Final = 60.0  # of a log whose temporal interval is over: hardly anything comes any more


@dataclass(frozen=True, slots=True)
class NamedList:
    """One list, by the name that says where it is from."""

    name: str
    logs: LogList


@dataclass(frozen=True, slots=True)
class Selection:
    """Which logs the operator of this service wants, in upper or lower case.

    Operators and names are matched by any part, a name also in the URL, states as whole words. A log must match one
    text of each `include_…` that is not empty, and none of any `exclude_…`.
    """

    include_operators: tuple[str, ...] = ()
    include_names: tuple[str, ...] = ()
    include_states: tuple[str, ...] = ()
    exclude_operators: tuple[str, ...] = ()
    exclude_names: tuple[str, ...] = ()
    exclude_states: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class ChosenLog:
    """One log to read. `log.name` and the URL are those of no other log."""

    log: ListedLog
    source: str  # name of the list that it is from
    stop: int | None = None  # entries before this index: all that a readonly log has
    poll_interval_s: float | None = None  # between looks at its head; None: as for all logs

    @property
    def info(self) -> LogInfo:
        """The log as the rest of the program knows it."""
        return self.log.info


@dataclass(frozen=True, slots=True)
class OmittedLog:
    """One log that is not read; name, URL and operator are empty where its list does not tell them."""

    name: str
    url: str
    operator: str
    state: LogState | None
    source: str
    reason: str


@dataclass(frozen=True, slots=True)
class LogChoice:
    """Every log of some lists: read, or not and why."""

    chosen: tuple[ChosenLog, ...] = ()
    omitted: tuple[OmittedLog, ...] = ()


@dataclass(frozen=True, slots=True)
class LogChanges:
    """How one choice differs from the one before; a log is the same where its log id is."""

    added: tuple[ChosenLog, ...] = ()
    removed: tuple[ChosenLog, ...] = ()
    changed: tuple[tuple[ChosenLog, ChosenLog], ...] = ()  # before and after, in whatever field; also the URL

    def __bool__(self) -> bool:
        return bool(self.added or self.removed or self.changed)


def choose_logs(
    lists: Sequence[NamedList], selection: Selection, now_ms: int, configured: Iterable[LogInfo] = ()
) -> LogChoice:
    """Merge the lists, those that go before others first, and say which logs are read at `now_ms` (Unix ms).

    A log that is `configured`, by log id or URL, is none of the chosen, and no chosen one has such a log's name.
    """
    chosen: list[ChosenLog] = []
    omitted: list[OmittedLog] = []
    for source, log, clash in _merged(lists, configured):
        reason = clash or _unwanted(log, selection) or _unreadable(log, selection)
        if reason:
            omitted.append(OmittedLog(log.name, log.url, log.operator, log.state, source, reason))
        else:
            chosen.append(_chosen(log, source, now_ms))
    for each in lists:
        omitted += (
            OmittedLog(bad.name, bad.url, bad.operator, None, each.name, bad.reason) for bad in each.logs.unusable
        )
    return LogChoice(tuple(chosen), tuple(omitted))


def find_log(lists: Iterable[NamedList], info: LogInfo) -> ListedLog | None:
    """What the first list that knows a log says of it, whatever its state.

    A log is known by its id where `info` has one, else by its URL.
    """
    url = url_identity(info.url)
    for each in lists:
        for log in each.logs.logs:
            if log.log_id == info.log_id or (info.log_id is None and url_identity(log.url) == url):
                return log
    return None


def compare_choices(before: LogChoice, after: LogChoice) -> LogChanges:
    """What is to be done to come from one choice to the other."""
    old = {each.log.log_id: each for each in before.chosen}
    new = {each.log.log_id: each for each in after.chosen}
    return LogChanges(
        added=tuple(each for log_id, each in new.items() if log_id not in old),
        removed=tuple(each for log_id, each in old.items() if log_id not in new),
        changed=tuple((old[log_id], each) for log_id, each in new.items() if log_id in old and old[log_id] != each),
    )


def _merged(lists: Sequence[NamedList], configured: Iterable[LogInfo]) -> Iterator[tuple[str, ListedLog, str | None]]:
    """Each log once, with its list, a name of its own, and why it cannot stand beside those before it."""
    infos = list(configured)
    names = {info.name: 2 for info in infos}
    own_ids = {info.log_id for info in infos}
    urls = {url_identity(info.url): "is named in the configuration" for info in infos}
    seen: set[bytes] = set()
    operators: dict[str, str] = {}  # one spelling each: requests are paced by operator
    for each in lists:
        for listed in each.logs.logs:
            if listed.log_id in seen:
                continue
            seen.add(listed.log_id)
            log = replace(listed, operator=operators.setdefault(listed.operator.casefold(), listed.operator))
            clash = "is named in the configuration" if log.log_id in own_ids else urls.get(url_identity(log.url))
            named = log if clash else _named(log, names)
            if clash is None:
                names.setdefault(named.name, 2)
                urls[url_identity(log.url)] = f"has the URL of {named.name}, which goes before it"
            yield each.name, named, clash


def _named(log: ListedLog, taken: dict[str, int]) -> ListedLog:
    """The log by a name that is not taken; of each that is, the number that may be free behind it."""
    for name in (log.name, f"{log.name} ({bare_url(log.url)})"):
        if name not in taken:
            return replace(log, name=name)
    while (name := f"{log.name} ({taken[log.name]})") in taken:
        taken[log.name] += 1
    return replace(log, name=name)


def _chosen(log: ListedLog, source: str, now_ms: int) -> ChosenLog:
    over = log.interval is not None and now_ms >= log.interval.stop_ms
    return ChosenLog(
        log,
        source,
        stop=None if log.final_tree_head is None else log.final_tree_head.tree_size,
        poll_interval_s=OVER_POLL_INTERVAL_S if over else None,
    )


def _unwanted(log: ListedLog, selection: Selection) -> str | None:
    """Why the operator of this service does not want that log, None if it is wanted."""
    name_and_url = (log.name, log.url)
    rules = (
        ("operator", _parts((log.operator,)), selection.include_operators, selection.exclude_operators),
        ("name", _parts(name_and_url), selection.include_names, selection.exclude_names),
        ("state", _whole(log.state or NO_STATE), selection.include_states, selection.exclude_states),
    )
    for what, matches, included, excluded in rules:
        for text in excluded:
            if matches(text.casefold()):
                return f"excluded by {what}: {text}"
        if included and not any(matches(text.casefold()) for text in included):
            return f"not among the included {what}s"
    return None


def _parts(texts: Sequence[str]) -> Callable[[str], bool]:
    folded = [text.casefold() for text in texts]
    return lambda part: any(part in text for text in folded)


def _whole(word: str) -> Callable[[str], bool]:
    return lambda text: text == word


def _unreadable(log: ListedLog, selection: Selection) -> str | None:
    """Why a log in that state, or for that purpose, is not read."""
    if log.state is not None and log.state not in READ_STATES:
        return f"is {log.state}"
    if log.state is not None and log.log_type == PROD:
        return None
    names = {log.name.casefold(), url_identity(log.url)}
    if any(text.casefold() in names or url_identity(text) in names for text in selection.include_names):
        return None
    why = f"is of type {log.log_type}" if log.log_type != PROD else "has no state"
    return f"{why}: read only where its whole name is included"
