"""Merges beside other writers, and merges that end in the middle: nothing is lost, nothing stands there twice."""

from __future__ import annotations

import shutil
import threading
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import pytest
from deltalake import DeltaTable, write_deltalake

from certstream.archive import storage
from certstream.archive.commit import Committed, Committer
from certstream.archive.datafile import DataFile, WriteSettings, write_file
from certstream.archive.merge.merge import MergeResult
from certstream.archive.merge.staging import is_staged, sweep_staging
from certstream.errors import StorageError
from certstream.intervals import Intervals
from tests.archive.archive_support import DATE, committed_files, data_files, held, rows
from tests.archive.merge_support import A, B, crash_merging, fill_indices, merge, picture


class Interrupted(Committer):
    """A committer of which another writer is faster: it commits just before each commit of this one."""

    def __init__(self, root: Path, others: list[Iterable[int]]) -> None:
        super().__init__(root)
        self._others = others

    def add(self, files: Sequence[DataFile] = (), **positions: Mapping[str, int] | None) -> Committed:
        if self._others:
            other = Committer(self.root)
            other.add([write_file(self.root, other.form(), DATE, rows(A, self._others.pop(0)), WriteSettings())])
        return super().add(files, **positions)


def test_rows_that_another_writer_commits_meanwhile_are_skipped(tmp_path: Path) -> None:
    main, staging = tmp_path / "main", tmp_path / "staging"
    fill_indices(main, [5, 55])
    fill_indices(staging, range(10), range(20, 30), range(50, 60))
    late = Interrupted(main, [range(25, 35), [0, 1, 2, 58]])
    assert merge(late, staging, batch_rows=9) == MergeResult(inserted=19, skipped=11, staging_rows=30)
    assert held(main) == {A: [*range(10), *range(20, 35), *range(50, 60)]}
    assert data_files(main) == committed_files(main)
    assert not staging.exists()


def test_two_merges_of_copies_at_once_insert_every_row_once(tmp_path: Path) -> None:
    main = tmp_path / "main"
    fill_indices(main, range(0, 120, 11))
    fill_indices(tmp_path / "first", *(range(start, start + 12) for start in range(0, 120, 10)))
    shutil.copytree(tmp_path / "first", tmp_path / "second")
    results: list[MergeResult] = []
    barrier = threading.Barrier(2)

    def run(staging: Path) -> None:
        barrier.wait()
        results.append(merge(main, staging, batch_rows=15))

    threads = [threading.Thread(target=run, args=(tmp_path / name,)) for name in ("first", "second")]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert held(main) == {A: [*range(122)]}
    assert data_files(main) == committed_files(main)
    assert sum(result.inserted for result in results) == 122 - 11
    assert [result.staging_rows for result in results] == [144, 144]
    assert {result.kept for result in results} == {None}


def test_what_is_staged_during_a_merge_stays_for_the_next(tmp_path: Path) -> None:
    main, staging = tmp_path / "main", tmp_path / "staging"
    fill_indices(staging, range(10))
    result = merge(main, staging, progress=lambda _: fill_indices(staging, range(10, 15)))
    assert result == MergeResult(10, 0, 10, kept=f"{staging}: was written to since it was read")
    assert held(main) == {A: [*range(10)]}
    assert held(staging) == {A: [*range(15)]}
    assert merge(main, staging) == MergeResult(inserted=5, skipped=10, staging_rows=15)
    assert held(main) == {A: [*range(15)]}
    assert not staging.exists()


def test_a_file_that_somebody_is_about_to_commit_keeps_staging(tmp_path: Path) -> None:
    main, staging = tmp_path / "main", tmp_path / "staging"
    fill_indices(staging, range(10))
    (path,) = committed_files(staging)
    (staging / path).with_name("abandoned.parquet").write_bytes(b"of a writer that was killed long ago")
    shutil.copytree(staging, tmp_path / "copy")
    written = (staging / path).with_name("written-at-this-moment.parquet")
    result = merge(main, staging, progress=lambda _: written.write_bytes(b""))
    assert result.kept == f"{staging}: was written to since it was read"
    assert held(staging) == {A: [*range(10)]}
    assert merge(main, tmp_path / "copy").kept is None


def test_a_staging_table_that_was_made_anew_meanwhile_is_kept(tmp_path: Path) -> None:
    main, staging = tmp_path / "main", tmp_path / "staging"
    fill_indices(staging, range(10))

    def exchange(_: int) -> None:
        shutil.rmtree(staging)
        fill_indices(staging, range(10, 20))

    result = merge(main, staging, progress=exchange)
    assert result.kept == f"{staging}: was written to since it was read"
    assert held(staging) == {A: [*range(10, 20)]}


def test_rows_that_somebody_removes_from_main_meanwhile_keep_staging(tmp_path: Path) -> None:
    main, staging = tmp_path / "main", tmp_path / "staging"
    fill_indices(main, range(5))
    fill_indices(staging, range(10))
    before = picture(staging)
    with pytest.raises(StorageError, match=r"1 of its rows of .* from index 7 on are not in .*main"):
        merge(main, staging, progress=lambda _: DeltaTable(main).delete("cert_index = 7"))
    assert picture(staging) == before
    assert merge(main, staging) == MergeResult(inserted=1, skipped=9, staging_rows=10)


