"""Opening and making tables: what is ours to write is taken, all else is refused by name and left as it was."""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pyarrow as pa
import pytest
from deltalake import DeltaTable, write_deltalake

from certstream.archive import table as table_module
from certstream.archive.datafile import WriteSettings, write_file
from certstream.archive.deltalake_errors import storage_errors
from certstream.archive.schema import NATIVE, TableFormat
from certstream.archive.table import Snapshot, Table, rebuilt_stats
from certstream.certs.arrow import SCHEMA
from certstream.errors import StorageError, TableError
from certstream.intervals import Intervals
from certstream.ledger import Ledger, Trust, ledger_beside
from tests.archive.archive_support import DATE, held, make_reference_table, reference_schema, rows, url

A = url(0)


def tree(root: Path) -> dict[str, bytes]:
    return {str(path.relative_to(root)): path.read_bytes() for path in root.rglob("*") if path.is_file()}


def test_no_table_is_no_error_and_nothing_is_made(tmp_path: Path) -> None:
    assert Table(tmp_path / "no" / "table").open() is None
    assert list(tmp_path.iterdir()) == []


def test_a_new_table_has_the_columns_of_the_archive_and_its_partition(tmp_path: Path) -> None:
    snapshot = Table(tmp_path / "a" / "b").open_or_create()
    assert (snapshot.version, snapshot.rows, snapshot.size_bytes) == (0, 0, 0)
    delta = DeltaTable(tmp_path / "a" / "b")
    assert pa.schema(delta.schema().to_arrow()) == SCHEMA
    assert delta.metadata().partition_columns == ["seen_date"]


def test_a_table_that_is_there_is_taken_as_it_is(tmp_path: Path) -> None:
    Table(tmp_path).open_or_create()
    before = tree(tmp_path)
    assert Table(tmp_path).open_or_create(TableFormat(reference_schema())).form == NATIVE
    assert tree(tmp_path) == before


@pytest.mark.parametrize(
    ("schema", "message"),
    [
        (SCHEMA.remove(3).append(pa.field("seen_date", pa.string())).remove(0), "cert_index is missing"),
        (SCHEMA.append(pa.field("extra", pa.int64())), "extra is unknown"),
        (SCHEMA.set(0, pa.field("cert_index", pa.string())), "cert_index is string, must be int64"),
        (SCHEMA.set(18, pa.field("as_der", pa.int64())), "as_der is int64, must be binary or string"),
        (SCHEMA.set(17, pa.field("all_domains", pa.string())), "all_domains is string, must be list"),
    ],
)
def test_other_columns_are_refused_by_name(tmp_path: Path, schema: pa.Schema, message: str) -> None:
    DeltaTable.create(tmp_path, schema, partition_by=["seen_date"])
    before = tree(tmp_path)
    with pytest.raises(TableError, match=f"{tmp_path}: columns are not those of an archive: .*{message}"):
        Table(tmp_path).open_or_create()
    assert tree(tmp_path) == before


def test_all_columns_that_differ_are_named_at_once(tmp_path: Path) -> None:
    DeltaTable.create(tmp_path, pa.schema([("cert_index", pa.int64()), ("seen_date", pa.string())]))
    with pytest.raises(TableError, match=r"update_type is missing; .*chain is missing; partitioned by nothing"):
        Table(tmp_path).open()


def test_a_table_with_deletion_vectors_is_refused(tmp_path: Path) -> None:
    DeltaTable.create(
        tmp_path, SCHEMA, partition_by=["seen_date"], configuration={"delta.enableDeletionVectors": "true"}
    )
    with pytest.raises(StorageError, match="deletionVectors"):
        Table(tmp_path).open()


