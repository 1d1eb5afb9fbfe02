"""`certstream --merge`: staging ends in the archive, once, and is gone; whatever goes wrong, it is not."""

from __future__ import annotations

import os
import shutil
import signal
from pathlib import Path

import pytest
from deltalake import DeltaTable

from certstream.archive.commit import Committer
from certstream.archive.datafile import WriteSettings, write_file
from certstream.archive.merge.staging import staging_lock
from tests.archive.archive_support import DATE, committed_files, data_files, held, many_rows, url
from tests.e2e.command_support import MAIN, STAGING, Command, archive_options, fill, run, snapshot_of, until_begun

A, B = url(0), url(1)
OPTIONS = archive_options([])


async def test_ac3_5_merge_returns_zero_and_logs_metrics(tmp_path: Path) -> None:
    fill(tmp_path / MAIN, A, range(100))
    fill(tmp_path / STAGING, A, range(50, 200))
    fill(tmp_path / STAGING, B, range(30))
    done = await run(tmp_path, OPTIONS, "--merge", "--staging-path", STAGING)
    assert done.code == 0
    assert done.only("merge mode starting")["staging_path"] == str(tmp_path / STAGING)
    complete = done.only("merge complete")
    figures = complete["total_inserted"], complete["total_skipped"], complete["total_staging_rows"]
    assert figures == (130, 50, 180)
    assert held(tmp_path / MAIN) == {A: list(range(200)), B: list(range(30))}
    assert [path.name for path in (tmp_path / "data").iterdir()] == ["main"]


async def test_ac4_1_missing_staging_table_exits_zero(tmp_path: Path) -> None:
    done = await run(tmp_path, OPTIONS, "--merge", "--staging-path", STAGING)
    assert done.code == 0
    assert done.only("staging table does not exist, nothing to merge")["level"] == "info"
    assert [path.name for path in tmp_path.iterdir()] == ["config.yaml"]


async def test_ac4_1_empty_staging_table_exits_zero(tmp_path: Path) -> None:
    fill(tmp_path / STAGING, A, range(5))
    DeltaTable(tmp_path / STAGING).delete()
    done = await run(tmp_path, OPTIONS, "--merge", "--staging-path", STAGING)
    complete = done.only("merge complete")
    assert done.code == 0
    assert (complete["total_inserted"], complete["total_skipped"], complete["total_staging_rows"]) == (0, 0, 0)
    assert not (tmp_path / STAGING).exists()


async def test_a_copy_of_a_merged_staging_table_is_skipped_whole(tmp_path: Path) -> None:
    fill(tmp_path / STAGING, A, range(100))
    shutil.copytree(tmp_path / STAGING, tmp_path / "data/copy")
    assert (await run(tmp_path, OPTIONS, "--merge", "--staging-path", STAGING)).code == 0
    before = committed_files(tmp_path / MAIN)
    again = (await run(tmp_path, OPTIONS, "--merge", "--staging-path", "data/copy")).only("merge complete")
    assert (again["total_inserted"], again["total_skipped"]) == (0, 100)
    assert committed_files(tmp_path / MAIN) == before


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
async def test_a_signal_leaves_staging_as_it_was_and_the_next_merge_finishes(
    tmp_path: Path, number: signal.Signals
) -> None:
    """It comes while rows are filtered: the first of several files is begun, nothing is committed yet."""
    count = 60_000
    main = Committer(tmp_path / MAIN)
    staging = Committer(tmp_path / STAGING)
    for table, log_url, indices in (
        (main, A, range(0, count, 2)),
        (staging, A, range(count)),
        (staging, B, range(count)),
    ):
        file = write_file(table.root, table.form(), DATE, many_rows(log_url, indices), WriteSettings())
        table.add([file])
    before = snapshot_of(tmp_path / STAGING)
    async with Command(tmp_path, OPTIONS, ["--merge", "--staging-path", STAGING]) as command:
        await command.until("merge mode starting")
        await until_begun(tmp_path / MAIN)
        command.send(number)
        done = await command.ended()
    assert (done.code, len(done.events("merge interrupted, staging is as it was"))) == (1, 1)
    assert snapshot_of(tmp_path / STAGING) == before
    assert data_files(tmp_path / MAIN) == committed_files(tmp_path / MAIN)
    assert held(tmp_path / MAIN) == {A: list(range(0, count, 2))}
    assert (await run(tmp_path, OPTIONS, "--merge", "--staging-path", STAGING)).code == 0
    assert held(tmp_path / MAIN) == {A: list(range(count)), B: list(range(count))}
    assert [path.name for path in (tmp_path / "data").iterdir()] == ["main"]


async def test_a_staging_table_with_other_columns_is_refused_and_kept(tmp_path: Path) -> None:
    import pyarrow as pa
    from deltalake import write_deltalake

    fill(tmp_path / MAIN, A, range(10))
    write_deltalake(tmp_path / STAGING, pa.table({"cert_index": [1], "source_url": [A]}))
    before = snapshot_of(tmp_path / "data")
    done = await run(tmp_path, OPTIONS, "--merge", "--staging-path", STAGING)
    assert done.code == 1
    assert "columns are not those of an archive: update_type is missing" in done.lines[-1]["event"]
    assert snapshot_of(tmp_path / "data") == before


@pytest.mark.parametrize("table", [MAIN, STAGING])
async def test_a_corrupt_log_stops_the_merge_and_changes_nothing(tmp_path: Path, table: str) -> None:
    fill(tmp_path / MAIN, A, range(10))
    fill(tmp_path / STAGING, A, range(20))
    (tmp_path / table / "_delta_log" / f"{1:020}.json").write_text("{broken")
    before = snapshot_of(tmp_path / "data")
    done = await run(tmp_path, OPTIONS, "--merge", "--staging-path", STAGING)
    assert done.code == 1
    assert f"{tmp_path / table / '_delta_log'}: " in done.lines[-1]["event"]
    assert snapshot_of(tmp_path / "data") == before


async def test_a_staging_table_in_use_is_left_to_who_uses_it(tmp_path: Path) -> None:
    fill(tmp_path / STAGING, A, range(20))
    before = snapshot_of(tmp_path / STAGING)
    with staging_lock(tmp_path / STAGING):
        done = await run(tmp_path, OPTIONS, "--merge", "--staging-path", STAGING)
    assert done.code == 1
    assert f"in use by process {os.getpid()} " in done.lines[-1]["event"]
    assert snapshot_of(tmp_path / STAGING) == before
    assert not (tmp_path / MAIN).exists()
