"""The one way to commit: whatever the schedule of writers, every key ends in the table once."""

from __future__ import annotations

import multiprocessing
import shutil
import threading
from collections.abc import Iterable, Sequence
from pathlib import Path

import pyarrow as pa
import pytest
from deltalake import DeltaTable
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from certstream.archive import commit as commit_module
from certstream.archive.commit import FENCE, Committed, Committer
from certstream.archive.datafile import DataFile, WriteSettings, write_file
from certstream.archive.schema import NATIVE
from certstream.archive.table import ConflictError, Snapshot, Table, TableFile
from certstream.certs.arrow import SCHEMA
from certstream.errors import StorageError
from certstream.intervals import Intervals
from tests.archive.archive_support import DATE, committed_files, data_files, held, reference_schema, rows, url

A, B = url(0), url(1)
SPANS = st.lists(st.tuples(st.integers(0, 30), st.integers(1, 12)), min_size=1, max_size=3)


def written(committer: Committer, log_url: str, indices: Iterable[int]) -> DataFile:
    return write_file(committer.root, committer.form(), DATE, rows(log_url, indices), WriteSettings())


def add(committer: Committer, log_url: str, indices: Iterable[int]) -> Committed:
    return committer.add([written(committer, log_url, indices)])


def test_a_commit_says_which_rows_it_inserted(tmp_path: Path) -> None:
    committer = Committer(tmp_path)
    assert add(committer, A, [1, 2, 5]).covers == {A: Intervals.of((1, 3), (5, 6))}
    assert add(committer, A, range(4)).covers == {A: Intervals.of((0, 1), (3, 4))}
    assert add(committer, A, range(4)).covers == {}


def test_rows_are_inserted_once_and_the_rest_is_counted_as_skipped(tmp_path: Path) -> None:
    committer = Committer(tmp_path)
    assert add(committer, A, range(10)) == Committed(10, 0)
    assert add(committer, A, range(5, 15)) == Committed(5, 5)
    assert add(committer, A, range(15)) == Committed(0, 15)
    assert add(committer, B, range(3)) == Committed(3, 0)
    assert held(tmp_path) == {A: list(range(15)), B: [0, 1, 2]}
    assert data_files(tmp_path) == committed_files(tmp_path)


class CountingTable(Table):
    """A table that counts how often it is opened."""

    opened = 0

    def open(self) -> Snapshot | None:
        self.opened += 1
        return super().open()


def test_a_commit_right_after_a_look_opens_the_table_no_more(tmp_path: Path) -> None:
    committer = Committer(tmp_path)
    committer.look()
    committer.table = table = CountingTable(tmp_path)
    for start in range(0, 30, 10):
        table.opened = 0
        assert committer.look() is committer.look()
        assert committer.add([written(committer, A, range(start, start + 10))]) == Committed(10, 0)
        assert table.opened <= 1
    add(Committer(tmp_path), A, range(30, 40))
    assert add(committer, A, range(25, 45)) == Committed(5, 15)
    assert held(tmp_path) == {A: list(range(45))}


def test_a_table_that_was_replaced_by_one_of_the_same_version_is_looked_at_again(tmp_path: Path) -> None:
    committer = Committer(tmp_path)
    add(committer, A, range(10))
    before = committer.look().version
    shutil.rmtree(tmp_path)
    assert add(Committer(tmp_path), A, range(20, 30)) == Committed(10, 0)
    assert Committer(tmp_path).look().version == before
    file = write_file(tmp_path, NATIVE, DATE, rows(A, range(25, 35)), WriteSettings())
    assert committer.add([file]) == Committed(5, 5)
    assert held(tmp_path) == {A: list(range(20, 35))}


def test_a_table_that_is_gone_since_the_last_look_is_made_anew(tmp_path: Path) -> None:
    committer = Committer(tmp_path)
    add(committer, A, range(10))
    committer.look()
    shutil.rmtree(tmp_path)
    assert committer.add(starts={A: 5}).positions == {A: 5}
    assert held(tmp_path) == {}


def test_a_commit_of_nothing_new_leaves_no_version_and_no_file(tmp_path: Path) -> None:
    committer = Committer(tmp_path)
    add(committer, A, range(10))
    before = committer.look().version
    add(committer, A, range(3, 7))
    committer.add(limits={A: 100})
    assert committer.look().version == before
    assert len(data_files(tmp_path)) == 1


