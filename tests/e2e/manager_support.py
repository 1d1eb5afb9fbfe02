"""A service manager as a service sees it: the socket that it is told on, and the environment that says so."""

from __future__ import annotations

import asyncio
import os
import secrets
import socket
import sys
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Self

import yaml

from tests.e2e.e2e_support import PATIENCE_S, ROOT

# The service, with a signal that blocks its event loop: Python runs the handler in the loop's own thread
WITH_A_SIGNAL_THAT_HANGS_IT = """
import signal, sys, time
signal.signal(signal.SIGUSR1, lambda number, frame: time.sleep(3600))
from certstream.cli import main
sys.exit(main())
"""


class Manager:
    """Listens where NOTIFY_SOCKET says; `told` are the lines of each datagram read so far."""

    def __init__(self, directory: Path, *, abstract: bool = False) -> None:
        name = f"certstream-test-{secrets.token_hex(8)}"
        self.address = f"@{name}" if abstract else str(directory / "notify")
        self.told: list[list[str]] = []
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.setblocking(False)
        self._socket.bind(f"\0{name}" if abstract else self.address)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._socket.close()

    def environment(self, watchdog_s: float | None = None) -> dict[str, str]:
        """What a service is started with."""
        watchdog = {} if watchdog_s is None else {"WATCHDOG_USEC": f"{watchdog_s * 1e6:.0f}"}
        return {"NOTIFY_SOCKET": self.address, **watchdog}

    async def next(self, timeout_s: float = PATIENCE_S) -> list[str]:
        """The lines of the next datagram. Raises TimeoutError."""
        async with asyncio.timeout(timeout_s):
            datagram = await asyncio.get_running_loop().sock_recv(self._socket, 4096)
        self.told.append(datagram.decode().split("\n"))
        return self.told[-1]

    async def until(self, wanted: Callable[[list[str]], bool]) -> list[str]:
        """Read until a datagram is the wanted one."""
        async with asyncio.timeout(PATIENCE_S):
            while not wanted(lines := await self.next()):
                pass
        return lines

    async def until_silent(self, silence_s: float) -> None:
        """Read until nothing more comes for so long."""
        with suppress(TimeoutError):
            while True:
                await self.next(silence_s)

    def fill(self) -> None:
        """Leave no room for a datagram."""
        sender = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK)
        with sender, suppress(BlockingIOError):
            while True:
                sender.sendto(b"of another service", self.address)


async def start_hanging_service(directory: Path, environment: dict[str, str]) -> asyncio.subprocess.Process:
    """Start a service whose event loop SIGUSR1 blocks; its stderr is a pipe."""
    path = directory / "config.yaml"
    path.write_text(yaml.safe_dump({"host": "127.0.0.1", "port": 0}))
    environ = {key: value for key, value in os.environ.items() if not key.startswith(("CERTSTREAM_", "RUST_LOG"))}
    return await asyncio.create_subprocess_exec(
        sys.executable, "-W", "ignore", "-c", WITH_A_SIGNAL_THAT_HANGS_IT, "--config", str(path),
        cwd=directory, env={**environ, "PYTHONPATH": str(ROOT), **environment}, stderr=asyncio.subprocess.PIPE,
    )  # fmt: skip
