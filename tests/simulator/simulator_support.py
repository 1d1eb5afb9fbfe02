"""A simulated log's answers, as tests read them."""

from __future__ import annotations

import base64
from contextlib import AsyncExitStack
from dataclasses import dataclass
from typing import Any, Final

import aiohttp
import orjson

from certstream.ct.rfc6962 import parse_sth
from certstream.ct.static_ct import parse_checkpoint
from certstream.ct.types import LogKind, TreeHead
from certstream.simulator import SimulatedLog, SimulatorServer

NOW_S: Final = 1_790_000_000.4


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


async def head_of(served: Served, log: SimulatedLog, kind: LogKind) -> TreeHead:
    """The log's newest head, as it is read."""
    if kind == "static":
        return parse_checkpoint((await served.static(log, "checkpoint")).body, log.origin, log.log_id)
    return parse_sth((await served.classic(log, "get-sth")).body)


async def page(served: Served, log: SimulatedLog, start: int = 0, end: int = 31) -> Body:
    """The answer to get-entries from `start` to `end`, inclusive."""
    return await served.classic(log, "get-entries", start=start, end=end)


def leaves(body: Body) -> list[bytes]:
    """The leaf inputs of such an answer."""
    return [base64.b64decode(entry["leaf_input"]) for entry in body.json["entries"]]
