"""Places of tables and files: what is refused, what is durable, what a crash leaves and a later run removes."""

from __future__ import annotations

import os
import resource
import subprocess
import sys
from pathlib import Path

import pytest

from certstream.archive import storage
from certstream.archive.table import Table
from certstream.errors import ConfigError, StorageError

OTHER_DEVICE = Path("/dev/shm")
_FULL = """
import resource, sys
from pathlib import Path
from certstream.archive import storage
from certstream.errors import StorageError
import signal
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))
try:
    storage.replace_file(Path(sys.argv[1]), b"x" * 2000)
except StorageError as exc:
    print(exc.kind, exc)
"""


@pytest.mark.parametrize("text", ["{}/table", "file://{}/table", "file://localhost{}/table", "{}/x/../table/"])
def test_a_table_is_addressed_by_path_or_file_url(tmp_path: Path, text: str) -> None:
    assert storage.local_path(text.format(tmp_path), "delta_sink.table_path") == tmp_path / "table"


def test_a_relative_path_is_below_the_working_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert storage.local_path("./data/table", "x") == tmp_path / "data" / "table"
    assert storage.local_path("file:///a%20b", "x") == Path("/a b")


@pytest.mark.parametrize("text", ["s3://bucket/table", "gs://b/t", "file://host/table", "file://", "S3A://x/y"])
def test_another_scheme_is_refused_by_the_name_of_its_option(text: str) -> None:
    with pytest.raises(ConfigError, match=f"delta_sink.table_path: '{text}' is not allowed"):
        storage.local_path(text, "delta_sink.table_path")


