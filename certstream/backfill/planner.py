"""What is missing of each log, and in which pieces it is fetched. No I/O, no clock, no configuration."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Final

from certstream.ct.types import TILE_WIDTH, LogInfo
from certstream.intervals import Intervals

ITEM_ENTRIES: Final = 10_240  # indices of a work item at most: 40 data tiles


@dataclass(frozen=True, slots=True)
class Target:
    """One log, what is known of it, and what is there of it."""

    log: LogInfo
    ceiling: int | None  # first index that is not fetched; None: not known, and so the log is skipped
    start_index: int | None  # where the log's reader began; None where that is not known
    archived: Intervals = field(default_factory=Intervals)  # in main or in staging
    dropped: Intervals = field(default_factory=Intervals)  # was archived, and removed on purpose: no gap


@dataclass(frozen=True, slots=True)
class WorkItem:
    """Indices [start, stop) of one log, at most ITEM_ENTRIES, fetched in one go."""

    log: LogInfo
    start: int
    stop: int


@dataclass(frozen=True, slots=True)
class LogPlan:
    """What is missing of one log."""

    log: LogInfo
    missing: Intervals

    @property
    def indices(self) -> int:
        """The number of missing indices."""
        return self.missing.count

    @property
    def item_count(self) -> int:
        """The number of work items, without making them."""
        reach = self.missing.stop - self.missing.start + self.missing.start % TILE_WIDTH
        return int((-(-reach // ITEM_ENTRIES)).sum())

    def items(self) -> Iterator[WorkItem]:
        """The work items, ascending, each made when it is asked for.

        All begin and end at multiples of TILE_WIDTH, but for the two ends of a gap.
        """
        for start, stop in self.missing:
            for first in range(start - start % TILE_WIDTH, stop, ITEM_ENTRIES):
                yield WorkItem(self.log, max(first, start), min(first + ITEM_ENTRIES, stop))


@dataclass(frozen=True, slots=True)
class Plan:
    """What is missing of all logs."""

    logs: tuple[LogPlan, ...]  # every log with a ceiling, also where nothing is missing
    skipped: tuple[LogInfo, ...]  # no ceiling is known

    @property
    def indices(self) -> int:
        """The number of missing indices."""
        return sum(log.indices for log in self.logs)

    @property
    def item_count(self) -> int:
        """The number of work items."""
        return sum(log.item_count for log in self.logs)

    @property
    def ranges(self) -> int:
        """The number of gaps."""
        return sum(len(log.missing) for log in self.logs)

    def totals(self) -> dict[str, int]:
        """Missing indices by the log's name, where there are any."""
        totals: dict[str, int] = {}
        for log in self.logs:
            if log.indices:
                totals[log.log.name] = totals.get(log.log.name, 0) + log.indices
        return totals


def plan(targets: Sequence[Target], *, from_index: int | None = None) -> Plan:
    """What is to be fetched: below each log's ceiling, neither archived nor dropped.

    Historical, that is from `from_index` on; catching up (None), from where the log's archive began.
    """
    logs = tuple(
        LogPlan(target.log, _missing(target, target.ceiling, from_index))
        for target in targets
        if target.ceiling is not None
    )
    return Plan(logs, tuple(target.log for target in targets if target.ceiling is None))


def _missing(target: Target, ceiling: int, from_index: int | None) -> Intervals:
    lower = _begin(target) if from_index is None else from_index
    return Intervals.of((lower, ceiling)) - target.archived - target.dropped


def _begin(target: Target) -> int:
    """Where the archive of the log began: at the smaller of its smallest index and its start, 0 if neither is known.

    Of an archive whose rows were all removed on purpose, the smallest index is that of what was removed.
    """
    lowest = target.dropped.lowest if target.archived.lowest is None else target.archived.lowest
    return min((index for index in (lowest, target.start_index) if index is not None), default=0)


def select(logs: Sequence[LogInfo], text: str) -> tuple[LogInfo, ...]:
    """The logs whose name or URL contains `text`, in upper or lower case."""
    wanted = text.casefold()
    return tuple(log for log in logs if wanted in log.name.casefold() or wanted in log.url.casefold())
