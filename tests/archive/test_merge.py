"""A merge inserts what main lacks, skips the rest, and deletes staging only when main holds all of it."""

from __future__ import annotations

import random
import shutil
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any, Final

import pyarrow as pa
import pytest
from deltalake import DeltaTable

from certstream.archive.commit import FENCE, Committer
from certstream.archive.merge import staged
from certstream.archive.merge.merge import Merge, MergeCancelledError, MergeResult
from certstream.archive.merge.staging import is_staged
from certstream.archive.schema import NATIVE
from certstream.archive.table import Table
from certstream.errors import ConfigError, StorageError
from certstream.intervals import Intervals
from tests.archive.archive_support import committed_files, data_files, held, rows
from tests.archive.merge_support import A, B, break_pages, fill, fill_indices, merge, picture

ROOT: Final = Path(__file__).parents[2]


def table(root: Path) -> list[dict[str, Any]]:
    """All rows as deltalake reads them, by log and index."""
    found: list[dict[str, Any]] = DeltaTable(root).to_pyarrow_table().to_pylist()
    return sorted(found, key=lambda row: (row["source_url"], row["cert_index"]))


def test_ac3_1_merge_inserts_non_duplicate_records(tmp_path: Path) -> None:
    main, staging = tmp_path / "main", tmp_path / "staging"
    fill_indices(main, range(10))
    fill_indices(staging, range(10, 15), range(30, 40))
    fill_indices(staging, range(7), log_url=B)
    assert merge(main, staging) == MergeResult(inserted=22, skipped=0, staging_rows=22)
    assert held(main) == {A: [*range(15), *range(30, 40)], B: [*range(7)]}
    assert data_files(main) == committed_files(main)


def test_ac3_2_merge_skips_existing_records(tmp_path: Path) -> None:
    main, staging = tmp_path / "main", tmp_path / "staging"
    fill(main, rows(A, range(10), der=b"main"))
    fill(staging, rows(A, range(5, 12), der=b"staging"), rows(A, range(3), der=b"staging"))
    assert merge(main, staging) == MergeResult(inserted=2, skipped=8, staging_rows=10)
    ders = {row["cert_index"]: row["as_der"] for row in table(main)}
    assert held(main) == {A: [*range(12)]}
    assert ders == {index: (b"main" if index < 10 else b"staging") + str(index).encode() for index in range(12)}


def test_ac3_3_merge_is_idempotent(tmp_path: Path) -> None:
    main, staging, copy = tmp_path / "main", tmp_path / "staging", tmp_path / "copy"
    fill_indices(main, range(10))
    fill_indices(staging, range(5, 20), [25, 27])
    shutil.copytree(staging, copy)
    assert merge(main, staging) == MergeResult(inserted=12, skipped=5, staging_rows=17)
    before, version = table(main), Table(main).open_or_create().version
    assert merge(main, copy) == MergeResult(inserted=0, skipped=17, staging_rows=17)
    assert table(main) == before
    assert Table(main).open_or_create().version == version
    assert not copy.exists()


def test_ac3_4_staging_directory_deleted_on_success(tmp_path: Path) -> None:
    main, staging = tmp_path / "main", tmp_path / "beside" / "staging"
    fill_indices(main, range(10))
    fill_indices(staging, range(20))
    (tmp_path / "beside" / "bystander").write_text("stays")
    assert merge(main, staging).kept is None
    assert [path.name for path in (tmp_path / "beside").iterdir()] == ["bystander"]
    assert not is_staged(staging)


def test_ac4_2_missing_main_table_auto_created(tmp_path: Path) -> None:
    main, staging = tmp_path / "new" / "main", tmp_path / "staging"
    fill_indices(staging, range(10), [20, 22])
    staged = table(staging)
    assert merge(main, staging) == MergeResult(inserted=12, skipped=0, staging_rows=12)
    assert table(main) == staged
    snapshot = Table(main).open_or_create()
    assert snapshot.form == NATIVE
    assert snapshot.transaction(FENCE) == 1


