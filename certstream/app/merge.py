"""A merge of staging into the archive, wherever it is asked for."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from enum import Enum, auto
from pathlib import Path
from typing import Final, TextIO

import structlog

from certstream.app.threads import in_thread
from certstream.archive.commit import Committer
from certstream.archive.datafile import WriteSettings
from certstream.archive.merge import Merge, MergeCancelledError
from certstream.archive.staging import is_staged, staging_lock, sweep_staging
from certstream.progress import Progress

_TITLE: Final = "merge"

log = structlog.get_logger(__name__)


class MergeOutcome(Enum):
    """How a merge ended."""

    DONE = auto()
    NOTHING = auto()  # there is no staging table
    INTERRUPTED = auto()  # staging is as it was, the archive has whole batches more


@dataclass(frozen=True, slots=True)
class MergeReport:
    """What a merge did."""

    outcome: MergeOutcome
    inserted: int = 0
    skipped: int = 0


async def merge_staging(
    main: Path, staging: Path, stop: asyncio.Event, settings: WriteSettings, *, stream: TextIO, live: bool = True
) -> MergeReport:
    """Take over into the archive what staging has more than it, then delete staging; until done or `stop`.

    Progress goes to `stream`, as a display only with `live`. Raises StorageError; staging is then as it was.
    """
    await asyncio.to_thread(sweep_staging, staging)
    if await asyncio.to_thread(is_staged, staging):
        with staging_lock(staging):
            if await asyncio.to_thread(is_staged, staging):  # nobody merged it before we had the lock
                return await _merge(main, staging, stop, settings, stream, live=live)
    log.info("staging table does not exist, nothing to merge", staging_path=str(staging))
    return MergeReport(MergeOutcome.NOTHING)


async def _merge(
    main: Path, staging: Path, stop: asyncio.Event, settings: WriteSettings, stream: TextIO, *, live: bool
) -> MergeReport:
    work = Merge(Committer(main, settings=settings), staging, progress=lambda rows: progress.advance(_TITLE, rows))
    rows = await asyncio.to_thread(work.look)
    progress = Progress(_TITLE, {_TITLE: rows}, stream, unit="rows", live=live)
    shown = asyncio.create_task(progress.run(), name="merge:progress")
    try:
        result = await in_thread(work.run, stop)
    except MergeCancelledError:
        log.info("merge interrupted, staging is as it was", staging_path=str(staging))
        return MergeReport(MergeOutcome.INTERRUPTED)
    finally:
        shown.cancel()
        await asyncio.wait([shown])
        progress.close()
    log.info(
        "merge complete",
        total_inserted=result.inserted,
        total_skipped=result.skipped,
        total_staging_rows=result.staging_rows,
    )
    if result.kept is not None:
        log.warning("staging table is not deleted", staging_path=str(staging), reason=result.kept)
    return MergeReport(MergeOutcome.DONE, result.inserted, result.skipped)
