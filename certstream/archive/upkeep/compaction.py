"""Rewriting files of a table into dense ones, batch by batch, in bounded memory.

Rows are read in parts, go apart by log, and wait until a row group of a log is full or too many of them wait. The
commit of a batch takes place only if the new files hold exactly the keys of the old ones.
"""

from __future__ import annotations

import threading
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
import pyarrow as pa
import structlog

from certstream.archive import storage
from certstream.archive.commit import Committer, chosen_rows
from certstream.archive.coverage import Covers
from certstream.archive.datafile import DataFile, log_codes, read_parts
from certstream.archive.schema import KEY, TableFormat
from certstream.archive.table import TableFile
from certstream.archive.upkeep.compaction_files import BatchFiles, LogRows, Target, merged
from certstream.archive.upkeep.compaction_plan import Batch, Input, Job, Rules
from certstream.errors import StorageError
from certstream.intervals import Intervals

_CHUNK_BYTES: Final = 16 << 20  # of rows that are taken apart at once
_PART_BYTES: Final = 4 << 20  # of rows that are read at once, about
_PART_ROWS: Final = range(64, 4097)
_SWELL: Final = 3  # what rows take in memory, by what they take in a file

log = structlog.get_logger(__name__)


class CancelledError(Exception):
    """The pass was told to end; what was not committed is gone."""


class UnreadableError(StorageError):
    """A file of the table cannot be read; the operator must look at it."""

    def __init__(self, file: TableFile, why: object) -> None:
        super().__init__(f"{file.path}: {why}")
        self.file = file


class ContentError(StorageError):
    """Files of the table hold other rows than is known of them; the operator must look at it."""


@dataclass(frozen=True, slots=True)
class Rewritten:
    """What one batch did."""

    files_rewritten: int = 0
    files_written: int = 0
    rows: int = 0


