"""A simulated log's answers, as tests read them."""

from __future__ import annotations

from contextlib import AsyncExitStack
from dataclasses import dataclass
from typing import Any

import aiohttp
import orjson

from certstream.ct.types import LogKind
from certstream.simulator import SimulatedLog, SimulatorServer


@dataclass(frozen=True)
class Body:
    status: int
    body: bytes
    headers: Any

    @property
    def json(self) -> Any:
        return orjson.loads(self.body)


class Served:
    """Serves logs for one test and reads them."""

    def __init__(self, stack: AsyncExitStack, session: aiohttp.ClientSession) -> None:
        self._stack = stack
        self.session = session

    async def start(self, *logs: SimulatedLog) -> SimulatorServer:
        return await self._stack.enter_async_context(SimulatorServer(logs))

    async def url(self, url: str, **options: Any) -> Body:
        async with self.session.get(url, **options) as response:
            return Body(response.status, await response.read(), response.headers)

    async def get(self, log: SimulatedLog, kind: LogKind, path: str, **options: Any) -> Body:
        return await self.url(log.url(kind) + path, **options)

    async def classic(self, log: SimulatedLog, path: str, **query: int | str) -> Body:
        return await self.get(log, "rfc6962", f"ct/v1/{path}", params=query)

    async def static(self, log: SimulatedLog, path: str, **options: Any) -> Body:
        return await self.get(log, "static", path, **options)
