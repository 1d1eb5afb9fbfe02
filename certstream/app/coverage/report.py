"""How the archive of each log stands, as a table for people and as JSON for programs."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

import numpy as np
import orjson

from certstream.intervals import Intervals, shown_range
from certstream.terminal import printable

_WIDTH: Final = 100
_KINDS: Final = (
    "archived", "staged", "verified", "unverified", "tainted", "altered", "unparseable", "dropped", "missing",
)  # fmt: skip
_ALWAYS: Final = ("archived", "verified", "missing")  # shown also where there are none


@dataclass(frozen=True, slots=True)
class LogCoverage:
    """How one log stands. All but `dropped` and `missing` are about rows that are there."""

    name: str | None  # None of a log that is not configured
    url: str  # as in `source_url`
    ceiling: int | None  # exclusive; None where it is not known up to where it is read
    archived: Intervals  # in the archive
    staged: Intervals  # in the staging table alone
    verified: Intervals  # proven to stand in a tree that the log has signed
    tainted: Intervals  # it was tried, and could not be proven
    altered: Intervals  # precertificates whose certificate is not that of the leaf
    unparseable: Intervals  # rows without `not_before`
    dropped: Intervals  # was archived, and removed on purpose
    missing: Intervals | None  # a backfill would fetch it; None where that is not known

    @property
    def unverified(self) -> Intervals:
        """Of what is archived or staged nothing is known: neither that it is right nor that it is not."""
        return (self.archived | self.staged) - self.verified - self.tainted

    def of(self, kind: str) -> Intervals | None:
        """The intervals by the name that they have in the report."""
        intervals: Intervals | None = getattr(self, kind)
        return intervals


@dataclass(frozen=True, slots=True)
class CoverageReport:
    """How all logs stand at one moment."""

    main: Path
    staging: Path | None
    taken_s: float  # Unix time
    logs: tuple[LogCoverage, ...]

    def only(self, text: str) -> CoverageReport:
        """The same of the logs whose name or URL contains `text`, in upper or lower case."""
        wanted = text.casefold()
        chosen = (log for log in self.logs if wanted in log.url.casefold() or wanted in (log.name or "").casefold())
        return replace(self, logs=tuple(chosen))

    def total(self, kind: str) -> int:
        """How many indices that are of all logs together, where it is known."""
        return sum(known.count for log in self.logs if (known := log.of(kind)) is not None)

    def _kinds(self) -> tuple[str, ...]:
        return tuple(kind for kind in _KINDS if kind != "staged" or self.staging is not None)

    def json(self) -> bytes:
        """All of it as one object; intervals are half-open pairs."""
        document = {
            "table_path": str(self.main),
            "staging_path": None if self.staging is None else str(self.staging),
            "taken": self.taken_s,
            "totals": {kind: self.total(kind) for kind in self._kinds()},
            "logs": [
                {
                    "name": log.name,
                    "url": log.url,
                    "ceiling": log.ceiling,
                    **{kind: _json(log.of(kind)) for kind in self._kinds()},
                }
                for log in self.logs
            ],
        }
        return orjson.dumps(document)

    def text(self) -> str:
        """A block for each log and one for all, at most 100 columns wide but for names and URLs."""
        blocks = [self._block(log) for log in self.logs]
        totals = [(kind, self.total(kind)) for kind in self._kinds()]
        rows = [_row(kind, f"{count:,}") for kind, count in totals if count or kind in _ALWAYS]
        return "\n".join([*blocks, "".join(f"{line}\n" for line in (f"all logs: {len(self.logs)}", *rows))])

    def _block(self, log: LogCoverage) -> str:
        lines = [printable(log.url) if log.name is None else f"{printable(log.name)}  {printable(log.url)}"]
        if log.name is None:
            lines.append("  is not configured")
        for kind in self._kinds():
            intervals = log.of(kind)
            if intervals is None:
                lines.append(_row(kind, "?", "no position of it is known"))
            elif len(intervals) or kind in _ALWAYS:
                lines.append(_row(kind, f"{intervals.count:,}", _shown(intervals)))
        return "".join(f"{line}\n" for line in lines)


def _row(kind: str, count: str, note: str = "") -> str:
    return f"  {kind:<11}{count:>17}  {note}".rstrip()


def _json(intervals: Intervals | None) -> dict[str, Any] | None:
    if intervals is None:
        return None
    return {"count": intervals.count, "intervals": np.stack([intervals.start, intervals.stop], axis=1).tolist()}


def _shown(intervals: Intervals) -> str:
    """As many of the intervals as have room in a line, and how many more there are."""
    room = _WIDTH - len(_row("", "", "x")) + 1
    shown, left = "", len(intervals)
    for text in _texts(intervals):
        more = f", … and {left - 1:,} more" if left > 1 else ""
        longer = f"{shown}, {text}" if shown else text
        if shown and len(longer) + len(more) > room:
            break
        shown, left = longer, left - 1
    return f"{shown}, … and {left:,} more" if left else shown


def _texts(intervals: Intervals) -> Iterator[str]:
    for start, stop in intervals.within(0, _nth_stop(intervals)):
        yield shown_range(start, stop)


def _nth_stop(intervals: Intervals) -> int:
    """No more than twenty have room: of a hundred thousand the others need not be looked at."""
    return int(intervals.stop[:20][-1]) if len(intervals) else 0
