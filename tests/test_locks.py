"""Locks between processes: one holder, named to the other, gone with its process."""

from __future__ import annotations

import os
import resource
import subprocess
import sys
from pathlib import Path

import pytest

from certstream.errors import StorageError
from certstream.locks import FileLock

_HOLD = """
import sys
from pathlib import Path
from certstream.errors import StorageError
from certstream.locks import FileLock
with FileLock(Path(sys.argv[1]), subject=Path("the table"), error=StorageError, remove=True):
    print("held", flush=True)
    sys.stdin.read()
"""


def lock(path: Path, *, remove: bool = False) -> FileLock:
    return FileLock(path, subject=Path("the table"), error=StorageError, remove=remove)


def holder(path: Path) -> subprocess.Popen[str]:
    process = subprocess.Popen(
        [sys.executable, "-c", _HOLD, str(path)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        cwd=Path(__file__).parent.parent,
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "held\n"
    return process


def test_a_second_holder_is_refused_and_told_who_the_first_is(tmp_path: Path) -> None:
    path = tmp_path / "lock"
    with holder(path) as process:
        with pytest.raises(StorageError, match=f"the table: in use by process {process.pid} on .* since 2"):
            lock(path).take()
        assert path.exists()
        process.communicate()
    with lock(path):
        assert path.read_text().startswith(f"process {os.getpid()} ")


def test_a_killed_holder_leaves_no_lock(tmp_path: Path) -> None:
    path = tmp_path / "lock"
    with holder(path) as process:
        process.kill()
        process.communicate()
    with lock(path):
        pass


@pytest.mark.parametrize("remove", [False, True])
def test_letting_go_leaves_an_empty_file_or_none(tmp_path: Path, remove: bool) -> None:
    path = tmp_path / "lock"
    with lock(path, remove=remove):
        assert path.stat().st_size
    assert path.exists() is not remove
    assert remove or path.read_bytes() == b""


def test_a_holder_that_removed_its_file_is_followed_by_one_holder(tmp_path: Path) -> None:
    path = tmp_path / "lock"
    first, second = lock(path, remove=True), lock(path)
    first.take()
    first.release()
    second.take()
    with pytest.raises(StorageError, match="in use"):
        lock(path).take()
    second.release()


def test_a_lock_whose_file_cannot_be_removed_is_let_go_all_the_same(tmp_path: Path) -> None:
    path = tmp_path / "lock"
    with lock(path, remove=True):
        path.rename(tmp_path / "aside")
        path.mkdir()
    with lock(tmp_path / "aside"):
        assert path.is_dir()


def test_a_full_disk_keeps_nobody_from_locking(tmp_path: Path) -> None:
    path, limits = tmp_path / "lock", resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, limits[1]))  # no file can be written to any more
    try:
        with lock(path):
            assert path.read_bytes() == b""
            with pytest.raises(StorageError, match="the table: in use by another process"):
                lock(path).take()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)


def test_a_lock_that_cannot_be_made_says_which_file(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(StorageError, match="file/lock: cannot be locked: "):
        lock(tmp_path / "file" / "lock").take()
