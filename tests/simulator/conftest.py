"""Simulated logs that are served for one test."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack

import aiohttp
import pytest

from tests.simulator.simulator_support import Served


@pytest.fixture
async def served() -> AsyncIterator[Served]:
    async with AsyncExitStack() as stack, aiohttp.ClientSession() as session:
        yield Served(stack, session)
