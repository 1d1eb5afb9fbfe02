"""The one way to commit to a main table.

    open the newest snapshot → drop the rows whose (source_url, cert_index) it holds → commit as its next version

Whoever was faster makes the commit fail, and all of it is done again, the dropping too. Beside `max_commit_retries=0`
the application transaction FENCE, which every commit of this program raises, keeps any two of them from both following
the same snapshot. So the exclusion lies in the Delta log itself: no schedule of writers, crashes and restarts doubles
a row, and no lock is needed for it.

The archived position of a log is an application transaction as well, and moves in the commit of the rows.
"""

from __future__ import annotations

import random
import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, TypeVar

import numpy as np
import pyarrow as pa
import structlog

from certstream.archive import storage
from certstream.archive.coverage import Coverage, Covers, grouped
from certstream.archive.datafile import DataFile, FileWriter, WriteSettings, log_codes, read_parts
from certstream.archive.dropped import Dropped
from certstream.archive.schema import NATIVE, TableFormat
from certstream.archive.table import ConflictError, Snapshot, Table, TableFile
from certstream.errors import StorageError
from certstream.intervals import Intervals

FENCE: Final = "certstream.commit"
_POSITION: Final = "certstream.position:"  # followed by the log's URL without trailing slash

_ATTEMPTS: Final = 60
_PAUSE_S: Final = (0.005, 0.25)  # between attempts, growing, with jitter

T = TypeVar("T")

log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Committed:
    """What one commit did."""

    inserted: int = 0  # rows
    skipped: int = 0  # rows that the table held already
    positions: Mapping[str, int] = field(default_factory=dict)  # archived position now, of the logs asked for
    covers: Covers = field(default_factory=dict, compare=False)  # which rows were inserted


class Committer:
    """Commits to one table; belongs to one thread at a time. Any number may work on a table, in any processes."""

    def __init__(
        self,
        root: Path,
        *,
        form: TableFormat = NATIVE,
        settings: WriteSettings | None = None,
        sleep: Callable[[float], object] = time.sleep,
    ) -> None:
        """Commit to the table at `root`, which is made with the columns of `form` where there is none."""
        self.table = Table(root)
        self.coverage = Coverage(root)
        self.dropped = Dropped(root)
        self.settings = settings or WriteSettings()
        self._form = form
        self._known_form: TableFormat | None = None
        self._looked: Snapshot | None = None  # until the next commit: it is much memory
        self._sleep = sleep

    @property
    def root(self) -> Path:
        """The table's directory."""
        return self.table.root

    def look(self) -> Snapshot:
        """The newest snapshot, with `coverage` brought up to date. Makes the table where there is none.

        Opens the table only where something was committed since the last look. Raises StorageError.
        """
        if self._looked is None or not self._looked.is_newest():
            self._looked = None
            snapshot = self.table.open_or_create(self._form)
            self.coverage.refresh(snapshot)
            self._looked, self._known_form = snapshot, snapshot.form
        return self._looked

    def form(self) -> TableFormat:
        """The columns that files of the table must have, as last looked at. Raises StorageError.

        Files with those of a table that was there before are written anew by `add`.
        """
        return self._known_form or self.look().form

    def position(self, snapshot: Snapshot, url: str) -> int | None:
        """The archived position of a log: every index from its start to here has a row or was dropped on purpose."""
        return snapshot.transaction(_POSITION + url)

    def add(
        self,
        files: Sequence[DataFile] = (),
        *,
        starts: Mapping[str, int] | None = None,
        limits: Mapping[str, int] | None = None,
    ) -> Committed:
        """Commit the rows of `files`, which are complete below this table, except those that it holds already.

        `starts` gives logs a position that have none. `limits` moves the position of each named log up to its first
        missing index, at most to the limit. Positions never go down. `files` is used up: what is not committed of it
        is removed, unless it is open whether it was committed.
        Raises StorageError (kind `conflict` where others were faster each time).
        """
        addition = _Addition(self, files, starts or {}, limits or {})
        try:
            return self._repeat(addition.attempt)
        except BaseException:
            self.discard(addition.files)
            raise

    def replace(
        self,
        removed: Sequence[TableFile],
        added: Sequence[DataFile],
        *,
        check: Callable[[Snapshot], bool] = lambda _snapshot: True,
    ) -> bool:
        """Commit files that hold exactly the keys of others, which go; False where one of those is gone already.

        False also where `check` says so of the snapshot that the commit follows: whoever leaves keys out because
        other files hold them sees to it there that those do. The caller removes `added` then. Raises StorageError.
        """

        def attempt() -> bool:
            snapshot = self.look()
            if not {file.path for file in removed} <= snapshot.paths:
                return bool(added) and {file.path for file in added} <= snapshot.paths
            if not check(snapshot):
                return False
            snapshot.commit(added, fence(snapshot), removed=removed, data_change=False)
            self.coverage.add(added)
            return True

        return self._repeat(attempt)

    def remove(self, choose: Callable[[Snapshot], Sequence[TableFile]]) -> Sequence[TableFile]:
        """Commit that the files which `choose` names of the newest snapshot go, and their rows; those files.

        Raises StorageError.
        """

        def attempt() -> Sequence[TableFile]:
            snapshot = self.look()
            removed = choose(snapshot)
            if removed:
                snapshot.commit((), fence(snapshot), removed=removed)
            return removed

        return self._repeat(attempt)

    def discard(self, files: Iterable[DataFile]) -> None:
        """Remove files that were written and are not committed; where that is open, they stay for a later sweep."""
        try:
            snapshot = self.table.open()
        except StorageError as exc:
            log.warning("uncommitted files are left for a later sweep", error=str(exc))
            return
        paths = snapshot.paths if snapshot else frozenset()
        for file in files:
            if file.path not in paths:
                storage.remove(self.root / file.path)

    def _repeat(self, attempt: Callable[[], T]) -> T:
        """Do it until nobody is faster."""
        pause_s = _PAUSE_S[0]
        for _ in range(_ATTEMPTS):
            try:
                return attempt()
            except ConflictError as exc:
                conflict = exc
            finally:
                self._looked = None
            self._sleep(random.uniform(pause_s / 2, pause_s))
            pause_s = min(_PAUSE_S[1], 2 * pause_s)
        raise StorageError(
            f"{self.root}: other writers were faster {_ATTEMPTS} times in a row", kind="conflict"
        ) from conflict


