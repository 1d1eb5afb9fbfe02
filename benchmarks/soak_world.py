"""The logs, the service, its clients and all that happens to them, for benchmarks.soak."""

from __future__ import annotations

import asyncio
import signal
import time
from collections import Counter
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Any, Final, Self

import yaml
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import WebSocketException

from certstream.ct.types import LogKind
from certstream.simulator.faults import Fault, FaultKind
from certstream.simulator.log import SimulatedLog
from certstream.simulator.server import SimulatorServer
from tests.e2e.archive_service_support import stands_at
from tests.e2e.command_support import STAGING, Command
from tests.e2e.e2e_support import Listener, Service
from tests.e2e.faults_support import KINDS, faults_of, options_of, rss_bytes
from tests.e2e.reload_support import rename_over

INITIAL: Final = 3_000
START: Final = 2_000  # where the logs are followed from; what lies before is backfilled
SETTLE_S: Final = 300.0
# Content of another entry under `warn` would be archived as it came: those are for the logs under `enforce`
_ENFORCED_ONLY: Final = frozenset({FaultKind.SHIFTED, FaultKind.UNKNOWN_TYPE, FaultKind.FORK, FaultKind.MORE_ENTRIES})
_CONTRADICTING: Final = frozenset(
    {FaultKind.WRONG_LEAF, FaultKind.OTHER_ROOT, FaultKind.WRONG_SIGNATURE, FaultKind.WRONG_HASH, *_ENFORCED_ONLY}
)
_COMMANDS: Final = (
    ("--backfill", "--from", "0", "--staging-path", STAGING),
    ("--merge", "--staging-path", STAGING),
    ("--backfill",),
    ("--maintain",),
    ("--coverage", "--json"),
    ("--verify",),
)


class _Clock:
    """Time, until it is stopped."""

    def __init__(self) -> None:
        self._stopped_at: float | None = None

    def __call__(self) -> float:
        return time.time() if self._stopped_at is None else self._stopped_at

    def stop(self) -> None:
        self._stopped_at = time.time()


class _Checking(Listener):
    """Keeps of each log only the index that came last; what does not follow it is a violation."""

    def __init__(self, connection: ClientConnection) -> None:
        self.last: dict[str, int] = {}
        self.count = 0
        self.violations: list[str] = []
        super().__init__(connection)

    async def _take(self, message: dict[str, Any]) -> None:
        if message["message_type"] != "certificate_update":
            return
        name, index = message["data"]["source"]["name"], message["data"]["cert_index"]
        if self.last.get(name, index - 1) != index - 1:
            self.violations.append(f"stream of {name}: {index} after {self.last[name]}")
        self.last[name] = index
        self.count += 1


@dataclass(frozen=True, slots=True)
class Sample:
    """The service at one instant."""

    run: int  # of the service, counted from 1
    rss_bytes: int
    files: int
    threads: int


