"""What the service manager that started this process is told of it: ready, alive, stopping, and how it goes.

The protocol of sd_notify(3): one datagram of `NAME=value` lines to the socket that NOTIFY_SOCKET names. Without that
variable nothing happens.
"""

from __future__ import annotations

import asyncio
import faulthandler
import os
import re
import socket
from collections.abc import Callable, Mapping
from typing import Final, Self

import structlog

from certstream.metrics import LogState
from certstream.serve.health import DeepHealth

_STATUS_S: Final = 5.0  # between two STATUS lines, where the watchdog asks for no more
_START_S: Final = 60.0  # that the manager is asked to wait from each of them on, while the service starts
_READING: Final[frozenset[LogState]] = frozenset({"following", "catching_up", "rate_limited"})

log = structlog.get_logger(__name__)


def status_line(health: DeepHealth, clients: int) -> str:
    """The service in one line: logs that are read, how far behind, clients, and the archive where it fails."""
    reading = sum(each.state in _READING for each in health.logs)
    lag = sum(each.lag_entries or 0 for each in health.logs)
    line = f"reading {reading} of {len(health.logs)} logs, {lag:,} entries behind, {clients:,} clients"
    failing = health.archive is not None and health.archive.state == "failing"
    return f"{line}; the archive fails" if failing else line


class ServiceManager:
    """Tells the manager how the service is. `async with`, from before the service starts until it has ended.

    All is sent by the event loop: once that hangs, no WATCHDOG=1 goes out, and the manager ends and restarts the
    service; the SIGABRT that it sends writes to stderr where each thread was. While the service starts, the manager is
    asked for more time as long as the loop lives, for a large table takes a while to open.

    It never waits for the manager. What that has no room for is sent again with the next message; a failure is logged
    once.
    """

    def __init__(self, address: str | None, watchdog_s: float | None, status: Callable[[], str]) -> None:
        """`address` is that of the manager's socket, None where there is no manager; `status` gives the STATUS line."""
        self._address = None if address is None else re.sub(r"\A@", "\0", address)  # an abstract name
        self._watchdog_s = watchdog_s
        self._status = status
        self._socket: socket.socket | None = None
        self._beat: asyncio.Task[None] | None = None
        self._unsent: list[str] = []  # READY=1 or STOPPING=1
        self._starting = True
        self._failed = False

    @classmethod
    def of(cls, environ: Mapping[str, str], status: Callable[[], str]) -> Self:
        """The manager that these variables name: NOTIFY_SOCKET, WATCHDOG_USEC and WATCHDOG_PID."""
        address = environ.get("NOTIFY_SOCKET", "")
        if not address.startswith(("/", "@")):
            if address:
                log.warning("NOTIFY_SOCKET is neither a path nor an abstract name, it is not used", address=address)
            return cls(None, None, status)
        return cls(address, _watchdog_s(environ), status)

    async def __aenter__(self) -> Self:
        if self._address is not None:
            if self._watchdog_s is not None:
                faulthandler.enable()
            self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK)
            self._beat = asyncio.create_task(self._run(), name="service manager")
        return self

    async def __aexit__(self, *_: object) -> None:
        if self._beat is not None:
            self._beat.cancel()
            await asyncio.wait([self._beat])
        if self._socket is not None:
            self._socket.close()

    def ready(self) -> None:
        """The service has started: its state is loaded, its ports answer."""
        self._starting = False
        self._now("READY=1")

    def stopping(self) -> None:
        """The service is about to end, started or not."""
        self._starting = False
        self._status = lambda: "stopping"
        self._now("STOPPING=1")

    def _now(self, line: str) -> None:
        if self._socket is not None:
            self._unsent.append(line)
            self._tell()

    async def _run(self) -> None:
        pause_s = _STATUS_S if self._watchdog_s is None else min(_STATUS_S, self._watchdog_s / 2)
        while True:
            self._tell()
            await asyncio.sleep(pause_s)

    def _tell(self) -> None:
        lines = [*self._unsent]
        if self._starting:
            lines += [f"EXTEND_TIMEOUT_USEC={_START_S * 1e6:.0f}", "STATUS=starting"]
        else:
            lines.append(f"STATUS={self._status()}")
        if self._watchdog_s is not None:
            lines.append("WATCHDOG=1")
        if self._sent("\n".join(lines)):
            self._unsent.clear()

    def _sent(self, message: str) -> bool:
        assert self._socket is not None
        assert self._address is not None
        try:
            self._socket.sendto(message.encode(), self._address)
        except OSError as exc:
            if not self._failed:
                log.warning("the service manager cannot be told", address=self._address, error=exc.strerror or str(exc))
            self._failed = True
            return False
        self._failed = False
        return True


def _watchdog_s(environ: Mapping[str, str]) -> float | None:
    """How long the manager waits for a WATCHDOG=1 of this process at most; None where it does not."""
    usec = environ.get("WATCHDOG_USEC", "")
    if environ.get("WATCHDOG_PID", str(os.getpid())) != str(os.getpid()):
        return None  # meant for the process that started us
    return int(usec) / 1e6 if re.fullmatch(r"[1-9][0-9]{0,17}", usec) else None
