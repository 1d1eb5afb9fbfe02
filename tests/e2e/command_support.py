"""The commands as a user runs them: real processes in a process group of their own, real tables, simulated logs."""

from __future__ import annotations

import asyncio
import base64
import json
import os
import signal
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Self

import pyarrow as pa
import yaml

from certstream.archive.commit import Committer
from certstream.archive.writer import DenseWriter
from certstream.ct.types import LogInfo
from certstream.simulator.faults import Fault
from certstream.simulator.log import SimulatedLog
from tests.archive.archive_support import committed_files, data_files, held, rows
from tests.e2e.e2e_support import NO_LISTS, PATIENCE_S, ROOT, options_for

MAIN: Final = "data/main"
STAGING: Final = "data/staging"


@dataclass(frozen=True, slots=True)
class Ended:
    """A process that ended."""

    code: int
    stdout: str
    lines: tuple[dict[str, Any], ...]  # of stderr; what is no log line has the key `event` alone

    def events(self, event: str) -> list[dict[str, Any]]:
        return [line for line in self.lines if line["event"] == event]

    def only(self, event: str) -> dict[str, Any]:
        (line,) = self.events(event)
        return line


class Command:
    """One `certstream` process with flags, its working directory and its configuration."""

    def __init__(self, directory: Path, options: Mapping[str, Any], flags: Sequence[str]) -> None:
        self._directory = directory
        self._options = options
        self._flags = flags
        self._process: asyncio.subprocess.Process | None = None
        self._stderr: asyncio.Task[None] | None = None
        self._changed = asyncio.Condition()
        self.lines: list[dict[str, Any]] = []  # of stderr, as they come

    async def __aenter__(self) -> Self:
        path = self._directory / "config.yaml"  # where it is looked for
        path.write_text(
            yaml.safe_dump({"host": "127.0.0.1", "port": 0, "log_format": "json", **NO_LISTS, **self._options})
        )
        environ = {key: value for key, value in os.environ.items() if not key.startswith(("CERTSTREAM_", "RUST_LOG"))}
        self._process = await asyncio.create_subprocess_exec(
            sys.executable, "-W", "ignore", "-m", "certstream", *self._flags,
            cwd=self._directory, env={**environ, "PYTHONPATH": str(ROOT)}, start_new_session=True,
            stdin=asyncio.subprocess.DEVNULL, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
        )  # fmt: skip
        assert self._process.stderr is not None
        self._stderr = asyncio.create_task(self._read(self._process.stderr), name="stderr of the command")
        return self

    @property
    def pid(self) -> int:
        assert self._process is not None
        return self._process.pid

    async def __aexit__(self, *_: object) -> None:
        assert self._process is not None
        if self._process.returncode is None:
            self._process.kill()
            await self.ended()

    async def _read(self, stream: asyncio.StreamReader) -> None:
        async for raw in stream:
            async with self._changed:
                self.lines.append(_line(raw.decode().rstrip("\n")))
                self._changed.notify_all()
        async with self._changed:
            self._changed.notify_all()

    async def until(self, event: str) -> dict[str, Any]:
        """Wait for a line of stderr, also one that was there before."""
        assert self._stderr is not None
        async with asyncio.timeout(PATIENCE_S), self._changed:
            while not (found := [line for line in self.lines if line["event"] == event]):
                assert not self._stderr.done(), f"ended without that line: {self.lines}"
                await self._changed.wait()
        return found[0]

    async def ended(self, patience_s: float = PATIENCE_S) -> Ended:
        """Wait for its end."""
        assert self._process is not None
        assert self._process.stdout is not None
        assert self._stderr is not None
        async with asyncio.timeout(patience_s):
            stdout = await self._process.stdout.read()
            await self._stderr
            code = await self._process.wait()
        return Ended(code, stdout.decode(), tuple(self.lines))

    def kill(self) -> bool:
        """End the whole process group by force; False where it ended before."""
        try:
            self.send(signal.SIGKILL)
        except ProcessLookupError:
            return False
        return True

    def send(self, number: signal.Signals) -> None:
        """Send a signal to its whole process group, as a terminal does."""
        assert self._process is not None
        os.killpg(self._process.pid, number)


def _line(text: str) -> dict[str, Any]:
    return dict(json.loads(text)) if text.startswith("{") else {"event": text}


async def run(directory: Path, options: Mapping[str, Any], *flags: str) -> Ended:
    """Run a command to its end."""
    async with Command(directory, options, flags) as command:
        return await command.ended()


def archive_options(infos: Sequence[LogInfo], **sections: Mapping[str, Any]) -> dict[str, Any]:
    """A configuration of those logs with the archive in `data/main`; `sections` overlay its options."""
    options = options_for(infos)
    options["delta_sink"] = {"table_path": MAIN, "flush_interval_secs": 1}
    for name, section in sections.items():
        options[name] = {**options.get(name, {}), **section}
    return options


def with_keys(options: dict[str, Any], infos: Sequence[LogInfo]) -> dict[str, Any]:
    """The same configuration with the keys of these logs."""
    by_url = {info.url: info for info in infos}
    for section in ("custom_logs", "static_logs"):
        for entry in options[section]:
            entry["key"] = base64.b64encode(by_url[entry["url"]].key or b"").decode()
    return options


def write_state(directory: Path, ceilings: Mapping[str, int], **more: int) -> None:
    """A state file with these positions, by URL without trailing slash."""
    logs = {
        url: {"current_index": index, "tree_size": index, "last_success": 0, **more} for url, index in ceilings.items()
    }
    (directory / "certstream_state.json").write_text(json.dumps({"version": 1, "logs": logs}))


def fill(root: Path, url: str, indices: Iterable[int]) -> None:
    """Put rows of these indices into a table."""
    writer = DenseWriter(Committer(root))
    for start, stop in _runs(sorted(indices)):
        for batch in pa.Table.from_batches(rows(url, range(start, stop)).to_batches()).combine_chunks().to_batches():
            writer.write(batch)
    writer.commit()


def _runs(indices: Sequence[int]) -> Iterable[tuple[int, int]]:
    start = 0
    for at in range(1, len(indices) + 1):
        if at == len(indices) or indices[at] != indices[at - 1] + 1:
            yield indices[start], indices[at - 1] + 1
            start = at


def rows_of(root: Path, url: str) -> list[int]:
    """The indices of a log in a table, sorted; none where there is no table."""
    return held(root).get(url, []) if (root / "_delta_log").is_dir() else []


def snapshot_of(root: Path) -> dict[str, tuple[int, int]]:
    """Every file below a directory with its size and the time of its last change: equal before and after, untouched."""
    stats = {path: path.stat() for path in sorted(root.rglob("*")) if path.is_file()}
    return {str(path.relative_to(root)): (stat.st_size, stat.st_mtime_ns) for path, stat in stats.items()}


async def until_begun(root: Path) -> None:
    """Wait for a file in a table that is not committed."""
    async with asyncio.timeout(PATIENCE_S):
        while data_files(root) <= committed_files(root):  # noqa: ASYNC110 - a file tells nobody
            await asyncio.sleep(0)


async def until_struck(log: SimulatedLog, fault: Fault) -> None:
    """Wait until a fault has struck."""
    async with asyncio.timeout(PATIENCE_S):
        while not log.faults.struck[fault]:  # noqa: ASYNC110 - a counter tells nobody
            await asyncio.sleep(0.01)
