"""A service with an archive, and what tests ask of it."""

from __future__ import annotations

import asyncio
import fcntl
import os
import re
import signal
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from certstream.ct.types import LogInfo, LogKind
from certstream.simulator.log import SimulatedLog
from tests.e2e.command_support import (
    archive_options,
)
from tests.e2e.e2e_support import PATIENCE_S, Service

KINDS: list[LogKind] = ["rfc6962", "static"]


def archiving(infos: list[LogInfo], **sections: dict[str, Any]) -> dict[str, Any]:
    """A configuration with the sink on."""
    sections["delta_sink"] = {"enabled": True, **sections.get("delta_sink", {})}
    return archive_options(infos, **sections)


async def eventually(what: Callable[[], bool]) -> None:
    """Wait for something that only files tell."""
    async with asyncio.timeout(PATIENCE_S):
        while not what():  # noqa: ASYNC110 - a file tells nobody
            await asyncio.sleep(0.02)


async def job(service: Service, name: str, *states: str) -> dict[str, Any]:
    """Wait until a job of the service is in one of these states."""
    async with asyncio.timeout(PATIENCE_S):
        while True:
            found: dict[str, Any] = (await service.health())["jobs"][name]
            if found["state"] in states:
                return found
            await asyncio.sleep(0.02)


async def metric(service: Service, name: str) -> float:
    """The sum of a metric over its labels."""
    _, text = await service.get("/metrics")
    return sum(float(value) for value in re.findall(rf"^{name}(?:{{[^}}]*}})? (\S+)$", text, re.MULTILINE))


def stands_at(service: Service, url: str) -> int | None:
    """The position of a log in the state file."""
    if not (service.directory / "certstream_state.json").exists():
        return None
    position: int | None = service.state["logs"].get(url, {}).get("current_index")
    return position


def url_of(log: SimulatedLog, kind: LogKind) -> str:
    return log.url(kind).rstrip("/")


@asynccontextmanager
async def unanswering(path: Path) -> AsyncIterator[asyncio.Event]:
    """A file that whoever opens it waits for, as on a disk that hangs; the event says that somebody does."""
    asked, loop = asyncio.Event(), asyncio.get_running_loop()
    path.parent.mkdir(parents=True, exist_ok=True)
    fd = os.open(path, os.O_RDWR | os.O_CREAT)
    loop.add_signal_handler(signal.SIGIO, asked.set)
    try:
        fcntl.fcntl(fd, fcntl.F_SETLEASE, fcntl.F_WRLCK)
        yield asked
    finally:
        os.close(fd)  # and with it goes the lease
        loop.remove_signal_handler(signal.SIGIO)
