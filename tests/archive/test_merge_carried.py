"""A merge carries what is known of the rows that it inserts, and of no others."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from certstream.archive import storage
from certstream.archive.commit import Committer
from certstream.archive.merge.carried import CarriedTrust
from certstream.archive.merge.merge import Merge, MergeCancelledError
from certstream.errors import StorageError
from certstream.intervals import Intervals
from certstream.ledger import Trust
from tests.archive.archive_support import held, ledger
from tests.archive.merge_support import A, B, crash_merging, fill_indices, merge

spans = Intervals.of


@pytest.fixture
def main(tmp_path: Path) -> Path:
    return tmp_path / "main"


@pytest.fixture
def staging(tmp_path: Path) -> Path:
    return tmp_path / "staging"


def test_what_is_known_of_inserted_rows_goes_along_and_staging_goes_wholly(main: Path, staging: Path) -> None:
    fill_indices(main, range(10))
    fill_indices(staging, range(10, 30))
    fill_indices(staging, range(5), log_url=B)
    ledger(main).note({A: Trust(spans((0, 10)))})
    ledger(staging).note({A: Trust(spans((10, 20)), spans((20, 25)), spans((12, 13))), B: Trust(spans((0, 5)))})
    merge(main, staging)
    assert ledger(main).read() == {
        A: Trust(spans((0, 20)), spans((20, 25)), spans((12, 13))),
        B: Trust(spans((0, 5))),
    }
    assert not staging.exists()


def test_rows_that_main_had_keep_what_main_knows(main: Path, staging: Path) -> None:
    fill_indices(main, range(10))
    fill_indices(staging, range(5, 20))
    ledger(main).note({A: Trust(spans((0, 7)), spans((7, 8)))})
    ledger(staging).note({A: Trust(spans((7, 20)), spans((5, 7)))})
    merge(main, staging)
    assert ledger(main).read() == {A: Trust(spans((0, 7), (10, 20)), spans((7, 8)))}


def test_what_staging_says_of_rows_that_it_does_not_hold_is_not_carried(main: Path, staging: Path) -> None:
    fill_indices(staging, range(5, 10))
    ledger(staging).note({A: Trust(spans((0, 100)))})
    merge(main, staging)
    assert ledger(main).read() == {A: Trust(spans((5, 10)))}


def test_what_main_says_of_rows_that_it_does_not_hold_is_not_of_those_that_come(main: Path, staging: Path) -> None:
    fill_indices(main, range(5))
    fill_indices(staging, range(10))
    ledger(main).note({A: Trust(spans((0, 100)))})
    merge(main, staging)
    assert ledger(main).read() == {A: Trust(spans((0, 5), (10, 100)))}


def test_staging_of_which_nothing_is_known_makes_no_ledger(main: Path, staging: Path) -> None:
    fill_indices(staging, range(5, 10))
    merge(main, staging)
    assert not ledger(main).path.exists()


def test_a_damaged_ledger_of_staging_leaves_the_rows_unverified(main: Path, staging: Path) -> None:
    fill_indices(staging, range(5, 10))
    ledger(staging).note({A: Trust(spans((0, 100)))})
    ledger(staging).path.write_bytes(b"damaged")
    with capture_logs() as logs:
        merge(main, staging)
    assert logs[0]["event"] == "what is verified cannot be read, so nothing counts as verified"
    assert ledger(main).read() == {}
    assert not staging.exists()


@pytest.mark.parametrize(
    "crash",
    [
        "certstream.archive.merge.carried.CarriedTrust.inserted",  # before anything is carried
        "certstream.ledger.write_file",
        "certstream.archive.table.Snapshot.commit",
        "certstream.archive.storage.replace_file",
        "certstream.archive.merge.staged.Staged.delete",
    ],
)
def test_a_crash_anywhere_loses_nothing_of_what_is_known(main: Path, staging: Path, crash: str) -> None:
    fill_indices(main, range(3))
    fill_indices(staging, range(10), range(10, 20), range(20, 30))
    ledger(staging).note({A: Trust(spans((0, 15), (17, 30)), spans((15, 17)))})
    crash_merging(crash, main, staging)
    known, rows = ledger(main).read().get(A, Trust()), Intervals.of(*((i, i + 1) for i in held(main)[A]))
    assert (known.verified | known.tainted) - rows == Intervals()
    merge(main, staging)
    assert held(main) == {A: [*range(30)]}
    assert ledger(main).read() == {A: Trust(spans((3, 15), (17, 30)), spans((15, 17)))}


def test_after_a_crash_what_main_says_of_rows_that_are_gone_is_not_of_those_that_came(
    main: Path, staging: Path
) -> None:
    fill_indices(main, range(100, 101))
    fill_indices(staging, range(10))
    ledger(staging).note({A: Trust(spans((5, 10)))})
    ledger(main).note({A: Trust(spans((0, 3)), spans((3, 4)))})  # of rows that main does not hold any more
    crash_merging("certstream.archive.merge.carried.CarriedTrust.inserted", main, staging)
    merge(main, staging)
    assert ledger(main).read() == {A: Trust(spans((5, 10)))}


def test_after_a_crash_nothing_is_verified_by_what_main_says_of_rows_that_are_gone(main: Path, staging: Path) -> None:
    fill_indices(main, range(100, 101))
    fill_indices(staging, range(10))  # of which nothing is known
    ledger(main).note({A: Trust(spans((0, 3), (100, 101)), spans((3, 4)))})
    crash_merging("certstream.archive.merge.carried.CarriedTrust.inserted", main, staging)
    assert held(main) == {A: [*range(10), 100]}
    merge(main, staging)
    assert ledger(main).read() == {A: Trust(spans((100, 101)))}


def test_what_was_found_after_an_interrupted_merge_is_known_after_the_next_one(main: Path, staging: Path) -> None:
    fill_indices(staging, range(10), range(10, 20))
    ledger(staging).note({A: Trust(spans((0, 5), (10, 20)))})
    stop = threading.Event()
    with pytest.raises(MergeCancelledError):
        Merge(Committer(main), staging, batch_rows=10, progress=lambda _: stop.set()).run(stop)
    assert held(main) == {A: [*range(10)]}
    ledger(main).note({A: Trust(spans((5, 8)), spans((8, 9)), spans((6, 7)))})
    merge(main, staging)
    assert ledger(main).read() == {A: Trust(spans((0, 8), (10, 20)), spans((8, 9)), spans((6, 7)))}


def test_a_damaged_note_of_an_interrupted_merge_is_said(main: Path, staging: Path) -> None:
    fill_indices(staging, range(10), range(10, 20))
    ledger(staging).note({A: Trust(spans((0, 20)))})
    crash_merging("certstream.archive.merge.carried.CarriedTrust.inserted", main, staging)
    (staging / storage.SIDE / "merging.json").write_bytes(b'{"version": 1}')
    with capture_logs() as logs:
        merge(main, staging)
    assert [line["event"] for line in logs if line["log_level"] == "warning"] == [
        "what an interrupted merge verified is not known any more, it shows as unverified"
    ]
    assert ledger(main).read() == {A: Trust(spans((10, 20)))}


def test_a_ledger_of_main_that_cannot_be_written_keeps_staging(main: Path, staging: Path) -> None:
    fill_indices(main, range(1))
    fill_indices(staging, range(10))
    ledger(staging).note({A: Trust(spans((0, 10)))})
    ledger(main).path.mkdir(parents=True)
    with pytest.raises(StorageError, match="trust"):
        merge(main, staging)
    ledger(main).path.rmdir()
    assert staging.exists()
    merge(main, staging)
    assert ledger(main).read() == {A: Trust(spans((1, 10)))}


def test_a_merge_goes_on_where_it_cannot_be_written_down(main: Path, staging: Path) -> None:
    fill_indices(staging, range(10))
    ledger(staging).note({A: Trust(spans((0, 10)))})
    (staging / storage.SIDE / "merging.json").mkdir()
    carried = CarriedTrust(main, staging)
    carried.before(())
    with pytest.raises(StorageError, match="merging"):
        carried.resume(Committer(main).look())
