"""The real process on real ports, against simulated logs that live in the test's own event loop."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
import time
from collections import defaultdict
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any, Final, Self

import aiohttp
import yaml
from websockets.asyncio.client import ClientConnection, connect

import certstream
from certstream.ct.types import LogInfo
from certstream.simulator.server import SimulatorServer

PATIENCE_S: Final = 60.0  # after which a test has failed; nothing ever waits for it to pass
NO_LISTS: Final = {"log_lists": {"enabled": False}}  # no test asks the publishers of the real ones
ROOT: Final = Path(certstream.__file__).parent.parent


class Service:
    """One `certstream` process, started in `directory` with a configuration of its own."""

    def __init__(self, directory: Path, options: Mapping[str, Any], flags: Sequence[str]) -> None:
        self.directory = directory
        self.options = options
        self.flags = flags
        self.lines: list[dict[str, Any]] = []  # what it logged
        self._changed = asyncio.Condition()
        self._process: asyncio.subprocess.Process | None = None
        self._reader: asyncio.Task[None] | None = None

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        if self._process is not None and self._process.returncode is None:
            self._process.kill()
        await self.exit_code()

    @property
    def pid(self) -> int:
        assert self._process is not None
        return self._process.pid

    @property
    def port(self) -> int:
        """The port it serves on, once `start` returned."""
        return int(next(line["port"] for line in reversed(self.lines) if line["event"] == "serving"))

    @property
    def url(self) -> str:
        return f"127.0.0.1:{self.port}"

    @property
    def state(self) -> dict[str, Any]:
        """The state file."""
        document: dict[str, Any] = json.loads((self.directory / "certstream_state.json").read_text())
        return document

    async def start(self, *, serving: bool = True) -> None:
        """Start it, and wait until it serves."""
        path = self.directory / "config.yaml"
        path.write_text(
            yaml.safe_dump({"host": "127.0.0.1", "port": 0, "log_format": "json", **NO_LISTS, **self.options})
        )
        environ = {key: value for key, value in os.environ.items() if not key.startswith(("CERTSTREAM_", "RUST_LOG"))}
        self.lines = []
        self._process = await asyncio.create_subprocess_exec(
            sys.executable, "-W", "ignore", "-m", "certstream", "--config", str(path), *self.flags,
            cwd=self.directory, env={**environ, "PYTHONPATH": str(ROOT)}, stderr=asyncio.subprocess.PIPE,
        )  # fmt: skip
        self._reader = asyncio.create_task(self._read(), name="stderr of the service")
        if serving:
            await self.until(lambda line: line["event"] == "serving")

    async def _read(self) -> None:
        assert self._process is not None
        assert self._process.stderr is not None
        async for raw in self._process.stderr:
            text = raw.decode()
            async with self._changed:
                self.lines.append(json.loads(text) if text.startswith("{") else {"event": text.rstrip("\n")})
                self._changed.notify_all()
        async with self._changed:
            self._changed.notify_all()

    async def until(self, wanted: Callable[[dict[str, Any]], bool]) -> dict[str, Any]:
        """Wait for a log line, also one that was there before."""
        assert self._reader is not None
        async with asyncio.timeout(PATIENCE_S), self._changed:
            while not (found := [line for line in self.lines if wanted(line)]):
                assert not self._reader.done(), f"ended without that line: {self.lines}"
                await self._changed.wait()
        return found[0]

    async def until_following(self, *infos: LogInfo) -> None:
        """Wait until each of those logs is followed: it then has a position."""
        for info in infos:
            name = f"{info.name} {info.kind}"
            await self._until_position(name)

    async def _until_position(self, name: str) -> None:
        await self.until(lambda line: line.get("log") == name and line.get("position") is not None)

    async def exit_code(self) -> int:
        """Wait for its end."""
        assert self._process is not None
        assert self._reader is not None
        async with asyncio.timeout(PATIENCE_S):
            await self._reader
            return await self._process.wait()

    def send(self, number: signal.Signals) -> None:
        assert self._process is not None
        self._process.send_signal(number)

    async def stop(self, number: signal.Signals = signal.SIGTERM) -> tuple[int, float]:
        """Send a signal; exit code and seconds until the end."""
        started = time.monotonic()
        self.send(number)
        return await self.exit_code(), time.monotonic() - started

    async def get(self, path: str) -> tuple[int, str]:
        """Status and text of an HTTP answer."""
        async with aiohttp.ClientSession() as session, session.get(f"http://{self.url}{path}") as response:
            return response.status, await response.text()

    async def health(self) -> dict[str, Any]:
        document: dict[str, Any] = json.loads((await self.get("/health/deep"))[1])
        return document

    @asynccontextmanager
    async def listen(
        self, path: str = "/", headers: Mapping[str, str] | None = None, listener: type[Listener] | None = None
    ) -> AsyncIterator[Listener]:
        """Connect a WebSocket client."""
        async with connect(
            f"ws://{self.url}{path}", max_size=None, max_queue=None, ping_interval=None, additional_headers=headers
        ) as connection:
            client = (listener or Listener)(connection)
            try:
                yield client
            finally:
                await client.close()


class Listener:
    """A client that keeps what it read: data of each message, by the name of its log."""

    def __init__(self, connection: ClientConnection) -> None:
        self.connection = connection
        self.messages: dict[str, list[dict[str, Any]]] = defaultdict(list)
        self.domains: list[list[str]] = []
        self.ended = asyncio.Event()
        self._changed = asyncio.Condition()
        self._task = asyncio.create_task(self._read(), name="listener")

    def indices(self, log: str) -> list[int]:
        """The indices of that log, in the order in which they came."""
        return [message["cert_index"] for message in self.messages[log]]

    async def _read(self) -> None:
        with suppress(asyncio.CancelledError):
            with suppress(Exception):
                async for text in self.connection:
                    await self._take(json.loads(text))
            self.ended.set()
            async with self._changed:
                self._changed.notify_all()

    async def _take(self, message: dict[str, Any]) -> None:
        async with self._changed:
            if message["message_type"] == "certificate_update":
                self.messages[message["data"]["source"]["name"]].append(message["data"])
            elif message["message_type"] == "dns_entries":
                self.domains.append(message["data"])
            self._changed.notify_all()

    async def until(self, enough: Callable[[], bool], patience_s: float = PATIENCE_S) -> None:
        """Wait until what was read is enough."""
        async with asyncio.timeout(patience_s), self._changed:
            while not enough():
                assert not self.ended.is_set(), "the stream ended before that"
                await self._changed.wait()

    async def until_index(self, log: str, last: int, patience_s: float = PATIENCE_S) -> None:
        """Wait for the message of index `last`."""
        await self.until(lambda: bool(self.messages[log]) and self.messages[log][-1]["cert_index"] >= last, patience_s)

    async def close(self) -> None:
        self._task.cancel()
        await asyncio.wait([self._task])


StartService = Callable[..., Awaitable[Service]]
Simulate = Callable[..., Awaitable[SimulatorServer]]


def options_for(infos: Sequence[LogInfo], *, start: str | int = "head", **ct_log: Any) -> dict[str, Any]:
    """A configuration that follows those logs, quickly."""
    sections: dict[str, list[dict[str, Any]]] = {"rfc6962": [], "static": []}
    for info in infos:
        name = f"{info.name} {info.kind}"
        sections[info.kind].append({"name": name, "url": info.url, "start": start, "operator": info.name})
    quick = {
        "poll_interval_ms": 50,
        "retry_initial_delay_ms": 50,
        "retry_max_delay_ms": 400,
        "health_check_interval_secs": 1,
        "partial_tile_wait_secs": 0,
        **ct_log,
    }
    # The test's client shares its time with the simulated logs: it may fall far behind.
    roomy = {"client_backlog_bytes": 256 << 20, "total_backlog_bytes": 512 << 20}
    return {
        "custom_logs": sections["rfc6962"],
        "static_logs": sections["static"],
        "ct_log": quick,
        "streams": roomy,
        **NO_LISTS,
    }
