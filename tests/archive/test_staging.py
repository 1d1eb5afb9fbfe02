"""Where a staging table may lie, and that it is one's own while one works on it."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Final

import pytest

from certstream.archive import storage
from certstream.archive.merge.staging import check_staging, is_staged, staging_lock, sweep_staging
from certstream.errors import ConfigError, StorageError
from tests.archive.merge_support import fill_indices, picture

ROOT: Final = Path(__file__).parents[2]


def refused(main: Path, staging: Path, reason: str) -> None:
    """Hold that the place is refused in one line that names both, and that nothing was written."""
    top = Path(os.path.commonpath([main, staging]))
    before = picture(top), sorted(top.rglob("*"))
    with pytest.raises(ConfigError) as caught:
        check_staging(main, staging)
    (line,) = caught.value.mistakes
    assert str(staging) in line
    assert reason in line
    assert "\n" not in line
    assert (picture(top), sorted(top.rglob("*"))) == before


@pytest.fixture
def main(tmp_path: Path) -> Path:
    root = tmp_path / "data" / "main"
    fill_indices(root, range(3))
    return root


def test_a_place_of_its_own_is_accepted(main: Path, tmp_path: Path) -> None:
    empty, table = tmp_path / "empty", tmp_path / "data" / "main-staging"
    empty.mkdir()
    fill_indices(table, range(3))
    before = picture(tmp_path)
    for staging in (empty, table, tmp_path / "missing", tmp_path / "nor" / "its" / "parent", main.parent / "mai"):
        check_staging(main, staging)
        check_staging(tmp_path / "missing-main", staging)
    assert picture(tmp_path) == before
    assert not (tmp_path / "nor").exists()


def test_the_main_table_itself_is_refused(main: Path, tmp_path: Path) -> None:
    refused(main, main, "is the main table")
    refused(tmp_path / "nothing", tmp_path / "nothing", "is the main table")
    refused(main, main / ".." / "main", "is the main table")


def test_a_place_in_the_main_table_is_refused(main: Path, tmp_path: Path) -> None:
    refused(main, main / "staging", "lies in the main table")
    refused(main, main / "_certstream" / "deep" / "staging", "lies in the main table")
    refused(tmp_path / "nothing", tmp_path / "nothing" / "staging", "lies in the main table")


def test_a_place_around_the_main_table_is_refused(main: Path, tmp_path: Path) -> None:
    refused(main, tmp_path, "contains the main table")
    refused(tmp_path / "new" / "main", tmp_path / "new", "contains the main table")


def test_links_in_the_way_are_seen_through(main: Path, tmp_path: Path) -> None:
    (tmp_path / "way").symlink_to(tmp_path / "data")
    (tmp_path / "into").symlink_to(main)
    refused(main, tmp_path / "way" / "main", "is the main table")
    refused(tmp_path / "way" / "main", main, "is the main table")
    refused(tmp_path / "into", main, "is the main table")
    refused(main, tmp_path / "into" / "staging", "lies in the main table")
    refused(tmp_path / "into", main.parent, "contains the main table")
    refused(tmp_path / "way" / "later" / "main", tmp_path / "data" / "later", "contains the main table")


def test_a_symbolic_link_is_refused_wherever_it_leads(main: Path, tmp_path: Path) -> None:
    fill_indices(tmp_path / "table", range(3))
    (tmp_path / "link").symlink_to(tmp_path / "table")
    (tmp_path / "dangling").symlink_to(tmp_path / "nowhere")
    (tmp_path / "round").symlink_to(tmp_path / "round")
    for name in ("link", "dangling", "round"):
        refused(main, tmp_path / name, "is a symbolic link")


def test_what_is_no_directory_is_refused(main: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(ConfigError, match="file: is not a directory"):
        check_staging(main, tmp_path / "file")
    with pytest.raises(ConfigError, match="pipe: is not a directory"):
        check_staging(main, tmp_path / "pipe")


def test_a_directory_of_other_things_is_refused(main: Path, tmp_path: Path) -> None:
    home = tmp_path / "home"
    home.mkdir()
    (home / "letter.txt").write_text("dear")
    refused(main, home, "other things in it and no Delta table")


def test_a_place_that_cannot_be_looked_at_is_an_error(main: Path, tmp_path: Path) -> None:
    with pytest.raises(StorageError, match="File name too long"):
        check_staging(main, tmp_path / ("x" * 300))


def test_only_a_table_with_a_log_is_staged(tmp_path: Path) -> None:
    staging = tmp_path / "staging"
    assert not is_staged(staging)
    (staging / "_delta_log").mkdir(parents=True)
    assert not is_staged(staging)
    (staging / "_delta_log" / f"{0:020}.json").write_text("{broken")
    assert is_staged(staging)


def test_a_second_holder_is_refused_and_told_of_the_first(tmp_path: Path) -> None:
    staging = tmp_path / "staging"
    with staging_lock(staging):
        message = f"^{staging}: in use by process {os.getpid()} on "
        with pytest.raises(StorageError, match=message), staging_lock(staging):
            pass
        with pytest.raises(StorageError, match=f"in use by process {os.getpid()}"), staging_lock(linked(staging)):
            pass
    assert [path.name for path in tmp_path.iterdir()] == ["way"]


def linked(staging: Path) -> Path:
    """The same place by another way."""
    (staging.parent / "way").symlink_to(staging.parent)
    return staging.parent / "way" / staging.name


def test_a_process_that_is_killed_holds_nothing(tmp_path: Path) -> None:
    script = """
import os, sys
from pathlib import Path
from certstream.archive.merge.staging import staging_lock
staging_lock(Path(sys.argv[1])).take()
os._exit(9)
"""
    command = [sys.executable, "-c", script, str(tmp_path / "staging")]
    assert subprocess.run(command, cwd=ROOT, check=False).returncode == 9
    with staging_lock(tmp_path / "staging"):
        pass
    assert list(tmp_path.iterdir()) == []


def test_the_lock_outlives_the_directory(tmp_path: Path) -> None:
    staging = tmp_path / "staging"
    fill_indices(staging, range(3))
    with staging_lock(staging):
        storage.delete_table(staging)
        with pytest.raises(StorageError, match="in use"), staging_lock(staging):
            pass
    assert list(tmp_path.iterdir()) == []


def crashed_deletion(staging: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(shutil, "rmtree", lambda path: None)
        storage.delete_table(staging)


def test_what_a_deletion_left_is_swept_unless_somebody_holds_the_lock(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    staging, other = tmp_path / "staging", tmp_path / "staging2"
    for root in (staging, other):
        fill_indices(root, range(3))
        crashed_deletion(root, monkeypatch)
    fill_indices(staging, range(5))
    with staging_lock(staging):
        sweep_staging(staging)
        assert len(storage.deleted(staging)) == 1
    sweep_staging(staging)
    assert storage.deleted(staging) == []
    assert len(storage.deleted(other)) == 1
    assert is_staged(staging)


def test_a_sweep_where_nothing_was_deleted_creates_nothing(tmp_path: Path) -> None:
    sweep_staging(tmp_path / "nor" / "its" / "parent")
    sweep_staging(tmp_path / "staging")
    assert list(tmp_path.iterdir()) == []
