"""`certstream --backfill`: what is missing is fetched, into the archive or beside it, and nothing else."""

from __future__ import annotations

import signal
from pathlib import Path

import pyarrow as pa
import pytest
from deltalake import DeltaTable

from certstream.certs.arrow import SCHEMA
from certstream.ct.types import LogKind
from certstream.simulator.faults import Fault, FaultKind
from certstream.simulator.log import SimulatedLog
from tests.e2e.command_support import (
    MAIN,
    STAGING,
    Command,
    archive_options,
    fill,
    rows_of,
    run,
    snapshot_of,
    until_struck,
    write_state,
)
from tests.e2e.e2e_support import Simulate

KINDS: list[LogKind] = ["rfc6962", "static"]


async def logs(
    simulate: Simulate, *sizes: int, kind: LogKind = "static"
) -> tuple[list[SimulatedLog], dict[str, object], list[str]]:
    """Simulated logs of these sizes, a configuration of them, and their URLs."""
    made = [SimulatedLog(f"log{n}", kinds={kind}, initial=size, seed=n) for n, size in enumerate(sizes)]
    server = await simulate(*made)
    return made, archive_options(server.infos()), [log.url(kind).rstrip("/") for log in made]


@pytest.mark.parametrize("kind", KINDS)
async def test_staging_write_creates_table_at_staging_path(tmp_path: Path, simulate: Simulate, kind: LogKind) -> None:
    _, options, (url,) = await logs(simulate, 700, kind=kind)
    write_state(tmp_path, {url: 600})
    done = await run(tmp_path, options, "--backfill", "--staging-path", STAGING)
    assert done.code == 0
    staging = DeltaTable(tmp_path / STAGING)
    assert pa.schema(staging.schema().to_arrow()) == SCHEMA
    assert staging.metadata().partition_columns == ["seen_date"]
    assert rows_of(tmp_path / STAGING, url) == list(range(600))
    starting = done.only("backfill mode starting")
    assert (starting["mode"], starting["staging_path"]) == ("catch-up", str(tmp_path / STAGING))
    complete = done.only("backfill complete")
    assert (complete["records_written"], complete["logs_done"], complete["logs_failed"]) == (600, 1, 0)
    assert complete["entries_per_s"] > 0
    assert complete["elapsed_s"] >= 0


async def test_ac1_2_records_in_staging_not_in_main(tmp_path: Path, simulate: Simulate) -> None:
    _, options, (url,) = await logs(simulate, 600)
    write_state(tmp_path, {url: 600}, start_index=0)
    fill(tmp_path / MAIN, url, range(100, 200))
    version = DeltaTable(tmp_path / MAIN).version()
    assert (await run(tmp_path, options, "--backfill", "--staging-path", STAGING)).code == 0
    assert rows_of(tmp_path / STAGING, url) == [*range(100), *range(200, 600)]
    assert rows_of(tmp_path / MAIN, url) == list(range(100, 200))
    assert DeltaTable(tmp_path / MAIN).version() == version


@pytest.mark.parametrize(
    ("flags", "mode", "wanted"),
    [
        ([], "catch-up", [*range(130, 150), *range(170, 400)]),
        (["--from", "90"], "historical", [*range(90, 100), *range(130, 150), *range(170, 400)]),
    ],
)
async def test_ac1_3_gap_detection_with_staging_catch_up_and_historical(
    tmp_path: Path, simulate: Simulate, flags: list[str], mode: str, wanted: list[int]
) -> None:
    _, options, (url,) = await logs(simulate, 500)
    write_state(tmp_path, {url: 400}, start_index=120)
    fill(tmp_path / MAIN, url, range(100, 130))
    fill(tmp_path / STAGING, url, range(150, 170))
    done = await run(tmp_path, options, "--backfill", "--staging-path", STAGING, *flags)
    assert (done.code, done.only("backfill mode starting")["mode"]) == (0, mode)
    assert rows_of(tmp_path / STAGING, url) == sorted([*wanted, *range(150, 170)])


async def test_ac2_1_union_all_excludes_entries_in_either_table(tmp_path: Path, simulate: Simulate) -> None:
    (log,), options, (url,) = await logs(simulate, 600, kind="rfc6962")
    write_state(tmp_path, {url: 600}, start_index=0)
    fill(tmp_path / MAIN, url, range(300))
    fill(tmp_path / STAGING, url, range(250, 500))
    done = await run(tmp_path, options, "--backfill", "--staging-path", STAGING)
    assert done.only("backfill planned")["indices"] == 100
    assert rows_of(tmp_path / STAGING, url) == list(range(250, 600))
    assert log.tree_size == 600


