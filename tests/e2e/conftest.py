"""Services and simulated logs that end with the test."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import pytest

from certstream.simulator.log import SimulatedLog
from certstream.simulator.server import SimulatorServer
from tests.e2e.e2e_support import Service, Simulate, StartService


@pytest.fixture
async def start_service(tmp_path: Path) -> AsyncIterator[StartService]:
    """Start a service that ends with the test."""
    async with AsyncExitStack() as stack:

        async def start(options: Mapping[str, Any], *flags: str, directory: Path = tmp_path) -> Service:
            return await stack.enter_async_context(Service(directory, options, flags))

        yield start


@pytest.fixture
async def simulate() -> AsyncIterator[Simulate]:
    """Serve simulated logs until the test ends."""
    async with AsyncExitStack() as stack:

        async def serve(*logs: SimulatedLog, port: int = 0) -> SimulatorServer:
            return await stack.enter_async_context(SimulatorServer(logs, port=port))

        yield serve
