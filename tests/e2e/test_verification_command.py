"""`certstream --backfill` proves what it archives, and `certstream --verify` what is archived already."""

from __future__ import annotations

import base64
import json
import os
import shutil
import signal
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from deltalake import DeltaTable, write_deltalake

from certstream.ct.edge import TreeEdge
from certstream.ct.types import HASH_BYTES, LogInfo, LogKind
from certstream.errors import StorageError
from certstream.intervals import Intervals
from certstream.ledger import Ledger, Trust, ledger_beside
from certstream.locks import FileLock
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
    with_keys,
    write_state,
)
from tests.e2e.e2e_support import Simulate

KINDS: list[LogKind] = ["rfc6962", "static"]
SIZE = 1_300
WRONG = 700  # an entry that is not the one in the tree


def options_of(infos: Sequence[LogInfo], mode: str, *, keys: bool = True) -> dict[str, Any]:
    """A configuration that verifies these logs."""
    options = archive_options(infos, ct_log={"verification": mode})
    return with_keys(options, infos) if keys else options


async def one_log(simulate: Simulate, kind: LogKind, size: int = SIZE) -> tuple[SimulatedLog, LogInfo]:
    log = SimulatedLog("log0", kinds={kind}, initial=size)
    await simulate(log)
    return log, log.info(kind)


def known(directory: Path, info: LogInfo, table: str = MAIN) -> Trust:
    """What is durable about the log's rows in a table."""
    return Ledger(ledger_beside(directory / table)).read().get(info.base_url, Trust())


def evidence(directory: Path) -> list[dict[str, Any]]:
    return [json.loads(path.read_text()) for path in sorted((directory / "evidence").glob("*.json"))]


@pytest.mark.parametrize(("kind", "mode"), [("rfc6962", "enforce"), ("static", "warn")])
async def test_what_is_proven_is_archived_and_known_to_be(
    tmp_path: Path, simulate: Simulate, kind: LogKind, mode: str
) -> None:
    log, info = await one_log(simulate, kind)
    write_state(tmp_path, {info.base_url: SIZE - 10})
    fill(tmp_path / MAIN, info.base_url, [*range(100, 103), 600])
    done = await run(tmp_path, options_of([info], mode), "--backfill", "--from", "5")
    assert done.code == 0
    assert rows_of(tmp_path / MAIN, info.base_url) == list(range(5, SIZE - 10))
    mine = Intervals.of((5, SIZE - 10)) - Intervals.of((100, 103), (600, 601))
    assert known(tmp_path, info) == Trust(mine)
    complete = done.only("backfill complete")
    assert (complete["records_verified"], complete["records_tainted"]) == (mine.count, 0)
    assert evidence(tmp_path) == []
    assert log.endpoints["get-entry-and-proof"] <= 6


async def test_warn_archives_what_is_not_proven_and_says_so(tmp_path: Path, simulate: Simulate) -> None:
    log, info = await one_log(simulate, "static")
    log.faults.add(Fault(FaultKind.WRONG_LEAF, index=WRONG))
    write_state(tmp_path, {info.base_url: SIZE})
    done = await run(tmp_path, options_of([info], "warn"), "--backfill", "--from", "0")
    assert done.code == 0
    assert rows_of(tmp_path / MAIN, info.base_url) == list(range(SIZE))
    tainted = Intervals.of((WRONG, WRONG + 1))
    assert known(tmp_path, info) == Trust(Intervals.of((0, SIZE)) - tainted, tainted)
    said = done.only("entries are not proven, they are archived all the same")
    assert (said["start"], said["stop"]) == (WRONG, WRONG + 1)
    complete = done.only("backfill complete")
    assert (complete["records_verified"], complete["records_tainted"]) == (SIZE - 1, 1)
    (case,) = evidence(tmp_path)
    assert (case["kind"], case["range"]) == ("wrong_leaf", [WRONG, WRONG + 1])
    assert case["heads"][0]["tree_size"] == SIZE