def test_files_of_one_commit_that_overlap_each_other_insert_a_key_once(tmp_path: Path) -> None:
    committer = Committer(tmp_path)
    files = [written(committer, A, range(8)), written(committer, A, range(5, 12)), written(committer, A, [2, 30])]
    assert committer.add(files) == Committed(13, 4)
    assert held(tmp_path) == {A: [*range(12), 30]}
    assert data_files(tmp_path) == committed_files(tmp_path)


def test_a_file_with_a_key_twice_inserts_it_once(tmp_path: Path) -> None:
    committer = Committer(tmp_path)
    assert add(committer, A, [1, 1, 2, 5, 5, 5]) == Committed(3, 3)
    assert held(tmp_path) == {A: [1, 2, 5]}


def test_what_is_left_of_a_file_is_dense_where_it_is_one_run(tmp_path: Path) -> None:
    committer = Committer(tmp_path)
    add(committer, A, range(5))
    add(committer, A, range(10))
    add(committer, A, [20, 22])
    add(committer, A, range(19, 25))
    spans = {span[1:] for span in committer.look().dense_spans().values()}
    assert spans == {(0, 5), (5, 10)}
    assert held(tmp_path) == {A: [*range(10), *range(19, 25)]}


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.tuples(st.booleans(), SPANS), min_size=1, max_size=5))
def test_any_order_of_two_writers_ends_in_the_union(
    tmp_path_factory: pytest.TempPathFactory, steps: Sequence[tuple[bool, list[tuple[int, int]]]]
) -> None:
    root = tmp_path_factory.mktemp("table")
    writers = Committer(root), Committer(root)
    wanted: set[int] = set()
    for first, spans in steps:
        indices = sorted({i for start, length in spans for i in range(start, start + length)})
        done = add(writers[first], A, indices)
        assert done.inserted == len(set(indices) - wanted)
        assert done.inserted + done.skipped == len(indices)
        wanted |= set(indices)
        assert held(root) == {A: sorted(wanted)}


class Interloper(Committer):
    """A writer that lets another one commit between each of its looks and the commit after it."""

    def __init__(self, root: Path, others: list[Iterable[int]]) -> None:
        super().__init__(root, sleep=lambda _: None)
        self._other = Committer(root)
        self._others = others

    def look(self) -> Snapshot:
        snapshot = super().look()
        if self._others:
            add(self._other, A, self._others.pop(0))
        return snapshot


def test_after_a_conflict_rows_are_looked_for_again(tmp_path: Path) -> None:
    add(Committer(tmp_path), A, [100])
    committer = Committer(tmp_path)
    file = written(committer, A, range(10))
    late = Interloper(tmp_path, [range(3), range(5, 20), [7]])
    assert late.add([file], starts={A: 0}, limits={A: 50}) == Committed(2, 8, {A: 20})
    assert held(tmp_path) == {A: [*range(20), 100]}
    assert data_files(tmp_path) == committed_files(tmp_path)


def test_a_writer_that_never_wins_gives_up_and_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(commit_module, "_ATTEMPTS", 4)
    late = Interloper(tmp_path, [[i] for i in range(100, 105)])
    file = write_file(tmp_path, Committer(tmp_path).form(), DATE, rows(A, range(3)), WriteSettings())
    with pytest.raises(StorageError, match="other writers were faster 4 times") as caught:
        late.add([file])
    assert caught.value.kind == "conflict"
    assert held(tmp_path) == {A: [100, 101, 102, 103]}
    assert data_files(tmp_path) == committed_files(tmp_path)


def _write_all(root: Path, seed: int) -> None:
    committer = Committer(root)
    for step in range(8):
        start = (seed * 7 + step * 5) % 30
        add(committer, A, range(start, start + 15))


