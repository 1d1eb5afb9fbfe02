from __future__ import annotations

import os
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from certstream.archive.storage import replace_file
from certstream.durable import write_file


def test_a_file_is_replaced_whole_and_nothing_else_is_left(tmp_path: Path) -> None:
    path = tmp_path / "a"
    write_file(path, b"one")
    with path.open("rb") as before:
        write_file(path, b"two")
        assert before.read() == b"one"
    assert path.read_bytes() == b"two"
    assert list(tmp_path.iterdir()) == [path]


def test_a_file_that_cannot_be_replaced_stays_and_nothing_else_is_left(tmp_path: Path) -> None:
    path = tmp_path / "a"
    (path / "inside").mkdir(parents=True)
    with pytest.raises(OSError, match="a"):
        write_file(path, b"two")
    assert list(tmp_path.iterdir()) == [path]
    assert (path / "inside").is_dir()


def left(path: Path, hours: float) -> Path:
    """A file that somebody wrote to so long ago."""
    path.write_bytes(b"half of")
    os.utime(path, times=(time.time() - hours * 3_600,) * 2)
    return path


@pytest.mark.parametrize(
    ("write", "left_name"), [(write_file, "{}.tmp-{:07}"), (replace_file, ".{}.{:08x}.tmp")], ids=["durable", "archive"]
)
def test_what_killed_writers_left_of_the_file_is_removed_and_nothing_else(
    tmp_path: Path, write: Callable[[Path, bytes], None], left_name: str
) -> None:
    path = tmp_path / "a[1]"
    old = left(tmp_path / left_name.format(path.name, 1), hours=1.5)
    others = {
        left(tmp_path / left_name.format(path.name, 2), hours=0.5),  # somebody may be writing it
        left(tmp_path / left_name.format("a1", 1), hours=1.5),
        left(tmp_path / f"{path.name}.tmp-mine", hours=1.5),
    }
    write(path, b"one")
    assert not old.exists()
    assert {*tmp_path.iterdir()} == {path, *others}


def test_what_resists_being_removed_is_in_nobodys_way(tmp_path: Path) -> None:
    path = tmp_path / "a"
    stuck = tmp_path / "a.tmp-1"
    stuck.mkdir()
    os.utime(stuck, times=(0, 0))
    write_file(path, b"one")
    assert path.read_bytes() == b"one"
    assert {*tmp_path.iterdir()} == {path, stuck}
