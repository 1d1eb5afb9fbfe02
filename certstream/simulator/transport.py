"""How an answer goes out over HTTP, with the faults of the transport: statuses, connections, lengths, encodings."""

from __future__ import annotations

import asyncio
import socket
import struct
import zlib
from collections.abc import Callable
from contextlib import suppress
from functools import cache

from aiohttp import web

from certstream.simulator.certificates import noise
from certstream.simulator.content import Answer
from certstream.simulator.faults import Fault, FaultKind
from certstream.simulator.log import SimulatedLog

_RESET_AT_CLOSE = struct.pack("ii", 1, 0)  # SO_LINGER on, 0 s: close(2) sends RST
_ERROR_PAGE = b"<!DOCTYPE html><html><head><title>Please wait</title></head><body>Checking your browser</body></html>"
_ERRORS = {FaultKind.RATE_LIMITED: 429, FaultKind.UNAVAILABLE: 503, FaultKind.SERVER_ERROR: 500}
_ELSEWHERE = "/log_list.json"  # where redirects lead: on this server, but nothing of the log
_GARBAGE_BYTES = 4096
_HUGE_BYTES = 1 << 30
_CHUNK = b" " * (1 << 16)  # JSON may begin with any number of them
_DRIP_S = 0.1
_BINARY = "application/octet-stream"


async def serve(
    http: web.BaseRequest, log: SimulatedLog, faults: list[Fault], answer: Callable[[], Answer]
) -> web.StreamResponse:
    """Answer with what `answer` gives, unless a fault answers before; raises what it raises.

    Raises ConnectionResetError where the client leaves in the middle of the body.
    """
    for fault in faults:
        if fault.kind == FaultKind.STALL:
            await _stall(log, fault)
        elif (instead := await _instead(http, log, fault)) is not None:
            return instead
    response = response_of(answer())
    for fault in faults:
        if (begun := await _mangled(http, log, response, fault)) is not None:
            return begun
    return response


def response_of(answer: Answer) -> web.Response:
    """The answer as it should be."""
    headers = {"Content-Type": answer.content_type, "Cache-Control": answer.cache_control}
    if answer.gzipped:
        headers["Content-Encoding"] = "gzip"
    return web.Response(status=answer.status, body=answer.body, headers=headers)


async def _stall(log: SimulatedLog, fault: Fault) -> None:
    with suppress(TimeoutError):
        async with asyncio.timeout(fault.seconds):
            await log.until(lambda: fault not in log.faults)


async def _instead(http: web.BaseRequest, log: SimulatedLog, fault: Fault) -> web.StreamResponse | None:
    """What a fault answers that takes no notice of the request, None for the others."""
    match fault.kind:
        case FaultKind.RESET:
            return _reset(http)
        case FaultKind.HTML:
            return response_of(Answer(200, _ERROR_PAGE, "text/html; charset=utf-8"))
        case FaultKind.EMPTY:
            return response_of(Answer(200, b"", _BINARY))
        case FaultKind.GARBAGE:
            return response_of(Answer(200, noise(f"garbage {log.faults.struck[fault]}", _GARBAGE_BYTES), _BINARY))
        case FaultKind.REDIRECT:
            return web.Response(status=302, headers={"Location": _ELSEWHERE})
        case FaultKind.HUGE:
            return await _huge(http)
        case FaultKind.GZIP_BOMB:
            return response_of(Answer(200, gzip_bomb(), _BINARY, gzipped=True))
    if fault.kind in _ERRORS or fault.kind == FaultKind.STATUS:
        return _error(fault, log.clock())
    return None


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


async def _huge(http: web.BaseRequest) -> web.StreamResponse:
    begun = web.StreamResponse()
    begun.enable_chunked_encoding()
    await begun.prepare(http)
    for _ in range(_HUGE_BYTES // len(_CHUNK)):
        await begun.write(_CHUNK)
    return begun


@cache
def gzip_bomb() -> bytes:
    """1 GiB of zeros as gzip, of 1 MiB; without its checksum, which nobody should come to."""
    size = 1 << 20
    deflate = zlib.compressobj(9, zlib.DEFLATED, -zlib.MAX_WBITS)
    # A full flush forgets what was before, so that the same bytes can follow themselves.
    mebibyte = deflate.compress(bytes(size)) + deflate.flush(zlib.Z_FULL_FLUSH)
    header = b"\x1f\x8b\x08\x00\x00\x00\x00\x00\x00\xff"
    return header + mebibyte * (_HUGE_BYTES // size)


async def _mangled(
    http: web.BaseRequest, log: SimulatedLog, response: web.Response, fault: Fault
) -> web.StreamResponse | None:
    """The response on its way where a fault breaks its body there, None where it still has to go."""
    body = response.body
    assert isinstance(body, bytes)
    match fault.kind:
        case FaultKind.CUT:
            response.body = body[: len(body) // 2]
        case FaultKind.FALSE_GZIP:
            response.headers["Content-Encoding"] = "gzip"
        case FaultKind.TRUNCATED:
            begun = await _begun(http, response, len(body))
            await begun.write(body[: len(body) // 2])
            _close(http)
            return begun
        case FaultKind.WRONG_LENGTH:
            return await _longer(http, response, body)
        case FaultKind.DRIP:
            return await _drip(http, log, response, fault)
    return None


async def _begun(http: web.BaseRequest, response: web.Response, length: int) -> web.StreamResponse:
    begun = web.StreamResponse(status=response.status, headers=response.headers)
    begun.content_length = length
    await begun.prepare(http)
    return begun


async def _longer(http: web.BaseRequest, response: web.Response, body: bytes) -> web.StreamResponse:
    """More bytes than the header says: to the client they are the begin of its next answer."""
    half = len(body) // 2
    begun = await _begun(http, response, half)
    await begun.write(body[:half])
    await begun.write_eof()
    if http.transport is not None:
        http.transport.write(body[half:])
    return begun


async def _drip(http: web.BaseRequest, log: SimulatedLog, response: web.Response, fault: Fault) -> web.StreamResponse:
    body = response.body
    assert isinstance(body, bytes)
    begun = await _begun(http, response, len(body))
    sent = 0
    while fault in log.faults and sent < len(body):
        await begun.write(body[sent : sent + 1])
        sent += 1
        await asyncio.sleep(_DRIP_S if fault.seconds is None else fault.seconds)
    await begun.write(body[sent:])
    return begun


def _close(http: web.BaseRequest) -> None:
    if http.transport is not None:
        http.transport.close()
