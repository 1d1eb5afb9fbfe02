"""What verification found is noted once its rows are committed, and never before."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from certstream.app.verification.proven import ProvenRows, proven_rows
from certstream.config import Config
from certstream.errors import StorageError
from certstream.intervals import Intervals
from certstream.ledger import Ledger, Trust, ledger_beside
from certstream.locks import FileLock
from tests.archive.archive_support import held, log_info, packed, url
from tests.archive.merge_support import fill_indices
from tests.archive.sink_support import MANUAL, running, sink, until

LOG = log_info(0)
OTHER = log_info(1)
URL = LOG.base_url
spans = Intervals.of


@pytest.fixture
def ledger(tmp_path: Path) -> Ledger:
    return Ledger(ledger_beside(tmp_path))


@pytest.fixture
def proven(ledger: Ledger) -> ProvenRows:
    return ProvenRows(ledger)


def test_what_is_proven_is_noted_when_its_rows_are_committed(proven: ProvenRows, ledger: Ledger) -> None:
    proven.proven(LOG, 0, 100)
    proven.proven(LOG, 100, 200)
    proven.write()
    assert ledger.read() == {}
    proven.committed({URL: spans((0, 150))}, {})
    assert ledger.read() == {URL: Trust(spans((0, 150)))}
    proven.committed({URL: spans((150, 160))}, {})
    assert ledger.read() == {URL: Trust(spans((0, 160)))}


def test_what_is_proven_after_its_rows_were_committed_is_noted_with_the_next_look(
    proven: ProvenRows, ledger: Ledger
) -> None:
    proven.committed({URL: spans((0, 50))}, {})
    proven.proven(LOG, 0, 100)
    proven.tainted(OTHER, 0, 5)
    proven.write()
    assert ledger.read() == {URL: Trust(spans((0, 50)))}


def test_rows_that_the_table_had_from_somebody_else_are_not_what_was_proven(proven: ProvenRows, ledger: Ledger) -> None:
    proven.proven(LOG, 0, 100)
    proven.committed({URL: spans((50, 100))}, {URL: spans((0, 50))})
    proven.committed({URL: spans((0, 10))}, {})
    assert ledger.read() == {URL: Trust(spans((50, 100)))}


def test_tainted_and_altered_rows_are_noted_likewise(proven: ProvenRows, ledger: Ledger) -> None:
    proven.tainted(LOG, 10, 20)
    proven.altered(LOG, [3, 4, 15, 40])
    proven.proven(LOG, 0, 10)
    assert proven.tainted_of(LOG) == spans((10, 20))
    proven.committed({URL: spans((0, 30))}, {})
    assert ledger.read() == {URL: Trust(spans((0, 10)), spans((10, 20)), spans((3, 5), (15, 16)))}
    assert proven.tainted_of(LOG) == spans((10, 20))
    assert proven.tainted_of(OTHER) == Intervals()


def test_what_is_found_later_goes_before(proven: ProvenRows, ledger: Ledger) -> None:
    proven.tainted(LOG, 0, 100)
    proven.proven(LOG, 0, 50)
    proven.tainted(LOG, 20, 30)
    assert proven.tainted_of(LOG) == spans((20, 30), (50, 100))
    proven.committed({URL: spans((0, 100))}, {})
    assert ledger.read() == {URL: Trust(spans((0, 20), (30, 50)), spans((20, 30), (50, 100)))}
    proven.proven(LOG, 60, 70)
    assert proven.tainted_of(LOG) == spans((20, 30), (50, 60), (70, 100))


def test_what_an_earlier_run_had_tainted_may_be_proven_now(proven: ProvenRows, ledger: Ledger) -> None:
    ledger.note({URL: Trust(tainted=spans((10, 20)))})
    proven.write()
    assert proven.tainted_of(LOG) == spans((10, 20))
    proven.proven(LOG, 0, 15)  # what is below 10 was committed by nobody here
    proven.write()
    assert ledger.read() == {URL: Trust(spans((10, 15)), spans((15, 20)))}
    assert proven.tainted_of(LOG) == spans((15, 20))


def test_what_another_process_proves_is_seen(proven: ProvenRows, ledger: Ledger) -> None:
    proven.tainted(LOG, 0, 10)
    proven.committed({URL: spans((0, 10))}, {})
    Ledger(ledger.path).note({URL: Trust(spans((0, 9)))})
    proven.write()
    assert proven.tainted_of(LOG) == spans((9, 10))


def test_what_is_read_again_is_not_what_was_proven_before(proven: ProvenRows, ledger: Ledger) -> None:
    proven.proven(LOG, 0, 100)
    proven.read_again(LOG, 20, 40)
    proven.proven(LOG, 30, 40)
    proven.committed({URL: spans((0, 100))}, {})
    assert ledger.read() == {URL: Trust(spans((0, 20), (30, 100)))}


def test_a_ledger_that_cannot_be_written_is_said_once_and_tried_again(
    proven: ProvenRows, ledger: Ledger, tmp_path: Path
) -> None:
    ledger.path.parent.write_text("a file where the directory is to be")
    proven.proven(LOG, 0, 10)
    with capture_logs() as logs:
        proven.committed({URL: spans((0, 5))}, {})
        proven.committed({URL: spans((5, 10))}, {})
        ledger.path.parent.unlink()
        proven.write()
        proven.write()
    assert [line["event"] for line in logs] == [
        "what is verified cannot be noted, it is kept and tried again",
        "what is verified is noted again",
    ]
    assert ledger.read() == {URL: Trust(spans((0, 10)))}


def test_no_mistake_here_ends_the_archive(ledger: Ledger, monkeypatch: pytest.MonkeyPatch) -> None:
    proven = ProvenRows(ledger)
    proven.proven(LOG, 0, 10)
    with monkeypatch.context() as broken, capture_logs() as logs:
        broken.setattr(ledger, "note", lambda _trusts: 1 // 0)
        proven.committed({URL: spans((0, 10))}, {})
    assert [line["event"] for line in logs] == ["what is verified could not be noted"]
    proven.write()
    assert ledger.read() == {URL: Trust(spans((0, 10)))}


def test_findings_beyond_what_memory_holds_get_less_exact(proven: ProvenRows, ledger: Ledger) -> None:
    with capture_logs() as logs:
        for index in range(0, 30_000, 2):
            proven.proven(LOG, index, index + 1)
            proven.tainted(OTHER, index, index + 1)
    assert {line["log_level"] for line in logs} == {"warning"}
    everything = {URL: spans((0, 30_000)), OTHER.base_url: spans((0, 30_000))}
    proven.committed(everything, {})
    known = ledger.read()
    assert 1_000 < len(known[URL].verified) <= 10_000
    assert known[OTHER.base_url].tainted.contains(Intervals.of(*((i, i + 1) for i in range(0, 30_000, 2))).start).all()


def test_without_an_archive_only_what_is_tainted_is_kept(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path / "state.json.trust.json")
    proven = ProvenRows(ledger, archived=False)
    proven.proven(LOG, 0, 100)
    proven.tainted(LOG, 100, 200)
    proven.write()
    assert ledger.read() == {URL: Trust(tainted=spans((100, 200)))}
    proven.proven(LOG, 100, 150)
    proven.write()
    assert proven.tainted_of(LOG) == spans((150, 200))
    assert ledger.read()[URL].tainted == spans((150, 200))


def test_without_a_file_it_is_kept_in_memory() -> None:
    proven = ProvenRows(None, archived=False)
    proven.tainted(LOG, 0, 10)
    proven.write()
    proven.proven(LOG, 0, 5)
    assert proven.tainted_of(LOG) == spans((5, 10))


def test_the_ledger_lies_beside_the_archive_or_beside_the_state(tmp_path: Path) -> None:
    def written(**options: object) -> list[str]:
        proven = proven_rows(Config.model_validate(options))
        proven.tainted(LOG, 0, 10)
        proven.committed({URL: spans((0, 10))}, {})
        found = sorted(str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*.trust.json"))
        return found + sorted(str(path.relative_to(tmp_path)) for path in tmp_path.rglob("trust.json"))

    ct_log = {"state_file": str(tmp_path / "state.json")}
    sink_options = {"enabled": True, "table_path": str(tmp_path / "archive")}
    assert written(ct_log=ct_log) == ["state.json.trust.json"]
    assert "archive/_certstream/trust.json" in written(ct_log=ct_log, delta_sink=sink_options)
    assert written(ct_log={"state_file": None})[0] == "state.json.trust.json"


async def test_it_is_written_now_and_then(proven: ProvenRows, ledger: Ledger) -> None:
    turns: asyncio.Queue[float] = asyncio.Queue()
    again = asyncio.Event()

    async def sleep(delay_s: float) -> None:
        turns.put_nowait(delay_s)
        await again.wait()
        again.clear()

    task = asyncio.create_task(proven.run(sleep))
    await turns.get()
    proven.committed({URL: spans((0, 10))}, {})
    proven.proven(LOG, 0, 10)
    again.set()
    assert 0 < await turns.get() <= 10
    assert ledger.read() == {URL: Trust(spans((0, 10)))}
    task.cancel()


async def test_the_sink_tells_of_each_commit_which_rows_it_inserted(tmp_path: Path, ledger: Ledger) -> None:
    proven = ProvenRows(ledger)
    archive = sink(tmp_path, on_committed=proven.committed)
    async with running(archive):
        archive.take_up(LOG, 0)
        proven.proven(LOG, 0, 30)
        archive.take(packed(LOG, 0, 20))
        await until(archive, lambda: archive.archived(URL) == 20)
        assert ledger.read() == {URL: Trust(spans((0, 20)))}
    assert held(tmp_path) == {url(0): list(range(20))}


def test_a_ledger_that_is_held_for_long_holds_up_one_commit_and_no_other(ledger: Ledger) -> None:
    waits: list[float] = []
    proven = ProvenRows(Ledger(ledger.path, sleep=waits.append))
    with FileLock(ledger.path.with_name("trust.json.lock"), subject=ledger.path, error=StorageError):
        proven.proven(LOG, 0, 30)
        proven.committed({URL: spans((0, 10))}, {})
        waited = len(waits)
        assert waited
        proven.committed({URL: spans((10, 20))}, {})
        proven.committed({URL: spans((20, 30))}, {})
        assert len(waits) == waited
    proven.write()
    assert ledger.read() == {URL: Trust(spans((0, 30)))}


def test_rows_that_were_gone_and_come_again_are_verified_anew(proven: ProvenRows, ledger: Ledger) -> None:
    ledger.note({URL: Trust(spans((0, 100)))})
    proven.committed({URL: spans((40, 60))}, {})
    assert ledger.read() == {URL: Trust(spans((0, 40), (60, 100)))}
    proven.proven(LOG, 50, 60)
    proven.write()
    assert ledger.read() == {URL: Trust(spans((0, 40), (50, 100)))}


async def test_rows_that_somebody_else_archived_before_are_not_verified_by_the_sink(
    tmp_path: Path, ledger: Ledger
) -> None:
    fill_indices(tmp_path, range(10))
    proven = ProvenRows(ledger)
    archive = sink(tmp_path, on_committed=proven.committed)
    async with running(archive):
        archive.take_up(LOG, 0)
        await until(archive, lambda: archive.archived(URL) is not None)
        proven.proven(LOG, 0, 20)
        archive.take(packed(LOG, 0, 20))
        await until(archive, lambda: archive.archived(URL) == 20)
    assert ledger.read() == {URL: Trust(spans((10, 20)))}


async def test_a_sink_that_cannot_commit_has_nothing_noted(tmp_path: Path, ledger: Ledger) -> None:
    proven = ProvenRows(ledger)
    archive = sink(tmp_path, MANUAL, on_committed=proven.committed)
    async with running(archive):
        archive.take_up(LOG, 0)
        await until(archive, lambda: archive.archived(URL) == 0)
        proven.proven(LOG, 0, 20)
        archive.take(packed(LOG, 0, 20))
        proven.write()
        assert ledger.read() == {}
    assert ledger.read() == {URL: Trust(spans((0, 20)))}  # the last commit, at the end
