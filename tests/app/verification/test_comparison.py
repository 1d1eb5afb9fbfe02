"""What `--verify` compares is noted for the rows that are still there."""

from __future__ import annotations

from datetime import date, timedelta
from pathlib import Path

from certstream.app.verification.command import Comparison
from certstream.archive.commit import Committer
from certstream.archive.upkeep.retention import drop_old
from certstream.intervals import Intervals
from certstream.ledger import Ledger, Trust, ledger_beside
from tests.archive.archive_support import rows
from tests.archive.upkeep_support import A, fill

TODAY = date(2026, 3, 1)


def test_rows_that_are_dropped_while_they_are_verified_are_not_known_afterwards(tmp_path: Path) -> None:
    for days, indices in ((40, range(10)), (20, range(10, 15)), (1, range(15, 20))):
        fill(tmp_path, indices, date=(TODAY - timedelta(days=days)).isoformat())
    comparison = Comparison(tmp_path)
    old = (TODAY - timedelta(days=40)).isoformat()
    (read,) = rows(A, range(10), date=old).to_batches()
    comparison.write(read, Trust(Intervals.of((0, 10))))
    (read,) = rows(A, range(10, 15), date=old).to_batches()
    comparison.write(read, Trust(Intervals.of((10, 15))))
    assert drop_old(Committer(tmp_path), TODAY, 30).rows == 10
    assert comparison.commit().verified == 15
    assert Ledger(ledger_beside(tmp_path)).read() == {A: Trust(Intervals.of((10, 15)))}
