"""What was removed on purpose is recorded, durably and for every process."""

from __future__ import annotations

from pathlib import Path

import pytest

from certstream.archive.dropped import Dropped
from certstream.errors import StorageError
from certstream.intervals import Intervals
from tests.archive.archive_support import url

A, B = url(0), url(1)


def test_records_add_up_and_are_seen_by_others(tmp_path: Path) -> None:
    one, other = Dropped(tmp_path), Dropped(tmp_path)
    assert other.of(A) == Intervals()
    one.add({A: Intervals.of((0, 5))})
    assert other.of(A) == Intervals.of((0, 5))
    other.add({A: Intervals.of((5, 9)), B: Intervals.of((1, 2))})
    assert (one.of(A), one.of(B)) == (Intervals.of((0, 9)), Intervals.of((1, 2)))


@pytest.mark.parametrize(
    "content", ["", "{}", "[]", '{"version": 2, "dropped": {}}', '{"version": 1, "dropped": {"a": 3}}']
)
def test_an_unreadable_record_is_an_error_and_kept(tmp_path: Path, content: str) -> None:
    path = tmp_path / "_certstream" / "dropped.json"
    path.parent.mkdir()
    path.write_text(content)
    with pytest.raises(StorageError, match=f"{path}: is not a record of what was removed"):
        Dropped(tmp_path).of(A)
    with pytest.raises(StorageError):
        Dropped(tmp_path).add({A: Intervals.of((0, 5))})
    assert path.read_text() == content


def test_a_record_that_cannot_be_written_raises_and_changes_nothing(tmp_path: Path) -> None:
    (tmp_path / "_certstream").write_text("in the way")
    dropped = Dropped(tmp_path)
    with pytest.raises(StorageError):
        dropped.add({A: Intervals.of((0, 5))})
