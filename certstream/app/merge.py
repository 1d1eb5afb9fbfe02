"""A merge of staging into the archive, wherever it is asked for."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from enum import Enum, auto
from functools import partial
from pathlib import Path
from typing import Final, TextIO, TypeAlias

import structlog

from certstream.app.threads import holding, in_thread
from certstream.archive.commit import Committer
from certstream.archive.datafile import WriteSettings
from certstream.archive.merge.merge import Merge, MergeCancelledError, MergeResult
from certstream.archive.merge.staging import is_staged, staging_lock, sweep_staging
from certstream.progress import Progress

Settled: TypeAlias = Callable[[int, int], None]

_TITLE: Final = "merge"

log = structlog.get_logger(__name__)


class MergeOutcome(Enum):
    """How a merge ended."""

    DONE = auto()
    NOTHING = auto()  # there is no staging table
    INTERRUPTED = auto()  # staging is as it was, the archive has whole batches more


async def merge_staging(
    main: Path,
    staging: Path,
    stop: asyncio.Event,
    settings: WriteSettings,
    *,
    stream: TextIO,
    live: bool = True,
    settled: Settled = lambda inserted, skipped: None,
) -> MergeOutcome:
    """Take over into the archive what staging has more than it, then delete staging; until done or `stop`.

    Progress goes to `stream`, as a display only with `live`; `settled` is told, in the merging thread, how many more
    rows were inserted and skipped. Raises ConfigError or StorageError; staging is then as it was.
    """
    await asyncio.to_thread(sweep_staging, staging)
    if not await asyncio.to_thread(is_staged, staging):
        return _nothing(staging)
    async with holding(partial(staging_lock, staging)):
        if not await asyncio.to_thread(is_staged, staging):  # somebody merged it before we had the lock
            return _nothing(staging)
        try:
            result = await _merged(Committer(main, settings=settings), staging, stop, stream, settled, live=live)
        except MergeCancelledError:
            log.info("merge interrupted, staging is as it was", staging_path=str(staging))
            return MergeOutcome.INTERRUPTED
    log.info(
        "merge complete",
        total_inserted=result.inserted,
        total_skipped=result.skipped,
        total_staging_rows=result.staging_rows,
    )
    if result.kept is not None:
        log.warning("staging table is not deleted", staging_path=str(staging), reason=result.kept)
    return MergeOutcome.DONE


def _nothing(staging: Path) -> MergeOutcome:
    log.info("staging table does not exist, nothing to merge", staging_path=str(staging))
    return MergeOutcome.NOTHING


async def _merged(
    main: Committer, staging: Path, stop: asyncio.Event, stream: TextIO, settled: Settled, *, live: bool
) -> MergeResult:
    counted = 0

    def count(rows: int) -> None:
        nonlocal counted
        inserted, counted = work.inserted - counted, work.inserted
        progress.advance(_TITLE, rows)
        settled(inserted, rows - inserted)

    work = Merge(main, staging, progress=count)
    progress = Progress(_TITLE, {_TITLE: await in_thread(work.look, stop)}, stream, unit="rows", live=live)
    shown = asyncio.create_task(progress.run(), name="merge:progress")
    try:
        return await in_thread(work.run, stop)
    finally:
        shown.cancel()
        await asyncio.wait([shown])
        progress.close()
