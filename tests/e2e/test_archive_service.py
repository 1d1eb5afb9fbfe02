"""The running service and its archive: everything streamed is archived once, whatever happens in between."""

from __future__ import annotations

import asyncio
import resource
import shutil
import signal
from pathlib import Path

import pyarrow as pa
import pytest
from deltalake import DeltaTable

from certstream.archive.commit import Committer
from certstream.ct.types import LogKind
from certstream.simulator.faults import Fault, FaultKind
from certstream.simulator.log import SimulatedLog
from tests.archive.archive_support import held
from tests.archive.sink_support import Hanging, Unopenable, positions
from tests.e2e.archive_service_support import KINDS, archiving, eventually, job, metric, stands_at, url_of
from tests.e2e.command_support import (
    MAIN,
    STAGING,
    fill,
    rows_of,
    run,
    snapshot_of,
)
from tests.e2e.e2e_support import Service, Simulate, StartService


@pytest.mark.parametrize("kind", KINDS)
async def test_everything_that_is_streamed_is_archived_over_a_restart(
    tmp_path: Path, start_service: StartService, simulate: Simulate, kind: LogKind
) -> None:
    log = SimulatedLog("log", kinds={kind}, initial=300, seed=3, unparseable=0.05)
    server = await simulate(log)
    service = await start_service(archiving(server.infos()))
    await service.until_following(*server.infos())
    async with service.listen() as client:
        for count in (1, 200, 700):
            log.grow(count)
            await client.until_index(f"log {kind}", log.tree_size - 1)
    code, seconds = await service.stop()
    assert (code, seconds < 5) == (0, True)
    url = url_of(log, kind)
    assert rows_of(tmp_path / MAIN, url) == list(range(300, log.tree_size))
    snapshot = Committer(tmp_path / MAIN).look()
    position = Committer(tmp_path / MAIN).position(snapshot, url)
    assert position == log.tree_size == service.state["logs"][url]["current_index"]
    table = pa.table(DeltaTable(tmp_path / MAIN).to_pyarrow_table())
    assert table.column("not_before").null_count > 10
    assert table.column("as_der").null_count == 0
    log.grow(500)
    await service.start()
    await eventually(lambda: rows_of(tmp_path / MAIN, url) == list(range(300, log.tree_size)))


async def test_the_start_of_a_log_is_committed_before_its_first_entry(
    tmp_path: Path, start_service: StartService, simulate: Simulate
) -> None:
    """Entries are there at once, but the first commit hangs: for a second, in which a log would have been streamed."""
    log = SimulatedLog("log", kinds={"static"}, initial=300, seed=3)
    server = await simulate(log)
    main, url = tmp_path / MAIN, url_of(log, "static")
    Committer(main).look()
    options = archiving(server.infos(), delta_sink={"flush_interval_secs": 3600})
    options["static_logs"][0]["start"] = 0
    nobody = log.faults.add(Fault(FaultKind.UNAVAILABLE))
    service = await start_service(options)
    async with service.listen() as client:
        with Hanging(main) as table:
            log.faults.remove(nobody)
            await table.reached()
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(1):
                    await client.until_index("log static", 0)
            assert client.indices("log static") == []
            assert positions(main, url) == [None]
            table.end()
            await client.until_index("log static", 0)
            service.send(signal.SIGKILL)
            await service.exit_code()
    assert not [line for line in service.lines if line["event"].startswith("archive takes long")]
    assert positions(main, url) == [0]
    assert held(main) == {}


@pytest.mark.parametrize("kind", KINDS)
async def test_what_was_streamed_and_not_archived_at_a_crash_is_read_again_for_the_archive_alone(
    tmp_path: Path, start_service: StartService, simulate: Simulate, kind: LogKind
) -> None:
    log = SimulatedLog("log", kinds={kind}, initial=300, seed=3)
    server = await simulate(log)
    options = archiving(server.infos(), delta_sink={"flush_interval_secs": 3600})
    service = await start_service(options)
    url = url_of(log, kind)
    await service.until_following(*server.infos())
    async with service.listen() as client:
        log.grow(900)
        await client.until_index(f"log {kind}", 1_199)
        await eventually(lambda: stands_at(service, url) == 1_200)
        service.send(signal.SIGKILL)
        await service.exit_code()
    assert rows_of(tmp_path / MAIN, url) == []
    service.options = archiving(server.infos())
    await service.start()
    async with service.listen() as client:
        await eventually(lambda: rows_of(tmp_path / MAIN, url) == list(range(300, 1_200)))
        log.grow(10)
        await client.until_index(f"log {kind}", 1_209)
        assert client.indices(f"log {kind}") == list(range(1_200, 1_210))
    assert await metric(service, "certstream_delta_entries_reread_total") == 900


