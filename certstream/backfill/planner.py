"""What is missing of each log, and in which pieces it is fetched. No I/O, no clock, no configuration."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Final

import numpy as np

from certstream.ct.types import TILE_WIDTH, LogInfo
from certstream.intervals import Intervals

ITEM_ENTRIES: Final = 10_240  # indices of a window: 40 data tiles


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
    """What is missing of one window of a log, fetched in one go: one gap or any number of them."""

    log: LogInfo
    missing: Intervals

    @property
    def start(self) -> int:
        """The first missing index."""
        return int(self.missing.start[0])

    @property
    def stop(self) -> int:
        """Index after the last missing one."""
        return int(self.missing.stop[-1])

    def stretches(self) -> Iterator[Intervals]:
        """The missing indices, apart where a whole data tile, or as much of another log, lies between them."""
        for first, last in _blocks(self.missing, TILE_WIDTH):
            yield self.missing.within(first * TILE_WIDTH, last * TILE_WIDTH)


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
        return _blocks(self.missing, ITEM_ENTRIES).count

    def items(self) -> Iterator[WorkItem]:
        """The work items, ascending, each made when it is asked for: the windows in which something is missing.

        Windows begin at multiples of ITEM_ENTRIES, whatever is missing: a plan of less has no more of them.
        """
        for first, last in _blocks(self.missing, ITEM_ENTRIES):
            for window in range(first, last):
                yield WorkItem(self.log, self.missing.within(window * ITEM_ENTRIES, (window + 1) * ITEM_ENTRIES))


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


def joined(intervals: Intervals, hole: int) -> Intervals:
    """The same with all that is no more than `hole` between two of them."""
    apart = intervals.start[1:] - intervals.stop[:-1] > hole
    first, last = np.append(np.True_, apart), np.append(apart, np.True_)
    return Intervals(intervals.start[first], intervals.stop[last]) if len(intervals) else intervals


def _blocks(intervals: Intervals, width: int) -> Intervals:
    """The numbers of the blocks, each `width` wide, that have any of these indices."""
    return Intervals.from_spans(intervals.start // width, -(-intervals.stop // width))


def select(logs: Sequence[LogInfo], text: str) -> tuple[LogInfo, ...]:
    """The logs whose name or URL contains `text`, in upper or lower case."""
    wanted = text.casefold()
    return tuple(log for log in logs if wanted in log.name.casefold() or wanted in log.url.casefold())