@pytest.mark.parametrize("name", ["we%20ird", "%41", "a\\b", "x\ty", "x\x7fy", "file:///we%2520ird"])
def test_a_path_that_deltalake_takes_for_another_one_is_refused(
    tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(ConfigError, match=r"delta_sink\.table_path: .* is not allowed, must be without backslashes"):
        storage.local_path(name, "delta_sink.table_path")
    if not name.startswith("file:"):
        (tmp_path / name).mkdir()
        (tmp_path / "link").symlink_to(tmp_path / name)
        with pytest.raises(ConfigError, match="must be without backslashes"):
            storage.local_path(str(tmp_path / "link" / "table"), "delta_sink.table_path")
        monkeypatch.chdir(tmp_path / name)
        with pytest.raises(ConfigError, match="must be without backslashes"):
            storage.local_path("table", "delta_sink.table_path")


NAMES = ["a b", "h#x", "q?y", "é", "日本", "[x]", "a:b", "50%", "%zz", "q'\"", "a&b", " a ", "~", "a;b", "{a}*", "..."]


@pytest.mark.parametrize("name", NAMES)
def test_a_table_may_have_any_other_name(tmp_path: Path, name: str) -> None:
    root = storage.local_path(str(tmp_path / name), "delta_sink.table_path")
    assert (root, Table(root).open_or_create().version) == (tmp_path / name, 0)
    assert [path.name for path in tmp_path.iterdir()] == [name]
    assert storage.has_log(root)


def test_names_are_new_and_say_their_age() -> None:
    names = {storage.new_name("dense") for _ in range(200)}
    assert len(names) == 200
    ages = [storage.age_s(f"seen_date=2026-11-23/{name}") for name in names]
    assert all(age is not None and 0 <= age < 60 for age in ages)
    assert storage.age_s("part-00000-7f8ceb68-71d4-4f74-bbb2-807f509c7384-c000.snappy.parquet") is None
    assert storage.age_s("dense-nothex-00.parquet") is None


def test_a_replaced_file_is_the_new_one_and_leaves_no_other(tmp_path: Path) -> None:
    for content in (b"first", b"second"):
        storage.replace_file(tmp_path / "file", content)
        assert (tmp_path / "file").read_bytes() == content
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_a_file_that_cannot_be_written_whole_leaves_the_old_one(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"old")
    done = subprocess.run(
        [sys.executable, "-c", _FULL, str(tmp_path / "file")],
        capture_output=True, text=True, check=True, cwd=Path(storage.__file__).parents[2],
    )  # fmt: skip
    assert done.stdout.startswith(f"storage {tmp_path}/file: File too large")
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == {"file": b"old"}


def test_a_full_disk_is_told_from_other_failures() -> None:
    assert storage.storage_error(Path("f"), OSError(28, "No space left on device")).kind == "disk_full"
    assert storage.storage_error(Path("f"), OSError(122, "Disk quota exceeded")).kind == "disk_full"
    assert storage.storage_error(Path("f"), OSError(5, "Input/output error")).kind == "storage"


def test_a_directory_below_a_file_cannot_be_made(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(StorageError, match=r"file/a: Not a directory|file: File exists"):
        storage.make_directory(tmp_path / "file" / "a" / "b")


def test_free_bytes_are_those_of_where_a_table_will_be(tmp_path: Path) -> None:
    assert storage.free_bytes(tmp_path / "not" / "there") > 0


def test_a_place_that_cannot_be_looked_at_is_a_failure_of_the_disk(tmp_path: Path) -> None:
    unnameable = tmp_path / ("x" * 300)
    with pytest.raises(StorageError, match="File name too long"):
        storage.free_bytes(unnameable / "table")
    with pytest.raises(StorageError, match="File name too long"):
        storage.make_directory(unnameable / "table")
    with pytest.raises(StorageError, match="File name too long"):
        storage.replace_file(unnameable, b"")
    assert list(tmp_path.iterdir()) == []


def test_a_linked_file_is_the_same_one(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"rows")
    storage.link_or_copy(tmp_path / "a", tmp_path / "b")
    assert os.path.samefile(tmp_path / "a", tmp_path / "b")  # noqa: PTH121


def test_across_file_systems_a_file_is_copied(tmp_path: Path) -> None:
    if not OTHER_DEVICE.is_dir() or OTHER_DEVICE.stat().st_dev == tmp_path.stat().st_dev:
        (tmp_path / "a").write_bytes(b"rows")  # one file system only: there is nothing to be copied across
        storage.link_or_copy(tmp_path / "a", tmp_path / "b")
    else:
        source = OTHER_DEVICE / f"certstream-test-{os.getpid()}"
        source.write_bytes(b"rows")
        try:
            storage.link_or_copy(source, tmp_path / "b")
        finally:
            source.unlink()
    assert (tmp_path / "b").read_bytes() == b"rows"


def test_a_file_that_cannot_be_linked_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(StorageError, match="b: No such file"):
        storage.link_or_copy(tmp_path / "a", tmp_path / "b")
    assert list(tmp_path.iterdir()) == []


def test_a_deleted_table_is_gone_with_all_its_files(tmp_path: Path) -> None:
    (tmp_path / "staging" / "_delta_log").mkdir(parents=True)
    (tmp_path / "staging" / "_delta_log" / "0.json").write_text("{}")
    (tmp_path / "other").mkdir()
    storage.delete_table(tmp_path / "staging")
    assert [path.name for path in tmp_path.iterdir()] == ["other"]


def test_what_a_crash_left_of_a_deletion_is_swept_and_nothing_else(tmp_path: Path) -> None:
    mine, others = tmp_path / "st[a]ging", tmp_path / "sta"
    for root in (mine, others):
        (root / "data").mkdir(parents=True)
        root.rename(root.with_name(f".certstream-deleted-{root.name}-0123abcd"))
    mine.mkdir()
    storage.sweep_deleted(mine)
    assert sorted(path.name for path in tmp_path.iterdir()) == [".certstream-deleted-sta-0123abcd", "st[a]ging"]


def test_data_files_are_those_of_partitions_only(tmp_path: Path) -> None:
    for name in ("seen_date=1/a.parquet", "_delta_log/1.parquet", "_certstream/b.parquet", ".aside/c.parquet", "d.txt"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("")
    assert list(storage.data_files(tmp_path)) == ["seen_date=1/a.parquet"]


def test_the_limit_that_these_tests_set_holds_in_their_process_only() -> None:
    assert resource.getrlimit(resource.RLIMIT_FSIZE)[0] != 1000
