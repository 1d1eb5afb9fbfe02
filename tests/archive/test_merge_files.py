"""How staged files get into main: as they are, by their row groups, or not opened at all."""

from __future__ import annotations

import errno
import os
import random
import shutil
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from certstream.archive import commit, storage
from certstream.archive.commit import Committer
from certstream.archive.datafile import WriteSettings
from certstream.archive.merge import staged, takeover
from certstream.archive.merge import tasks as merge_tasks
from certstream.archive.merge.merge import Merge, MergeCancelledError, MergeResult
from certstream.archive.table import Snapshot, Table
from certstream.errors import StorageError
from tests.archive.archive_support import DATE, committed_files, data_files, held, rows
from tests.archive.merge_support import A, B, break_pages, fill, fill_indices, merge, picture

SMALL_GROUPS = WriteSettings(row_group_rows=32)


def opened(root: Path) -> Snapshot:
    snapshot = Table(root).open()
    assert snapshot is not None
    return snapshot


def spans(root: Path) -> list[tuple[int, int]]:
    """The indices of the dense files."""
    return sorted(span[1:] for span in opened(root).dense_spans().values())


def inodes(root: Path) -> set[int]:
    return {(root / path).stat().st_ino for path in committed_files(root)}


def spoil(root: Path, path: str) -> None:
    """Make a file unreadable that keeps its length."""
    (root / path).write_bytes(bytes((root / path).stat().st_size))


def test_a_file_of_which_all_is_new_gets_a_second_name(tmp_path: Path) -> None:
    main, staging = tmp_path / "main", tmp_path / "staging"
    fill_indices(main, range(5))
    fill_indices(staging, range(10, 20), [30, 32])
    fill(staging, pa.concat_tables([rows(A, [40, 41]), rows(B, range(3))]))
    old, new, names = inodes(main), inodes(staging), committed_files(staging)
    assert merge(main, staging).inserted == 17
    assert inodes(main) == old | new
    assert spans(main) == [(0, 5), (10, 20)]
    assert held(main) == {A: [*range(5), *range(10, 20), 30, 32, 40, 41], B: [0, 1, 2]}
    assert not names & committed_files(main)


def test_statistics_of_a_file_that_was_taken_over_are_those_of_its_rows(tmp_path: Path) -> None:
    main, staging = tmp_path / "main", tmp_path / "staging"
    fill_indices(staging, range(10, 18))
    (before,) = opened(staging).files()
    merge(main, staging)
    (after,) = opened(main).files()
    known = {
        name: value for name, value in after.stats.items() if name.partition(".")[0] in ("min", "max", "null_count")
    }
    assert known == {name: value for name, value in before.stats.items() if name in known}
    assert (after.rows, after.size_bytes, after.date) == (8, before.size_bytes, DATE)


def test_a_file_of_which_nothing_is_new_is_not_opened(tmp_path: Path) -> None:
    main, staging = tmp_path / "main", tmp_path / "staging"
    fill_indices(main, range(20))
    fill_indices(staging, range(5, 15))
    (path,) = committed_files(staging)
    spoil(staging, path)
    assert merge(main, staging) == MergeResult(inserted=0, skipped=10, staging_rows=10)
    assert not staging.exists()


def test_nothing_of_main_is_read_where_its_files_are_dense(tmp_path: Path) -> None:
    main, staging = tmp_path / "main", tmp_path / "staging"
    fill_indices(main, range(10), range(20, 30))
    fill_indices(staging, range(25))
    for path in committed_files(main):
        spoil(main, path)
    assert merge(main, staging) == MergeResult(inserted=10, skipped=15, staging_rows=25)


def test_of_a_file_only_row_groups_with_wanted_rows_are_read(tmp_path: Path) -> None:
    main, staging = tmp_path / "main", tmp_path / "staging"
    fill_indices(main, range(64))
    fill(staging, rows(A, range(128)), settings=SMALL_GROUPS)
    (path,) = committed_files(staging)
    with pq.ParquetFile(staging / path) as parquet:
        assert parquet.num_row_groups == 4
        group = parquet.metadata.row_group(1)
        columns = [group.column(number) for number in range(group.num_columns)]
    content = bytearray((staging / path).read_bytes())
    start = min(column.dictionary_page_offset or column.data_page_offset for column in columns)
    stop = start + sum(column.total_compressed_size for column in columns)
    content[start:stop] = bytes(stop - start)
    (staging / path).write_bytes(content)
    assert merge(main, staging) == MergeResult(inserted=64, skipped=64, staging_rows=128)
    assert held(main) == {A: [*range(128)]}


