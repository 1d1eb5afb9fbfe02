from __future__ import annotations

from pathlib import Path

import pytest

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
