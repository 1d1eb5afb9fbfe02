"""A publisher of a log list, served over HTTP, and what reads it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from aiohttp import web
from aiohttp.test_utils import TestServer

from certstream.client.http import FetchSettings, HttpClient
from certstream.client.log_list import REFRESH_INTERVAL_S, LogLists
from certstream.client.log_list_source import ListSource
from certstream.ct.log_choice import LogChanges, LogChoice, Selection
from certstream.ct.signatures import spki_of
from certstream.metrics import Metrics
from tests.client.reading_support import FakeTime
from tests.ct.log_list_support import SIGNER, document, signed

Answer = Callable[[], web.Response]


class Publisher:
    """Serves list and signature; `answers` go before them, one for each request for the list."""

    def __init__(self) -> None:
        self.base_url = ""
        self.body = b""
        self.signature = b""
        self.version = 0
        self.use_dates = False
        self.answers: list[Answer] = []
        self.requests: list[tuple[str, int]] = []
        self.requested = asyncio.Event()  # at least once
        self.on_signature: Callable[[], None] = lambda: None

    def publish(self, *logs: dict[str, Any], **members: Any) -> None:
        """A new list and its signature, both at once."""
        self.body = document(*logs, **members)
        self.signature = signed(self.body)
        self.version += 1

    def source(self, name: str = "signed", **changes: Any) -> ListSource:
        fields: dict[str, Any] = {"signature": f"{self.base_url}/list.sig", "key": spki_of(SIGNER), **changes}
        return ListSource(name, f"{self.base_url}/list.json", **fields)

    def unsigned(self, name: str = "unsigned", **changes: Any) -> ListSource:
        return self.source(name, signature=None, key=None, **changes)

    def counted(self, path: str) -> list[int]:
        """The statuses that were answered there."""
        return [status for requested, status in self.requests if requested == path]

    async def handle(self, request: web.Request) -> web.StreamResponse:
        response = self._answer(request)
        self.requests.append((request.path, response.status))
        self.requested.set()
        return response

    def _answer(self, request: web.Request) -> web.Response:
        if request.path == "/list.sig":
            self.on_signature()
            return web.Response(body=self.signature)
        if self.answers:
            return self.answers.pop(0)()
        etag, date = f'"{self.version}"', f"Mon, 0{self.version} Jan 2026 00:00:00 GMT"
        headers = {"Last-Modified": date} if self.use_dates else {"ETag": etag}
        if etag == request.headers.get("If-None-Match") or date == request.headers.get("If-Modified-Since"):
            return web.Response(status=304, headers=headers)
        return web.Response(body=self.body, headers=headers)


@asynccontextmanager
async def publishing() -> AsyncIterator[Publisher]:
    publisher = Publisher()
    app = web.Application()
    app.router.add_get("/{path:.*}", publisher.handle)
    async with TestServer(app) as server:
        publisher.base_url = str(server.make_url("")).rstrip("/")
        yield publisher


@asynccontextmanager
async def client(time: FakeTime) -> AsyncIterator[HttpClient]:
    async with HttpClient(FetchSettings(), Metrics(), time.clock) as http:
        yield http


def lists_of(
    http: HttpClient, *sources: ListSource, directory: Path | None = None, selection: Selection | None = None
) -> LogLists:
    return LogLists(http, sources, selection or Selection(), directory=directory)


def names(choice: LogChoice) -> list[str]:
    return [each.log.name for each in choice.chosen]


def summary(changes: LogChanges) -> tuple[list[str], list[str], list[str]]:
    """Names of the logs that were added, removed, changed."""
    return (
        [each.log.name for each in changes.added],
        [each.log.name for each in changes.removed],
        [new.log.name for _, new in changes.changed],
    )


def hour_later(time: FakeTime) -> None:
    time.now_s += REFRESH_INTERVAL_S