async def test_enforce_leaves_out_what_is_not_proven_and_names_it(tmp_path: Path, simulate: Simulate) -> None:
    log, info = await one_log(simulate, "rfc6962")
    fault = log.faults.add(Fault(FaultKind.WRONG_LEAF, index=WRONG))
    write_state(tmp_path, {info.base_url: SIZE})
    done = await run(tmp_path, options_of([info], "enforce"), "--backfill", "--from", "0")
    assert done.code == 1
    missing = Intervals.of((WRONG, WRONG + 1))
    assert rows_of(tmp_path / MAIN, info.base_url) == [each for each in range(SIZE) if each != WRONG]
    assert known(tmp_path, info) == Trust(Intervals.of((0, SIZE)) - missing)
    failed = done.only("range failed, it stays missing")
    assert (failed["start"], failed["stop"]) == (WRONG, WRONG + 1)
    assert "tree" in failed["error"] or "root" in failed["error"]
    assert log.faults.struck[fault] >= 2  # it was read once more
    log.faults.clear()
    again = await run(tmp_path, options_of([info], "enforce"), "--backfill", "--from", "0")
    assert again.code == 0
    assert known(tmp_path, info) == Trust(Intervals.of((0, SIZE)))


async def test_without_a_key_entries_are_unverified_and_enforce_refuses_to_start(
    tmp_path: Path, simulate: Simulate
) -> None:
    _, info = await one_log(simulate, "static", 300)
    write_state(tmp_path, {info.base_url: 300})
    done = await run(tmp_path, options_of([info], "enforce", keys=False), "--backfill", "--from", "0")
    assert done.code == 1
    assert "set its key, or verification: off for that log" in done.lines[-1]["event"]
    assert not (tmp_path / MAIN).exists()
    done = await run(tmp_path, options_of([info], "warn", keys=False), "--backfill", "--from", "0")
    assert done.code == 0
    assert done.only("logs are read unverified, their keys are not known")
    assert (rows_of(tmp_path / MAIN, info.base_url), known(tmp_path, info)) == (list(range(300)), Trust())
    done = await run(tmp_path, options_of([info], "warn", keys=False), "--verify")
    assert done.code == 1
    assert "the log's key is not known" in done.stdout


async def test_what_staging_has_verified_is_verified_after_its_merge(tmp_path: Path, simulate: Simulate) -> None:
    log, info = await one_log(simulate, "static")
    log.faults.add(Fault(FaultKind.WRONG_LEAF, index=WRONG))
    write_state(tmp_path, {info.base_url: SIZE})
    options = options_of([info], "warn")
    assert (await run(tmp_path, options, "--backfill", "--from", "0", "--staging-path", STAGING)).code == 0
    tainted = Intervals.of((WRONG, WRONG + 1))
    expected = Trust(Intervals.of((0, SIZE)) - tainted, tainted)
    assert known(tmp_path, info, STAGING) == expected
    assert (await run(tmp_path, options, "--merge", "--staging-path", STAGING)).code == 0
    assert known(tmp_path, info) == expected


def anchored(directory: Path, log: SimulatedLog, info: LogInfo) -> None:
    """A state file that stands behind the whole log and knows the tree that it has now."""
    leaves = b"".join(log.tree.leaf(index) for index in range(log.tree_size))
    assert len(leaves) == log.tree_size * HASH_BYTES
    edge = base64.b64encode(TreeEdge().extended(leaves).to_bytes()).decode()
    position = {"current_index": log.tree_size, "tree_size": log.tree_size, "last_success": 0, "edge": edge}
    state = {"version": 1, "logs": {info.base_url: position}}
    (directory / "certstream_state.json").write_text(json.dumps(state))


@pytest.mark.parametrize(("kind", "mode"), [("rfc6962", "enforce"), ("static", "warn")])
async def test_nothing_is_proven_in_another_tree_than_the_one_that_the_state_file_knows(
    tmp_path: Path, simulate: Simulate, kind: LogKind, mode: str
) -> None:
    log, info = await one_log(simulate, kind, 600)
    anchored(tmp_path, log, info)
    fork = log.faults.add(Fault(FaultKind.FORK, index=300))  # signed, and right in itself
    log.grow(100)
    options = options_of([info], mode)
    done = await run(tmp_path, options, "--backfill", "--from", "0")
    archived = [] if mode == "enforce" else list(range(600))
    assert (done.code, rows_of(tmp_path / MAIN, info.base_url)) == (int(mode == "enforce"), archived)
    assert known(tmp_path, info).verified == Intervals()
    assert {case["kind"] for case in evidence(tmp_path)} == {"inconsistent"}
    failed = done.events("range failed, it stays missing")
    assert bool(failed) == (mode == "enforce")
    assert all("is not consistent with the first 600" in line["error"] for line in failed)
    log.faults.remove(fork)
    again = await run(tmp_path, options, "--backfill" if mode == "enforce" else "--verify")
    assert again.code == 0
    assert known(tmp_path, info) == Trust(Intervals.of((0, 600)))


