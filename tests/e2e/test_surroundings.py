"""Where the process finds something else around it than it needs: it says what, in a line, and what to do."""

from __future__ import annotations

import asyncio
import os
import sys
from pathlib import Path

import pytest

from certstream.errors import StorageError
from certstream.ledger import ledger_beside
from certstream.locks import FileLock
from certstream.simulator.log import SimulatedLog
from tests.archive.archive_support import held
from tests.e2e.command_support import MAIN
from tests.e2e.e2e_support import PATIENCE_S, ROOT, Simulate, StartService
from tests.e2e.verification_support import until_at, verifying


@pytest.mark.parametrize("flags", [[], ["--coverage"]], ids=["service", "command"])
async def test_a_working_directory_that_is_gone_is_said_in_a_line(tmp_path: Path, flags: list[str]) -> None:
    gone = tmp_path / "gone"
    gone.mkdir()
    started = "import os, sys; os.rmdir(os.getcwd()); os.execv(sys.executable, [sys.executable, *sys.argv[1:]])"
    environ = {key: value for key, value in os.environ.items() if not key.startswith(("CERTSTREAM_", "RUST_LOG"))}
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-c", started, "-W", "ignore", "-m", "certstream", *flags,
        cwd=gone, env={**environ, "PYTHONPATH": str(ROOT), "CERTSTREAM_PORT": "0"},
        stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
    )  # fmt: skip
    async with asyncio.timeout(PATIENCE_S):
        stdout, stderr = await process.communicate()
    assert (process.returncode, stdout) == (1, b"")
    assert stderr.decode().splitlines()[-1] == (
        "certstream: the directory that this was started in is gone; start it in another one"
    )
    assert b"Traceback" not in stderr


async def test_the_service_archives_what_it_has_at_its_end_while_another_process_holds_what_is_known(
    start_service: StartService, simulate: Simulate
) -> None:
    log = SimulatedLog("log", initial=1_000, seed=1, max_page=256)
    server = await simulate(log)
    options = verifying(server.infos(), "warn", batch_size=256)
    options["delta_sink"] = {"enabled": True, "table_path": MAIN, "flush_interval_secs": 3_600}
    service = await start_service(options)
    ledger = ledger_beside(service.directory / MAIN)
    ledger.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(ledger.with_name(f"{ledger.name}.lock"), subject=ledger, error=StorageError):
        await until_at(service, 1_000, "log rfc6962", "log static")
        code, _ = await service.stop()
    assert code == 0
    assert not [line for line in service.lines if line["event"].startswith(("not everything", "not all rows"))]
    assert held(service.directory / MAIN) == {info.base_url: list(range(1_000)) for info in server.infos()}