def test_rows_that_are_dropped_from_main_on_purpose_meanwhile_do_not(tmp_path: Path) -> None:
    main, staging = tmp_path / "main", tmp_path / "staging"
    fill_indices(staging, range(10))

    def drop(_: int) -> None:
        committer = Committer(main)
        committer.dropped.add({A: Intervals.of((0, 10))})
        committer.remove(lambda snapshot: list(snapshot.files()))

    assert merge(main, staging, progress=drop) == MergeResult(inserted=10, skipped=0, staging_rows=10)
    assert held(main) == {}
    assert not staging.exists()


def test_a_directory_with_other_things_in_it_is_kept(tmp_path: Path) -> None:
    main, staging = tmp_path / "main", tmp_path / "staging"
    fill_indices(staging, range(10))
    (staging / "thesis.tex").write_text("the only copy")
    result = merge(main, staging)
    assert result == MergeResult(10, 0, 10, kept=f"{staging}: holds more than a table: thesis.tex")
    assert held(main) == held(staging) == {A: [*range(10)]}
    assert (staging / "thesis.tex").exists()


def test_staging_that_became_a_link_is_kept(tmp_path: Path) -> None:
    main, staging, moved = tmp_path / "main", tmp_path / "staging", tmp_path / "moved"
    fill_indices(staging, range(10))

    def exchange(_: int) -> None:
        staging.rename(moved)
        staging.symlink_to(moved)

    assert "symbolic link" in (merge(main, staging, progress=exchange).kept or "")
    assert staging.is_symlink()
    assert held(moved) == {A: [*range(10)]}


def test_a_failure_to_delete_is_told_and_is_no_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    main, staging = tmp_path / "main", tmp_path / "staging"
    fill_indices(staging, range(10))

    def refuse(root: Path) -> None:
        raise StorageError(f"{root}: Device or resource busy")

    monkeypatch.setattr(storage, "delete_table", refuse)
    result = merge(main, staging)
    assert result == MergeResult(10, 0, 10, kept=f"{staging}: Device or resource busy")
    monkeypatch.undo()
    assert merge(main, staging) == MergeResult(inserted=0, skipped=10, staging_rows=10)
    assert not staging.exists()


def test_a_crash_before_a_commit_leaves_all_to_the_next_merge(tmp_path: Path) -> None:
    main, staging = tmp_path / "main", tmp_path / "staging"
    fill_indices(main, range(5))
    fill_indices(staging, range(10))
    before = picture(staging)
    crash_merging("certstream.archive.table.Snapshot.commit", main, staging)
    assert held(main) == {A: [*range(5)]}
    assert picture(staging) == before
    assert merge(main, staging) == MergeResult(inserted=5, skipped=5, staging_rows=10)
    assert held(main) == {A: [*range(10)]}


def test_a_crash_after_a_commit_leaves_the_rest_to_the_next_merge(tmp_path: Path) -> None:
    main, staging = tmp_path / "main", tmp_path / "staging"
    fill_indices(staging, range(10), range(10, 20), range(20, 30))
    before = picture(staging)
    crash_merging("certstream.archive.coverage.Coverage.add", main, staging)
    assert held(main) == {A: [*range(10)]}
    assert picture(staging) == before
    assert merge(main, staging) == MergeResult(inserted=20, skipped=10, staging_rows=30)
    assert held(main) == {A: [*range(30)]}


def test_what_a_crash_in_the_deletion_leaves_is_swept_later(tmp_path: Path) -> None:
    main, staging = tmp_path / "main", tmp_path / "staging"
    fill_indices(staging, range(10))
    crash_merging("shutil.rmtree", main, staging)
    assert held(main) == {A: [*range(10)]}
    assert not is_staged(staging)
    assert len(list(tmp_path.iterdir())) == 2
    fill_indices(staging, range(10, 12))
    sweep_staging(staging)
    assert {path.name for path in tmp_path.iterdir()} == {"main", "staging"}
    assert merge(main, staging).inserted == 2
    assert [path.name for path in tmp_path.iterdir()] == ["main"]


def test_a_merge_beside_a_foreign_writer_of_main_doubles_nothing(tmp_path: Path) -> None:
    """One that appends with its own retries and never looks; of other keys, as it would double those itself."""
    main, staging = tmp_path / "main", tmp_path / "staging"
    fill_indices(main, range(5))
    fill_indices(staging, *(range(start, start + 10) for start in range(0, 60, 10)))

    def append(count: int) -> None:
        write_deltalake(main, rows(B, range(next(numbers), next(numbers))), mode="append")

    numbers = iter([0, 3, 3, 8, 8, 9, 9, 20, 20, 21, 21, 22, 22, 23])
    assert merge(main, staging, progress=append, batch_rows=10).inserted == 55
    assert held(main)[A] == [*range(60)]