async def test_verify_proves_no_row_in_another_tree_than_the_one_that_the_state_file_knows(
    tmp_path: Path, simulate: Simulate
) -> None:
    log, info = await one_log(simulate, "static", 600)
    anchored(tmp_path, log, info)
    options = options_of([info], "warn")
    assert (await run(tmp_path, options, "--backfill", "--from", "0")).code == 0
    ledger_beside(tmp_path / MAIN).unlink()
    log.faults.add(Fault(FaultKind.FORK, index=300))
    log.grow(100)
    before = snapshot_of(tmp_path / MAIN / "_delta_log")
    done = await run(tmp_path, options, "--verify")
    assert done.code == 1
    assert "is not consistent with the first 600" in done.stdout
    assert known(tmp_path, info).verified == Intervals()
    assert {case["kind"] for case in evidence(tmp_path)} == {"inconsistent"}
    assert snapshot_of(tmp_path / MAIN / "_delta_log") == before


async def test_verify_takes_a_table_that_another_tool_wrote_with_our_columns(
    tmp_path: Path, simulate: Simulate
) -> None:
    _, info = await one_log(simulate, "static", 600)
    write_state(tmp_path, {info.base_url: 600})
    options = options_of([info], "warn")
    assert (await run(tmp_path, options, "--backfill", "--from", "0")).code == 0
    rows = DeltaTable(tmp_path / MAIN).to_pyarrow_table()
    shutil.rmtree(tmp_path / "data")
    write_deltalake(tmp_path / MAIN, rows, partition_by=["seen_date"])  # no ledger, nothing of our own in its log
    before = snapshot_of(tmp_path / MAIN)
    done = await run(tmp_path, options, "--verify")
    assert (done.code, done.stdout) == (0, "")
    assert known(tmp_path, info) == Trust(Intervals.of((0, 600)))
    after = snapshot_of(tmp_path / MAIN)
    assert {path: stat for path, stat in after.items() if not path.startswith("_certstream/")} == before


async def test_verify_names_a_table_that_is_none_of_ours_and_leaves_it_alone(
    tmp_path: Path, simulate: Simulate
) -> None:
    _, info = await one_log(simulate, "static", 600)
    write_state(tmp_path, {info.base_url: 600})
    write_deltalake(tmp_path / MAIN, pa.table({"cert_index": [1, 2], "other": ["a", "b"]}))
    before = snapshot_of(tmp_path / "data")
    done = await run(tmp_path, options_of([info], "warn"), "--verify")
    assert done.code == 1
    assert str(tmp_path / MAIN) in done.lines[-1]["event"] + str(done.lines[-1].get("error"))
    assert snapshot_of(tmp_path / "data") == before


@pytest.mark.parametrize("kind", KINDS)
async def test_verify_proves_again_what_is_not_known_and_writes_no_row(
    tmp_path: Path, simulate: Simulate, kind: LogKind
) -> None:
    _, info = await one_log(simulate, kind)
    write_state(tmp_path, {info.base_url: SIZE})
    options = options_of([info], "warn")
    assert (await run(tmp_path, options, "--backfill", "--from", "0")).code == 0
    ledger = ledger_beside(tmp_path / MAIN)
    ledger.unlink()
    before = snapshot_of(tmp_path / MAIN / "_delta_log")
    done = await run(tmp_path, options, "--verify")
    assert done.code == 0
    assert done.stdout == ""
    assert done.only("verification complete")["records_verified"] == SIZE
    assert known(tmp_path, info) == Trust(Intervals.of((0, SIZE)))
    assert snapshot_of(tmp_path / MAIN / "_delta_log") == before
    assert (await run(tmp_path, options, "--verify")).events("nothing to verify")


def falsify(root: Path, index: int, **columns: Any) -> None:
    """Rewrite a table with other values in one row."""
    rows = DeltaTable(root).to_pyarrow_table().to_pylist()
    for row in rows:
        if row["cert_index"] == index:
            row.update(columns)
    schema = pa.schema(DeltaTable(root).schema().to_arrow())
    write_deltalake(root, pa.Table.from_pylist(rows, schema), mode="overwrite", partition_by=["seen_date"])


