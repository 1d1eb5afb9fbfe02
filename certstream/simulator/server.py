"""Serves simulated logs over HTTP, each below its own prefix, with the faults of the transport."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from contextlib import suppress
from typing import Self

from aiohttp import web

from certstream.ct.types import LogInfo, LogKind
from certstream.simulator import log_list, rfc6962_api, static_api
from certstream.simulator.content import Answer, Content, RefusedError
from certstream.simulator.faults import Fault, Request
from certstream.simulator.log import SimulatedLog
from certstream.simulator.log_list import LogList
from certstream.simulator.transport import response_of, serve

_GROWTH_INTERVAL_S = 0.05
_SHUTDOWN_S = 0.2  # for answers under way when the server closes


class SimulatorServer:
    """An HTTP server for logs, in the event loop that enters it.

    Log NAME serves below `/NAME/rfc6962/` and `/NAME/static/`; all stand in `/log_list.json`, which is
    signed by `/log_list.sig` under `/log_list_pubkey.pem`. While it runs, logs with a rate grow.
    """

    def __init__(self, logs: Sequence[SimulatedLog], host: str = "127.0.0.1", port: int = 0) -> None:
        self._logs = {log.name: log for log in logs}
        if len(self._logs) != len(logs):
            raise ValueError("two logs have the same name")
        self._contents = {log.name: Content(log) for log in logs}
        self._list = LogList(logs)
        self._host, self._port = host, port
        self._runner: web.ServerRunner | None = None
        self._growth: asyncio.Task[None] | None = None

    @property
    def port(self) -> int:
        """The port it listens on, once it does."""
        return self._port

    @property
    def base_url(self) -> str:
        """URL of the server, without trailing slash."""
        host = f"[{self._host}]" if ":" in self._host else self._host
        return f"http://{host}:{self._port}"

    def url(self, log: SimulatedLog, kind: LogKind) -> str:
        """URL of a log, with trailing slash."""
        return log.url(kind)

    def infos(self) -> list[LogInfo]:
        """Every log and protocol that is served."""
        return [log.info(kind) for log in self._logs.values() for kind in sorted(log.kinds)]

    async def __aenter__(self) -> Self:
        """Listen. Raises OSError where the address is taken or not ours."""
        server = web.Server(self._handle, access_log=None, handler_cancellation=True)
        self._runner = web.ServerRunner(server, shutdown_timeout=_SHUTDOWN_S)
        await self._runner.setup()
        try:
            await web.TCPSite(self._runner, self._host, self._port).start()
        except OSError:
            await self._runner.cleanup()
            raise
        self._port = self._runner.addresses[0][1]
        for log in self._logs.values():
            log.base_url = f"{self.base_url}/{log.name}"
            log.start()
        if any(log.rate for log in self._logs.values()):
            self._growth = asyncio.create_task(self._grow(), name="simulator:growth")
        return self

    async def __aexit__(self, *_: object) -> None:
        """Stop listening and growing; what is not answered by now is dropped."""
        if self._growth is not None:
            self._growth.cancel()
            with suppress(asyncio.CancelledError):
                await self._growth
        if self._runner is not None:
            await self._runner.cleanup()

    async def _grow(self) -> None:
        while True:
            for log in self._logs.values():
                log.advance()
            await asyncio.sleep(_GROWTH_INTERVAL_S)

    async def _handle(self, http: web.BaseRequest) -> web.StreamResponse:
        try:
            if http.method != "GET":
                raise RefusedError(405, "only GET is answered")
            if http.path in log_list.PATHS:
                return response_of(self._list.answer(http.path))
            log, kind, path = self._route(http.path)
            request = _parse(log, kind, path, http)
            faults = log.faults.striking(request)
            log.count(request)
            content = self._contents[log.name]
            return await serve(http, log, faults, lambda: _answer(log, content, request, faults))
        except RefusedError as exc:
            return web.Response(status=exc.status, text=f"{exc}\n")
        except ConnectionResetError:  # the client has had enough of what was being written
            return web.Response()

    def _route(self, path: str) -> tuple[SimulatedLog, LogKind, str]:
        name, _, below = path[1:].partition("/")
        kind, _, rest = below.partition("/")
        log = self._logs.get(name)
        for known in log.kinds if log else ():
            if log and kind == known:
                return log, known, rest
        raise RefusedError(404, f"no such path: {path}")


def _parse(log: SimulatedLog, kind: LogKind, path: str, http: web.BaseRequest) -> Request:
    if kind == "rfc6962":
        return rfc6962_api.parse(log, path, http.query)
    return static_api.parse(log, path, gzip="gzip" in http.headers.get("Accept-Encoding", ""))


def _answer(log: SimulatedLog, content: Content, request: Request, faults: list[Fault]) -> Answer:
    answer = rfc6962_api.answer if request.endpoint in rfc6962_api.ENDPOINTS else static_api.answer
    return answer(log, content, request, faults)
