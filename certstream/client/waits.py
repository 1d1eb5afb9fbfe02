"""What reading one log spends its time on, summed up while it goes on. No I/O."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Final, Literal, TypeAlias, get_args

Activity: TypeAlias = Literal[
    "reading",  # waiting for a head or a batch, whatever for
    "proving",  # part of that: waiting for proofs
    "publishing",  # until a batch was handed over
    "archive",  # part of that: waiting for the archive, and making its rows
    "backing_off",  # after a failure
    "not_served",  # likewise after the log refused entries that its head covers
    "limited",  # likewise after a 429
    "unproven",  # likewise after entries that could not be proven
    "pacing",  # of each request: waiting for the operator's pace
    "answering",  # of each request: from its start to the end of its answer
]
ACTIVITIES: Final[tuple[Activity, ...]] = get_args(Activity)


@dataclass(frozen=True, slots=True)
class Spent:
    """Everything until some moment; what lies between two of them is what they differ by."""

    seconds: dict[Activity, float]
    wished: int = 0  # entries of the pages that were asked for, had they been as long as they may be
    given: int = 0  # entries of these pages

    def since(self, before: Spent) -> Spent:
        """What was spent after `before`."""
        seconds = {name: self.seconds[name] - before.seconds[name] for name in ACTIVITIES}
        return Spent(seconds, self.wished - before.wished, self.given - before.given)


class Waits:
    """The account of one log. What goes on counts up to the moment of asking; what goes on twice counts twice."""

    def __init__(self, monotonic: Callable[[], float]) -> None:
        self._monotonic = monotonic
        self._settled_at = monotonic()
        self._running: dict[Activity, int] = dict.fromkeys(ACTIVITIES, 0)
        self._seconds: dict[Activity, float] = dict.fromkeys(ACTIVITIES, 0.0)
        self._wished = self._given = 0

    @contextmanager
    def on(self, activity: Activity) -> Iterator[None]:
        """Count the time in here."""
        self._settle()
        self._running[activity] += 1
        try:
            yield
        finally:
            self._settle()
            self._running[activity] -= 1

    def add(self, activity: Activity, seconds: float) -> None:
        """Count time that was measured elsewhere, in a thread for example."""
        self._seconds[activity] += seconds

    def page(self, wished: int, given: int) -> None:
        """Note one page: how long it was, and how long it would have been without limits of the log's."""
        self._wished += wished
        self._given += given

    def spent(self) -> Spent:
        """Everything until now."""
        self._settle()
        return Spent(dict(self._seconds), self._wished, self._given)

    def _settle(self) -> None:
        now = self._monotonic()
        passed, self._settled_at = now - self._settled_at, now
        for activity, count in self._running.items():
            if count:
                self._seconds[activity] += count * passed
