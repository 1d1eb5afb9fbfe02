"""Service, backfill, merge and upkeep killed at random instants, alone and side by side; then one clean run."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Sequence
from pathlib import Path
from random import Random
from typing import Any, Final

from certstream.ct.types import LogKind
from certstream.simulator.log import SimulatedLog
from certstream.simulator.server import SimulatorServer
from tests.archive.archive_support import held
from tests.e2e.command_support import MAIN, STAGING, Command, archive_options, run
from tests.e2e.e2e_support import PATIENCE_S

KINDS: Final[Sequence[LogKind]] = ("rfc6962", "static")
COMMANDS: Final = {
    "service": (),
    "backfill into staging": ("--backfill", "--from", "0", "--staging-path", STAGING),
    "backfill": ("--backfill", "--from", "0"),
    "merge": ("--merge", "--staging-path", STAGING),
    "maintain": ("--maintain",),
}
_BEGUN: Final = {
    "service": "serving",
    "backfill into staging": "backfill mode starting",
    "backfill": "backfill mode starting",
    "merge": "merge mode starting",
    "maintain": "maintenance mode starting",
}
_LONGEST_S: Final = 0.8  # from a command's first line to its end by force


class Crashes:
    """Two simulated logs that grow, and the commands that archive them, in one directory."""

    def __init__(self, directory: Path, seed: int, *, initial: int = 3_000) -> None:
        self.directory = directory
        self.kills = 0
        self._random = Random(seed)
        self._log = SimulatedLog("log", kinds=set(KINDS), initial=initial, seed=seed, unparseable=0.02)
        self._server = SimulatorServer([self._log])
        self.history: list[str] = []  # what was done, to tell of a failure

    async def __aenter__(self) -> Crashes:
        await self._server.__aenter__()
        return self

    async def __aexit__(self, *_: Any) -> None:
        await self._server.__aexit__(None, None, None)

    @property
    def urls(self) -> list[str]:
        return [self._log.url(kind).rstrip("/") for kind in KINDS]

    @property
    def _options(self) -> dict[str, Any]:
        options = archive_options(
            self._server.infos(),
            delta_sink={"enabled": True, "batch_size": 200},
            backfill={"staging_path": STAGING, "from_index": 0},
            maintenance={"quiet_secs": 0, "interval_secs": 3_600},
        )
        for log in (*options["custom_logs"], *options["static_logs"]):
            log["start"] = 2_000
        return options

    async def kill(self, *names: str) -> None:
        """Start these commands together and kill each at an instant of its own, or see it end before."""
        self.history.append(" + ".join(names))
        self._log.grow(self._random.randrange(1, 300))
        await asyncio.gather(*(self._kill(name, _LONGEST_S * self._random.random() ** 2) for name in names))

    async def _kill(self, name: str, after_s: float) -> None:
        async with Command(self.directory, self._options, COMMANDS[name]) as command:
            try:
                await command.until(_BEGUN[name])
            except AssertionError:  # refused: another one holds its lock
                return
            if name == "service" and self._random.random() < 0.5:
                command.send(signal.SIGHUP)
            await asyncio.sleep(after_s)
            self.kills += command.kill()
            await command.ended()

    async def kill_any(self) -> None:
        """One to three commands, any."""
        await self.kill(*self._random.sample([*COMMANDS], self._random.choice((1, 1, 2, 3))))

    async def settle(self) -> None:
        """One clean run of everything; then every index must be in the archive, once."""
        async with Command(self.directory, self._options, ()) as service:
            await service.until("serving")
            await self._until_archived()
            service.send(signal.SIGTERM)
            ended = await service.ended()
            assert ended.code == 0, (self.history, ended.lines)
        for name in ("backfill into staging", "merge", "maintain"):
            done = await run(self.directory, self._options, *COMMANDS[name])
            assert done.code == 0, (name, self.history, done.lines)
        found = held(self.directory / MAIN)
        assert sorted(found) == sorted(self.urls), self.history
        for url in self.urls:
            assert found[url] == list(range(self._log.tree_size)), (self.history, _difference(found[url]))
        assert not (self.directory / STAGING).exists()

    async def _until_archived(self) -> None:
        """Wait until the service has archived what the logs hold now."""
        async with asyncio.timeout(PATIENCE_S):
            while not self._is_archived():  # noqa: ASYNC110 - a file tells nobody
                await asyncio.sleep(0.05)

    def _is_archived(self) -> bool:
        root = self.directory / MAIN
        if not (root / "_delta_log" / f"{0:020}.json").exists():
            return False
        found = held(root)
        last = self._log.tree_size - 1
        return all(found.get(url, [0])[-1] == last for url in self.urls)


def _difference(found: list[int]) -> str:
    doubled = [index for at, index in enumerate(found[1:]) if found[at] == index]
    missing = sorted({*range(found[-1] + 1)} - {*found})
    return f"doubled: {doubled[:20]} missing: {missing[:20]} of {len(found)}"
