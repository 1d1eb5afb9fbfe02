"""The logs to read, from log lists that are kept current.

What cannot be fetched or does not verify changes nothing: the last good list of each source stays, over restarts too.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Final

import structlog

from certstream.client.disk import Disk
from certstream.client.http import HttpClient, Validators
from certstream.client.log_list_source import FetchedList, ListSource, fetch_list
from certstream.client.log_list_store import KeptList, keep_list, kept_list
from certstream.ct.log_choice import (
    LogChanges,
    LogChoice,
    NamedList,
    Selection,
    choose_logs,
    compare_choices,
    find_log,
)
from certstream.ct.log_list import ListedLog, LogList
from certstream.ct.types import LogInfo
from certstream.errors import FetchError, InvalidSignatureError, MalformedError, RateLimitedError
from certstream.permissions import reason

REFRESH_INTERVAL_S: Final = 3_600.0
FIRST_RETRY_S: Final = 60.0  # after a failure; doubles with each further one, up to the interval
_JITTER: Final = 10  # the interval is shortened by up to a tenth: not all readers come at the full hour
_PATIENCE_S: Final = 60.0  # for one source, all attempts together
_MAX_PAUSE_S: Final = 86_400.0  # of what a Retry-After may ask for

logger: structlog.stdlib.BoundLogger = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class ListStatus:
    """How one list is doing."""

    name: str
    location: str
    signed: bool
    version: str  # as its publisher counts; empty where it does not, or where there is no list
    published_ms: int | None  # Unix ms, as the list says
    age_s: float | None  # since it was known to be current; None: there is no list
    logs: int  # that can be used
    error: str | None  # why it could not be fetched last, None if it could
    waits_for: str | None  # the list without which it is not used, where there is none of that
    failures: int = 0  # attempts since the start that brought no list


@dataclass(slots=True)
class _Held:
    """What is known of one source."""

    source: ListSource
    disk: Disk = field(default_factory=Disk)
    kept: KeptList | None = None
    logs: LogList | None = None
    due_at: float = 0.0  # monotonic seconds
    failures: int = 0  # in a row
    all_failures: int = 0
    error: str | None = None
    save_error: str | None = None

    @property
    def validators(self) -> Validators:
        return Validators() if self.kept is None else self.kept.validators


class LogLists:
    """Log lists of some sources, those that go before others first, and the logs chosen from them.

    Bounded by the sources: one list each, of at most MAX_LIST_BYTES. `start` it, then ask for what is
    `next` again and again; both belong to one task at a time. `directory` keeps the last good lists, None keeps none.
    """

    def __init__(
        self,
        http: HttpClient,
        sources: Sequence[ListSource],
        selection: Selection,
        *,
        directory: Path | None,
        keep: bool = True,
        interval_s: float = REFRESH_INTERVAL_S,
        configured: Iterable[LogInfo] = (),
    ) -> None:
        """`configured`: logs that are read anyway, and are none of the chosen. Raises ValueError for equal names.

        Without `keep` the lists of `directory` are taken and none is written there: it is another process's.
        """
        if len({source.name for source in sources}) != len(sources):
            raise ValueError("two log lists have the same name")
        self._http = http
        self._clock = http.clock
        self._held = {source.name: _Held(source) for source in sources}
        self._selection = selection
        self._directory = directory
        self._keep = keep
        self._interval_s = interval_s
        self._configured = tuple(configured)
        self._choice = LogChoice()

    @property
    def choice(self) -> LogChoice:
        """The logs to read now, and all others with the reason."""
        return self._choice

    def statuses(self) -> list[ListStatus]:
        """How each list is doing, in their order."""
        return [self._status(held) for held in self._held.values()]

    async def load(self) -> LogChoice:
        """Take the lists that were kept; they are due for a refresh, as those of which there is none.

        Takes 10 s at most, where the disk does not answer.
        """
        await asyncio.gather(*map(self._load, self._held.values()))
        self._choose()
        return self._choice

    async def start(self) -> LogChoice:
        """`load`, and fetch the lists of which there is none.

        Takes a minute at most, and raises nothing where no list can be had: `run` goes on trying.
        """
        await self.load()
        await self._refresh([held for held in self._held.values() if held.logs is None])
        return self._choice

    async def next(self) -> LogChanges:
        """Wait until a list is due, fetch it, and say what that changes."""
        await self._clock.sleep(max(0.0, self._wait_s()))
        return await self.refresh()

    async def refresh(self) -> LogChanges:
        """Fetch the lists that are due, and say what that changes."""
        now = self._clock.monotonic()
        return await self._refresh([held for held in self._held.values() if held.due_at <= now])

    def select(self, selection: Selection, configured: Iterable[LogInfo]) -> LogChanges:
        """Choose by another selection, beside other configured logs, from now on, and say what that changes."""
        self._selection, self._configured = selection, tuple(configured)
        return self._choose()

    def find(self, info: LogInfo) -> ListedLog | None:
        """What the lists say of a log: by its id where `info` has one, else by its URL; None where none knows it."""
        return find_log(self._lists(), info)

    def _wait_s(self) -> float:
        now = self._clock.monotonic()
        return min((held.due_at - now for held in self._held.values()), default=self._interval_s)

    async def _load(self, held: _Held) -> None:
        if self._directory is None:
            return
        try:
            kept = await held.disk.run(partial(kept_list, self._directory, held.source))
            if kept is None:
                return
            held.logs = await asyncio.to_thread(held.source.verified, kept.body, kept.signature)
        except (OSError, MalformedError, InvalidSignatureError) as exc:
            logger.warning("kept log list is not used", list=held.source.name, error=str(exc))
            return
        held.kept = kept
        held.due_at = self._clock.monotonic()

    async def _refresh(self, due: Iterable[_Held]) -> LogChanges:
        async with asyncio.TaskGroup() as group:
            for held in due:
                group.create_task(self._refresh_one(held), name=f"log list:{held.source.name}")
        return self._choose()

    async def _refresh_one(self, held: _Held) -> None:
        try:
            async with asyncio.timeout(_PATIENCE_S):
                fetched = await fetch_list(self._http, held.source, held.validators, held.disk)
            if fetched is not None:
                _check_not_older(held, fetched)
        except (FetchError, MalformedError, InvalidSignatureError, TimeoutError) as exc:
            self._fail(held, exc)
            return
        self._succeed(held, fetched)
        await self._save(held)

    def _succeed(self, held: _Held, fetched: FetchedList | None) -> None:
        checked_ms = self._now_ms()
        if fetched is not None:
            if held.kept is None or held.kept.body != fetched.body:
                _log_list(held.source, fetched.logs)
            held.logs = fetched.logs
            held.kept = KeptList(fetched.body, fetched.signature, checked_ms, fetched.validators)
        elif held.kept is not None:
            held.kept = replace(held.kept, checked_ms=checked_ms)
        if held.error is not None:
            logger.info("log list can be had again", list=held.source.name)
        held.failures, held.error = 0, None
        held.due_at = self._clock.monotonic() + self._interval_s * (1 - self._clock.random() / _JITTER)

    def _fail(self, held: _Held, exc: Exception) -> None:
        error = str(exc) or f"nothing within {_PATIENCE_S:.0f} s"
        held.failures += 1
        held.all_failures += 1
        wait_s = self._clock.backoff(held.failures, FIRST_RETRY_S, self._interval_s)
        if isinstance(exc, RateLimitedError) and exc.retry_after_s is not None:
            wait_s = max(wait_s, min(exc.retry_after_s, _MAX_PAUSE_S))
        held.due_at = self._clock.monotonic() + wait_s
        if held.error is None:
            age_s = self._age_s(held)
            using = "none" if age_s is None else "the last good one"
            logger.warning("log list cannot be had", list=held.source.name, error=error, using=using, age_s=age_s)
        held.error = error

    async def _save(self, held: _Held) -> None:
        if self._directory is None or held.kept is None or not self._keep:
            return
        try:
            await held.disk.run(partial(keep_list, self._directory, held.source, held.kept))
        except OSError as exc:
            if held.save_error is None:
                error = f"{self._directory}: {reason(exc, self._directory)}"
                logger.warning("log list cannot be kept", list=held.source.name, error=error)
            held.save_error = str(exc)
        else:
            held.save_error = None

    def _lists(self) -> list[NamedList]:
        return [
            NamedList(name, held.logs)
            for name, held in self._held.items()
            if held.logs is not None and self._waits_for(held) is None
        ]

    def _choose(self) -> LogChanges:
        before = self._choice
        self._choice = choose_logs(self._lists(), self._selection, self._now_ms(), self._configured)
        return compare_choices(before, self._choice)

    def _waits_for(self, held: _Held) -> str | None:
        needed = self._held.get(held.source.needs or "")
        return needed.source.name if needed is not None and needed.logs is None else None

    def _status(self, held: _Held) -> ListStatus:
        source, logs = held.source, held.logs
        return ListStatus(
            name=source.name,
            location=source.location,
            signed=source.key is not None,
            version="" if logs is None else logs.version,
            published_ms=None if logs is None else logs.published_ms,
            age_s=self._age_s(held),
            logs=0 if logs is None else len(logs.logs),
            error=held.error,
            failures=held.all_failures,
            waits_for=self._waits_for(held),
        )

    def _age_s(self, held: _Held) -> float | None:
        return None if held.kept is None else max(0.0, (self._now_ms() - held.kept.checked_ms) / 1000)

    def _now_ms(self) -> int:
        return int(self._clock.wall() * 1000)


def _check_not_older(held: _Held, fetched: FetchedList) -> None:
    """Raises FetchError where a signed list is older than the one in use: a signature does not say which is current."""
    if held.source.key is None or held.logs is None:
        return
    known_ms, published_ms = held.logs.published_ms, fetched.logs.published_ms
    if known_ms is not None and (published_ms is None or published_ms < known_ms):
        raise FetchError(f"{held.source.location}: version {fetched.logs.version} is older than the one in use")


def _log_list(source: ListSource, logs: LogList) -> None:
    logger.info(
        "log list read",
        list=source.name,
        version=logs.version,
        logs=len(logs.logs),
        unusable=len(logs.unusable),
        verified=source.key is not None,
    )