async def test_an_archive_that_fails_stops_no_stream_and_loses_nothing(
    tmp_path: Path, start_service: StartService, simulate: Simulate
) -> None:
    """No file may grow beyond 2 KB for a while, as on a full disk: Parquet files do not fit, the state file does."""
    log = SimulatedLog("log", kinds={"rfc6962"}, initial=100, seed=3)
    server = await simulate(log)
    service = await start_service(archiving(server.infos(), delta_sink={"buffer_bytes": 1 << 20}))
    await service.until_following(*server.infos())
    url = url_of(log, "rfc6962")
    async with service.listen() as client:
        log.grow(100)
        await client.until_index("log rfc6962", 199)
        await eventually(lambda: len(rows_of(tmp_path / MAIN, url)) == 100)
        hard = resource.prlimit(service.pid, resource.RLIMIT_FSIZE)[1]
        resource.prlimit(service.pid, resource.RLIMIT_FSIZE, (2_000, hard))
        for _ in range(12):
            log.grow(200)
            await client.until_index("log rfc6962", log.tree_size - 1)
        await service.until(lambda line: line["event"].startswith("archive's buffer is full"))
        health = await service.health()
        assert (health["status"], health["archive"]["state"]) == ("degraded", "failing")
        assert "File too large" in health["archive"]["last_error"]
        assert health["archive"]["buffered_bytes"] <= 2 << 20
        assert await metric(service, "certstream_delta_errors_total") > 0
        assert await metric(service, "certstream_delta_available") == 0
        assert client.indices("log rfc6962") == list(range(100, log.tree_size))
        resource.prlimit(service.pid, resource.RLIMIT_FSIZE, (hard, hard))
        await eventually(lambda: rows_of(tmp_path / MAIN, url) == list(range(100, log.tree_size)))
    assert (await service.health())["archive"]["state"] == "healthy"
    assert await metric(service, "certstream_delta_available") == 1
    assert await metric(service, "certstream_delta_entries_let_go_total") > 0


@pytest.mark.parametrize("ending", [signal.SIGTERM, signal.SIGKILL])
async def test_what_is_streamed_before_the_archive_has_a_beginning_is_archived_once_the_table_is_repaired(
    tmp_path: Path, start_service: StartService, simulate: Simulate, ending: signal.Signals
) -> None:
    log = SimulatedLog("log", kinds={"static"}, initial=600, seed=3)
    server = await simulate(log)
    delta_log = tmp_path / MAIN / "_delta_log"
    delta_log.mkdir(parents=True)
    (delta_log / f"{0:020}.json").write_text("{broken")
    service = await start_service(archiving(server.infos()))
    await service.until_following(*server.infos())
    url = url_of(log, "static")
    log.grow(300)
    await eventually(lambda: stands_at(service, url) == 900)
    assert service.state["logs"][url]["archive_start"] == 600
    await service.stop(ending)
    assert service.state["logs"][url]["archive_start"] == 600
    shutil.rmtree(tmp_path / MAIN)
    await service.start()
    await service.until_following(*server.infos())
    log.grow(100)
    await eventually(lambda: rows_of(tmp_path / MAIN, url) == list(range(600, 1_000)))
    await service.stop()
    assert service.state["logs"][url] == {**service.state["logs"][url], "current_index": 1_000, "start_index": 600}
    assert "archive_start" not in service.state["logs"][url]


async def test_a_log_that_was_created_anew_is_archived_though_the_table_has_a_position_beyond_its_tree(
    tmp_path: Path, start_service: StartService, simulate: Simulate
) -> None:
    log = SimulatedLog("log", kinds={"static"}, initial=1_000, seed=3)
    server = await simulate(log)
    url = url_of(log, "static")
    Committer(tmp_path / MAIN).add(starts={url: 5_000})
    service = await start_service(archiving(server.infos(), delta_sink={"flush_interval_secs": 3600}))
    await service.until_following(*server.infos())
    log.grow(100)
    await eventually(lambda: stands_at(service, url) == 1_100)
    service.send(signal.SIGKILL)
    await service.exit_code()
    assert rows_of(tmp_path / MAIN, url) == []
    service.options = archiving(server.infos())
    await service.start()
    await eventually(lambda: rows_of(tmp_path / MAIN, url) == list(range(1_000, 1_100)))
    service.send(signal.SIGHUP)
    assert (await job(service, "backfill", "succeeded", "failed"))["state"] == "succeeded"
    assert rows_of(tmp_path / MAIN, url) == list(range(1_000, 1_100))


async def test_a_table_with_other_columns_stops_the_start_by_their_names(
    tmp_path: Path, start_service: StartService, simulate: Simulate
) -> None:
    from deltalake import write_deltalake

    server = await simulate(SimulatedLog("log", kinds={"static"}, initial=10, seed=3))
    write_deltalake(tmp_path / MAIN, pa.table({"cert_index": ["1"], "extra": [1]}))
    before = snapshot_of(tmp_path / "data")
    service = Service(tmp_path, archiving(server.infos()), [])
    await service.start(serving=False)
    assert await service.exit_code() == 1
    last = service.lines[-1]["event"]
    assert f"{tmp_path / MAIN}: columns are not those of an archive: cert_index is string, must be int64; " in last
    assert "extra is unknown" in last
    assert snapshot_of(tmp_path / "data") == before


