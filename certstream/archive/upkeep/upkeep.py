"""Upkeep of a table: many small files become few dense ones, old partitions go, and files that no version needs.

One owner at a time, by a lock file; but it is the one way to commit that keeps rows from being lost or doubled.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Final

import structlog

from certstream.archive import storage
from certstream.archive.commit import Committer
from certstream.archive.table import TableFile
from certstream.archive.upkeep.compaction import CancelledError, Compactor, ContentError, Rewritten, UnreadableError
from certstream.archive.upkeep.compaction_plan import Batch, Rules, plan
from certstream.archive.upkeep.retention import drop_old, retention, sweep, vacuum
from certstream.errors import StorageError
from certstream.locks import FileLock

_CHECKPOINT_COMMITS: Final = 20  # that opening a table reads one by one, at most, after a pass

log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class UpkeepSettings:
    """What is rewritten, and what is kept for how long."""

    quiet_s: float = 3600  # younger files are left alone
    target_file_bytes: int = 128 << 20
    retention_hours: int = 168  # of files that were replaced
    keep_days: int | None = None  # of entries, by seen_date; None is for ever


@dataclass(frozen=True, slots=True)
class UpkeepResult:
    """What one pass did."""

    files_rewritten: int = 0  # by the files_written
    files_written: int = 0
    rows: int = 0  # rewritten
    partitions_dropped: int = 0
    rows_dropped: int = 0
    files_vacuumed: int = 0  # replaced or dropped longer ago than the retention
    orphans_removed: int = 0  # left by writers that crashed
    complete: bool = True  # False: it was told to end before


class Upkeep:
    """Passes over one table; belongs to one thread."""

    def __init__(self, committer: Committer, settings: UpkeepSettings, clock: Callable[[], float] = time.time) -> None:
        """Look after the table of `committer`; `clock` gives Unix seconds."""
        self._committer = committer
        self._settings = settings
        self._clock = clock

    def run(self, cancelled: threading.Event) -> UpkeepResult:
        """Do one pass; nothing where there is no table. Once `cancelled` is set it ends soon, with whole commits only.

        A failure to rewrite some files does not keep the others from being rewritten, nor what follows from being
        done. Raises StorageError, also where another process does the upkeep.
        """
        root = self._committer.root
        if self._committer.table.open() is None:
            return UpkeepResult()
        lock = root / storage.SIDE / "maintenance.lock"
        with FileLock(lock, subject=lock, error=StorageError):
            try:
                return self._pass(cancelled)
            finally:
                self._committer.coverage.save()

    def _pass(self, cancelled: threading.Event) -> UpkeepResult:
        # First of all: what is removed before that, a checkpoint could forget while its files are still there
        hours = retention(self._committer, self._settings.retention_hours)
        result = self._drop(UpkeepResult())
        failure: StorageError | None = None
        try:
            result, failure = self._rewrite(result, cancelled)
        except StorageError as exc:
            failure = exc
        except Exception:  # a mistake of ours must not let the log and the unused files grow as well
            self._tidy(result, hours)
            raise
        result = replace(result, complete=False) if cancelled.is_set() else self._tidy(result, hours)
        if failure is not None:
            raise failure
        return result

    def _drop(self, result: UpkeepResult) -> UpkeepResult:
        if self._settings.keep_days is None:
            return result
        today = datetime.fromtimestamp(self._clock(), UTC).date()
        dropped = drop_old(self._committer, today, self._settings.keep_days)
        return replace(result, partitions_dropped=dropped.partitions, rows_dropped=dropped.rows)

    def _rewrite(self, result: UpkeepResult, cancelled: threading.Event) -> tuple[UpkeepResult, StorageError | None]:
        """Rewrite what is to be; also the first failure that concerned only some files."""
        settings, committer = self._settings, self._committer
        rules = Rules(self._clock(), settings.quiet_s, settings.target_file_bytes)
        compactor = Compactor(committer, rules, cancelled)
        batches = plan(committer.look(), committer.coverage, rules)
        failure: StorageError | None = None
        for batch in batches:
            if cancelled.is_set():
                break
            done, failed = self._rewrite_batch(compactor, batch)
            failure = failure or failed
            result = replace(
                result,
                files_rewritten=result.files_rewritten + done.files_rewritten,
                files_written=result.files_written + done.files_written,
                rows=result.rows + done.rows,
            )
        return result, failure

    def _rewrite_batch(self, compactor: Compactor, batch: Batch) -> tuple[Rewritten, StorageError | None]:
        """Rewrite a batch without those files of it that cannot be read."""
        failure: StorageError | None = None
        while batch:
            try:
                return compactor.rewrite(batch), failure
            except CancelledError:
                break
            except UnreadableError as exc:
                log.warning("file cannot be read and is not rewritten", error=str(exc))
                failure = failure or exc
                batch = _without(batch, exc.file)
            except ContentError as exc:
                log.warning("files are not rewritten", files=sum(len(job.inputs) for job in batch), error=str(exc))
                failure = failure or exc
                break
        return Rewritten(), failure

    def _tidy(self, result: UpkeepResult, hours: int) -> UpkeepResult:
        """Delete files that no version of the last `hours` needs, checkpoint, clean the log."""
        root = self._committer.root
        snapshot = self._committer.look()
        vacuumed = vacuum(root, snapshot, hours)  # before the checkpoint: on a full disk it makes room for that
        orphans = sweep(root, snapshot, hours)
        snapshot.checkpoint(_CHECKPOINT_COMMITS)
        snapshot.clean_log()
        if vacuumed or orphans:
            log.info("unused files deleted", replaced=vacuumed, left_by_crashes=orphans)
        return replace(result, files_vacuumed=vacuumed, orphans_removed=orphans)


def _without(batch: Batch, file: TableFile) -> Batch:
    """The batch but for that file; no job is left without files."""
    jobs = [replace(job, inputs=[found for found in job.inputs if found.file.path != file.path]) for job in batch]
    return [job for job in jobs if job.inputs]
