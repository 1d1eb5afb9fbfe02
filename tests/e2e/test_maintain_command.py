"""`certstream --maintain`: small files become dense ones; whatever goes wrong, the rows stay."""

from __future__ import annotations

import signal
from pathlib import Path

import pyarrow as pa
import pytest
from deltalake import write_deltalake

from certstream.archive.commit import Committer
from certstream.archive.datafile import WriteSettings, write_file
from tests.archive.archive_support import committed_files, data_files, held, many_rows, url
from tests.archive.upkeep_support import OPEN, contents, fill_mixed, spans
from tests.e2e.command_support import MAIN, Command, archive_options, run, snapshot_of, until_begun

LOGS = 6
EACH = 20_000  # rows of each log: writing them takes long enough to be interrupted
OPTIONS = archive_options([], maintenance={"quiet_secs": 0})


def fill_much(root: Path) -> dict[str, list[int]]:
    """Two files, each with rows of all logs; what the table then holds."""
    committer = Committer(root)
    for half in (range(EACH // 2), range(EACH // 2, EACH)):
        table = pa.concat_tables([many_rows(url(log), half) for log in range(LOGS)])
        committer.add([write_file(root, committer.form(), OPEN, table, WriteSettings())])
    return {url(log): list(range(EACH)) for log in range(LOGS)}


async def test_small_files_become_dense_ones_and_nothing_is_lost(tmp_path: Path) -> None:
    fill_mixed(tmp_path / MAIN, files=6, logs=3, rows_each=10)
    before = contents(tmp_path / MAIN)
    done = await run(tmp_path, OPTIONS, "--maintain")
    complete = done.only("maintenance complete")
    assert done.code == 0
    assert done.only("maintenance mode starting")["table_path"] == str(tmp_path / MAIN)
    assert (complete["files_rewritten"], complete["files_written"], complete["rows"]) == (6, 3, 180)
    assert contents(tmp_path / MAIN) == before
    assert spans(tmp_path / MAIN) == {url(log): [(0, 60)] for log in range(3)}


async def test_a_second_pass_has_nothing_to_do(tmp_path: Path) -> None:
    fill_mixed(tmp_path / MAIN, files=3, logs=2, rows_each=10)
    assert (await run(tmp_path, OPTIONS, "--maintain")).code == 0
    before = committed_files(tmp_path / MAIN)
    again = await run(tmp_path, OPTIONS, "--maintain")
    assert (again.code, again.only("maintenance complete")["files_rewritten"]) == (0, 0)
    assert committed_files(tmp_path / MAIN) == before


async def test_young_files_are_left_alone(tmp_path: Path) -> None:
    fill_mixed(tmp_path / MAIN, files=3, logs=2, rows_each=10)
    before = committed_files(tmp_path / MAIN)
    done = await run(tmp_path, archive_options([], maintenance={"quiet_secs": 3_600}), "--maintain")
    assert (done.code, done.only("maintenance complete")["files_rewritten"]) == (0, 0)
    assert committed_files(tmp_path / MAIN) == before


async def test_without_a_table_there_is_nothing_to_do_and_nothing_is_created(tmp_path: Path) -> None:
    done = await run(tmp_path, OPTIONS, "--maintain")
    assert (done.code, done.only("maintenance complete")["files_rewritten"]) == (0, 0)
    assert [path.name for path in tmp_path.iterdir()] == ["config.yaml"]


async def test_a_second_one_at_the_same_time_names_the_first_and_changes_nothing(tmp_path: Path) -> None:
    wanted = fill_much(tmp_path / MAIN)
    before = committed_files(tmp_path / MAIN)
    async with Command(tmp_path, OPTIONS, ["--maintain"]) as first:
        await until_begun(tmp_path / MAIN)
        first.send(signal.SIGSTOP)  # so that it is not done before the other one begins
        second = await run(tmp_path, OPTIONS, "--maintain")
        assert second.code == 1
        assert f"in use by process {first.pid} " in second.lines[-1]["event"]
        assert committed_files(tmp_path / MAIN) == before
        first.send(signal.SIGCONT)
        assert (await first.ended()).code == 0
    assert held(tmp_path / MAIN) == wanted
    assert len(spans(tmp_path / MAIN)) == LOGS


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
async def test_a_signal_in_the_middle_leaves_the_table_whole_and_the_next_pass_finishes(
    tmp_path: Path, number: signal.Signals
) -> None:
    wanted = fill_much(tmp_path / MAIN)
    async with Command(tmp_path, OPTIONS, ["--maintain"]) as command:
        await until_begun(tmp_path / MAIN)
        command.send(number)
        done = await command.ended()
    assert (done.code, len(done.events("maintenance interrupted"))) == (1, 1)
    assert done.events("maintenance complete") == []
    assert held(tmp_path / MAIN) == wanted
    assert data_files(tmp_path / MAIN) == committed_files(tmp_path / MAIN)
    assert (await run(tmp_path, OPTIONS, "--maintain")).code == 0
    assert held(tmp_path / MAIN) == wanted
    assert spans(tmp_path / MAIN) == {log: [(0, EACH)] for log in wanted}


async def test_a_table_with_other_columns_is_refused_and_kept(tmp_path: Path) -> None:
    write_deltalake(tmp_path / MAIN, pa.table({"cert_index": [1], "source_url": [url()]}))
    before = snapshot_of(tmp_path / "data")
    done = await run(tmp_path, OPTIONS, "--maintain")
    assert (done.code, "columns are not those of an archive" in done.lines[-1]["event"]) == (1, True)
    assert snapshot_of(tmp_path / "data").items() >= before.items()  # and its own lock file


async def test_a_corrupt_log_is_one_line_and_changes_nothing(tmp_path: Path) -> None:
    fill_mixed(tmp_path / MAIN, files=2, logs=2, rows_each=5)
    (tmp_path / MAIN / "_delta_log" / f"{1:020}.json").write_text("{broken")
    before = snapshot_of(tmp_path / "data")
    done = await run(tmp_path, OPTIONS, "--maintain")
    assert (done.code, f"{tmp_path / MAIN / '_delta_log'}: " in done.lines[-1]["event"]) == (1, True)
    assert snapshot_of(tmp_path / "data").items() >= before.items()  # and its own lock file
