"""The examples of docs/clients.md that need nothing but this package and `websockets`, as they stand there."""

from __future__ import annotations

import asyncio
import os
import re
import sys
from contextlib import suppress
from pathlib import Path
from typing import Final

import pytest

from tests.e2e.e2e_support import PATIENCE_S, ROOT, Service

TOKEN: Final = "3b6f0c1e5d7a49d28c5f7a1b"  # that of the examples
_EXAMPLE: Final = re.compile(r"<!-- example: (\S+?)( token)? -->\n```(\w+)\n(.*?)```\n", re.DOTALL)
_FOUND: Final = _EXAMPLE.findall((ROOT / "docs/clients.md").read_text())
HERE: Final = [example for example in _FOUND if example[0].startswith(("ours", "tail", "websockets"))]
ENVIRON: Final = {name: value for name, value in os.environ.items() if not name.lower().endswith("_proxy")}


def test_every_example_is_marked_so_that_it_is_run() -> None:
    blocks = re.findall(r"^```\w+$", (ROOT / "docs/clients.md").read_text(), re.MULTILINE)
    assert len(blocks) == len(_FOUND)
    assert [name for name, *_ in HERE] == ["tail", "ours-messages", "ours-listen", "websockets", "ours-token"]


@pytest.mark.parametrize("token", ["", " token"], ids=["open", "protected"])
async def test_examples_print_what_comes(tmp_path: Path, token: str) -> None:
    options = {"auth": {"enabled": True, "tokens": [TOKEN]}} if token else {}
    async with Service(tmp_path, options, ["--demo"]) as service, asyncio.TaskGroup() as tasks:
        for name, needed, language, text in HERE:
            if needed == token:
                here = text.replace("127.0.0.1:8080", service.url)
                tasks.create_task(run_example(here, tmp_path / name, language, service.url))


async def run_example(text: str, script: Path, language: str, url: str) -> None:
    """Start it, and read a few lines of what it prints; commands of the shell to their end."""
    if language == "sh":
        command = f'"{sys.executable}" -W ignore -m certstream "$1" --url ws://{url}/ "${{@:2}}"'
        arguments = ["bash", "-euo", "pipefail", "-c", f"certstream() {{ {command}; }}\n{text}"]
    else:
        script.write_text(text)
        arguments = [sys.executable, str(script)]
    process = await asyncio.create_subprocess_exec(
        *arguments, env={**ENVIRON, "PYTHONPATH": str(ROOT)}, stdout=asyncio.subprocess.PIPE, limit=1 << 24
    )
    try:
        assert process.stdout is not None
        async with asyncio.timeout(PATIENCE_S):
            assert all([await process.stdout.readline() for _ in range(9 if language == "sh" else 3)])
            if language == "sh":
                assert await process.wait() == 0
    finally:
        with suppress(ProcessLookupError):
            process.kill()
        await process.communicate()
