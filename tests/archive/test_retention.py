"""What leaves a table and its disk: old partitions, recorded; and files that no version within retention needs."""

from __future__ import annotations

import os
import time
from collections.abc import Mapping
from dataclasses import replace
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from types import SimpleNamespace

import pyarrow as pa
import pytest
import structlog
from deltalake import DeltaTable

from certstream.archive import table
from certstream.archive.commit import Committer
from certstream.archive.dropped import Dropped
from certstream.archive.upkeep.retention import DroppedRows, drop_old, first_kept
from certstream.archive.upkeep.upkeep import Upkeep
from certstream.errors import StorageError
from certstream.intervals import Intervals
from certstream.ledger import Ledger, Trust, ledger_beside
from tests.archive.archive_support import committed_files, data_files, held, rows, url
from tests.archive.upkeep_support import (
    OPEN,
    A,
    B,
    append_foreign,
    contents,
    fill,
    fill_mixed,
    flush,
    names,
    upkeep,
    written,
)

HOUR_S = 3600
RETENTION = "delta.deletedFileRetentionDuration"


def days_ago(days: int) -> str:
    return (datetime.now(UTC) - timedelta(days=days)).date().isoformat()


def fill_old_and_young(root: Path) -> None:
    """Ten rows of a day 40 days ago, and one of a day 20 days ago."""
    fill(root, range(10), date=days_ago(40))
    fill(root, [0], log_url=B, date=days_ago(20))


def made_ago(path: Path, hours: float) -> None:
    """Let a file have been written before, by what the file system says."""
    then = time.time() - hours * HOUR_S
    os.utime(path, (then, then))


def named_ago(root: Path, path: str, hours: float) -> str:
    """Let a file have been made and named before."""
    kind, _, secret = path.rpartition("/")[2].split("-")
    name = f"{kind}-{round((time.time() - hours * HOUR_S) * 1000):012x}-{secret}"
    target = (root / path).with_name(name)
    (root / path).rename(target)
    made_ago(target, hours)
    return str(target.relative_to(root))


def orphan(root: Path, hours: float) -> str:
    """What a writer leaves that crashed so long ago."""
    committer = Committer(root)
    return named_ago(root, written(committer, rows(B, range(1000, 1010), date=OPEN)).path, hours)


def removed_file(root: Path) -> tuple[int, str]:
    """A file made long ago that a commit removed just now, and the last version that has it."""
    committer = Committer(root)
    file = written(committer, rows(A, range(10), date=OPEN))
    old = named_ago(root, file.path, 2000)
    version = committer.look().commit([replace(file, path=old)], {})
    for _ in range(12):
        committer.remove(lambda snapshot: list(snapshot.files()))
        fill(root, range(20, 21), log_url=B)
    return version, old


