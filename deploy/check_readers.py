"""Run every Python example of docs/reading.md against a real archive, in this interpreter's environment."""

from __future__ import annotations

import asyncio
import json
import re
import subprocess
import sys
import tempfile
from pathlib import Path

from certstream.simulator import SimulatedLog, SimulatorServer

ROOT = Path(__file__).resolve().parent.parent
SHOWN_PATH = "/var/lib/certstream/archive"
ENTRIES = 3_000  # of each log


def main() -> None:
    """Make an archive of two simulated logs, then run the examples; exit code 1 at the first that fails."""
    with tempfile.TemporaryDirectory(prefix="certstream-readers-") as name:
        directory = Path(name)
        asyncio.run(make_archive(directory))
        text = (ROOT / "docs" / "reading.md").read_text()
        examples = re.findall(r"^## ([^\n]+)\n(?:(?!^## ).)*?```python\n(.*?)```", text, re.DOTALL | re.MULTILINE)
        if len(examples) < 5:
            raise SystemExit(f"docs/reading.md: {len(examples)} examples found, at least 5 expected")
        if sum(check(directory, title, code) for title, code in examples) < 3:
            raise SystemExit("docs/reading.md: fewer than 3 examples count the rows")


async def make_archive(directory: Path) -> None:
    """`certstream --backfill` of two simulated logs into `archive`."""
    logs = [SimulatedLog(f"log{n}", kinds={"static"}, seed=n, initial=ENTRIES) for n in range(2)]
    async with SimulatorServer(logs) as server:
        infos = server.infos()
        config = {
            "static_logs": [{"name": info.name, "url": info.url} for info in infos],
            "delta_sink": {"table_path": "archive"},
            "log_lists": {"enabled": False},
        }
        positions = {info.base_url: {"current_index": ENTRIES, "start_index": 0} for info in infos}
        (directory / "config.yaml").write_text(json.dumps(config))  # JSON is YAML
        (directory / "certstream_state.json").write_text(json.dumps({"version": 1, "logs": positions}))
        command = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "certstream", "--backfill", cwd=directory, stderr=subprocess.DEVNULL
        )
        if await command.wait():
            raise SystemExit("the archive to read could not be made")


def check(directory: Path, title: str, code: str) -> bool:
    """Run one example; whether it counts the rows, which must then be all."""
    program = code.replace(SHOWN_PATH, str(directory / "archive"))
    done = subprocess.run([sys.executable, "-c", program], check=False, capture_output=True, text=True, cwd=directory)
    if done.returncode or not done.stdout.strip():
        raise SystemExit(f"docs/reading.md, {title}: exit code {done.returncode}\n{done.stdout}{done.stderr}")
    counted = re.findall(r"^(\d+) rows$", done.stdout, re.MULTILINE)
    if counted and counted != [str(2 * ENTRIES)]:
        raise SystemExit(f"docs/reading.md, {title}: {counted} rows counted, {2 * ENTRIES} expected")
    print(f"ok: {title}{f', {counted[0]} rows' if counted else ''}")
    return bool(counted)


if __name__ == "__main__":
    main()