async def test_verify_finds_a_row_that_is_not_what_the_log_has(tmp_path: Path, simulate: Simulate) -> None:
    _, info = await one_log(simulate, "static", 600)
    write_state(tmp_path, {info.base_url: 600})
    options = options_of([info], "warn")
    assert (await run(tmp_path, options, "--backfill", "--from", "0")).code == 0
    falsify(tmp_path / MAIN, 300, as_der=b"another")
    ledger_beside(tmp_path / MAIN).unlink()
    done = await run(tmp_path, options, "--verify")
    assert done.code == 1
    tainted = Intervals.of((300, 301))
    assert known(tmp_path, info) == Trust(Intervals.of((0, 600)) - tainted, tainted)
    heading, line = done.stdout.splitlines()
    assert heading.split() == ["log", "why", "entries"]
    assert "the archived row is not what the log has" in line
    assert line.endswith("  300")


async def test_verify_names_what_the_log_cannot_prove_and_goes_on_later(tmp_path: Path, simulate: Simulate) -> None:
    log, info = await one_log(simulate, "rfc6962")
    log.faults.add(Fault(FaultKind.WRONG_LEAF, index=WRONG))
    write_state(tmp_path, {info.base_url: SIZE})
    options = options_of([info], "warn")
    assert (await run(tmp_path, options, "--backfill", "--from", "0")).code == 0
    done = await run(tmp_path, options, "--verify", "--logs", "log0")
    assert done.code == 1
    line = done.stdout.splitlines()[1]
    assert line.endswith(f"  {WRONG:,}")
    assert line.count(info.name) == 1, "the reason does not say it again"
    assert known(tmp_path, info).tainted == Intervals.of((WRONG, WRONG + 1))
    log.faults.clear()  # what was wrong of the entry is in no column
    assert (await run(tmp_path, options, "--verify")).code == 0
    assert known(tmp_path, info) == Trust(Intervals.of((0, SIZE)))


async def test_verify_ends_soon_also_while_another_process_holds_what_is_known(
    tmp_path: Path, simulate: Simulate
) -> None:
    log, info = await one_log(simulate, "static", 12_000)
    write_state(tmp_path, {info.base_url: 12_000})
    options = options_of([info], "warn")
    assert (await run(tmp_path, options, "--backfill", "--from", "0")).code == 0
    ledger = ledger_beside(tmp_path / MAIN)
    ledger.unlink()
    fault = log.faults.add(Fault(FaultKind.STALL, on="data-tile", index=11_000))
    with FileLock(ledger.with_name(f"{ledger.name}.lock"), subject=ledger, error=StorageError):
        async with Command(tmp_path, options, ["--verify"]) as command:
            await until_struck(log, fault)
            began = time.monotonic()
            command.send(signal.SIGINT)
            done = await command.ended()
            took_s = time.monotonic() - began
    assert done.code == 1
    assert f"in use by process {os.getpid()} " in done.lines[-1]["event"]
    assert took_s < 8, "of the 10 s that others are waited for"
    assert known(tmp_path, info) == Trust()


async def test_verify_that_is_stopped_keeps_what_was_verified(tmp_path: Path, simulate: Simulate) -> None:
    log, info = await one_log(simulate, "static", 12_000)
    write_state(tmp_path, {info.base_url: 12_000})
    options = options_of([info], "warn")
    assert (await run(tmp_path, options, "--backfill", "--from", "0")).code == 0
    ledger_beside(tmp_path / MAIN).unlink()
    fault = log.faults.add(Fault(FaultKind.STALL, on="data-tile", index=11_000))
    async with Command(tmp_path, options, ["--verify"]) as command:
        await until_struck(log, fault)
        command.send(signal.SIGINT)
        done = await command.ended()
    assert done.code == 1
    assert done.only("verification interrupted")["left"] > 0
    verified = known(tmp_path, info).verified
    assert 0 < verified.count < 12_000
    log.faults.clear()
    assert (await run(tmp_path, options, "--verify")).code == 0
    assert known(tmp_path, info) == Trust(Intervals.of((0, 12_000)))