def replaced_ago(root: Path, hours: float, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let upkeep have replaced three files of others so long ago, and not have come to tidying since."""
    start = sum(map(len, held(root).values()))
    for at in range(start, start + 30, 10):
        append_foreign(root, rows(A, range(at, at + 10), date=OPEN))
    then_ns = time.time_ns() - round(hours * HOUR_S) * 10**9
    with monkeypatch.context() as patched:
        patched.setattr(table, "time", SimpleNamespace(time_ns=lambda: then_ns))
        patched.setattr(Upkeep, "_tidy", lambda _self, result, _hours: result)
        assert upkeep(root).files_rewritten >= 3


def set_retention(root: Path, interval: str) -> None:
    DeltaTable(root).alter.set_table_properties({RETENTION: interval}, raise_if_not_exists=False)


def retention_of(root: Path) -> str | None:
    return DeltaTable(root).metadata().configuration.get(RETENTION)


def test_partitions_older_than_the_days_kept_go_and_are_recorded(tmp_path: Path) -> None:
    for days, start in ((5, 0), (3, 10), (2, 20), (0, 30)):
        flush(tmp_path, *(rows(log, range(start, start + 10), date=days_ago(days)) for log in (A, B)))
    done = upkeep(tmp_path, quiet_s=HOUR_S, keep_days=2)
    assert (done.partitions_dropped, done.rows_dropped) == (2, 40)
    assert held(tmp_path) == {log: list(range(20, 40)) for log in (A, B)}
    assert [Dropped(tmp_path).of(log) for log in (A, B)] == [Intervals.of((0, 20))] * 2
    assert upkeep(tmp_path, quiet_s=HOUR_S, keep_days=2).partitions_dropped == 0


def test_dropped_rows_are_no_gap_below_an_archived_position(tmp_path: Path) -> None:
    committer = Committer(tmp_path)
    committer.add(starts={A: 0})
    fill_old_and_young(tmp_path)
    upkeep(tmp_path, keep_days=30)
    assert held(tmp_path) == {B: [0]}
    fill(tmp_path, range(10, 20))
    assert committer.add(limits={A: 100}).positions == {A: 20}


def test_without_days_to_keep_everything_stays(tmp_path: Path) -> None:
    fill(tmp_path, range(10), date="1970-01-01")
    assert upkeep(tmp_path).partitions_dropped == 0
    assert upkeep(tmp_path, keep_days=10**9).partitions_dropped == 0
    assert held(tmp_path) == {A: list(range(10))}
    assert not (tmp_path / "_certstream" / "dropped.json").exists()


@pytest.mark.parametrize(
    ("held_days", "days", "first"),
    [
        (["2026-02-26", "2026-02-27", "2026-02-28"], 1, "2026-02-28"),
        (["2026-02-28", "2026-03-01"], 1, "2026-02-28"),
        (["2025-12-01", "2026-01-01", "2026-02-01"], 45, "2026-01-15"),  # by hand, once a month
        ([], 1, "2026-02-28"),
        (["2026-01-01", "2026-03-01"], 10**9, "0001-01-01"),
        (["2025-01-01", "2025-12-01", "2036-01-01"], 400, "2025-01-25"),  # the clock was wrong, and is right again
    ],
)
def test_days_are_counted_back_from_today(held_days: list[str], days: int, first: str) -> None:
    held_dates = [date.fromisoformat(day) for day in held_days]
    assert first_kept(held_dates, date(2026, 3, 1), days) == date.fromisoformat(first)


@pytest.mark.parametrize(
    ("held_days", "days", "first"),
    [
        (["2026-02-01"], 20, "2026-01-12"),
        (["2026-01-11", "2026-01-12", "2026-02-01"], 20, "2026-01-12"),
        (["2025-09-01", "2025-10-25", "2025-11-23", "2026-02-27", "2026-03-01"], 30, "2025-10-24"),
        (["0001-01-02"], 20, "0001-01-01"),
    ],
)
def test_behind_a_pause_longer_than_the_days_kept_they_are_counted_back_from_its_begin(
    held_days: list[str], days: int, first: str
) -> None:
    held_dates = [date.fromisoformat(day) for day in held_days]
    assert first_kept(held_dates, date(2026, 3, 1), days) == date.fromisoformat(first)


def test_a_clock_that_jumps_ahead_drops_nothing_and_is_said(tmp_path: Path) -> None:
    ten_years_s = 3650 * 24 * HOUR_S
    for days in (20, 10, 0):
        fill(tmp_path, range(days * 10, days * 10 + 10), date=days_ago(days))
    before = contents(tmp_path)
    with structlog.testing.capture_logs() as lines:
        assert upkeep(tmp_path, keep_days=30, later_s=ten_years_s).partitions_dropped == 0
    (line,) = (line for line in lines if "is the clock right?" in line["event"])
    assert (line["log_level"], line["newest"]) == ("warning", days_ago(0))
    fill(tmp_path, range(500, 510), date=days_ago(-3650))  # the sink goes by that clock, too
    assert upkeep(tmp_path, keep_days=30, later_s=ten_years_s).partitions_dropped == 0
    assert contents(tmp_path)[: len(before)] == before
    assert Dropped(tmp_path).of(A) == Intervals()


def test_a_partition_that_is_no_day_is_never_dropped(tmp_path: Path) -> None:
    Committer(tmp_path).look()
    append_foreign(tmp_path, rows(A, range(5)).set_column(3, "seen_date", pa.array(["0"] * 5)))
    assert upkeep(tmp_path, keep_days=1).partitions_dropped == 0
    assert held(tmp_path) == {A: list(range(5))}


class SlowDropped(Dropped):
    """Lets something happen after the first record, before the commit."""

    def __init__(self, root: Path) -> None:
        super().__init__(root)
        self.root = root
        self.records: list[dict[str, Intervals]] = []

    def add(self, covers: Mapping[str, Intervals]) -> None:
        super().add(covers)
        self.records.append(dict(covers))
        if len(self.records) == 1:
            fill(self.root, range(50, 60), date=days_ago(40))


def test_rows_that_come_into_an_old_partition_meanwhile_are_recorded_too(tmp_path: Path) -> None:
    fill_old_and_young(tmp_path)
    committer = Committer(tmp_path)
    committer.dropped = slow = SlowDropped(tmp_path)
    assert drop_old(committer, date.fromisoformat(days_ago(0)), 30) == DroppedRows(1, 20)
    assert held(tmp_path) == {B: [0]}
    assert Dropped(tmp_path).of(A) == Intervals.of((0, 10), (50, 60))
    assert len(slow.records) == 2


def test_a_crash_between_record_and_commit_is_made_good_by_the_next_pass(tmp_path: Path) -> None:
    fill_old_and_young(tmp_path)
    Dropped(tmp_path).add({A: Intervals.of((0, 10))})
    assert held(tmp_path) == {A: list(range(10)), B: [0]}
    assert upkeep(tmp_path, keep_days=30).rows_dropped == 10
    assert held(tmp_path) == {B: [0]}
    assert Dropped(tmp_path).of(A) == Intervals.of((0, 10))


def test_where_nothing_can_be_recorded_nothing_is_dropped(tmp_path: Path) -> None:
    fill_old_and_young(tmp_path)
    (tmp_path / "_certstream").mkdir()
    (tmp_path / "_certstream" / "dropped.json").write_text("{")
    with pytest.raises(StorageError, match=r"dropped\.json"):
        upkeep(tmp_path, keep_days=30)
    assert held(tmp_path) == {A: list(range(10)), B: [0]}


def test_files_that_were_replaced_stay_for_the_retention_and_earlier_versions_with_them(tmp_path: Path) -> None:
    fill_mixed(tmp_path, files=3, logs=2, rows_each=10)
    version, old = DeltaTable(tmp_path).version(), names(tmp_path)
    upkeep(tmp_path, retention_hours=168)
    assert upkeep(tmp_path, retention_hours=1).files_vacuumed == 0
    for path in old:
        made_ago(tmp_path / path, 1000)  # when it was removed counts, not when it was written
    assert upkeep(tmp_path, retention_hours=1).files_vacuumed == 0
    assert len(DeltaTable(tmp_path, version=version).to_pyarrow_table()) == 60
    assert upkeep(tmp_path, retention_hours=0).files_vacuumed == 3
    assert data_files(tmp_path) == committed_files(tmp_path)
    assert len(DeltaTable(tmp_path).to_pyarrow_table()) == 60
    assert upkeep(tmp_path, retention_hours=0).files_vacuumed == 0


def test_only_what_is_ours_and_old_is_swept(tmp_path: Path) -> None:
    fill(tmp_path, range(10))
    swept = orphan(tmp_path, 200)
    kept = {orphan(tmp_path, 100), orphan(tmp_path, 0)}
    young_name = orphan(tmp_path, 0)  # a second name of a file of a staging table, not committed yet
    made_ago(tmp_path / young_name, 500)
    for stray in (f"seen_date={OPEN}/part-0001-abc.parquet", f"seen_date={OPEN}/dense-x-y.parquet", "notes.parquet"):
        (tmp_path / stray).write_bytes(b"of somebody else")
        made_ago(tmp_path / stray, 500)
        kept.add(stray)
    done = upkeep(tmp_path, retention_hours=168)
    assert (done.orphans_removed, done.files_vacuumed) == (1, 0)
    assert data_files(tmp_path) == {*kept, young_name, *committed_files(tmp_path)}
    assert swept not in data_files(tmp_path)


def test_a_file_that_a_commit_removed_lately_is_no_orphan_however_old_it_is(tmp_path: Path) -> None:
    version, old = removed_file(tmp_path)
    for _ in range(2):
        done = upkeep(tmp_path, retention_hours=168)
        assert (done.orphans_removed, done.files_vacuumed) == (0, 0)
    assert (tmp_path / old).exists()
    assert len(DeltaTable(tmp_path, version=version).to_pyarrow_table()) == 10


@pytest.mark.parametrize("known", [None, "interval 0 seconds", "interval 1 week", "interval 10 days", "for ever"])
def test_the_log_remembers_removed_files_a_week_longer_than_the_retention(tmp_path: Path, known: str | None) -> None:
    version, old = removed_file(tmp_path)
    if known is not None:
        set_retention(tmp_path, known)
    for _ in range(2):
        assert upkeep(tmp_path, retention_hours=400).orphans_removed == 0
        assert retention_of(tmp_path) == "interval 568 hours"
    assert (tmp_path / old).exists()
    assert len(DeltaTable(tmp_path, version=version).to_pyarrow_table()) == 10


@pytest.mark.parametrize(
    ("known", "after_hours"), [("interval 30 days", 720), ("interval 36000 minutes", 600), ("interval 1 week", 168)]
)
def test_files_stay_for_as_long_as_their_table_wants_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, known: str, after_hours: int
) -> None:
    Committer(tmp_path).look()
    set_retention(tmp_path, known)
    replaced_ago(tmp_path, after_hours - 1, monkeypatch)
    for _ in range(2):
        assert upkeep(tmp_path, retention_hours=168).files_vacuumed == 0
    replaced_ago(tmp_path, after_hours + 1, monkeypatch)
    assert upkeep(tmp_path, retention_hours=168).files_vacuumed == 3
    assert retention_of(tmp_path) == f"interval {after_hours + 168} hours"


def test_what_an_earlier_retention_made_the_log_remember_does_not_keep_files_longer(tmp_path: Path) -> None:
    fill_mixed(tmp_path, files=3, logs=2, rows_each=10)
    upkeep(tmp_path, retention_hours=1000)
    assert upkeep(tmp_path, retention_hours=0).files_vacuumed == 3
    assert retention_of(tmp_path) == "interval 1168 hours"
    set_retention(tmp_path, "interval 50 days")  # by its owner, as nothing of ours
    fill_mixed(tmp_path, files=6, logs=2, rows_each=10)
    assert upkeep(tmp_path, retention_hours=0).files_vacuumed == 0
    assert retention_of(tmp_path) == "interval 1368 hours"


def test_replaced_files_of_others_go_though_a_checkpoint_came_before_the_pass(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    Committer(tmp_path).look()
    replaced_ago(tmp_path, 169, monkeypatch)
    DeltaTable(tmp_path).create_checkpoint()
    assert len(data_files(tmp_path)) == 4
    assert upkeep(tmp_path, retention_hours=168).files_vacuumed == 3
    assert data_files(tmp_path) == committed_files(tmp_path)
    assert held(tmp_path) == {A: list(range(30))}


def test_the_log_is_cleaned_behind_a_checkpoint(tmp_path: Path) -> None:
    fill(tmp_path, range(50))
    upkeep(tmp_path)  # which tells the table its retention
    for number in range(25):
        Committer(tmp_path).add(starts={url(number): 0})
    for path in (tmp_path / "_delta_log").iterdir():
        made_ago(path, 40 * 24)
    upkeep(tmp_path)
    assert not (tmp_path / "_delta_log" / f"{0:020}.json").exists()
    assert held(tmp_path) == {A: list(range(50))}
    versions = len(list((tmp_path / "_delta_log").iterdir()))
    upkeep(tmp_path)
    assert len(list((tmp_path / "_delta_log").iterdir())) == versions


def test_what_is_known_of_dropped_rows_is_forgotten(tmp_path: Path) -> None:
    fill_old_and_young(tmp_path)
    fill(tmp_path, range(10, 15), date=days_ago(3))
    ledger = Ledger(ledger_beside(tmp_path))
    ledger.note({A: Trust(Intervals.of((0, 8), (10, 15)), Intervals.of((8, 10)))})
    assert drop_old(Committer(tmp_path), datetime.now(UTC).date(), 30).rows == 10
    assert ledger.read() == {A: Trust(Intervals.of((10, 15)))}


def test_what_a_pass_that_was_killed_came_not_to_forget_is_forgotten_by_the_next(tmp_path: Path) -> None:
    fill_old_and_young(tmp_path)
    ledger = Ledger(ledger_beside(tmp_path))
    today = datetime.now(UTC).date()
    assert drop_old(Committer(tmp_path), today, 30).rows == 10
    ledger.note({A: Trust(Intervals.of((0, 10))), B: Trust(Intervals.of((0, 1)))})  # as it was before
    fill(tmp_path, range(5, 8), date=days_ago(1))  # archived again, say by a merge
    assert drop_old(Committer(tmp_path), today, 30).rows == 0
    assert ledger.read() == {A: Trust(Intervals.of((5, 8))), B: Trust(Intervals.of((0, 1)))}


def test_a_ledger_that_cannot_forget_stops_no_retention(tmp_path: Path) -> None:
    fill_old_and_young(tmp_path)
    ledger_beside(tmp_path).mkdir(parents=True)
    with structlog.testing.capture_logs() as logs:
        assert drop_old(Committer(tmp_path), datetime.now(UTC).date(), 30).rows == 10
    assert "what was verified of dropped rows cannot be forgotten" in [line["event"] for line in logs]
    assert held(tmp_path) == {B: [0]}