def test_long_runs_become_dense_files_and_the_rest_one_other(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(takeover, "_RUN_ROWS", 20)
    main, staging = tmp_path / "main", tmp_path / "staging"
    fill_indices(main, [3, 4, 30, 60, 65])
    fill_indices(staging, range(50), range(50, 70))
    assert merge(main, staging) == MergeResult(inserted=65, skipped=5, staging_rows=70)
    assert spans(main) == [(5, 30), (31, 60)]
    assert len(committed_files(main)) == 4
    assert held(main) == {A: [*range(70)]}


def test_a_single_run_is_dense_however_short_it_is(tmp_path: Path) -> None:
    main, staging = tmp_path / "main", tmp_path / "staging"
    fill_indices(main, range(5))
    fill_indices(staging, range(3, 9))
    merge(main, staging)
    assert spans(main) == [(0, 5), (5, 9)]


def test_small_files_that_are_filtered_become_one(tmp_path: Path) -> None:
    main, staging = tmp_path / "main", tmp_path / "staging"
    fill_indices(main, range(0, 200, 2))
    fill_indices(staging, *(range(start, start + 10) for start in range(0, 200, 10)))
    assert merge(main, staging).inserted == 100
    assert held(main) == {A: [*range(200)]}
    assert len(committed_files(main)) == 2


def test_a_large_file_is_taken_in_pieces(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(merge_tasks, "_TASK_ROWS", 70)
    main, staging = tmp_path / "main", tmp_path / "staging"
    fill_indices(main, range(0, 300, 3))
    fill(staging, rows(A, range(300)), settings=SMALL_GROUPS)
    told: list[int] = []
    assert merge(main, staging, batch_rows=30, progress=told.append).inserted == 200
    assert told == [64, 64, 64, 64, 44]
    assert held(main) == {A: [*range(300)]}
    assert data_files(main) == committed_files(main)


def test_an_unsorted_file_is_written_in_order(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(staged, "_PART_ROWS", range(1, 30))
    main, staging = tmp_path / "main", tmp_path / "staging"
    fill_indices(main, [50])
    keys = [(url, index) for url in (A, B) for index in range(100)]
    random.Random(1).shuffle(keys)
    unsorted = pa.concat_tables([rows(url, [index]) for url, index in keys])
    chains = pa.array([[f"issuer {index % 7}", f"root {index // 90}"] for _, index in keys])
    fill(staging, unsorted.set_column(unsorted.column_names.index("chain"), "chain", chains))
    assert merge(main, staging) == MergeResult(inserted=199, skipped=1, staging_rows=200)
    assert held(main) == {A: [*range(100)], B: [*range(100)]}
    (path,) = committed_files(main) - {path for path in committed_files(main) if "dense" in path}
    written = pq.read_table(main / path, columns=["source_url", "cert_index", "chain"], partitioning=None).to_pylist()
    assert [(row["source_url"], row["cert_index"]) for row in written] == sorted(set(keys) - {(A, 50)})
    for row in written:
        assert row["chain"] == [f"issuer {row['cert_index'] % 7}", f"root {row['cert_index'] // 90}"]


def test_rows_stay_in_their_partition(tmp_path: Path) -> None:
    main, staging = tmp_path / "main", tmp_path / "staging"
    fill(main, rows(A, [0, 3, 8, 11, 20], date="2026-11-23"))
    fill(
        staging,
        rows(A, range(3, 9), date="2026-01-02"),
        rows(A, range(8, 12), date="2025-12-31"),
        rows(A, range(20, 22), date="2026-01-02"),
        rows(A, range(30, 33), date="2026-01-03"),
    )
    assert merge(main, staging) == MergeResult(inserted=10, skipped=5, staging_rows=15)
    found: dict[str, list[int]] = {}
    for file in opened(main).files():
        with pq.ParquetFile(main / file.path) as parquet:
            found.setdefault(file.date, []).extend(parquet.read(["cert_index"]).column(0).to_pylist())
        assert file.path.startswith(f"seen_date={file.date}/")
    assert {date: sorted(indices) for date, indices in found.items()} == {
        "2026-11-23": [0, 3, 8, 11, 20],
        "2025-12-31": [9, 10],
        "2026-01-02": [4, 5, 6, 7, 21],
        "2026-01-03": [30, 31, 32],
    }


def test_batches_are_bounded_by_rows_and_by_bytes(tmp_path: Path) -> None:
    main, staging = tmp_path / "main", tmp_path / "staging"
    fill_indices(staging, *(range(start, start + 10) for start in range(0, 60, 10)))
    for copy, options, commits in (("a", {"batch_rows": 20}, 3), ("b", {"batch_bytes": 1}, 6), ("c", {}, 1)):
        merge(tmp_path / copy, Path(shutil.copytree(staging, tmp_path / f"staging-{copy}")), **options)
        assert opened(tmp_path / copy).version == commits
        assert held(tmp_path / copy) == {A: [*range(60)]}
    assert not main.exists()


@pytest.fixture
def elsewhere(tmp_path: Path) -> Iterator[Path]:
    """A directory on another file system; where there is none, links are refused as between two."""
    memory = Path("/dev/shm")
    if not memory.is_dir() or memory.stat().st_dev == tmp_path.stat().st_dev:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(os, "link", refused)
            yield tmp_path / "elsewhere"
        return
    with tempfile.TemporaryDirectory(dir=memory) as directory:
        yield Path(directory)


def refused(source: Path, target: Path) -> None:
    raise OSError(errno.EXDEV, os.strerror(errno.EXDEV), str(source), None, str(target))


def test_staging_may_lie_on_another_file_system(tmp_path: Path, elsewhere: Path) -> None:
    main, staging = tmp_path / "main", elsewhere / "staging"
    fill_indices(main, range(5))
    fill_indices(staging, range(10, 20), range(3, 8))
    assert merge(main, staging) == MergeResult(inserted=13, skipped=2, staging_rows=15)
    assert held(main) == {A: [*range(8), *range(10, 20)]}
    assert data_files(main) == committed_files(main)
    assert not staging.exists()
    assert not list(elsewhere.iterdir())


def test_a_copy_from_another_file_system_is_cancelled_on_its_way(
    tmp_path: Path, elsewhere: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    main, staging = tmp_path / "main", elsewhere / "staging"
    fill_indices(main, range(5))
    fill_indices(staging, range(10, 20))
    before, cancelled, steps = picture(staging), threading.Event(), 0
    monkeypatch.setattr(storage, "_COPY_BYTES", 512)
    fdatasync = os.fdatasync

    def third(fd: int) -> None:
        nonlocal steps
        fdatasync(fd)
        steps += 1
        if steps == 3:
            cancelled.set()

    monkeypatch.setattr(os, "fdatasync", third)
    with pytest.raises(MergeCancelledError):
        Merge(Committer(main), staging).run(cancelled)
    assert steps == 3
    assert picture(staging) == before
    assert held(main) == {A: [*range(5)]}
    assert data_files(main) == committed_files(main)


def test_a_file_that_differs_from_what_its_table_says_is_an_error(tmp_path: Path) -> None:
    main, staging = tmp_path / "main", tmp_path / "staging"
    fill_indices(main, [100])
    fill_indices(staging, range(10))
    (path,) = committed_files(staging)
    content = (staging / path).read_bytes()
    for spoilt, message in ((content[:-1], "bytes, the table says"), (None, "is gone, though the table names it")):
        (staging / path).unlink()
        if spoilt is not None:
            (staging / path).write_bytes(spoilt)
        before = picture(tmp_path)
        with pytest.raises(StorageError, match=f"{path}.*{message}"):
            merge(main, staging)
        assert picture(tmp_path) == before


@pytest.mark.parametrize("held_index", [100, 6])
@pytest.mark.parametrize(
    ("claimed", "message"),
    [(range(12), "has 10 rows, the table says 12"), (range(5, 15), "holds other indices than the table says")],
)
def test_a_dense_file_that_is_not_what_its_table_says_is_an_error(
    tmp_path: Path, held_index: int, claimed: range, message: str
) -> None:
    main, staging = tmp_path / "main", tmp_path / "staging"
    fill_indices(main, [held_index])
    fill_indices(staging, range(10))
    lie(staging, claimed)
    before = picture(staging)
    with pytest.raises(StorageError, match=message):
        merge(main, staging)
    assert picture(staging) == before
    assert held(main) == {A: [held_index]}
    assert data_files(main) == committed_files(main)


def lie(staging: Path, claimed: range) -> None:
    """Let a table say of its one file, which holds the indices 0 to 9, that these are others."""
    log = staging / "_delta_log" / f"{1:020}.json"
    text = log.read_text()
    low, high = claimed[0], claimed[-1]
    for name, true, false in (("numRecords", 10, len(claimed)), ("cert_index", 9, high), ("cert_index", 0, low)):
        old = f'\\"{name}\\":{true},'
        assert old in text
        text = text.replace(old, f'\\"{name}\\":{false},', 1)
    log.write_text(text)


@pytest.fixture
def written_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Hold that the commit finds nothing left to drop, which would mean to write files twice."""

    def fail(*_: object) -> None:
        raise AssertionError("a file was written in vain")

    monkeypatch.setattr(commit._Addition, "_rewritten", fail)


@pytest.mark.usefixtures("written_once")
@pytest.mark.parametrize("run_rows", [4, 4096])
def test_files_that_overlap_each_other_are_not_written_twice(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, run_rows: int
) -> None:
    monkeypatch.setattr(takeover, "_RUN_ROWS", run_rows)
    main, staging = tmp_path / "main", tmp_path / "staging"
    fill_indices(main, [3, 33])
    fill_indices(staging, range(20), range(5, 30), [4, 4, 40, 40], [31, 33, 33, 40], range(25, 35), range(20))
    assert merge(main, staging).inserted == 34
    assert held(main) == {A: [*range(35), 40]}


def test_a_file_that_was_complete_goes_when_its_task_fails(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(takeover, "_RUN_ROWS", 5)
    main, staging = tmp_path / "main", tmp_path / "staging"
    fill_indices(main, [0, 20, 40])
    fill_indices(staging, range(10), range(20, 30), range(40, 50))
    break_pages(staging, 40)
    with pytest.raises(StorageError, match="cannot be read"):
        merge(main, staging)
    assert data_files(main) == committed_files(main)
    assert held(main) == {A: [0, 20, 40]}
