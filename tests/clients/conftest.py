"""A server by hand for each test, and no proxy that the machine has."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator

import pytest

from tests.clients.clients_support import ManualServer


@pytest.fixture(autouse=True)
def _no_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in os.environ if name.lower().endswith("_proxy")]:
        monkeypatch.delenv(name)


@pytest.fixture
async def server() -> AsyncIterator[ManualServer]:
    async with ManualServer() as server:
        yield server
