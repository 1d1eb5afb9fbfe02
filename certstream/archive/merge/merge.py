"""A staging table merged into the main table: what main lacks is inserted, then staging is deleted.

    MERGE INTO main USING staging ON source_url AND cert_index WHEN NOT MATCHED THEN INSERT *

but by intervals: what both tables hold is known without looking at a row, so that a staged file of which all is
wanted is taken over as it is, one of which nothing is wanted is not opened, and only the others are filtered. Each
batch is one commit, by the one way to commit. Staging is only read until main holds all of it.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final, TypeAlias

from certstream.archive.commit import Committer
from certstream.archive.coverage import LookCancelledError
from certstream.archive.datafile import DataFile
from certstream.archive.merge.carried import CarriedTrust
from certstream.archive.merge.staged import Staged
from certstream.archive.merge.staging import check_staging
from certstream.archive.merge.takeover import Takeover, Task
from certstream.archive.merge.tasks import MergeTasks
from certstream.errors import CertstreamError, StorageError

_THREADS: Final = 2  # that read and write rows
_AHEAD: Final = 4  # tasks that are taken or wait for a thread


class MergeCancelledError(CertstreamError):
    """The merge was told to stop before its last commit; staging is as it was, the next merge does the rest."""


@dataclass(frozen=True, slots=True)
class MergeResult:
    """What a merge did; inserted + skipped = staging_rows."""

    inserted: int  # rows that are in main now and were not before
    skipped: int  # rows whose key main held, or that stood in staging before
    staging_rows: int
    kept: str | None = None  # why staging could not be deleted, None where it is


Taken: TypeAlias = tuple[Task, list[DataFile]]  # a task, and the files that it became


class Merge:
    """One merge of a staging table into main; `run` it once, in a thread.

    The caller holds the lock of staging (staging.staging_lock). In memory are the rows of two row groups and what is
    known of both tables' files.
    """

    def __init__(
        self,
        main: Committer,
        staging: Path,
        *,
        progress: Callable[[int], object] | None = None,
        batch_rows: int = 200_000,
        batch_bytes: int = 256 << 20,
    ) -> None:
        """Merge the table at `staging`, in commits of about `batch_rows` or `batch_bytes`, or of one task.

        `progress` is told in the merging thread how many more staged rows are settled; of `look()` in all.
        """
        self._main = main
        self._root = staging
        self._progress = progress or (lambda rows: None)
        self._batch_rows = batch_rows
        self._batch_bytes = batch_bytes
        self._staged: Staged | None = None
        self._cancelled = threading.Event()
        self._ended = threading.Event()  # nobody waits for further files
        self._loose: list[DataFile] = []  # complete in main's directory, and not committed
        self._inserted = 0
        self._carried = CarriedTrust(main.root, staging)

    @property
    def inserted(self) -> int:
        """Rows that were committed by now."""
        return self._inserted

    def look(self, cancelled: threading.Event | None = None) -> int:
        """Read what staging holds; its rows. Writes nothing.

        Raises MergeCancelledError once `cancelled` is set, ConfigError where staging may not be merged into main,
        TableError or StorageError where it cannot be.
        """
        with self._heeding(cancelled or threading.Event()):
            return self._table().rows

    @contextmanager
    def _heeding(self, cancelled: threading.Event) -> Iterator[None]:
        """Reading what files hold ends, too, once `cancelled` is set."""
        self._main.coverage.cancelled = cancelled
        try:
            yield
        except LookCancelledError as exc:
            raise MergeCancelledError(f"{self._root}: the merge was stopped") from exc
        finally:
            self._main.coverage.cancelled = threading.Event()

    def run(self, cancelled: threading.Event) -> MergeResult:
        """Insert what main lacks, and delete staging; main is made where there is none.

        Raises MergeCancelledError where `cancelled` is set before the last commit, ConfigError, TableError,
        StorageError: main then has whole batches only, and staging is as it was. That staging cannot be deleted is
        no error, but `kept` in the result.
        """
        self._cancelled = cancelled
        self._check()
        with self._heeding(cancelled):
            staged = self._table()
            self._main.table.open_or_create(staged.form)
            main = self._main.look()
        form = main.form
        self._carried.resume(main)
        tasks = MergeTasks(staged, self._main.coverage, form, self._progress)
        takeover = Takeover(self._main.root, form, self._main.settings, self._check_wanted)
        try:
            with closing(self._taken(takeover, tasks)) as taken:
                self._commit_all(taken)
        finally:
            if self._loose:
                self._main.discard(self._loose)
        self._check_held(staged)
        self._main.coverage.save()
        return MergeResult(self._inserted, staged.rows - self._inserted, staged.rows, self._delete(staged))

    def _table(self) -> Staged:
        if self._staged is None:
            check_staging(self._main.root, self._root)
            self._staged = Staged(self._root, self._main.coverage.cancelled)
        return self._staged

    def _check(self) -> None:
        if self._cancelled.is_set():
            raise MergeCancelledError(f"{self._root}: the merge was stopped")

    def _check_wanted(self) -> None:
        """Raise where what is worked on is of no use any more."""
        self._check()
        if self._ended.is_set():
            raise MergeCancelledError(f"{self._root}: the merge failed")

    def _taken(self, takeover: Takeover, tasks: Iterable[Task]) -> Generator[Taken]:
        """Each task with the files that it became, in order; others are worked on meanwhile."""
        running: deque[tuple[Task, Future[list[DataFile]]]] = deque()
        with ThreadPoolExecutor(_THREADS, thread_name_prefix="merge") as threads:
            try:
                for task in tasks:
                    if len(running) == _AHEAD:
                        first, future = running.popleft()
                        yield first, future.result()
                    running.append((task, threads.submit(takeover.take, task)))
                while running:
                    first, future = running.popleft()
                    yield first, future.result()
            finally:
                self._ended.set()
                done, _ = wait([future for _, future in running if not future.cancel()])
                self._loose.extend(file for future in done if not future.exception() for file in future.result())

    def _commit_all(self, taken: Iterable[Taken]) -> None:
        staged_rows = rows = size_bytes = 0
        for task, files in taken:
            self._loose.extend(files)
            staged_rows += task.rows
            rows += sum(file.rows for file in files)
            size_bytes += sum(file.size_bytes for file in files)
            if rows >= self._batch_rows or size_bytes >= self._batch_bytes:
                self._commit(staged_rows)
                staged_rows = rows = size_bytes = 0
        if staged_rows:
            self._commit(staged_rows)
        elif not self._inserted:
            self._check()

    def _commit(self, staged_rows: int) -> None:
        self._check()
        self._carried.before(self._loose)
        done = self._main.add(self._loose)
        self._inserted += done.inserted
        self._loose = []
        self._carried.inserted(done.covers)
        self._progress(staged_rows)

    def _check_held(self, staged: Staged) -> None:
        """Raise StorageError where main lacks a key of staging: a file that is not what its table says, for one."""
        self._main.look()
        for url in staged.coverage.logs():
            lost = staged.coverage.of(url) - self._main.coverage.of(url)
            if len(lost) and len(lost := lost - self._main.dropped.of(url)):
                raise StorageError(
                    f"{self._root}: {lost.count} of its rows of {url} from index {lost.lowest} on are not in "
                    f"{self._main.root} though all was merged"
                )

    def _delete(self, staged: Staged) -> str | None:
        try:
            check_staging(self._main.root, self._root)
            staged.delete()
        except CertstreamError as exc:
            return str(exc)
        return None