def test_processes_side_by_side_lose_and_double_nothing(tmp_path: Path) -> None:
    context = multiprocessing.get_context("spawn")
    processes = [context.Process(target=_write_all, args=(tmp_path, seed)) for seed in range(3)]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
        assert process.exitcode == 0
    wanted = {
        i
        for seed in range(3)
        for step in range(8)
        for i in range((seed * 7 + step * 5) % 30, (seed * 7 + step * 5) % 30 + 15)
    }
    assert held(tmp_path) == {A: sorted(wanted)}
    assert data_files(tmp_path) == committed_files(tmp_path)


def test_a_foreign_commit_in_between_is_a_conflict_as_well(tmp_path: Path) -> None:
    committer = Committer(tmp_path)
    add(committer, A, range(3))
    stale = committer.look()
    add(Committer(tmp_path), B, range(3))
    with pytest.raises(ConflictError):
        stale.commit([written(committer, A, [7])], {})
    assert held(tmp_path) == {A: [0, 1, 2], B: [0, 1, 2]}


def test_the_fence_grows_with_every_commit(tmp_path: Path) -> None:
    committer = Committer(tmp_path)
    for expected in (1, 2, 3):
        add(committer, A, [expected])
        assert committer.look().transaction(FENCE) == expected


def test_positions_start_once_grow_to_the_first_gap_and_never_go_down(tmp_path: Path) -> None:
    committer = Committer(tmp_path)
    assert committer.add(limits={A: 10}).positions == {}
    assert committer.add(starts={A: 5, B: 0}).positions == {A: 5, B: 0}
    assert committer.add(starts={A: 3}).positions == {A: 5}
    file = written(committer, A, [5, 6, 7, 9])
    assert committer.add([file], limits={A: 7}).positions == {A: 7}
    assert committer.add(limits={A: 6}).positions == {A: 7}
    assert committer.add(limits={A: 10, B: 10}).positions == {A: 8, B: 0}
    add(Committer(tmp_path), A, [8])  # backfill, say
    assert committer.add(limits={A: 10}).positions == {A: 10}
    assert Committer(tmp_path).position(committer.look(), A) == 10
    assert Committer(tmp_path).position(committer.look(), B) == 0


def test_a_position_passes_what_was_dropped_on_purpose(tmp_path: Path) -> None:
    committer = Committer(tmp_path)
    committer.add(starts={A: 0})
    Committer(tmp_path).dropped.add({A: Intervals.of((0, 10))})
    assert committer.add([written(committer, A, [10])], limits={A: 50}).positions == {A: 11}


def test_rows_and_position_are_one_version(tmp_path: Path) -> None:
    committer = Committer(tmp_path)
    committer.add(starts={A: 0})
    before = committer.look().version
    committer.add([written(committer, A, range(4))], limits={A: 4})
    snapshot = committer.look()
    assert (snapshot.version, snapshot.rows, committer.position(snapshot, A)) == (before + 1, 4, 4)


def test_a_file_that_is_gone_is_never_committed(tmp_path: Path) -> None:
    committer = Committer(tmp_path)
    file = written(committer, A, range(4))
    (tmp_path / file.path).unlink()
    with pytest.raises(StorageError, match=file.path):
        committer.add([file])
    assert committer.look().rows == 0


def test_a_file_that_cannot_be_filtered_leaves_none_of_the_others(tmp_path: Path) -> None:
    committer = Committer(tmp_path)
    add(committer, A, range(10))
    files = [written(committer, A, indices) for indices in (range(3), range(3, 6), range(20, 25), range(5, 12))]
    (tmp_path / files[-1].path).write_bytes(b"PAR1")
    with pytest.raises(StorageError, match="cannot be read"):
        committer.add(files)
    assert held(tmp_path) == {A: list(range(10))}
    assert data_files(tmp_path) == committed_files(tmp_path)


