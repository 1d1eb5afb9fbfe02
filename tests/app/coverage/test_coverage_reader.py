"""What is archived, verified and missing, as real tables, ledgers and records of dropped rows say."""

from __future__ import annotations

import shutil
import threading
from pathlib import Path

import pytest

from certstream.app.backfill import Ceiling, Tables
from certstream.app.coverage.reader import CoverageReader
from certstream.app.coverage.report import LogCoverage
from certstream.archive.coverage import LookCancelledError
from certstream.archive.dropped import Dropped
from certstream.archive.table import Table
from certstream.errors import StorageError
from certstream.intervals import Intervals
from certstream.ledger import Trust
from tests.archive.archive_support import ledger, log_info, make_reference_table, many_rows, rows
from tests.archive.merge_support import A, B, fill, fill_indices, merge

LOG, OTHER = log_info(0), log_info(1)
NOTHING = Intervals()
spans = Intervals.of


@pytest.fixture
def main(tmp_path: Path) -> Path:
    return tmp_path / "main"


@pytest.fixture
def staging(tmp_path: Path) -> Path:
    return tmp_path / "staging"


def of(reader: CoverageReader, ceiling: Ceiling | None = None, missing: Intervals = NOTHING) -> LogCoverage:
    """How LOG stands."""
    ceilings = {} if ceiling is None else {A: ceiling}
    return reader.report([LOG], ceilings, {A: missing}).logs[0]


def test_of_a_table_that_is_not_there_all_below_the_ceiling_is_missing(main: Path) -> None:
    found = of(CoverageReader(Tables(main, None)), Ceiling(100, 40))
    assert (found.archived, found.verified, found.missing) == (NOTHING, NOTHING, spans((40, 100)))
    assert not main.exists()


def test_what_is_archived_verified_tainted_altered_unparseable_and_missing(main: Path) -> None:
    fill_indices(main, range(10, 30), range(40, 50))
    ledger(main).note({A: Trust(spans((0, 25)), spans((40, 45)), spans((12, 13), (99, 100)))})
    found = of(CoverageReader(Tables(main, None)), Ceiling(60, 5), missing=spans((60, 62)))
    assert found.archived == spans((10, 30), (40, 50))
    assert found.verified == spans((10, 25))  # the ledger says more, of rows that are not there
    assert found.tainted == spans((40, 45))
    assert found.unverified == spans((25, 30), (45, 50))
    assert found.altered == spans((12, 13))
    assert found.unparseable == spans((19, 20), (29, 30), (49, 50))
    assert found.missing == spans((5, 10), (30, 40), (50, 62))
    assert (found.name, found.ceiling) == (LOG.name, 60)


def test_what_is_missing_of_a_log_without_a_position_is_not_known(main: Path) -> None:
    fill_indices(main, range(10))
    found = of(CoverageReader(Tables(main, None)))
    assert (found.archived, found.missing, found.ceiling) == (spans((0, 10)), None, None)


def test_rows_that_were_dropped_are_not_missing(main: Path) -> None:
    fill_indices(main, range(10, 20))
    Dropped(main).add({A: spans((0, 12)), B: spans((0, 5))})
    report = CoverageReader(Tables(main, None)).report([LOG], {A: Ceiling(20, 0)})
    assert [log.url for log in report.logs] == [A, B]
    assert (report.logs[0].dropped, report.logs[0].missing) == (spans((0, 10)), NOTHING)
    assert report.logs[1].dropped == spans((0, 5))


def test_logs_that_are_archived_and_not_configured_are_there_as_well(main: Path) -> None:
    fill_indices(main, range(10))
    fill_indices(main, range(5), log_url=B)
    report = CoverageReader(Tables(main, None)).report([LOG], {})
    assert [(log.name, log.url, log.archived.count) for log in report.logs] == [(LOG.name, A, 10), (None, B, 5)]


