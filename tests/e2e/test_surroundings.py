"""Where the process finds something else around it than it needs: it says what, in a line, and what to do."""

from __future__ import annotations

import asyncio
import os
import sys
from pathlib import Path

import pytest

from tests.e2e.e2e_support import PATIENCE_S, ROOT


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