def test_ac4_3_merge_failure_preserves_staging(tmp_path: Path) -> None:
    """The third batch meets a file whose pages are garbage; the first two are there, whole, and stay."""
    main, staging = tmp_path / "main", tmp_path / "staging"
    fill_indices(main, range(20, 25))
    fill_indices(staging, range(10), range(10, 20), range(20, 40))
    good = break_pages(staging, 20)
    before = picture(staging)
    with pytest.raises(StorageError, match=r"staging/.*parquet: cannot be read"):
        merge(main, staging, batch_rows=10)
    assert held(main) == {A: [*range(25)]}
    assert data_files(main) == committed_files(main)
    assert picture(staging) == before
    good()
    assert merge(main, staging) == MergeResult(inserted=15, skipped=25, staging_rows=40)
    assert held(main) == {A: [*range(40)]}
    assert not staging.exists()


LIMITED: Final = """
import resource, sys, threading
from pathlib import Path
from certstream.archive.commit import Committer
from certstream.archive.merge.merge import Merge
from certstream.errors import StorageError

main, staging = map(Path, sys.argv[1:])
resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))
try:
    Merge(Committer(main), staging, batch_rows=10).run(threading.Event())
except StorageError as exc:
    print(exc)
"""


def test_a_file_that_cannot_be_written_preserves_staging(tmp_path: Path) -> None:
    main, staging = tmp_path / "main", tmp_path / "staging"
    fill_indices(main, range(20, 25))
    fill_indices(staging, range(10), range(10, 20))
    large = rows(A, range(20, 400))
    noise = pa.array([random.Random(row).randbytes(1000) for row in range(len(large))], pa.binary())
    fill(staging, large.set_column(large.column_names.index("as_der"), "as_der", noise))
    before = picture(staging)
    command = [sys.executable, "-c", LIMITED, str(main), str(staging)]
    done = subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True)
    assert "File too large" in done.stdout
    assert held(main) == {A: [*range(25)]}
    assert data_files(main) == committed_files(main)
    assert picture(staging) == before
    assert merge(main, staging) == MergeResult(inserted=375, skipped=25, staging_rows=400)
    assert held(main) == {A: [*range(400)]}


def test_ac4_4_cancellation_preserves_staging(tmp_path: Path) -> None:
    main, staging = tmp_path / "main", tmp_path / "staging"
    fill_indices(main, [100])
    fill_indices(staging, *(range(start, start + 10) for start in range(0, 100, 10)))
    before = picture(staging)
    cancelled, done = threading.Event(), []

    def progress(count: int) -> None:
        done.append(count)
        if len(done) == 3:
            cancelled.set()

    with pytest.raises(MergeCancelledError):
        Merge(Committer(main), staging, progress=progress, batch_rows=10).run(cancelled)
    assert done == [10, 10, 10]
    assert held(main) == {A: [*range(30), 100]}
    assert data_files(main) == committed_files(main)
    assert picture(staging) == before
    assert merge(main, staging) == MergeResult(inserted=70, skipped=30, staging_rows=100)
    assert held(main) == {A: [*range(101)]}
    assert not staging.exists()


class SetAfter(threading.Event):
    """Is set from a certain time of being asked on."""

    def __init__(self, times: int) -> None:
        super().__init__()
        self._times = times
        self._guard = threading.Lock()

    def is_set(self) -> bool:
        with self._guard:
            self._times -= 1
            return self._times < 0

    @property
    def times_left(self) -> int:
        return self._times


