"""The service in the test's own process: all of it but the command line, without the second that a start takes."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Callable, MutableMapping
from pathlib import Path
from typing import Any, Final

import pytest
import structlog
import yaml

from certstream.app import service as app
from certstream.app.reload import reloader
from certstream.app.reload.watch import Watcher
from certstream.app.settings import configured_logs
from certstream.config import Config, load_config
from tests.e2e.e2e_support import NO_LISTS, PATIENCE_S, Service

_LOOK_S: Final = 0.02  # between looks at the configuration


class InProcess(Service):
    """A service with the working directory of the test; call `work_in` first."""

    _running: asyncio.Task[None]
    _stop: asyncio.Event

    async def __aexit__(self, *_: object) -> None:
        self._stop.set()
        await asyncio.wait([self._running])

    async def start(self, *, serving: bool = True) -> None:
        """Start it, and wait until it serves. Raises what its start raises."""
        options = {"host": "127.0.0.1", "port": 0, "log_format": "json", **NO_LISTS, **self.options}
        (self.directory / "config.yaml").write_text(yaml.safe_dump(options))
        self.lines, self._said, self._stop = [], asyncio.Event(), asyncio.Event()
        self._running = asyncio.create_task(self._run(), name="service in process")
        if serving:
            await self.until(lambda line: line["event"] == "serving")

    async def _run(self) -> None:
        def wanted(config: Config) -> app.Wanted:
            return config, configured_logs(config)

        loaded = load_config(self.directory / "config.yaml", {})
        service = app.Service(*wanted(loaded.config))
        service.reload_from(loaded, wanted)
        loop, processors = asyncio.get_running_loop(), structlog.get_config()["processors"]
        before = list(processors)

        def take(_: Any, level: str, line: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
            self.lines.append({**line, "level": level})
            loop.call_soon_threadsafe(self._said.set)
            raise structlog.DropEvent

        processors[:] = [take]
        try:
            await service.run(self._stop)
        finally:
            processors[:] = before

    async def until(self, wanted: Callable[[dict[str, Any]], bool]) -> dict[str, Any]:
        """Wait for a log line, also one that was there before."""
        async with asyncio.timeout(PATIENCE_S):
            while not (found := [line for line in self.lines if wanted(line)]):
                said = asyncio.ensure_future(self._said.wait())
                await asyncio.wait([said, self._running], return_when=asyncio.FIRST_COMPLETED)
                said.cancel()
                if self._running.done():
                    await self._running
                    raise AssertionError(f"ended without that line: {self.lines}")
                self._said.clear()
        return found[0]

    def send(self, number: signal.Signals) -> None:
        self._stop.set()

    async def exit_code(self) -> int:
        """Wait for its end; raises what it raises."""
        async with asyncio.timeout(PATIENCE_S):
            await self._running
        return 0


def work_in(directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let services in process work in that directory, and see a changed configuration at once."""
    monkeypatch.chdir(directory)
    monkeypatch.setattr(
        reloader, "Watcher", lambda paths, load, *, interval_s: Watcher(paths, load, interval_s=_LOOK_S)
    )