async def test_ac2_2_second_staging_run_produces_fewer_work_items(tmp_path: Path, simulate: Simulate) -> None:
    (log,), options, (url,) = await logs(simulate, 30_000)
    write_state(tmp_path, {url: 30_000})
    broken = log.faults.add(Fault(FaultKind.UNAVAILABLE, on="data-tile", index=20_480))
    options["ct_log"] = {**options["ct_log"], "retry_max_attempts": 1}  # type: ignore[dict-item]
    first = await run(tmp_path, options, "--backfill", "--staging-path", STAGING)
    assert first.code == 1
    log.faults.remove(broken)
    second = await run(tmp_path, options, "--backfill", "--staging-path", STAGING)
    assert second.code == 0
    assert second.only("backfill planned")["items"] < first.only("backfill planned")["items"] == 3
    assert rows_of(tmp_path / STAGING, url) == list(range(30_000))
    third = await run(tmp_path, options, "--backfill", "--staging-path", STAGING)
    assert (third.code, len(third.events("nothing to backfill"))) == (0, 1)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("ceiling", [5_000, 5_120])
async def test_ac2_3_ceiling_caps_union_max_cert_index(
    tmp_path: Path, simulate: Simulate, kind: LogKind, ceiling: int
) -> None:
    """The last index below the ceiling is fetched, out of a partial tile too; nothing at or above it."""
    _, options, (url,) = await logs(simulate, 6_000, kind=kind)
    write_state(tmp_path, {url: ceiling})
    fill(tmp_path / MAIN, url, [*range(10), *range(5_500, 5_600)])
    assert (await run(tmp_path, options, "--backfill", "--staging-path", STAGING)).code == 0
    assert rows_of(tmp_path / STAGING, url) == list(range(10, ceiling))


async def test_ac2_4_missing_staging_falls_back_to_main_only(tmp_path: Path, simulate: Simulate) -> None:
    _, options, (url,) = await logs(simulate, 400)
    write_state(tmp_path, {url: 400})
    fill(tmp_path / MAIN, url, range(50, 100))
    done = await run(tmp_path, options, "--backfill", "--dry-run", "--staging-path", STAGING)
    assert (done.code, not (tmp_path / STAGING).exists()) == (0, True)
    assert "300" in done.stdout.splitlines()[1]
    assert (await run(tmp_path, options, "--backfill", "--staging-path", STAGING)).code == 0
    assert rows_of(tmp_path / STAGING, url) == list(range(100, 400))


@pytest.mark.parametrize("kind", KINDS)
async def test_ac5_1_backfill_without_staging_writes_main_only(
    tmp_path: Path, simulate: Simulate, kind: LogKind
) -> None:
    _, options, (url,) = await logs(simulate, 600, kind=kind)
    write_state(tmp_path, {url: 600})
    before = {path.name for path in tmp_path.iterdir()} | {"config.yaml", "data"}
    done = await run(tmp_path, options, "--backfill")
    assert (done.code, done.only("backfill mode starting")["staging_path"]) == (0, None)
    assert rows_of(tmp_path / MAIN, url) == list(range(600))
    assert {path.name for path in tmp_path.iterdir()} == before
    assert [path.name for path in (tmp_path / "data").iterdir()] == ["main"]


async def test_rows_are_those_that_the_log_holds(tmp_path: Path, simulate: Simulate) -> None:
    _, options, (url,) = await logs(simulate, 300)
    write_state(tmp_path, {url: 300})
    await run(tmp_path, options, "--backfill")
    table = pa.table(DeltaTable(tmp_path / MAIN).to_pyarrow_table()).sort_by("cert_index")
    assert table.column("source_name").unique().to_pylist() == ["log0 static"]
    assert table.column("as_der").null_count == 0
    assert len(set(table.column("sha256").to_pylist())) > 290


async def test_the_state_file_is_read_and_never_written(tmp_path: Path, simulate: Simulate) -> None:
    _, options, (url,) = await logs(simulate, 300)
    write_state(tmp_path, {url: 300})
    before = (tmp_path / "certstream_state.json").read_bytes()
    await run(tmp_path, options, "--backfill")
    assert (tmp_path / "certstream_state.json").read_bytes() == before
    assert [path.name for path in tmp_path.iterdir() if path.name.startswith("certstream_state")] == [
        "certstream_state.json"
    ]


async def test_only_the_logs_that_are_named_are_fetched(tmp_path: Path, simulate: Simulate) -> None:
    _, options, urls = await logs(simulate, 300, 300)
    write_state(tmp_path, dict.fromkeys(urls, 300))
    assert (await run(tmp_path, options, "--backfill", "--logs", "LOG1")).code == 0
    assert [len(rows_of(tmp_path / MAIN, url)) for url in urls] == [0, 300]
    done = await run(tmp_path, options, "--backfill", "--logs", "argon")
    assert done.code == 1
    assert (
        "--logs: no log has 'argon' in its name or URL; configured are log0 static, log1 static"
        in done.lines[-1]["event"]
    )


async def test_logs_without_a_position_are_skipped_with_a_warning(tmp_path: Path, simulate: Simulate) -> None:
    _, options, urls = await logs(simulate, 300, 300)
    write_state(tmp_path, {urls[0]: 300})
    done = await run(tmp_path, options, "--backfill")
    assert done.code == 0
    (warning,) = [line for line in done.lines if line.get("level") == "warning"]
    assert (warning["log"], warning["event"]) == ("log1 static", "log is skipped: no position of it is known yet")
    assert [len(rows_of(tmp_path / MAIN, url)) for url in urls] == [300, 0]


