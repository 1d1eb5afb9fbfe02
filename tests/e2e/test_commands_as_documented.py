"""Every example of `certstream --help`, as it stands there, in the order in which it stands there."""

from __future__ import annotations

import asyncio
import re
import shlex
import signal
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import aiohttp

from certstream.archive.commit import Committer
from certstream.ct.types import LogKind
from certstream.ledger import ledger_beside
from certstream.simulator.log import SimulatedLog
from tests.archive.archive_support import held
from tests.e2e.command_support import (
    MAIN,
    STAGING,
    Command,
    Ended,
    archive_options,
    rows_of,
    run,
    with_keys,
    write_state,
)
from tests.e2e.e2e_support import PATIENCE_S, Simulate

NAMED = "argon2026h2"  # by an example
OTHER = "sycamore2026h2"
KINDS: dict[str, LogKind] = {NAMED: "rfc6962", OTHER: "static"}
BEGAN, CEILING, SIZE = 300, 700, 1_000  # of each log: where it was begun, up to where it was streamed, all it has


class Directory:
    """Where an operator runs the examples, one after the other: two logs that were streamed without an archive."""

    def __init__(self, path: Path, options: Mapping[str, Any], urls: Mapping[str, str]) -> None:
        self.path = path
        self.options = {**options, "delta_sink": {**options["delta_sink"], "enabled": True}}
        self.urls = urls

    @property
    def archived(self) -> dict[str, list[int]]:
        """The indices of each log in the archive."""
        return {name: rows_of(self.path / MAIN, url) for name, url in self.urls.items()}

    @property
    def staged(self) -> dict[str, list[int]]:
        """The indices of each log in the staging table."""
        return {name: rows_of(self.path / STAGING, url) for name, url in self.urls.items()}

    async def run(self, example: str) -> Ended:
        """Run a command to its end."""
        return await run(self.path, self.options, *shlex.split(example)[1:])

    async def serve(self, example: str, until: Mapping[str, list[int]] | None) -> Ended:
        """Run a service until it answers and, where given, until so much is archived; then stop it."""
        async with Command(self.path, self.options, shlex.split(example)[1:]) as service:
            url = (await service.until("serving"))["url"]
            async with aiohttp.ClientSession() as session, session.get(f"{url}health") as answer:
                assert answer.status == 200
            async with asyncio.timeout(PATIENCE_S):
                while until is not None and self.archived != until:  # noqa: ASYNC110 - a table tells nobody
                    await asyncio.sleep(0.05)
            service.send(signal.SIGTERM)
            return await service.ended()


async def examples(directory: Path) -> list[str]:
    """The command lines that `--help` shows."""
    done = await run(directory, {}, "--help")
    assert done.code == 0
    return re.findall(r"^  (certstream(?: .*)?)$", done.stdout, re.MULTILINE)


def both(start: int, stop: int = SIZE) -> dict[str, list[int]]:
    """[start, stop) of each log."""
    return {name: list(range(start, stop)) for name in KINDS}


async def test_all_examples_of_the_help_do_what_they_say(tmp_path: Path, simulate: Simulate) -> None:
    logs = [SimulatedLog(name, kinds={kind}, initial=SIZE, seed=n) for n, (name, kind) in enumerate(KINDS.items())]
    server = await simulate(*logs)
    urls = {log.name: log.url(KINDS[log.name]).rstrip("/") for log in logs}
    options = with_keys(archive_options(server.infos(), maintenance={"quiet_secs": 0}), server.infos())
    here = Directory(tmp_path, options, urls)
    write_state(tmp_path, dict.fromkeys(urls.values(), CEILING), start_index=BEGAN)
    service, demo, plan, stage, merge, straight, maintain, coverage, verify = await examples(tmp_path)

    assert (await here.serve(service, until=both(CEILING))).code == 0
    state = (tmp_path / "certstream_state.json").read_bytes()
    assert (await here.serve(demo, until=None)).code == 0

    planned = await here.run(plan)
    missing = CEILING - BEGAN
    rows = [line.split() for line in planned.stdout.splitlines()]
    found = {row[0]: row for row in rows if row}
    assert planned.code == 0
    assert [str(missing) in found[name] for name in KINDS] == [True, True]
    assert str(2 * missing) in found["total"]
    assert (here.archived, {path.name for path in (tmp_path / "data").iterdir()}) == (both(CEILING), {"main"})

    staged = await here.run(stage)
    assert (staged.code, staged.only("backfill complete")["records_written"]) == (0, 2 * missing)
    assert here.staged == both(BEGAN, CEILING)
    assert here.archived == both(CEILING)

    merged = await here.run(merge)
    assert (merged.code, merged.only("merge complete")["total_inserted"]) == (0, 2 * missing)
    assert (here.archived, (tmp_path / STAGING).exists()) == (both(BEGAN), False)

    filled = await here.run(straight)
    everything = {NAMED: list(range(SIZE)), OTHER: list(range(BEGAN, SIZE))}
    assert (filled.code, filled.only("backfill complete")["records_written"]) == (0, BEGAN)
    assert here.archived == everything

    before = Committer(tmp_path / MAIN).look()
    kept = await here.run(maintain)
    after = Committer(tmp_path / MAIN).look()
    assert (kept.code, len(kept.events("maintenance complete"))) == (0, 1)
    assert before.dense_spans().keys() < before.paths  # the service's are of both logs
    assert after.dense_spans().keys() == after.paths
    assert held(tmp_path / MAIN) == {urls[name]: indices for name, indices in everything.items()}
    assert (tmp_path / "certstream_state.json").read_bytes() == state

    shown = await here.run(coverage)
    counts = {tuple(line.split()[:2]) for line in shown.stdout.splitlines()}
    assert shown.code == 0
    assert {("archived", "1,000"), ("archived", str(SIZE - BEGAN)), ("missing", "0"), ("archived", "1,700")} <= counts

    ledger_beside(tmp_path / MAIN).unlink()
    verified = await here.run(verify)
    rows_there = sum(map(len, everything.values()))
    assert (verified.code, verified.only("verification complete")["records_verified"]) == (0, rows_there)
    assert held(tmp_path / MAIN) == {urls[name]: indices for name, indices in everything.items()}