def test_a_directory_with_other_things_is_no_place_for_a_table(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(TableError, match=f"{tmp_path}: is a directory with other things in it and no Delta table"):
        Table(tmp_path).open_or_create()
    assert tree(tmp_path) == {"notes.txt": b"mine"}


def test_an_empty_mount_point_is_a_place_for_a_table(tmp_path: Path) -> None:
    (tmp_path / "lost+found").mkdir()
    (tmp_path / "_delta_log").mkdir()  # of a creation that was cut off
    assert Table(tmp_path).open_or_create().version == 0


def test_a_log_with_its_beginning_missing_is_never_made_anew(tmp_path: Path) -> None:
    write_deltalake(tmp_path, rows(A, [1]), partition_by=["seen_date"])
    write_deltalake(tmp_path, rows(A, [2]), mode="append")
    (tmp_path / "_delta_log" / f"{0:020}.json").unlink()
    before = tree(tmp_path)
    with pytest.raises(StorageError, match="_delta_log: "):
        Table(tmp_path).open_or_create()
    assert tree(tmp_path) == before


@pytest.mark.parametrize("content", ["", "{broken", '{"add":{}}', '{"metaData":{"id":"x","schemaString":"{"}}'])
def test_a_corrupt_log_is_named_and_left(tmp_path: Path, content: str) -> None:
    Table(tmp_path).open_or_create()
    (tmp_path / "_delta_log" / f"{0:020}.json").write_text(content)
    before = tree(tmp_path)
    with pytest.raises(StorageError, match="_delta_log: ") as caught:
        Table(tmp_path).open_or_create()
    assert "\n" not in str(caught.value)
    assert tree(tmp_path) == before


_LIMITED = """
import resource, signal, sys
from pathlib import Path
from certstream.archive.table import Table
from certstream.errors import StorageError
snapshot = Table(Path(sys.argv[1])).open_or_create()
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (10, 10))
try:
    snapshot.commit([], {"x": 1})
except StorageError as exc:
    print(exc.kind, exc)
"""


def test_why_a_commit_fails_is_said_in_one_line(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", _LIMITED, str(tmp_path)],
        capture_output=True, text=True, check=True, cwd=Path(table_module.__file__).parents[2],
    )  # fmt: skip
    assert done.stdout == f"storage {tmp_path}: File too large (os error 27)\n"
    assert Table(tmp_path).open_or_create().version == 0


@pytest.mark.parametrize(
    ("reason", "kind"),
    [
        ("No space left on device (os error 28)", "disk_full"),
        ("Disk quota exceeded (os error 122)", "disk_full"),
        ("Read-only file system (os error 30)", "storage"),
        ("No such file or directory (os error 2)", "storage"),
    ],
)
def test_a_full_disk_is_known_by_what_deltalake_says_of_it(reason: str, kind: str) -> None:
    """The text is the one of a commit on such a disk."""
    arrow = "\x1b[31m↳\x1b[0m"
    text = f"Generic LocalFileSystem error\n    {arrow} Unable to copy data to file\n     {arrow} {reason}\n"
    with pytest.raises(StorageError) as caught, storage_errors(Path("/srv/main")):
        raise OSError(text)
    assert (caught.value.kind, str(caught.value)) == (kind, f"/srv/main: {reason}")


@pytest.mark.parametrize(
    "call",
    [
        lambda snapshot: Table(snapshot.root).open(),
        lambda snapshot: Table(snapshot.root / "another").open_or_create(),
        lambda snapshot: snapshot.transaction("x"),
        lambda snapshot: snapshot.commit([], {"x": 1}),
        lambda snapshot: snapshot.checkpoint(0),
        lambda snapshot: snapshot.clean_log(),
        lambda snapshot: snapshot.remember_removed(1_000, {}),
        lambda snapshot: snapshot.removed_files(1_000),
        lambda snapshot: snapshot.unknown_files(1_000),
    ],
    ids=["open", "create", "transaction", "commit", "checkpoint", "clean", "remember", "removed", "unknown"],
)
def test_a_panic_of_deltalake_is_a_failure_of_the_table(tmp_path: Path, call: Callable[[Snapshot], object]) -> None:
    snapshot = Table(tmp_path / "table").open_or_create()
    raised: list[BaseException] = []

    def parts() -> Iterator[pa.RecordBatch]:  # deltalake panics where it is called while it reads from Python
        try:
            call(snapshot)
        except BaseException as exc:  # noqa: BLE001 -- looked at below
            raised.append(exc)
        yield from rows(A, [1]).to_batches()

    write_deltalake(tmp_path / "other", pa.RecordBatchReader.from_batches(SCHEMA, parts()))
    (error,) = raised
    assert isinstance(error, StorageError)
    assert "Cannot start a runtime from within a runtime" in str(error)
    assert Table(tmp_path / "table").open_or_create().version == 0


def test_rows_become_those_of_a_table_without_nulls(tmp_path: Path) -> None:
    make_reference_table(tmp_path)
    snapshot = Table(tmp_path).open()
    assert snapshot is not None
    assert snapshot.form != NATIVE
    file = write_file(tmp_path, snapshot.form, DATE, rows(A, range(8, 11), der=b"\x00\xff"), WriteSettings())
    snapshot.commit([file], {})
    table = pa.table(DeltaTable(tmp_path).to_pyarrow_table())
    assert table.schema.names == reference_schema().names
    read = table.sort_by("cert_index").to_pylist()
    assert [row["as_der"] for row in read] == ["AP84", "AP85", "AP8xMA=="]
    unparseable = read[1]
    assert (unparseable["serial_number"], unparseable["not_before"], unparseable["is_ca"]) == ("", 0, False)
    assert (unparseable["all_domains"], read[0]["is_ca"], read[2]["not_before"]) == ([], False, 1_700_000_010)


def test_files_with_other_columns_are_never_committed(tmp_path: Path) -> None:
    make_reference_table(tmp_path)
    snapshot = Table(tmp_path).open_or_create()
    file = write_file(tmp_path, NATIVE, DATE, rows(A, range(3)), WriteSettings())
    with pytest.raises(TableError, match=f"{file.path}: has other columns than the table"):
        snapshot.commit([file], {})
    assert held(tmp_path) == {}


def test_base64_becomes_bytes_again() -> None:
    reference = TableFormat(reference_schema())
    there = reference.conform(rows(A, range(3), der=b"\x00\xff"))
    back = NATIVE.conform(there.append_column("seen_date", pa.array([DATE] * 3)))
    assert back.column("as_der").to_pylist() == [b"\x00\xff0", b"\x00\xff1", b"\x00\xff2"]
    wrong = there.set_column(there.schema.get_field_index("as_der"), "as_der", pa.array(["!", "", ""]))
    with pytest.raises(TableError, match="as_der of a row is not base64"):
        NATIVE.conform(wrong)


def test_null_lists_become_empty_ones_where_there_are_no_nulls() -> None:
    table = rows(A, range(2))
    table = table.set_column(17, "all_domains", pa.array([None, ["x"]], pa.list_(pa.string())))
    assert TableFormat(reference_schema()).conform(table).column("all_domains").to_pylist() == [[], ["x"]]


def test_statistics_of_a_file_are_told_of_it_again_with_true_keys(tmp_path: Path) -> None:
    write_deltalake(tmp_path, rows(url(3) + "x" * 80, range(3, 6)), partition_by=["seen_date"])
    snapshot = Table(tmp_path).open()
    assert snapshot is not None
    (file,) = snapshot.files()
    covers = {url(3) + "x" * 80: Intervals.of((3, 6))}
    copy = tmp_path.with_name("copy")
    target = Table(copy).open_or_create()
    ours = write_file(copy, target.form, DATE, rows(url(3) + "x" * 80, range(3, 6)), WriteSettings())
    target.commit([replace(ours, stats=rebuilt_stats(file, covers))], {})
    again = Table(copy).open()
    assert again is not None
    assert again.dense_spans() == {ours.path: (url(3) + "x" * 80, 3, 6)}
    (copied,) = again.files()
    assert copied.stats["min.not_before"] == 1_700_000_003
    assert held(copy) == {url(3) + "x" * 80: [3, 4, 5]}


def test_a_table_that_is_made_anew_knows_nothing_of_the_rows_of_the_one_before(tmp_path: Path) -> None:
    Table(tmp_path).open_or_create()
    ledger = Ledger(ledger_beside(tmp_path))
    ledger.note({"https://log.example": Trust(Intervals.of((0, 10)))})
    Table(tmp_path).open_or_create()
    assert ledger.read() != {}
    shutil.rmtree(tmp_path / "_delta_log")
    Table(tmp_path).open_or_create()
    assert ledger.read() == {}