@pytest.mark.parametrize("state", ["", "{}", None])
async def test_without_a_position_there_is_nothing_to_backfill(
    tmp_path: Path, simulate: Simulate, state: str | None
) -> None:
    _, options, _ = await logs(simulate, 300)
    if state is not None:
        (tmp_path / "certstream_state.json").write_text(state or '{"version": 1, "logs": {}}')
    done = await run(tmp_path, options, "--backfill")
    assert (done.code, len(done.events("nothing to backfill"))) == (0, 1)
    assert not (tmp_path / "data").exists()


async def test_a_dry_run_asks_no_log_and_writes_nothing(tmp_path: Path, simulate: Simulate) -> None:
    (log,), options, (url,) = await logs(simulate, 30_000)
    log.faults.add(Fault(FaultKind.UNAVAILABLE))
    write_state(tmp_path, {url: 30_000})
    done = await run(tmp_path, options, "--backfill", "--dry-run")
    assert (done.code, (tmp_path / "data").exists()) == (0, False)
    assert done.stdout.splitlines()[0].split() == [
        "log", "url", "missing", "ranges", "work", "items", "indices", "estimated", "size",
    ]  # fmt: skip
    assert done.stdout.splitlines()[1].split()[:6] == ["log0", "static", url, "1", "3", "30,000"]
    assert "free disk space: " in done.stdout


@pytest.mark.parametrize(
    ("staging", "message"),
    [("data/main", "is the main table"), ("data/main/x", "lies in the main table"), ("data", "contains the main table"),
     ("data/link", "is a symbolic link"), ("data/other", "no Delta table")],
)  # fmt: skip
async def test_a_staging_path_that_could_harm_is_refused_before_anything_is_written(
    tmp_path: Path, simulate: Simulate, staging: str, message: str
) -> None:
    _, options, (url,) = await logs(simulate, 300)
    write_state(tmp_path, {url: 300})
    fill(tmp_path / MAIN, url, range(10))
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "data" / "link").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "data" / "other").mkdir()
    (tmp_path / "data" / "other" / "notes.txt").write_text("mine")
    before = snapshot_of(tmp_path / "data")
    for command in ("--backfill", "--merge"):
        done = await run(tmp_path, options, command, "--staging-path", staging)
        assert (done.code, message in done.lines[-1]["event"]) == (1, True)
    assert snapshot_of(tmp_path / "data") == before


async def test_a_range_that_a_log_does_not_give_is_left_and_reported(tmp_path: Path, simulate: Simulate) -> None:
    (log, _), options, urls = await logs(simulate, 2_000, 600)
    for index in (600, 900):
        log.faults.add(Fault(FaultKind.UNAVAILABLE, on="data-tile", index=index))
    write_state(tmp_path, {urls[0]: 2_000, urls[1]: 600})
    done = await run(tmp_path, options, "--backfill")
    assert done.code == 1
    assert rows_of(tmp_path / MAIN, urls[0]) == [*range(512), *range(1_024, 2_000)]
    assert rows_of(tmp_path / MAIN, urls[1]) == list(range(600))
    failed = done.only("range failed, it stays missing")
    assert (failed["log"], failed["start"], failed["stop"]) == ("log0 static", 512, 1_024)
    assert done.only("backfill complete")["logs_failed"] == 1


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
async def test_a_signal_ends_it_cleanly_and_the_next_run_goes_on(
    tmp_path: Path, simulate: Simulate, number: signal.Signals
) -> None:
    (log,), options, (url,) = await logs(simulate, 20_000)
    write_state(tmp_path, {url: 20_000})
    stuck = log.faults.add(Fault(FaultKind.STALL, on="data-tile", index=10_240))
    async with Command(tmp_path, options, ["--backfill", "--staging-path", STAGING]) as command:
        await until_struck(log, stuck)
        command.send(number)
        done = await command.ended()
    assert done.code == 0
    interrupted = done.only("backfill interrupted")
    there = rows_of(tmp_path / STAGING, url)
    assert there == list(range(len(there)))
    assert (interrupted["done"], interrupted["left"]) == (len(there), 20_000 - len(there))
    log.faults.remove(stuck)
    assert (await run(tmp_path, options, "--backfill", "--staging-path", STAGING)).code == 0
    assert rows_of(tmp_path / STAGING, url) == list(range(20_000))
    assert [path.name for path in (tmp_path / "data").iterdir()] == ["staging"]


async def test_two_runs_on_one_staging_table_are_one_too_many(tmp_path: Path, simulate: Simulate) -> None:
    (log,), options, (url,) = await logs(simulate, 20_000)
    write_state(tmp_path, {url: 20_000})
    stuck = log.faults.add(Fault(FaultKind.STALL, on="data-tile", index=10_240))
    async with Command(tmp_path, options, ["--backfill", "--staging-path", STAGING]) as command:
        await until_struck(log, stuck)
        for other in ("--backfill", "--merge"):
            second = await run(tmp_path, options, other, "--staging-path", STAGING)
            assert second.code == 1
            assert f"{tmp_path / STAGING}: in use by process " in second.lines[-1]["event"]
        command.send(signal.SIGTERM)
        assert (await command.ended()).code == 0
