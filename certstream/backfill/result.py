"""What a backfill did and what it could not do."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace

from certstream.ct.types import LogInfo


@dataclass(frozen=True, slots=True)
class FailedRange:
    """Indices [start, stop) that a log did not give, or not proven, also when it was asked once more.

    They stay missing.
    """

    log: LogInfo
    start: int
    stop: int
    error: str


def merged(ranges: Iterable[FailedRange]) -> tuple[FailedRange, ...]:
    """Ranges of one log, ascending; adjacent ones become one with the first one's error."""
    result: list[FailedRange] = []
    for each in sorted(ranges, key=lambda each: each.start):
        if result and result[-1].stop == each.start:
            result[-1] = replace(result[-1], stop=each.stop)
        else:
            result.append(each)
    return tuple(result)


@dataclass(frozen=True, slots=True)
class Result:
    """What a backfill did; its counts are of what is committed."""

    planned: int  # missing indices at the beginning
    written: int
    skipped: int  # archived by somebody else meanwhile
    failed: tuple[FailedRange, ...]  # ascending per log, adjacent ones as one; empty of what was not tried once more
    logs_done: int  # logs of which all that was missing is there
    logs_failed: int  # logs with failed ranges
    interrupted: bool
    left: int  # of `planned`, not there at the end; failed ones included
    elapsed_s: float
    verified: int = 0  # of `written`: proven to stand in a tree that their log has signed
    tainted: int = 0  # likewise: it was tried, and cannot be proven

    @property
    def done(self) -> int:
        """Of `planned`, there at the end."""
        return self.planned - self.left
