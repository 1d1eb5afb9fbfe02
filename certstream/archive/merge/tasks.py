"""What of a staging table is to be taken into main, cut into tasks of bounded size."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from typing import Final

from certstream.archive.coverage import Coverage, Covers
from certstream.archive.merge.staged import Staged, StagedFile
from certstream.archive.merge.takeover import Piece, Task
from certstream.archive.schema import TableFormat
from certstream.intervals import Intervals

_TASK_ROWS: Final = 51_200  # of staging, read for one task: a second of work at most


class MergeTasks:
    """The tasks of one merge, in the order of partitions, logs and indices.

    What main holds is asked for when a task is made, so later ones know what was committed meanwhile.
    """

    def __init__(self, staged: Staged, held: Coverage, form: TableFormat, settled: Callable[[int], object]) -> None:
        """Plan for a main table of that format and coverage; `settled` is told how many rows need no task."""
        self._staged = staged
        self._held = held
        self._same_form = staged.form == form
        self._settled = settled
        # Of logs of which a key stands in two staged files: what stands in the files before
        self._before = {url: Intervals() for url in _shared(staged)}

    def __iter__(self) -> Iterator[Task]:
        """Raises StorageError where a file cannot be read."""
        group: list[Piece] = []
        rows = 0
        for file in self._staged.files:
            wanted = self._wanted(file)
            if not wanted:
                self._settled(file.cover.rows)
                continue
            if self._is_whole(file, wanted):
                yield Task((Piece(file, wanted, None),), file.cover.rows, whole=True)
                continue
            for piece, count in _pieces(file, wanted):
                if group and (group[0].file.date != file.date or rows + count > _TASK_ROWS):
                    yield Task(tuple(group), rows)
                    group, rows = [], 0
                group.append(piece)
                rows += count
        if group:
            yield Task(tuple(group), rows)

    def _wanted(self, file: StagedFile) -> Covers:
        """The keys of a file that neither main holds nor a staged file before it."""
        wanted = {}
        for url, mine in file.cover.covers.items():
            left = mine - self._held.of(url)
            if url in self._before:
                left -= self._before[url]
                self._before[url] |= mine
            if len(left):
                wanted[url] = left
        return wanted

    def _is_whole(self, file: StagedFile, wanted: Covers) -> bool:
        """Whether all rows of a file are wanted, each of them once, and as they are."""
        return self._same_form and sum(keys.count for keys in wanted.values()) == file.cover.rows


def _shared(staged: Staged) -> Iterator[str]:
    """The logs of which some key stands in more than one file."""
    counts: Counter[str] = Counter()
    for file in staged.files:
        counts.update({url: keys.count for url, keys in file.cover.covers.items()})
    return (url for url, count in counts.items() if count > staged.coverage.of(url).count)


def _pieces(file: StagedFile, wanted: Covers) -> Iterator[tuple[Piece, int]]:
    """A file in pieces of at most _TASK_ROWS or one row group, and their rows."""
    if file.cover.rows <= _TASK_ROWS:
        yield Piece(file, wanted, None), file.cover.rows
        return
    groups: list[int] = []
    rows = 0
    for number, count in enumerate(file.group_rows()):
        if groups and rows + count > _TASK_ROWS:
            yield Piece(file, wanted, tuple(groups)), rows
            groups, rows = [], 0
        groups.append(number)
        rows += count
    yield Piece(file, wanted, tuple(groups)), rows
