"""Simulated logs that are served for one test."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack

import aiohttp
import pytest

from certstream.simulator import SimulatedLog
from tests.simulator.simulator_support import NOW_S, Served


@pytest.fixture
async def served() -> AsyncIterator[Served]:
    async with AsyncExitStack() as stack, aiohttp.ClientSession() as session:
        yield Served(stack, session)


@pytest.fixture
async def log(served: Served) -> SimulatedLog:
    """A log of 300 entries at NOW_S."""
    made = SimulatedLog("log", initial=300, clock=lambda: NOW_S)
    await served.start(made)
    return made