def fence(snapshot: Snapshot) -> dict[str, int]:
    """The application transaction that each commit of this program must raise."""
    return {FENCE: (snapshot.transaction(FENCE) or 0) + 1}


class _Addition:
    """The rows and positions of one `add`, over all its attempts."""

    def __init__(
        self, committer: Committer, files: Sequence[DataFile], starts: Mapping[str, int], limits: Mapping[str, int]
    ) -> None:
        self._committer = committer
        self.files = list(files)
        self._rows = sum(file.rows for file in files)
        self._starts = starts
        self._limits = limits

    def attempt(self) -> Committed:
        """Look, drop, commit. Raises ConflictError, after which it may be called again, or StorageError."""
        committer = self._committer
        snapshot = committer.look()
        if {file.path for file in self.files} & snapshot.paths:  # an earlier attempt did commit
            inserted, self.files = self.files, []
            return self._committed(inserted, self._positions(snapshot))
        self._drop_held(snapshot)
        positions = self._positions(snapshot)
        moved = {_POSITION + u: at for u, at in positions.items() if at != committer.position(snapshot, u)}
        if self.files or moved:
            snapshot.commit(self.files, fence(snapshot) | moved)
            committer.coverage.add(self.files)
        return self._committed(self.files, positions)

    def _drop_held(self, snapshot: Snapshot) -> None:
        """Leave in the files what neither the snapshot nor a file before them holds, in the table's types.

        Those may be others than the files were written with: the table may have been replaced meanwhile.
        """
        held = self._committer.coverage
        before: defaultdict[str, Intervals] = defaultdict(Intervals)
        kept: list[DataFile] = []
        files = self.files
        for number, file in enumerate(files):
            rest = {url: intervals - held.of(url) - before[url] for url, intervals in file.covers.items()}
            if sum(intervals.count for intervals in rest.values()) == file.rows and file.form == snapshot.form:
                kept.append(file)
            else:
                kept.extend(self._rewritten(file, rest, snapshot.form))
                self.files = kept + files[number + 1 :]  # what is there to discard, should a later one fail
                storage.remove(self._committer.root / file.path)
            before.update({url: before[url] | intervals for url, intervals in file.covers.items()})
        self.files = kept

    def _rewritten(self, file: DataFile, rest: Mapping[str, Intervals], form: TableFormat) -> list[DataFile]:
        """A file with those rows of another one, each key once; none where no row is left."""
        rest = {url: intervals for url, intervals in rest.items() if len(intervals)}
        if not rest:
            return []
        root, settings = self._committer.root, self._committer.settings
        dense = len(rest) == 1 and all(len(intervals) == 1 for intervals in rest.values())
        writer = FileWriter(root, form, file.date, settings, dense=dense)
        try:
            for rows in chosen_rows(read_parts(root / file.path, file.date), rest):
                writer.write(rows)
        except BaseException:
            writer.abandon()
            raise
        return [writer.close()]

    def _positions(self, snapshot: Snapshot) -> dict[str, int]:
        """Where each log asked for is archived up to once this commit is there."""
        positions: dict[str, int] = {}
        for url in self._starts.keys() | self._limits.keys():
            known = self._committer.position(snapshot, url)
            position = self._starts.get(url) if known is None else known
            if position is None:
                continue
            limit = self._limits.get(url, position)
            positions[url] = max(position, min(limit, self._settled(url).first_gap(position)))
        return positions

    def _settled(self, url: str) -> Intervals:
        committer = self._committer
        added = [file.covers[url] for file in self.files if url in file.covers]
        return Intervals.union_of([committer.coverage.of(url), committer.dropped.of(url), *added])

    def _committed(self, files: Sequence[DataFile], positions: Mapping[str, int]) -> Committed:
        inserted = sum(file.rows for file in files)
        return Committed(inserted, self._rows - inserted, positions, grouped(file.covers for file in files))


def chosen_rows(parts: Iterable[pa.Table], wanted: Mapping[str, Intervals]) -> Iterator[pa.Table]:
    """The rows of these keys, in their order, each key once; a part that has none of them gives none."""
    left = dict(wanted)
    for part in parts:
        codes, names = log_codes(part)
        indices = part.column("cert_index").to_numpy()
        keep = np.zeros(len(part), np.bool_)
        for code, url in enumerate(names):
            if url not in left:
                continue
            rows = np.flatnonzero(codes == code)
            rows = rows[left[url].contains(indices[rows])]
            rows = rows[np.unique(indices[rows], return_index=True)[1]]
            keep[rows] = True
            left[url] -= Intervals.from_indices(indices[rows])
        if keep.all():
            yield part
        elif keep.any():
            yield part.filter(pa.array(keep))
