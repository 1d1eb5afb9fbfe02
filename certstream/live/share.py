"""How much of what a log grew by is read in time, and what holds back the rest. No I/O.

Entries are due once a head covers them and they may be read; they are overdue when they are not read by the tick after
the next. In a window

    share = 1 - growth of what is overdue / growth of what is due

which is entries read over entries due, 1 at most. So a log that is caught up with has a share of 1 as long as its
backlog does not grow, one of which half is read in time 0.5, and one that stands still 0, however much either has left.
While no head comes, a log is taken to grow as it did before: one that cannot be reached does not look like one at rest.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from itertools import islice
from typing import Final

from certstream.client.waits import Spent
from certstream.delivery_metrics import DelayCause

_SMALL_PAGES: Final = 2.0  # times that a page could be longer, for its size to matter
_LEAST_RATE_S: Final = 0.05  # of the window, that the pace of a log's growth is measured over


@dataclass(frozen=True, slots=True)
class ShareSettings:
    """Over which time, and how patient."""

    window_s: float = 600.0
    tick_s: float = 10.0  # between two looks; entries are overdue after one to two of them
    unseen_s: float = 60.0  # without a head, until a log is taken to grow as before
    below_s: float = 60.0  # that a share is too small, until the log says so
    unready_s: float = 300.0  # that the share of all logs is too small, until the service is not ready


@dataclass(frozen=True, slots=True)
class LogShare:
    """One log's share at the last tick."""

    share: float  # 0 to 1; 1 where nothing grew
    cause: DelayCause | None  # of most entries that are late; None where the share is 1
    growth: float  # entries that became due in the window
    late: int  # entries that are overdue now

    @property
    def in_time(self) -> float:
        """Of `growth`, what was read."""
        return self.share * self.growth


def share_of_all(shares: Iterable[LogShare]) -> float:
    """The share of all logs together, each counting by its growth; 1 where nothing grew."""
    known = list(shares)
    growth = sum(log.growth for log in known)
    return sum(log.in_time for log in known) / growth if growth > 0 else 1.0


@dataclass(frozen=True, slots=True)
class _Tick:
    """How the log stood at one tick."""

    at_s: float
    due: float  # index after the last entry that was due; an estimate where no head came for long
    counted: float  # `due` of the tick before
    overdue: float  # entries before `counted` that were not read
    lost: Mapping[DelayCause, float]  # what `overdue` grew by since the tick before
    head_due: int  # `due` as the last head had it
    head_s: float
    wished: int  # see Spent
    given: int


class Share:
    """The share of one log. Bounded: one small record for each tick of the window.

    All times are of one monotonic clock, in seconds.
    """

    def __init__(self, settings: ShareSettings) -> None:
        self._settings = settings
        self._ticks: deque[_Tick] = deque()
        self._position = 0
        self._head_due = 0
        self._head_s: float | None = None
        self._spent: Spent | None = None  # at the last tick
        self._rate_s = 0.0  # entries per second that the log grows by
        self.now: LogShare | None = None  # None before the first tick after the first head

    def seen(self, due: int, position: int, now_s: float, spent: Spent) -> None:
        """A head came: what is before `due` may be read, what is before `position` is. `spent` is everything so far."""
        self._head_due, self._head_s, self._position = due, now_s, position
        if not self._ticks:
            self._spent = spent
            overdue = float(max(0, due - position))
            self._ticks.append(_Tick(now_s, due, due, overdue, {}, due, now_s, spent.wished, spent.given))
            return
        first = self._ticks[0]
        if now_s - first.head_s >= self._settings.window_s * _LEAST_RATE_S:
            self._rate_s = max(0.0, (due - first.head_due) / (now_s - first.head_s))

    def read(self, position: int) -> None:
        """Everything before `position` is read."""
        self._position = position

    def tick(self, now_s: float, spent: Spent, busy: float) -> LogShare | None:
        """Look at how it stands: the share from now on, None before the first head. `spent` is everything so far.

        `busy`, 0 to 1, says how much of the time since the tick before the event loop was at work.
        """
        if self._head_s is None or self._spent is None:
            return None
        before = self._ticks[-1]
        overdue = max(0.0, before.due - self._position)
        lost = _blamed(overdue - before.overdue, spent.since(self._spent), busy) if overdue > before.overdue else {}
        due, head = self._due(now_s, self._head_s), (self._head_due, self._head_s)
        self._ticks.append(_Tick(now_s, due, before.due, overdue, lost, *head, spent.wished, spent.given))
        self._spent = spent
        while len(self._ticks) > 2 and self._ticks[1].at_s <= now_s - self._settings.window_s:
            self._ticks.popleft()
        self.now = self._measured()
        return self.now

    def _due(self, now_s: float, head_s: float) -> float:
        unseen_s = now_s - head_s
        return self._head_due + (self._rate_s * unseen_s if unseen_s > self._settings.unseen_s else 0.0)

    def _measured(self) -> LogShare:
        first, last = self._ticks[0], self._ticks[-1]
        growth = max(0.0, last.counted - first.counted)
        missed = last.overdue - first.overdue
        late = round(last.overdue)
        if not growth or missed <= 0:
            return LogShare(1.0, None, growth, late)
        share = max(0.0, 1 - missed / growth)
        return LogShare(share, self._cause(share), growth, late)

    def _cause(self, share: float) -> DelayCause:
        """What most entries were lost to."""
        lost: dict[DelayCause, float] = {}
        for tick in islice(self._ticks, 1, None):
            for cause, entries in tick.lost.items():
                lost[cause] = lost.get(cause, 0.0) + entries
        worst: DelayCause = max(lost, key=lost.__getitem__, default="not_polled")
        first, last = self._ticks[0], self._ticks[-1]
        given = last.given - first.given
        longer = (last.wished - first.wished) / given if given else 1.0
        if worst == "slow_answers" and longer >= _SMALL_PAGES and share * longer >= 1:
            return "page_size"
        return worst


def _blamed(entries: float, spent: Spent, busy: float) -> dict[DelayCause, float]:
    """Lay entries that were not read at the door of what took the time."""
    seconds = spent.seconds
    reading = max(0.0, seconds["reading"] - seconds["proving"])
    asked = seconds["pacing"] + seconds["answering"]
    paced = reading * seconds["pacing"] / asked if asked else 0.0
    answers = reading - paced
    by_cause: dict[DelayCause, float] = {
        "rate_limited": paced + seconds["limited"],
        "slow_answers": answers * (1 - busy),
        "cpu": answers * busy + max(0.0, seconds["publishing"] - seconds["archive"]),
        "archive": seconds["archive"],
        "unproven": seconds["proving"] + seconds["unproven"],
        "not_served": seconds["not_served"],
        "not_polled": seconds["backing_off"],
    }
    whole = sum(by_cause.values())
    if whole <= 0:
        return {"not_polled": entries}
    return {cause: entries * each / whole for cause, each in by_cause.items() if each}