@pytest.mark.parametrize(
    ("before", "after", "ders"),
    [
        (SCHEMA, reference_schema(), ["ZGVyMw==", "ZGVyNQ==", "ZGVyOA=="]),
        (reference_schema(), SCHEMA, [b"der3", b"der5", b"der8"]),
    ],
)
def test_rows_for_a_table_that_was_replaced_by_one_of_other_types_get_its_types(
    tmp_path: Path, before: pa.Schema, after: pa.Schema, ders: list[str | bytes]
) -> None:
    DeltaTable.create(tmp_path, before, partition_by=["seen_date"])
    committer = Committer(tmp_path)
    files = [written(committer, A, range(8, 12)), written(committer, B, [3, 5])]
    shutil.rmtree(tmp_path / "_delta_log")
    DeltaTable.create(tmp_path, after, partition_by=["seen_date"])
    assert committer.add(files, starts={A: 8}, limits={A: 20}) == Committed(6, 0, {A: 12})
    assert held(tmp_path) == {A: [8, 9, 10, 11], B: [3, 5]}
    read = pa.table(DeltaTable(tmp_path).to_pyarrow_table()).sort_by("cert_index").to_pylist()
    assert [row["as_der"] for row in read[:3]] == ders
    assert [span[1:] for span in committer.look().dense_spans().values()] == [(8, 12)]
    assert data_files(tmp_path) == committed_files(tmp_path)


def test_what_an_earlier_attempt_committed_is_not_taken_for_somebody_elses(tmp_path: Path) -> None:
    """A commit whose success was not seen, as of a store that does not answer any more."""
    committer = Committer(tmp_path)
    file = written(committer, A, range(4))
    committer.look().commit([file], {FENCE: 1})
    done = committer.add([file])
    assert (done, done.covers) == (Committed(4, 0), {A: Intervals.of((0, 4))})
    assert held(tmp_path) == {A: [0, 1, 2, 3]}
    committer.discard([file])
    assert data_files(tmp_path) == committed_files(tmp_path) == {file.path}


def removed_files(snapshot: Snapshot, paths: set[str]) -> list[TableFile]:
    return [file for file in snapshot.files() if file.path in paths]


def test_files_are_replaced_as_a_whole_or_not_at_all(tmp_path: Path) -> None:
    committer, other = Committer(tmp_path), Committer(tmp_path)
    add(committer, A, range(3))
    add(committer, A, range(3, 6))
    snapshot = committer.look()
    old = removed_files(snapshot, set(snapshot.paths))
    late = Interloper(tmp_path, [[50], [51]])
    assert late.replace(old, [written(committer, A, range(6))])
    assert held(tmp_path) == {A: [*range(6), 50, 51]}
    again = written(other, A, range(6))
    assert not other.replace(old, [again])
    other.discard([again])
    assert held(tmp_path) == {A: [*range(6), 50, 51]}
    assert again.path not in data_files(tmp_path)
    assert other.coverage.of(A) == Intervals.of((0, 6), (50, 52))


def test_files_that_are_removed_take_their_rows_along(tmp_path: Path) -> None:
    committer = Committer(tmp_path)
    add(committer, A, range(3))
    first = set(committer.look().paths)
    add(committer, A, range(3, 6))
    late = Interloper(tmp_path, [[50]])
    gone = late.remove(lambda snapshot: removed_files(snapshot, first))
    assert [file.path for file in gone] == [*first]
    assert held(tmp_path) == {A: [3, 4, 5, 50]}
    late.look()
    assert late.coverage.of(A) == Intervals.of((3, 6), (50, 51))
    assert add(late, A, range(4)) == Committed(3, 1)


def test_an_unreadable_log_raises_and_keeps_the_files_for_a_sweep(tmp_path: Path) -> None:
    committer = Committer(tmp_path)
    file = written(committer, A, range(3))
    (tmp_path / "_delta_log" / f"{0:020}.json").write_text("{broken")
    with pytest.raises(StorageError, match=r"_delta_log: .*Json error"):
        committer.add([file])
    assert data_files(tmp_path) == {file.path}


def test_threads_with_a_committer_each_share_a_table(tmp_path: Path) -> None:
    failures: list[BaseException] = []

    def work(number: int) -> None:
        try:
            committer = Committer(tmp_path)
            committer.add(starts={url(number): 0})
            for start in range(0, 40, 10):
                file = written(committer, url(number), range(start, start + 10))
                committer.add([file], limits={url(number): start + 10})
        except BaseException as exc:  # noqa: BLE001 -- shown below
            failures.append(exc)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []
    assert held(tmp_path) == {url(number): list(range(40)) for number in range(4)}
    snapshot = Table(tmp_path).open()
    assert snapshot is not None
    assert [Committer(tmp_path).position(snapshot, url(number)) for number in range(4)] == [40] * 4
