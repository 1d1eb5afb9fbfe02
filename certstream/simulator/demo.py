"""The logs of `certstream --demo`: one of each protocol, growing, on a port of the loopback interface."""

from __future__ import annotations

import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from certstream.ct.types import LogInfo, LogKind
from certstream.simulator.log import SimulatedLog
from certstream.simulator.server import SimulatorServer

_RATE_PER_S: Final = 20.0
_INITIAL: Final = 100  # entries that stream at once
_UNPARSEABLE: Final = 0.01
_PUBLISH_INTERVAL_S: Final = 0.25
_CACHE_BYTES: Final = 4 << 20  # nobody but the demo's own reader asks, and for each entry once


@dataclass(frozen=True, slots=True)
class Demo:
    """What a demo has: its logs, and a directory of its own that goes with it."""

    logs: tuple[LogInfo, ...]
    directory: Path


@asynccontextmanager
async def demo_logs() -> AsyncIterator[Demo]:
    """Serve the demo's logs while the context is open."""
    with tempfile.TemporaryDirectory(prefix="certstream-demo-") as directory:
        logs = [_log("demo-rfc6962", "rfc6962", 1), _log("demo-static-ct", "static", 2)]
        async with SimulatorServer(logs) as server:
            yield Demo(tuple(server.infos()), Path(directory))


def _log(name: str, kind: LogKind, seed: int) -> SimulatedLog:
    return SimulatedLog(
        name,
        kinds={kind},
        seed=seed,
        rate=_RATE_PER_S,
        initial=_INITIAL,
        unparseable=_UNPARSEABLE,
        publish_interval_s=_PUBLISH_INTERVAL_S,
        cache_bytes=_CACHE_BYTES,
    )