def test_staging_counts_with_what_main_does_not_have(main: Path, staging: Path) -> None:
    fill_indices(main, range(10))
    fill_indices(staging, range(5, 25))
    ledger(main).note({A: Trust(spans((0, 8)))})
    ledger(staging).note({A: Trust(spans((8, 20)), spans((20, 22)))})
    reader = CoverageReader(Tables(main, staging))
    found = of(reader, Ceiling(30, 0))
    assert (found.archived, found.staged) == (spans((0, 10)), spans((10, 25)))
    assert (found.verified, found.tainted) == (spans((0, 8), (10, 20)), spans((20, 22)))
    assert (found.unparseable, found.missing) == (spans((9, 10), (19, 20)), spans((25, 30)))
    merge(main, staging)
    found = of(reader, Ceiling(30, 0))
    assert (found.archived, found.staged) == (spans((0, 25)), NOTHING)
    assert (found.verified, found.tainted) == (spans((0, 8), (10, 20)), spans((20, 22)))


def test_a_row_of_staging_that_nobody_can_read_does_not_count_where_main_has_a_better_one(
    main: Path, staging: Path
) -> None:
    fill(main, many_rows(A, range(1, 11)))  # of these the last one cannot be read
    fill_indices(staging, range(1, 25))
    assert of(CoverageReader(Tables(main, staging))).unparseable == spans((10, 11), (19, 20))


def test_what_was_missing_before_the_look_and_is_archived_by_then_is_not_missing(main: Path, staging: Path) -> None:
    fill_indices(main, range(10, 20))
    fill_indices(staging, range(20, 25))
    found = of(CoverageReader(Tables(main, staging)), Ceiling(10, 10), missing=spans((10, 30)))
    assert found.missing == spans((25, 30))


def test_a_later_look_sees_what_changed(main: Path) -> None:
    fill_indices(main, range(10))
    reader = CoverageReader(Tables(main, None))
    assert of(reader).verified == NOTHING
    ledger(main).note({A: Trust(spans((0, 20)))})
    fill_indices(main, range(10, 15))
    assert of(reader).verified == spans((0, 15))
    shutil.rmtree(main)
    assert of(reader).archived == NOTHING


def test_a_table_that_moved_takes_what_is_known_along(main: Path, tmp_path: Path) -> None:
    fill_indices(main, range(10))
    ledger(main).note({A: Trust(spans((0, 10)))})
    main.rename(tmp_path / "elsewhere")
    assert of(CoverageReader(Tables(tmp_path / "elsewhere", None))).verified == spans((0, 10))


def test_a_table_of_the_other_server_is_read_and_unverified(main: Path) -> None:
    make_reference_table(main)
    snapshot = Table(main).open()
    assert snapshot is not None
    fill(main, rows(A, range(20)), form=snapshot.form)
    found = of(CoverageReader(Tables(main, None)), Ceiling(20, 0))
    assert (found.archived, found.unverified) == (spans((0, 20)), spans((0, 20)))
    assert (found.unparseable, found.missing) == (spans((9, 10), (19, 20)), NOTHING)


def test_what_was_read_is_remembered(main: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fill_indices(main, [1, 3, 5], [7, 9])
    reader = CoverageReader(Tables(main, None))
    before = of(reader)
    reader.save()
    for name in ("certstream.archive.coverage.read_cover", "certstream.archive.unparseable.read_unparseable"):
        monkeypatch.setattr(name, lambda *_, **__: pytest.fail("is read again"))
    assert of(CoverageReader(Tables(main, None))) == before


def test_a_look_can_be_cancelled(main: Path) -> None:
    fill_indices(main, [1, 3, 5])
    cancelled = threading.Event()
    reader = CoverageReader(Tables(main, None), cancelled)
    cancelled.set()
    with pytest.raises(LookCancelledError):
        of(reader)
    cancelled.clear()
    assert of(reader).archived.count == 3


def test_what_cannot_be_read_is_a_storage_error(main: Path) -> None:
    fill_indices(main, range(10))
    reader = CoverageReader(Tables(main, None))
    (main / "_certstream").mkdir(exist_ok=True)
    (main / "_certstream" / "dropped.json").write_text("{")
    with pytest.raises(StorageError, match=r"dropped\.json"):
        of(reader)