def test_wherever_a_merge_is_cancelled_the_next_one_does_the_rest(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(staged, "_PART_ROWS", range(1, 8))
    source, target = tmp_path / "source", tmp_path / "target"
    fill_indices(target, [5, 29])
    fill_indices(source, range(10), range(10, 20), range(20, 60))
    enough = SetAfter(1000)
    main, staging = (shutil.copytree(root, tmp_path / f"whole-{root.name}") for root in (target, source))
    Merge(Committer(main), staging, batch_rows=10).run(enough)
    asked = 1000 - enough.times_left
    assert asked >= 2 + len(range(0, 10, 7)) + len(range(0, 40, 7))
    for times in range(asked):
        main, staging = (shutil.copytree(root, tmp_path / f"{times}-{root.name}") for root in (target, source))
        before = picture(staging)
        with pytest.raises(MergeCancelledError):
            Merge(Committer(main), staging, batch_rows=10).run(SetAfter(times))
        assert picture(staging) == before
        assert data_files(main) == committed_files(main)
        assert len(held(main)[A]) in (2, 12)
        merge(main, staging)
        assert held(main) == {A: [*range(60)]}


def test_a_merge_that_is_cancelled_before_it_begins_writes_nothing(tmp_path: Path) -> None:
    main, staging = tmp_path / "main", tmp_path / "staging"
    fill_indices(staging, range(10))
    before, cancelled = picture(tmp_path), threading.Event()
    cancelled.set()
    with pytest.raises(MergeCancelledError):
        Merge(Committer(main), staging).run(cancelled)
    assert picture(tmp_path) == before


def test_a_merge_with_nothing_to_insert_can_be_cancelled_too(tmp_path: Path) -> None:
    main, staging = tmp_path / "main", tmp_path / "staging"
    fill_indices(main, range(10))
    fill_indices(staging, range(10))
    cancelled = threading.Event()
    with pytest.raises(MergeCancelledError):
        Merge(Committer(main), staging, progress=lambda _: cancelled.set()).run(cancelled)
    assert held(staging) == {A: [*range(10)]}


def test_a_merge_that_is_cancelled_after_its_last_commit_is_done(tmp_path: Path) -> None:
    main, staging = tmp_path / "main", tmp_path / "staging"
    fill_indices(staging, range(10), range(10, 20))
    cancelled, done = threading.Event(), []

    def progress(count: int) -> None:
        done.append(count)
        if sum(done) == 20:
            cancelled.set()

    result = Merge(Committer(main), staging, progress=progress, batch_rows=10).run(cancelled)
    assert result == MergeResult(inserted=20, skipped=0, staging_rows=20)
    assert not staging.exists()


def test_an_empty_staging_table_is_merged_and_deleted(tmp_path: Path) -> None:
    main, staging = tmp_path / "main", tmp_path / "staging"
    fill_indices(main, range(3))
    fill(staging)
    assert merge(main, staging) == MergeResult(inserted=0, skipped=0, staging_rows=0)
    assert held(main) == {A: [0, 1, 2]}
    assert not staging.exists()


def test_a_key_that_stands_in_staging_more_than_once_is_inserted_once(tmp_path: Path) -> None:
    main, staging = tmp_path / "main", tmp_path / "staging"
    fill_indices(main, [3])
    fill_indices(staging, range(10), range(5, 15), [3, 3, 20, 20, 21], range(10), [21, 3])
    assert merge(main, staging) == MergeResult(inserted=16, skipped=21, staging_rows=37)
    assert held(main) == {A: [*range(15), 20, 21]}
    assert data_files(main) == committed_files(main)


def test_progress_is_told_of_every_staged_row(tmp_path: Path) -> None:
    main, staging = tmp_path / "main", tmp_path / "staging"
    fill_indices(main, range(5, 12), range(20, 30))
    fill_indices(staging, range(10), range(20, 30), [1, 1], range(40, 50), [60, 62])
    told: list[int] = []
    task = Merge(Committer(main), staging, progress=told.append, batch_rows=5)
    assert task.look() == 34
    result = task.run(threading.Event())
    assert (result.staging_rows, sum(told)) == (34, 34)
    assert result.inserted == 17


def test_rows_that_were_dropped_on_purpose_are_inserted_where_they_are_staged(tmp_path: Path) -> None:
    main, staging = tmp_path / "main", tmp_path / "staging"
    fill_indices(main, range(5))
    Committer(main).dropped.add({A: Intervals.of((10, 20))})
    fill_indices(staging, range(10, 20))
    assert merge(main, staging) == MergeResult(inserted=10, skipped=0, staging_rows=10)
    assert held(main) == {A: [*range(5), *range(10, 20)]}


@pytest.mark.parametrize("place", ["main", "main/below", "."])
def test_staging_that_is_no_place_of_its_own_is_refused(tmp_path: Path, place: str) -> None:
    fill_indices(tmp_path / "main", range(5))
    before = picture(tmp_path)
    with pytest.raises(ConfigError, match="the main table"):
        merge(tmp_path / "main", tmp_path / place)
    assert picture(tmp_path) == before


def test_no_staging_table_is_an_error_that_creates_nothing(tmp_path: Path) -> None:
    with pytest.raises(StorageError, match="staging: there is no Delta table"):
        merge(tmp_path / "main", tmp_path / "staging")
    assert list(tmp_path.iterdir()) == []