class Compactor:
    """Rewrites batches of a plan; belongs to one thread.

    Its memory does not grow with the files: 16 MiB of rows as they are read and again as they go apart, 80 MiB that
    wait for their row group, and one row group as it is written.
    """

    def __init__(self, committer: Committer, rules: Rules, cancelled: threading.Event) -> None:
        self._committer = committer
        self._rules = rules
        self._cancelled = cancelled

    def rewrite(self, batch: Batch) -> Rewritten:
        """Replace the files of a batch; nothing where another one removed some of them meanwhile.

        Raises CancelledError, UnreadableError, ContentError or another StorageError; the table is then as it was.
        """
        removed = [found.file for job in batch for found in job.inputs]
        self._check_room(removed)
        snapshot = self._committer.table.open()
        if snapshot is None or not {file.path for file in removed} <= snapshot.paths:
            return Rewritten()
        added = self._write(batch, snapshot.form)
        try:
            committed = self._commit(batch, removed, added)
        except BaseException:
            self._committer.discard(added)
            raise
        if not committed:
            log.info("files were replaced by another writer meanwhile, they stay as they are", files=len(removed))
            self._committer.discard(added)
            return Rewritten()
        done = Rewritten(len(removed), len(added), sum(file.rows for file in added))
        log.info("files rewritten", files=done.files_rewritten, into=done.files_written, rows=done.rows)
        return done

    def _check_room(self, files: Iterable[TableFile]) -> None:
        """Leave at least half of the free bytes to those who archive. Raises StorageError."""
        root = self._committer.root
        needed, free = sum(file.size_bytes for file in files), storage.free_bytes(root)
        if 2 * needed > free:
            text = f"{root}: rewriting {needed:,} bytes needs twice as many free ones, {free:,} are"
            raise StorageError(text, kind="disk_full")

    def _write(self, batch: Batch, form: TableFormat) -> list[DataFile]:
        """The new files of a batch, complete. Whatever is raised, none is left."""
        committer = self._committer
        target = Target(committer.root, form, committer.settings, self._rules.target_file_bytes)
        files = BatchFiles(target)
        try:
            for job in batch:
                keys = _union(found.keys for found in job.inputs)
                files.begin(job.date, keys, _row_bytes(job))
                for url, rows in self._merged(job, form) if job.merges else self._spread(job, form):
                    files.append(url, rows)
                files.finish()
        except BaseException:
            files.abandon()
            committer.discard(files.done)
            raise
        return files.done

    def _merged(self, job: Job, form: TableFormat) -> Iterator[tuple[str, pa.Table]]:
        """The rows of a job's log, in order."""
        ((url, _),) = job.inputs[0].keys.items()
        rows = [LogRows(_lowest(found.keys[url]), self._rows(found, form)) for found in job.inputs]
        for part in merged(rows):
            yield url, part

    def _spread(self, job: Job, form: TableFormat) -> Iterator[tuple[str, pa.Table]]:
        """The rows of a job, a chunk after the other, log by log and in order in each."""
        chunk: list[pa.Table] = []
        size_bytes = 0
        for found in job.inputs:
            for rows in self._rows(found, form):
                chunk.append(rows)
                size_bytes += rows.nbytes
                if size_bytes >= _CHUNK_BYTES:
                    whole, chunk, size_bytes = pa.concat_tables(chunk), [], 0
                    yield from _by_log(whole)
        if chunk:
            yield from _by_log(pa.concat_tables(chunk))

    def _rows(self, found: Input, form: TableFormat) -> Iterator[pa.Table]:
        """The rows of a file that go on, in parts. Raises CancelledError or UnreadableError."""
        file = found.file
        row_bytes = max(1, _SWELL * file.size_bytes // max(1, found.rows))
        at_a_time = min(max(_PART_BYTES // row_bytes, _PART_ROWS.start), _PART_ROWS.stop - 1)
        try:
            parts = read_parts(self._committer.root / file.path, file.date, rows_at_a_time=at_a_time)
            declared = (form.declared(part) for part in parts)
            for part in declared if found.is_whole else chosen_rows(declared, found.keys):
                if self._cancelled.is_set():
                    raise CancelledError
                yield form.conform(part)
        except (StorageError, pa.ArrowException) as exc:
            raise UnreadableError(file, exc) from exc

    def _commit(self, batch: Batch, removed: Sequence[TableFile], added: Sequence[DataFile]) -> bool:
        """Commit it, if no row is lost or doubled by that. Raises ContentError and StorageError."""
        wanted = _union(found.keys for job in batch for found in job.inputs)
        covers = _union(file.covers for file in added)
        rows = sum(intervals.count for intervals in covers.values())
        if covers != wanted or rows != sum(file.rows for file in added):
            raise ContentError(
                f"{self._committer.root}: {removed[0].path} and {len(removed) - 1} more hold other rows than is known "
                "of them; nothing was changed"
            )
        left_out = _without(_union(found.covers for job in batch for found in job.inputs), covers)
        gone = {file.path for file in removed}
        return self._committer.replace(
            removed, added, check=lambda snapshot: self._are_held(left_out, snapshot.paths - gone)
        )

    def _are_held(self, keys: Covers, paths: Iterable[str]) -> bool:
        """Whether those files hold all of these keys."""
        for path in paths if keys else ():
            keys = _without(keys, self._committer.coverage.file(path).covers)
        return not keys


def _by_log(rows: pa.Table) -> Iterator[tuple[str, pa.Table]]:
    """The rows of each log, sorted by index, as copies: the whole need not stay in memory for them."""
    rows = rows.combine_chunks()
    codes, names = log_codes(rows)
    order = np.lexsort((rows.column(KEY[1]).to_numpy(), codes))
    borders = np.searchsorted(codes[order], np.arange(len(names) + 1))
    for code, url in enumerate(names):
        yield url, rows.take(pa.array(order[borders[code] : borders[code + 1]]))


def _row_bytes(job: Job) -> float:
    """What a row takes in the files, about."""
    rows = sum(found.rows for found in job.inputs)
    return sum(found.file.size_bytes for found in job.inputs) / max(1, rows)


def _lowest(intervals: Intervals) -> int:
    return int(intervals.start[0])


def _union(covers: Iterable[Covers]) -> dict[str, Intervals]:
    parts: dict[str, list[Intervals]] = defaultdict(list)
    for cover in covers:
        for url, intervals in cover.items():
            parts[url].append(intervals)
    return {url: Intervals.union_of(sets) for url, sets in parts.items()}


def _without(keys: Covers, held: Mapping[str, Intervals]) -> dict[str, Intervals]:
    rest = {url: intervals - held[url] if url in held else intervals for url, intervals in keys.items()}
    return {url: intervals for url, intervals in rest.items() if len(intervals)}
