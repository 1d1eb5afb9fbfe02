"""Serves simulated logs over HTTP, each below its own prefix, with the faults of the transport."""

from __future__ import annotations

import asyncio
import socket
import struct
from collections.abc import Sequence
from contextlib import suppress
from typing import Self

from aiohttp import web

from certstream.ct.types import LogInfo, LogKind
from certstream.simulator import log_list, rfc6962_api, static_api
from certstream.simulator.content import Answer, Content, RefusedError
from certstream.simulator.faults import Fault, FaultKind, Request
from certstream.simulator.log import SimulatedLog
from certstream.simulator.log_list import LogList

_GROWTH_INTERVAL_S = 0.05
_SHUTDOWN_S = 0.2  # for answers under way when the server closes
_RESET_AT_CLOSE = struct.pack("ii", 1, 0)  # SO_LINGER on, 0 s: close(2) sends RST
_ERROR_PAGE = b"<!DOCTYPE html><html><head><title>Please wait</title></head><body>Checking your browser</body></html>"
_ERRORS = {FaultKind.RATE_LIMITED: 429, FaultKind.UNAVAILABLE: 503, FaultKind.SERVER_ERROR: 500}


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
                return _response(self._list.answer(http.path))
            log, kind, path = self._route(http.path)
            request = _parse(log, kind, path, http)
        except RefusedError as exc:
            return _refusal(exc)
        faults = log.faults.striking(request)
        log.count(request)
        return await _serve(http, log, self._contents[log.name], request, faults)

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


async def _serve(
    http: web.BaseRequest, log: SimulatedLog, content: Content, request: Request, faults: list[Fault]
) -> web.StreamResponse:
    for fault in faults:
        if fault.kind == FaultKind.STALL:
            await _stall(log, fault)
        elif fault.kind == FaultKind.RESET:
            return _reset(http)
        elif fault.kind == FaultKind.HTML:
            return _response(Answer(200, _ERROR_PAGE, "text/html; charset=utf-8"))
        elif fault.kind in _ERRORS or fault.kind == FaultKind.STATUS:
            return _error(fault, log.clock())
    answer = rfc6962_api.answer if request.endpoint in rfc6962_api.ENDPOINTS else static_api.answer
    try:
        response = _response(answer(log, content, request, faults))
    except RefusedError as exc:
        return _refusal(exc)
    return await _shortened(http, response, faults)


async def _stall(log: SimulatedLog, fault: Fault) -> None:
    with suppress(TimeoutError):
        async with asyncio.timeout(fault.seconds):
            await log.until(lambda: fault not in log.faults)


def _reset(http: web.BaseRequest) -> web.Response:
    transport = http.transport
    if transport is not None:
        connection: socket.socket = transport.get_extra_info("socket")
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET_AT_CLOSE)
        transport.abort()
    return web.Response()  # goes nowhere


def _error(fault: Fault, now_s: float) -> web.Response:
    retry_after = fault.retry_after(now_s)
    headers = {} if retry_after is None else {"Retry-After": retry_after}
    return web.Response(status=_ERRORS.get(fault.kind, fault.status), headers=headers)


async def _shortened(http: web.BaseRequest, response: web.Response, faults: list[Fault]) -> web.StreamResponse:
    """The response, or its first half where a fault wants that."""
    body = response.body
    if not isinstance(body, bytes):
        return response
    kinds = {fault.kind for fault in faults}
    if FaultKind.CUT in kinds:
        response.body = body[: len(body) // 2]
    if FaultKind.TRUNCATED not in kinds:
        return response
    begun = web.StreamResponse(status=response.status, headers=response.headers)
    begun.content_length = len(body)
    await begun.prepare(http)
    await begun.write(body[: len(body) // 2])
    if http.transport is not None:
        http.transport.close()
    return begun


def _response(answer: Answer) -> web.Response:
    headers = {"Content-Type": answer.content_type, "Cache-Control": answer.cache_control}
    if answer.gzipped:
        headers["Content-Encoding"] = "gzip"
    return web.Response(status=answer.status, body=answer.body, headers=headers)


def _refusal(refused: RefusedError) -> web.Response:
    return web.Response(status=refused.status, text=f"{refused}\n")