async def test_a_staging_path_in_the_archive_stops_the_start(
    tmp_path: Path, start_service: StartService, simulate: Simulate
) -> None:
    server = await simulate(SimulatedLog("log", kinds={"static"}, initial=10, seed=3))
    service = Service(tmp_path, archiving(server.infos(), backfill={"staging_path": f"{MAIN}/staging"}), [])
    await service.start(serving=False)
    assert await service.exit_code() == 1
    assert "lies in the main table" in service.lines[-1]["event"]
    assert not (tmp_path / "data").exists()


async def test_commands_work_beside_the_running_service(
    tmp_path: Path, start_service: StartService, simulate: Simulate
) -> None:
    """Backfill into staging, merge, and a direct backfill of the same range, while the service archives what comes."""
    log = SimulatedLog("log", kinds={"rfc6962", "static"}, initial=6_000, seed=3)
    server = await simulate(log)
    options = archiving(server.infos())
    service = await start_service(options)
    await service.until_following(*server.infos())
    urls = [url_of(log, kind) for kind in KINDS]
    beside = tmp_path / "beside"
    beside.mkdir()
    log.grow(50)
    await eventually(lambda: all(stands_at(service, url) == 6_050 for url in urls))
    (beside / "data").symlink_to(tmp_path / "data")
    options = {**options, "ct_log": {**options["ct_log"], "state_file": str(tmp_path / "certstream_state.json")}}
    options["delta_sink"] = {**options["delta_sink"], "table_path": str(tmp_path / MAIN)}
    growing = asyncio.create_task(_grow(log))
    flags = ["--backfill", "--from", "0"]
    into_staging = await run(beside, options, *flags, "--staging-path", str(tmp_path / STAGING))
    ended = await asyncio.gather(
        run(beside, options, "--merge", "--staging-path", str(tmp_path / STAGING)), run(beside, options, *flags)
    )
    growing.cancel()
    assert [into_staging.code, *(done.code for done in ended)] == [0, 0, 0]
    await eventually(lambda: held(tmp_path / MAIN) == {url: list(range(log.tree_size)) for url in urls})
    assert (await service.stop())[0] == 0


async def _grow(log: SimulatedLog) -> None:
    while True:
        log.grow(20)
        await asyncio.sleep(0.1)


async def test_a_service_continues_the_archive_of_the_reference_server(
    tmp_path: Path, start_service: StartService, simulate: Simulate
) -> None:
    from tests.archive.archive_support import make_reference_table, reference_schema

    make_reference_table(tmp_path / MAIN)
    log = SimulatedLog("log", kinds={"static"}, initial=500, seed=3, unparseable=0.2)
    server = await simulate(log)
    url = url_of(log, "static")
    fill(tmp_path / MAIN, url, range(450, 500))
    options = archiving(server.infos(), backfill={"staging_path": STAGING, "from_index": 400})
    service = await start_service(options)
    await service.until_following(*server.infos())
    log.grow(200)
    await eventually(lambda: rows_of(tmp_path / MAIN, url)[-1] == 699)
    service.send(signal.SIGHUP)
    assert (await job(service, "merge", "succeeded", "failed"))["state"] == "succeeded"
    assert rows_of(tmp_path / MAIN, url) == list(range(400, 700))
    table = DeltaTable(tmp_path / MAIN)
    assert pa.schema(table.schema().to_arrow()) == reference_schema()
    rows = pa.table(table.to_pyarrow_table())
    assert sum(column.null_count for column in rows.columns) == 0
    assert "" in rows.column("serial_number").to_pylist()


async def test_a_table_that_hangs_on_opening_keeps_neither_the_streams_nor_the_end(
    tmp_path: Path, start_service: StartService, simulate: Simulate
) -> None:
    log = SimulatedLog("log", kinds={"static"}, initial=10, seed=3)
    server = await simulate(log)
    with Unopenable(tmp_path / MAIN):
        service = await start_service(archiving(server.infos()))
        await service.until_following(*server.infos())
        async with service.listen() as client:
            log.grow(50)
            await client.until_index("log static", 59)
        assert (await service.health())["archive"]["state"] == "failing"
        code, seconds = await service.stop()
        assert (code, seconds < 5) == (0, True)
        assert stands_at(service, url_of(log, "static")) == 60
        await service.start(serving=False)
        await service.until(lambda line: line["event"] == "configuration read")
        await asyncio.sleep(1)  # by then it opens the table, which tells nobody; what follows holds whenever it does
        code, seconds = await service.stop()
        assert (code, seconds < 5) == (0, True)
    await service.start()
    await eventually(lambda: rows_of(tmp_path / MAIN, url_of(log, "static")) == list(range(10, 60)))
