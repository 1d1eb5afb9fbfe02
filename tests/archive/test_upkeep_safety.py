"""Upkeep beside others, and over tables that are not as they should be: no row is lost, and none stays doubled."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
from deltalake import DeltaTable
from deltalake.exceptions import CommitFailedError

from certstream.archive import storage
from certstream.archive.commit import Committer
from certstream.archive.datafile import DataFile, WriteSettings, is_dense
from certstream.archive.schema import TableFormat
from certstream.archive.table import Snapshot, TableFile
from certstream.archive.upkeep import compaction
from certstream.archive.upkeep.compaction import ContentError, UnreadableError
from certstream.archive.upkeep.upkeep import Upkeep, UpkeepResult, UpkeepSettings
from certstream.errors import StorageError
from certstream.intervals import Intervals
from certstream.locks import FileLock
from tests.archive.archive_support import committed_files, data_files, held, rows, url
from tests.archive.upkeep_support import (
    CLOSED,
    OPEN,
    A,
    B,
    append_foreign,
    contents,
    fill,
    fill_mixed,
    flush,
    names,
    settle,
    spans,
    upkeep,
    written,
)

NOW = UpkeepSettings(quiet_s=0)


class Interrupted(Committer):
    """Lets something happen after upkeep has written its files, just before it commits them."""

    def __init__(self, root: Path, happens: Callable[[], object]) -> None:
        super().__init__(root)
        self._happens = happens

    def replace(
        self,
        removed: Sequence[TableFile],
        added: Sequence[DataFile],
        *,
        check: Callable[[Snapshot], bool] = lambda _snapshot: True,
    ) -> bool:
        self._happens()
        return super().replace(removed, added, check=check)


class After(threading.Event):
    """Is set once it was asked so many times."""

    def __init__(self, times: int) -> None:
        super().__init__()
        self._left = times

    def is_set(self) -> bool:
        self._left -= 1
        return self._left < 0


def test_keys_that_stand_twice_end_once(tmp_path: Path) -> None:
    fill(tmp_path, range(10))
    append_foreign(tmp_path, rows(A, [3, 4, 4, 12, 11, 12], date=OPEN))
    append_foreign(tmp_path, rows(A, range(8, 14), date=CLOSED), rows(B, [1, 1], date=CLOSED))
    dense = {path for path in names(tmp_path) if is_dense(path)}
    assert sum(map(len, held(tmp_path).values())) == 24
    upkeep(tmp_path)
    assert held(tmp_path) == {A: list(range(14)), B: [1]}
    assert dense < names(tmp_path)


def test_of_dense_files_that_overlap_the_older_one_stays(tmp_path: Path) -> None:
    committer = Committer(tmp_path)
    fill(tmp_path, range(10), range(30, 40))
    for span in (range(5, 20), range(12, 32), range(30, 40)):
        committer.look().commit([written(committer, rows(A, span, date=OPEN))], {})  # by somebody who does not look
    before = names(tmp_path)
    upkeep(tmp_path)
    assert spans(tmp_path) == {A: [(0, 10), (10, 30), (30, 40)]}
    assert len(before & names(tmp_path)) == 2


def test_a_doubled_row_stays_where_the_file_that_has_it_too_goes_meanwhile(tmp_path: Path) -> None:
    fill(tmp_path, range(10))
    (dense,) = names(tmp_path)
    append_foreign(tmp_path, rows(A, range(5, 10), date=OPEN))

    def remove_dense() -> None:
        Committer(tmp_path).remove(lambda snapshot: [file for file in snapshot.files() if file.path == dense])

    Upkeep(Interrupted(tmp_path, remove_dense), NOW).run(threading.Event())
    assert held(tmp_path) == {A: list(range(5, 10))}
    upkeep(tmp_path)
    assert spans(tmp_path) == {A: [(5, 10)]}


def test_a_foreign_optimize_between_look_and_commit_doubles_nothing(tmp_path: Path) -> None:
    fill_mixed(tmp_path, files=4, logs=3, rows_each=10)
    before = contents(tmp_path)

    def compact() -> None:
        DeltaTable(tmp_path).optimize.compact()

    committer = Interrupted(tmp_path, compact)
    assert Upkeep(committer, NOW).run(threading.Event()) == UpkeepResult()
    assert contents(tmp_path) == before
    assert not any(is_dense(path) for path in data_files(tmp_path))
    upkeep(tmp_path)
    assert contents(tmp_path) == before
    assert len(spans(tmp_path)) == 3


def test_what_a_foreign_optimize_doubles_after_the_commit_the_next_pass_makes_good(tmp_path: Path) -> None:
    fill_mixed(tmp_path, files=4, logs=3, rows_each=10)
    before = contents(tmp_path)
    stale = DeltaTable(tmp_path)
    upkeep(tmp_path)
    try:
        stale.optimize.compact()  # 1.6.6 does not notice that its files are gone, other versions do
    except CommitFailedError:
        append_foreign(tmp_path, *(rows(url(log), range(40), date=OPEN) for log in range(3)))
    assert len(contents(tmp_path)) == 2 * len(before)
    upkeep(tmp_path)
    assert contents(tmp_path) == before
    assert len(spans(tmp_path)) == 3


def test_a_writer_beside_it_loses_and_doubles_nothing(tmp_path: Path) -> None:
    fill_mixed(tmp_path, files=3, logs=2, rows_each=5)
    stop = threading.Event()
    flushed = [3]

    def write() -> None:
        committer = Committer(tmp_path)
        while not stop.is_set():
            span = range(flushed[0] * 5 - 5, flushed[0] * 5 + 5)  # the half of it is there already
            committer.add(
                [written(committer, rows(url(log), span, date=OPEN)) for log in range(2)], limits={A: span.stop}
            )
            flushed[0] += 1

    writer = threading.Thread(target=write)
    writer.start()
    results = []
    try:
        while flushed[0] < 20:
            results.append(upkeep(tmp_path))
    finally:
        stop.set()
        writer.join()
    assert any(done.files_rewritten for done in results)
    wanted = {url(log): list(range(flushed[0] * 5)) for log in range(2)}
    assert held(tmp_path) == wanted
    settle(tmp_path)
    assert held(tmp_path) == wanted
    assert spans(tmp_path).keys() == wanted.keys()


def test_a_second_pass_at_the_same_time_is_refused_and_names_the_first(tmp_path: Path) -> None:
    fill_mixed(tmp_path, files=2, logs=2, rows_each=5)
    before = names(tmp_path)
    refused: list[StorageError] = []

    def second() -> None:
        with pytest.raises(StorageError) as caught:
            upkeep(tmp_path)
        refused.append(caught.value)

    assert Upkeep(Interrupted(tmp_path, second), NOW).run(threading.Event()).files_rewritten == 2
    assert "in use by process" in str(refused[0])
    assert "maintenance.lock" in str(refused[0])
    assert not before & names(tmp_path)
    upkeep(tmp_path)  # the lock is free again


def test_without_the_lock_two_passes_at_once_double_nothing(tmp_path: Path) -> None:
    Committer(tmp_path).look()
    upkeep(tmp_path)  # the log remembers removed files from now on
    fill_mixed(tmp_path, files=4, logs=3, rows_each=10)
    before = contents(tmp_path)
    both_wrote = threading.Barrier(2)
    results: list[UpkeepResult] = []
    passes = [
        threading.Thread(
            target=lambda: results.append(Upkeep(Interrupted(tmp_path, both_wrote.wait), NOW)._pass(threading.Event()))
        )
        for _ in range(2)
    ]
    for one in passes:
        one.start()
    for one in passes:
        one.join()
    assert sorted(done.files_rewritten for done in results) == [0, 4]
    assert contents(tmp_path) == before
    assert len(spans(tmp_path)) == 3
    assert sum(is_dense(path) for path in data_files(tmp_path)) == 3


@pytest.mark.parametrize("asked", [*range(0, 14, 2), 5])
def test_told_to_end_it_leaves_whole_commits_and_no_other_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, asked: int
) -> None:
    monkeypatch.setattr(compaction, "_CHUNK_BYTES", 1)  # so that files are begun, and some are complete
    fill_mixed(tmp_path, files=3, logs=2, rows_each=10)
    for log in ("c", "d"):
        fill(tmp_path, *(range(at, at + 5) for at in range(0, 20, 5)), log_url=log, date=CLOSED)
    before, known = contents(tmp_path), data_files(tmp_path)
    committer = Committer(tmp_path, settings=WriteSettings(row_group_rows=4))
    done = Upkeep(committer, NOW).run(After(asked))
    assert not done.complete
    assert contents(tmp_path) == before
    assert data_files(tmp_path) - known == committed_files(tmp_path) - known
    assert upkeep(tmp_path).complete
    assert contents(tmp_path) == before
    assert len(spans(tmp_path)) == 4


def break_pages(file: Path) -> None:
    """Overwrite the second half of a file but for its footer: the key columns stay readable."""
    content = file.read_bytes()
    footer = int.from_bytes(content[-8:-4], "little") + 8
    middle = (len(content) - footer) // 2
    file.write_bytes(content[:middle] + bytes(len(content) - footer - middle) + content[-footer:])


def test_a_file_that_cannot_be_read_is_named_and_the_others_are_rewritten(tmp_path: Path) -> None:
    fill_mixed(tmp_path, files=3, logs=2, rows_each=200)
    broken = min(names(tmp_path))
    break_pages(tmp_path / broken)
    with pytest.raises(UnreadableError, match=broken):
        upkeep(tmp_path)
    snapshot = Committer(tmp_path).look()
    assert snapshot.paths - snapshot.dense_spans().keys() == {broken}
    assert sorted(snapshot.dense_spans().values()) == [(A, 200, 600), (B, 200, 600)]
    assert data_files(tmp_path) >= committed_files(tmp_path)


def test_a_file_that_holds_other_rows_than_its_table_says_is_left_and_said(tmp_path: Path) -> None:
    fill(tmp_path, range(10), range(10, 20), date=CLOSED)
    flush(tmp_path, rows(B, range(5), date=OPEN), rows(url(2), range(5), date=OPEN))
    committer = Committer(tmp_path)
    by_start = {start: path for path, (log, start, _) in committer.look().dense_spans().items() if log == A}
    other = written(committer, rows(A, range(30, 40), date=CLOSED))
    (tmp_path / other.path).replace(tmp_path / by_start[10])
    with pytest.raises(ContentError, match="other rows"):
        upkeep(tmp_path)
    assert spans(tmp_path) == {A: [(0, 10), (10, 20)], B: [(0, 5)], url(2): [(0, 5)]}
    assert set(by_start.values()) < names(tmp_path)
    assert sum(is_dense(path) for path in data_files(tmp_path)) == 4


def test_a_disk_without_room_is_not_filled_but_tidied(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fill_mixed(tmp_path, files=2, logs=2, rows_each=10)
    upkeep(tmp_path)
    flush(tmp_path, rows(A, range(50, 60), date=OPEN), rows(B, range(50, 60), date=OPEN))
    before = names(tmp_path)
    monkeypatch.setattr(storage, "free_bytes", lambda _path: 1000)
    with pytest.raises(StorageError, match="1,000") as caught:
        upkeep(tmp_path, retention_hours=0)
    assert caught.value.kind == "disk_full"
    assert names(tmp_path) == before == data_files(tmp_path)


def test_a_mistake_in_rewriting_does_not_keep_the_table_from_being_tidied(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fill_mixed(tmp_path, files=2, logs=2, rows_each=10)
    upkeep(tmp_path)
    flush(tmp_path, rows(A, range(50, 60), date=OPEN), rows(B, range(50, 60), date=OPEN))
    before = names(tmp_path)

    def mistaken(*_: object) -> None:
        raise TypeError("a bytes-like object is required")

    monkeypatch.setattr(TableFormat, "declared", mistaken)
    with pytest.raises(TypeError, match="bytes-like"):
        upkeep(tmp_path, retention_hours=0)
    assert names(tmp_path) == before == data_files(tmp_path)


def test_the_lock_of_another_holder_is_said(tmp_path: Path) -> None:
    fill_mixed(tmp_path, files=2, logs=2, rows_each=10)
    lock = tmp_path / "_certstream" / "maintenance.lock"
    with FileLock(lock, subject=lock, error=StorageError), pytest.raises(StorageError, match="in use by process"):
        upkeep(tmp_path)


def test_a_pass_over_a_table_in_order_reads_no_file(tmp_path: Path) -> None:
    fill_mixed(tmp_path, files=4, logs=3, rows_each=10)
    upkeep(tmp_path)
    for path in names(tmp_path):
        (tmp_path / path).write_bytes(b"")
    assert upkeep(tmp_path) == UpkeepResult()


def test_what_a_pass_read_is_remembered_for_the_next_one(tmp_path: Path) -> None:
    fill_mixed(tmp_path, files=2, logs=2, rows_each=10)
    upkeep(tmp_path, quiet_s=3600)
    for path in names(tmp_path):
        (tmp_path / path).write_bytes(b"")
    committer = Committer(tmp_path)
    committer.look()
    assert committer.coverage.of(A) == Intervals.of((0, 20))
