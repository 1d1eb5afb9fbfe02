"""What is known of a backfill's rows is noted beside the table, behind their commit and never ahead of it."""

from __future__ import annotations

from pathlib import Path

import pytest

from certstream.app.backfill import TableDestination
from certstream.archive.commit import Committer
from certstream.archive.datafile import WriteSettings
from certstream.archive.schema import NATIVE
from certstream.errors import StorageError
from certstream.intervals import Intervals
from certstream.ledger import Ledger, Trust, ledger_beside
from tests.archive.archive_support import held, rows
from tests.e2e.command_support import fill

URL = "https://log.example"


def destination(root: Path) -> TableDestination:
    return TableDestination(root, NATIVE, WriteSettings())


def write(to: TableDestination, start: int, stop: int, trust: Trust) -> None:
    for batch in rows(URL, range(start, stop)).combine_chunks().to_batches():
        to.write(batch, trust)


def known(root: Path) -> Trust:
    return Ledger(ledger_beside(root)).read().get(URL, Trust())


def test_nothing_is_noted_before_the_commit(tmp_path: Path) -> None:
    to = destination(tmp_path)
    found = Trust(Intervals.of((0, 90)), Intervals.of((90, 95)), Intervals.of((7, 8)))
    write(to, 0, 100, found)
    assert known(tmp_path) == Trust()
    written = to.commit()
    assert (written.inserted, written.verified, written.tainted) == (100, 90, 5)
    assert known(tmp_path) == found


def test_rows_that_somebody_else_archived_meanwhile_are_not_what_was_proven(tmp_path: Path) -> None:
    fill(tmp_path, URL, range(20, 40))
    to = destination(tmp_path)
    write(to, 0, 100, Trust(Intervals.of((0, 100))))
    written = to.commit()
    assert (written.inserted, written.skipped, written.verified) == (80, 20, 80)
    assert known(tmp_path) == Trust(Intervals.of((0, 20), (40, 100)))


def test_what_is_abandoned_is_never_noted(tmp_path: Path) -> None:
    to = destination(tmp_path)
    write(to, 0, 100, Trust(Intervals.of((0, 100))))
    to.abandon()
    write(to, 200, 210, Trust())
    to.commit()
    assert known(tmp_path) == Trust()
    assert held(tmp_path) == {URL: list(range(200, 210))}


def test_a_commit_that_fails_notes_nothing(tmp_path: Path) -> None:
    Committer(tmp_path).look()
    to = destination(tmp_path)
    write(to, 0, 100, Trust(Intervals.of((0, 100))))
    log = tmp_path / "_delta_log"
    log.rename(tmp_path / "aside")
    log.write_text("no directory")
    with pytest.raises(StorageError):
        to.commit()
    assert known(tmp_path) == Trust()


def test_what_cannot_be_noted_is_noted_with_the_next_commit(tmp_path: Path) -> None:
    to = destination(tmp_path)
    write(to, 0, 100, Trust(Intervals.of((0, 100))))
    ledger = ledger_beside(tmp_path)
    ledger.mkdir(parents=True)  # no file can be written there
    assert to.commit().verified == 100
    assert held(tmp_path) == {URL: list(range(100))}
    ledger.rmdir()
    write(to, 100, 150, Trust(Intervals.of((100, 150))))
    to.commit()
    assert known(tmp_path) == Trust(Intervals.of((0, 150)))
