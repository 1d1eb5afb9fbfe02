"""What a backfill says of itself: its plan before it begins, its result at the end."""

from __future__ import annotations

from itertools import groupby
from typing import Final, Protocol

import structlog

from certstream.backfill.planner import LogPlan, Plan
from certstream.backfill.result import Result
from certstream.terminal import aligned, printable

NOTHING: Final = "nothing to backfill"
_FAILED_LINES: Final = 20  # per log
_HEADINGS: Final = ("log", "url", "missing ranges", "work items", "indices", "estimated size")
_UNITS: Final = ("bytes", "KiB", "MiB", "GiB", "TiB", "PiB")

logger: structlog.stdlib.BoundLogger = structlog.get_logger(__name__)


class Report(Protocol):
    """Says what a backfill is about to do and did."""

    def planned(self, plan: Plan) -> None:
        """It begins."""

    def ended(self, result: Result) -> None:
        """It ended by itself or was stopped."""

    def failed(self, result: Result, error: BaseException) -> None:
        """An error ended it; so far it came."""


class BackfillReport:
    """That of entries that the archive misses, in the log."""

    def planned(self, plan: Plan) -> None:
        """One line per log, one for all, and a warning per log that is skipped."""
        log_plan(plan)

    def ended(self, result: Result) -> None:
        """The last line, and before it what failed."""
        log_result(result)

    def failed(self, result: Result, error: BaseException) -> None:
        """The last line."""
        log_error(result, error)


def plan_table(plan: Plan, *, bytes_per_row: float, free_bytes: int) -> str:
    """The plan as text: what is missing of each log, about how much space it takes, and how much is free."""
    busy = [log for log in plan.logs if log.indices]
    skipped = "".join(f"skipped, no position of it is known yet: {printable(log.name)}\n" for log in plan.skipped)
    if not busy:
        return f"{skipped}{NOTHING}\n"
    size_bytes = round(plan.indices * bytes_per_row)
    total = ("total", "", *_figures(plan.ranges, plan.item_count, plan.indices, bytes_per_row))
    table = aligned([_HEADINGS, *(_row(log, bytes_per_row) for log in busy), total], figures_from=2)
    free = f"free disk space: {_size(free_bytes)} ({free_bytes:,} bytes)\n"
    if size_bytes > free_bytes:
        free += f"not enough: about {_size(size_bytes - free_bytes)} more are needed\n"
    return f"{table}\n{skipped}{free}"


def log_plan(plan: Plan) -> None:
    """One line per log, one for all, and a warning per log that is skipped."""
    for log in plan.skipped:
        logger.warning("log is skipped: no position of it is known yet", log=log.name, url=log.base_url)
    for each in plan.logs:
        logger.info(
            "backfill of log planned",
            log=each.log.name,
            url=each.log.base_url,
            ranges=len(each.missing),
            items=each.item_count,
            indices=each.indices,
        )
    if plan.indices:
        logger.info("backfill planned", ranges=plan.ranges, items=plan.item_count, indices=plan.indices)
    else:
        logger.info(NOTHING)


def log_result(result: Result) -> None:
    """The last line of a backfill that ended by itself or was stopped, and before it what failed."""
    _log_failed(result)
    figures = {
        "records_written": result.written,
        "records_skipped": result.skipped,
        "records_verified": result.verified,
        "records_tainted": result.tainted,
        "logs_done": result.logs_done,
        "logs_failed": result.logs_failed,
        "elapsed_s": round(result.elapsed_s, 1),
        "entries_per_s": round(result.done / result.elapsed_s) if result.elapsed_s else 0,
    }
    if result.interrupted:
        logger.info("backfill interrupted", done=result.done, left=result.left, **figures)
    else:
        logger.info("backfill complete", **figures)


def log_error(result: Result, error: BaseException) -> None:
    """The last line of a backfill that an error ended."""
    logger.error(
        "backfill failed",
        error=f"{type(error).__name__}: {error}",
        records_written=result.written,
        records_skipped=result.skipped,
        left=result.left,
    )


def _log_failed(result: Result) -> None:
    for log, group in groupby(result.failed, key=lambda each: each.log):
        ranges = list(group)
        for each in ranges[:_FAILED_LINES]:
            logger.warning(
                "range failed, it stays missing", log=log.name, start=each.start, stop=each.stop, error=each.error
            )
        if len(ranges) > _FAILED_LINES:
            rest = ranges[_FAILED_LINES:]
            indices = sum(each.stop - each.start for each in rest)
            logger.warning("more ranges failed, they stay missing", log=log.name, ranges=len(rest), indices=indices)


def _row(log: LogPlan, bytes_per_row: float) -> tuple[str, ...]:
    figures = _figures(len(log.missing), log.item_count, log.indices, bytes_per_row)
    return (printable(log.log.name), printable(log.log.base_url), *figures)


def _figures(ranges: int, items: int, indices: int, bytes_per_row: float) -> tuple[str, ...]:
    return f"{ranges:,}", f"{items:,}", f"{indices:,}", _size(indices * bytes_per_row)


def _size(size_bytes: float) -> str:
    """Rounded, in the largest unit that leaves a whole number before the point."""
    power = 0
    while size_bytes >= 1024 and power < len(_UNITS) - 1:
        size_bytes, power = size_bytes / 1024, power + 1
    return f"{size_bytes:.1f} {_UNITS[power]}" if power else f"{size_bytes:.0f} {_UNITS[0]}"
