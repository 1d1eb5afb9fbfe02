"""What verification promises, where several of its promises meet: modes, staging, merge, coverage, precertificates."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from certstream.ct.types import LogInfo, LogKind
from certstream.ledger import ledger_beside
from certstream.simulator.faults import Fault, FaultKind
from certstream.simulator.log import SimulatedLog
from tests.e2e.command_support import (
    MAIN,
    STAGING,
    Ended,
    archive_options,
    fill,
    rows_of,
    run,
    with_keys,
    write_state,
)
from tests.e2e.e2e_support import Simulate
from tests.e2e.verification_support import exchanged

KINDS: list[LogKind] = ["rfc6962", "static"]
SIZE = 1_000
WRONG = 700  # an entry that is not the one in the tree


def options_of(infos: Sequence[LogInfo], mode: str) -> dict[str, Any]:
    """A configuration that verifies these logs, each named after itself alone."""
    options = with_keys(archive_options(infos, ct_log={"verification": mode}), infos)
    for entry in (*options["custom_logs"], *options["static_logs"]):
        entry["name"] = entry["name"].partition(" ")[0]
    return options


async def coverage(directory: Path, options: dict[str, Any], info: LogInfo, *flags: str) -> dict[str, Any]:
    """How `--coverage` says that log stands: of each kind the intervals."""
    done = await run(directory, options, "--coverage", "--json", *flags)
    assert done.code == 0
    (found,) = (log for log in json.loads(done.stdout)["logs"] if log["url"] == info.base_url)
    return {kind: of["intervals"] for kind, of in found.items() if isinstance(of, dict)}


async def test_what_enforce_left_out_of_staging_is_missing_after_its_merge_and_the_rest_is_verified(
    tmp_path: Path, simulate: Simulate
) -> None:
    log = SimulatedLog("log", kinds={"static"}, initial=SIZE)
    await simulate(log)
    info = log.info("static")
    log.faults.add(Fault(FaultKind.WRONG_LEAF, index=WRONG))
    write_state(tmp_path, {info.base_url: SIZE}, start_index=0)
    fill(tmp_path / MAIN, info.base_url, range(100, 200))  # of an older version, and not what the log has
    options = options_of([info], "enforce")
    done = await run(tmp_path, options, "--backfill", "--staging-path", STAGING)
    assert done.code == 1
    found = await coverage(tmp_path, options, info, "--staging-path", STAGING)
    came = [[0, 100], [200, WRONG], [WRONG + 1, SIZE]]
    assert (found["archived"], found["staged"], found["verified"]) == ([[100, 200]], came, came)
    assert (found["missing"], found["tainted"], found["altered"]) == ([[WRONG, WRONG + 1]], [], [])
    assert (await run(tmp_path, options, "--merge", "--staging-path", STAGING)).code == 0
    found = await coverage(tmp_path, options, info)
    assert (found["archived"], found["verified"]) == ([[0, WRONG], [WRONG + 1, SIZE]], came)
    assert (found["missing"], found["unverified"]) == ([[WRONG, WRONG + 1]], [[100, 200]])
    log.faults.clear()
    assert (await run(tmp_path, options, "--backfill")).code == 0
    assert (await run(tmp_path, options, "--verify")).code == 1
    found = await coverage(tmp_path, options, info)
    assert (found["archived"], found["missing"]) == ([[0, SIZE]], [])
    assert (found["verified"], found["tainted"]) == ([[0, 100], [200, SIZE]], [[100, 200]])


async def test_exchanged_precertificates_are_marked_from_the_backfill_over_the_merge_to_the_coverage(
    tmp_path: Path, simulate: Simulate
) -> None:
    log, altered = exchanged("static")
    size = log.tree_size
    await simulate(log)
    info = log.info("static")
    write_state(tmp_path, {info.base_url: size})
    options = options_of([info], "enforce")
    done = await run(tmp_path, options, "--backfill", "--from", "0", "--staging-path", STAGING)
    assert done.code == 0, "it marks the entry, not the log"
    assert rows_of(tmp_path / STAGING, info.base_url) == list(range(size))
    said = done.only("precertificate is not the one that its log's hash covers, such entries are marked from now on")
    assert said["index"] == altered[0]
    cases = [json.loads(path.read_text()) for path in (tmp_path / "evidence").glob("*.json")]
    assert sorted(case["range"][0] for case in cases) == altered
    assert {case["kind"] for case in cases} == {"altered_precert"}
    assert (await run(tmp_path, options, "--merge", "--staging-path", STAGING)).code == 0
    marked = [[index, index + 1] for index in altered]
    found = await coverage(tmp_path, options, info)
    assert (found["altered"], found["verified"]) == (marked, [[0, size]])
    ledger_beside(tmp_path / MAIN).unlink()
    assert (await run(tmp_path, options, "--verify")).code == 0
    found = await coverage(tmp_path, options, info)
    assert (found["altered"], found["verified"]) == (marked, [[0, size]])


async def test_a_right_precertificate_is_altered_while_its_signing_certificate_cannot_be_had_and_until_verify(
    tmp_path: Path, simulate: Simulate
) -> None:
    log, altered = exchanged("static")
    await simulate(log)
    info = log.info("static")
    write_state(tmp_path, {info.base_url: log.tree_size})
    options = options_of([info], "enforce")
    log.faults.add(Fault(FaultKind.MISSING_ISSUER))
    assert (await run(tmp_path, options, "--backfill", "--from", "0")).code == 0
    found = await coverage(tmp_path, options, info)
    marked = [index for start, stop in found["altered"] for index in range(start, stop)]
    assert {*altered} < {*marked}
    log.faults.clear()
    done = await run(tmp_path, options, "--verify")
    assert (done.code, done.only("verification complete")["records_verified"]) == (0, len(marked))
    found = await coverage(tmp_path, options, info)
    assert found["altered"] == [[index, index + 1] for index in altered]
    assert found["verified"] == [[0, log.tree_size]]


def own_modes(options: dict[str, Any], **modes: str) -> dict[str, Any]:
    """The same configuration with a mode of their own for these logs."""
    for entry in (*options["custom_logs"], *options["static_logs"]):
        if entry["name"] in modes:
            entry["verification"] = modes[entry["name"]]
    return options


def failed(done: Ended) -> list[tuple[str, int, int]]:
    return [(line["log"], line["start"], line["stop"]) for line in done.events("range failed, it stays missing")]


async def test_a_logs_own_mode_goes_before_that_of_all_logs_in_backfill_and_verify(
    tmp_path: Path, simulate: Simulate
) -> None:
    logs = [SimulatedLog(name, kinds={kind}, initial=SIZE) for name, kind in (("own", KINDS[0]), ("plain", KINDS[1]))]
    await simulate(*logs)
    infos = {log.name: log.info(next(iter(log.kinds))) for log in logs}
    for log in logs:
        log.faults.add(Fault(FaultKind.WRONG_LEAF, index=WRONG))
    write_state(tmp_path, {info.base_url: SIZE for info in infos.values()})
    options = own_modes(options_of([*infos.values()], "off"), own="enforce")
    done = await run(tmp_path, options, "--backfill", "--from", "0")
    assert (done.code, failed(done)) == (1, [("own", WRONG, WRONG + 1)])
    found = {name: await coverage(tmp_path, options, info) for name, info in infos.items()}
    parts = [[0, WRONG], [WRONG + 1, SIZE]]
    assert (found["own"]["archived"], found["own"]["verified"]) == (parts, parts)
    assert (found["plain"]["archived"], found["plain"]["verified"], found["plain"]["tainted"]) == ([[0, SIZE]], [], [])
    for log in logs:
        log.endpoints.clear()
    assert (await run(tmp_path, options, "--verify")).events("nothing to verify"), "what is off is left out"
    assert [log.endpoints.total() for log in logs] == [0, 0]


async def test_verify_reads_the_logs_that_are_named_and_no_other(tmp_path: Path, simulate: Simulate) -> None:
    logs = [SimulatedLog(name, kinds={kind}, initial=300) for name, kind in zip(("argon", "xenon"), KINDS, strict=True)]
    await simulate(*logs)
    infos = [log.info(next(iter(log.kinds))) for log in logs]
    write_state(tmp_path, {info.base_url: 300 for info in infos})
    options = options_of(infos, "off")
    assert (await run(tmp_path, options, "--backfill", "--from", "0")).code == 0
    options["ct_log"]["verification"] = "warn"
    logs[0].endpoints.clear()
    assert (await run(tmp_path, options, "--verify", "--logs", "XENON")).code == 0
    found = [(await coverage(tmp_path, options, info))["verified"] for info in infos]
    assert found == [[], [[0, 300]]]
    assert logs[0].endpoints.total() == 0
    unknown = await run(tmp_path, options, "--verify", "--logs", "neon2")
    assert unknown.code == 1
    assert "--logs: no log has 'neon2'" in unknown.lines[-1]["event"]