class World:
    """All of it; `live` for a while, `settle`, then look."""

    def __init__(self, directory: Path, seed: int, rate: float) -> None:
        self.directory = directory
        self.random = Random(seed)
        self.clock = _Clock()
        self.kinds: dict[str, LogKind] = {f"{mode}{n}-{kind}": kind for kind in KINDS for n, mode in _modes()}
        self.logs = {
            name: SimulatedLog(name, kinds={kind}, initial=INITIAL, rate=rate, seed=n, clock=self.clock, max_page=256)
            for n, (name, kind) in enumerate(self.kinds.items())
        }
        self.server = SimulatorServer(list(self.logs.values()))
        self.options: dict[str, Any] = {}
        self.suspects: set[str] = set()  # names of logs that contradicted themselves
        self.happened: Counter[str] = Counter()
        self.samples: list[Sample] = []
        self.violations: list[str] = []
        self.streamed = 0
        self._service: Service | None = None
        self._runs = 0
        self._up = asyncio.Event()

    async def __aenter__(self) -> Self:
        await self.server.__aenter__()
        self.options = self._options()
        return self

    async def __aexit__(self, *_: object) -> None:
        if self._service is not None:
            await self._service.__aexit__(None, None, None)
        await self.server.__aexit__(None, None, None)

    def url_of(self, name: str) -> str:
        """Of a log, as the archive has it."""
        return self.logs[name].url(self.kinds[name]).rstrip("/")

    def _options(self) -> dict[str, Any]:
        options = options_of(
            self.server,
            "warn",
            delta_sink={"enabled": True, "batch_size": 500},
            backfill={"staging_path": STAGING, "from_index": 0},
            maintenance={"quiet_secs": 0, "interval_secs": 30},
            hot_reload={"enabled": True},
            ct_log={"poll_interval_ms": 500},
        )
        for log in (*options["custom_logs"], *options["static_logs"]):
            log["start"] = START
            log["verification"] = "enforce" if log["name"].startswith("enforce") else "warn"
        return options

    # the service

    async def start(self) -> None:
        """Start the service, anew if it ran before."""
        if self._service is not None:
            self._check_lines(self._service.lines)
        self._service = Service(self.directory, self.options, ())
        await self._service.start()
        self._runs += 1
        self._up.set()

    async def stop(self, number: signal.Signals) -> None:
        """End the service by a signal."""
        assert self._service is not None
        self._up.clear()
        code, took_s = await self._service.stop(number)
        if number == signal.SIGTERM and code != 0:
            self.violations.append(f"SIGTERM: exit code {code} after {took_s:.1f} s")

    def _check_lines(self, lines: list[dict[str, Any]]) -> None:
        found = [line for line in lines if "Traceback" in str(line) or line.get("level") == "critical"]
        self.violations += [f"logged: {str(line)[:400]}" for line in found[:3]]

    # what happens

    async def live(self, duration_s: float, period_s: float) -> None:
        """Let everything happen at once for so long."""
        await self.start()
        async with asyncio.TaskGroup() as group:
            tasks = [
                group.create_task(self._every(low_s, high_s, what), name=f"soak:{name}")
                for name, low_s, high_s, what in (
                    ("fault", 2.0, 10.0, self._fault),
                    ("restart", 20.0, 90.0, self._restart),
                    ("hangup", 15.0, 60.0, self._hang_up),
                    ("reload", 20.0, 60.0, self._reload),
                    ("command", 5.0, 30.0, self._command),
                    ("slow", 5.0, 20.0, self._slow_client),
                    ("sample", period_s, period_s, self._sample),
                )
            ]
            tasks.append(group.create_task(self._listen(), name="soak:client"))
            await asyncio.sleep(duration_s)
            for task in tasks:
                task.cancel()

    async def _every(self, low_s: float, high_s: float, what: Callable[[], Awaitable[None]]) -> None:
        while True:
            await asyncio.sleep(self.random.uniform(low_s, high_s))
            await what()

    async def _fault(self) -> None:
        name = self.random.choice(list(self.logs))
        log, kind = self.logs[name], self.random.choice(list(FaultKind))
        if kind in _ENFORCED_ONLY and not name.startswith("enforce"):
            return
        if kind in _CONTRADICTING:
            self.suspects.add(name)
        added = [log.faults.add(each) for each in faults_of(kind, self.kinds[name], log.tree_size + 20)]
        self.happened[f"fault {kind}"] += 1
        asyncio.get_running_loop().call_later(self.random.uniform(1, 12), _end, log, added)

    async def _restart(self) -> None:
        number = self.random.choice((signal.SIGKILL, signal.SIGTERM))
        self.happened[number.name] += 1
        await self.stop(number)
        await asyncio.sleep(self.random.uniform(0, 5))
        await self.start()

    async def _hang_up(self) -> None:
        await self._up.wait()
        assert self._service is not None
        self.happened["SIGHUP"] += 1
        self._service.send(signal.SIGHUP)

    async def _reload(self) -> None:
        self.happened["reload"] += 1
        poll_ms = self.random.choice((200, 500, 1_000))
        options = {**self.options, "ct_log": {**self.options["ct_log"], "poll_interval_ms": poll_ms}}
        text = yaml.safe_dump({"host": "127.0.0.1", "port": 0, "log_format": "json", **options})
        rename_over(self.directory / "config.yaml", text)

    async def _command(self) -> None:
        await self.run(self.random.choice(_COMMANDS), killed_after_s=self.random.choice((None, None, 0.5, 3.0)))

    async def run(
        self, flags: tuple[str, ...], *, killed_after_s: float | None = None, codes: tuple[int, ...] = (0, 1)
    ) -> None:
        """Run a command to its end, or kill it."""
        self.happened[f"{flags[0]}{' killed' if killed_after_s else ''}"] += 1
        async with Command(self.directory, self.options, flags) as command:
            if killed_after_s is not None:
                await asyncio.sleep(killed_after_s)
                command.kill()
            ended = await command.ended(SETTLE_S)
        self._check_lines(list(ended.lines))
        if killed_after_s is None and ended.code not in codes:
            self.violations.append(
                f"{' '.join(flags)}: exit code {ended.code}: {[str(line)[:300] for line in ended.lines[-2:]]}"
            )

    async def _slow_client(self) -> None:
        await self._up.wait()
        assert self._service is not None
        self.happened["client that reads nothing"] += 1
        with suppress(OSError):
            _, writer = await asyncio.open_connection("127.0.0.1", self._service.port)
            writer.write(
                b"GET /full-stream HTTP/1.1\r\nHost: soak\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
                b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: MDEyMzQ1Njc4OUFCQ0RFRg==\r\n\r\n"
            )
            asyncio.get_running_loop().call_later(self.random.uniform(5, 40), writer.close)

    async def _listen(self) -> None:
        """One client that reads all, and connects again when the service is back."""
        while True:
            await self._up.wait()
            assert self._service is not None
            client: _Checking | None = None
            try:
                async with connect(
                    f"ws://{self._service.url}/", max_size=None, max_queue=None, ping_interval=None
                ) as ws:
                    client = _Checking(ws)
                    await client.ended.wait()
            except (OSError, WebSocketException):
                await asyncio.sleep(0.2)
            finally:
                if client is not None:
                    self.streamed += client.count
                    self.violations += client.violations[:3]
                    await client.close()

    async def _sample(self) -> None:
        await self._up.wait()
        assert self._service is not None
        pid = self._service.pid
        try:
            self.samples.append(Sample(self._runs, rss_bytes(pid), _count(pid, "fd"), _count(pid, "task")))
        except (OSError, StopIteration):  # it has just been killed
            return
        sample, entries = self.samples[-1], sum(log.tree_size for log in self.logs.values())
        print(
            f"run {sample.run}: {sample.rss_bytes >> 20} MiB, {sample.files} files, {sample.threads} threads; "
            f"{entries:,} entries, {self.happened.total()} events, {len(self.violations)} violations",
            flush=True,
        )

    # and then

    async def settle(self) -> None:
        """No faults and no growth any more: everything is read, fetched, merged, maintained and verified."""
        self.clock.stop()
        for log in self.logs.values():
            log.faults.clear()
        if not self._up.is_set():
            await self.start()
        async with asyncio.timeout(SETTLE_S):
            while any(self._position(name) != len(log.tree) for name, log in self.logs.items()):
                for log in self.logs.values():
                    log.publish()
                await asyncio.sleep(1)
        await self.stop(signal.SIGTERM)
        assert self._service is not None
        self._check_lines(self._service.lines)
        for flags in (*_COMMANDS[:2], _COMMANDS[0], ("--maintain",), ("--verify",)):
            await self.run(flags, codes=(0,))
        await self.run(_COMMANDS[1])  # 1 where the backfill had nothing to fetch

    def _position(self, name: str) -> int | None:
        assert self._service is not None
        return stands_at(self._service, self.url_of(name))


def _modes() -> list[tuple[int, str]]:
    return [(1, "enforce"), (2, "enforce"), (1, "warn")]


def _count(pid: int, what: str) -> int:
    """Open files or threads of a process."""
    return sum(1 for _ in Path(f"/proc/{pid}/{what}").iterdir())


def _end(log: SimulatedLog, faults: list[Fault]) -> None:
    for fault in faults:
        if fault in log.faults:
            log.faults.remove(fault)
