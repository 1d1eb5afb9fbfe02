"""One WebSocket connection to a stream (RFC 6455), over aiohttp."""

from __future__ import annotations

import asyncio
import re
import socket
import ssl
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import dataclass
from typing import Any, Final, TypeAlias

import aiohttp
from aiohttp import WSMsgType
from aiohttp.http_websocket import WSMessageTextBytes

from certstream import __version__
from certstream.errors import StreamError, StreamRefusedError
from certstream.subscribe.options import ConnectOptions, set_socket_options
from certstream.terminal import printable

_GOODBYE_S: Final = 1.0  # for the server's answer to our close
_TRY_AGAIN: Final = frozenset({408, 425, 429})  # of the answers from 400 to 499
_DEFLATE_WINDOW_BITS: Final = 15  # RFC 7692 §7.1.2.2

_Socket: TypeAlias = "aiohttp.ClientWebSocketResponse[bool]"
_Frame: TypeAlias = aiohttp.WSMessage | WSMessageTextBytes


@dataclass(frozen=True, slots=True)
class Opened:
    """The connection stands; messages follow."""

    url: str  # as it may be shown


async def stream(options: ConnectOptions) -> AsyncGenerator[Opened | bytes, None]:
    """Connect once; yield `Opened`, then each message as its bytes.

    Never more than one message and the buffers of one connection are held: while nobody asks for the next message the
    server is not read. Raises StreamError in the end, ValueError where the environment's proxy cannot be used.
    """
    async with _connected(options) as reader:
        yield Opened(options.shown)
        while True:
            yield await reader.message()


@asynccontextmanager
async def _connected(options: ConnectOptions) -> AsyncIterator[_Reader]:
    async with AsyncExitStack() as stack:
        session = await stack.enter_async_context(_session(options))
        web_socket = await _connect(session, options)
        stack.push_async_callback(_close, web_socket)
        yield _Reader(web_socket, options)


def _session(options: ConnectOptions) -> aiohttp.ClientSession:
    def open_socket(address: Any) -> socket.socket:
        family, kind, protocol, _, _ = address
        opened = socket.socket(family, kind, protocol)
        try:
            set_socket_options(opened, options.socket_options)
        except OSError:
            opened.close()
            raise
        return opened

    async def check_redirect(request: aiohttp.ClientRequest, send: aiohttp.ClientHandlerType) -> aiohttp.ClientResponse:
        _guard(request, options)
        return await send(request)

    connector = aiohttp.TCPConnector(socket_factory=open_socket)
    return aiohttp.ClientSession(connector=connector, middlewares=[check_redirect])


def _guard(request: aiohttp.ClientRequest, options: ConnectOptions) -> None:
    """Where the server redirects: never from TLS to plain text, and to another server without the caller's headers.

    aiohttp takes the token away itself, but no header whose name it does not know. Raises StreamRefusedError.
    """
    asked = options.address
    if asked.scheme == "wss" and request.url.scheme not in ("wss", "https"):
        raise StreamRefusedError(f"{options.shown}: redirected from TLS to plain text")
    if (request.url.host, request.url.port) != (asked.host, asked.port):
        for name in options.headers:
            request.headers.popall(name, None)
        request.headers["Host"] = request.url.authority  # the caller's may have gone with them


async def _connect(session: aiohttp.ClientSession, options: ConnectOptions) -> _Socket:
    proxy = options.effective_proxy()
    try:
        async with asyncio.timeout(options.connect_timeout_s):
            return await session.ws_connect(
                options.address,
                headers=_headers(options),
                proxy=proxy,
                ssl=True if options.ssl_context is None else options.ssl_context,
                server_hostname=options.server_hostname,
                compress=_DEFLATE_WINDOW_BITS,
                max_msg_size=options.max_message_bytes,
                autoping=False,  # so that a pong shows as a sign of life
                decode_text=False,
            )
    except aiohttp.ClientResponseError as exc:  # also of a proxy
        raise _refusal(options.shown, exc) from exc
    except (ssl.SSLCertVerificationError, aiohttp.ClientConnectorCertificateError) as exc:
        raise StreamRefusedError(f"{options.shown}: its certificate is not trusted: {_reason(exc)}") from exc
    except TimeoutError as exc:
        raise StreamError(f"{options.shown}: no connection within {options.connect_timeout_s:g} s") from exc
    except (aiohttp.ClientError, OSError) as exc:
        raise StreamError(f"{options.shown}: {_reason(exc)}") from exc


def _headers(options: ConnectOptions) -> dict[str, str]:
    authorization = {} if options.token is None else {"Authorization": f"Bearer {options.token}"}
    return {"User-Agent": f"certstream-client/{__version__}", **authorization, **options.headers}


def _refusal(url: str, exc: aiohttp.ClientResponseError) -> StreamError:
    if exc.status >= 500 or exc.status in _TRY_AGAIN:
        text = exc.headers.get("Retry-After", "") if exc.headers else ""
        asked = float(text) if re.fullmatch(r"[0-9]{1,6}", text) else None
        return StreamError(f"{url}: the server answered {exc.status}", retry_after_s=asked)
    reasons = {
        401: "no token, or not this one",
        403: "not allowed",
        404: "no such stream",
        407: "the proxy wants a user",
    }
    why = reasons.get(exc.status, "no WebSocket there")
    return StreamRefusedError(f"{url}: the server answered {exc.status}: {why}", status=exc.status)


def _reason(exc: Exception) -> str:
    """Its text, on one line: the server chose some of it, and it goes to terminals and logs."""
    return printable(str(exc))


async def _close(web_socket: _Socket) -> None:
    with suppress(TimeoutError, aiohttp.ClientError, OSError):  # it ends in any case
        async with asyncio.timeout(_GOODBYE_S):
            await web_socket.close()


class _Reader:
    """Messages of an open connection. Silence is asked about with a ping; silence after that is the end."""

    def __init__(self, web_socket: _Socket, options: ConnectOptions) -> None:
        self._socket = web_socket
        self._url = options.shown
        self._ping_interval_s = options.ping_interval_s
        self._ping_timeout_s = options.ping_timeout_s

    async def message(self) -> bytes:
        """The next message; StreamError where the connection ended instead."""
        while True:
            try:
                frame = await self._frame()
                if frame.type is WSMsgType.PING:
                    await self._socket.pong(frame.data)
            except (aiohttp.ClientError, OSError) as exc:
                raise StreamError(f"{self._url}: the connection was lost: {_reason(exc)}") from exc
            if frame.type in (WSMsgType.TEXT, WSMsgType.BINARY):
                data: bytes = frame.data
                return data
            if frame.type not in (WSMsgType.PING, WSMsgType.PONG):
                raise self._ended(frame)

    async def _frame(self) -> _Frame:
        try:
            return await self._socket.receive(timeout=self._ping_interval_s or None)
        except TimeoutError:
            await self._socket.ping()
        try:
            return await self._socket.receive(timeout=self._ping_timeout_s)
        except TimeoutError as exc:
            silence_s = self._ping_interval_s + self._ping_timeout_s
            raise StreamError(f"{self._url}: no sign of life for {silence_s:g} s") from exc

    def _ended(self, frame: _Frame) -> StreamError:
        if frame.type is WSMsgType.CLOSE:
            why = f": {printable(frame.extra)}" if frame.extra else ""
            return StreamError(f"{self._url}: closed by the server with code {frame.data}{why}", code=frame.data)
        error = StreamError(f"{self._url}: the connection was lost")
        if isinstance(frame.data, Exception):
            error = StreamError(f"{self._url}: the connection was given up: {_reason(frame.data)}")
            error.__cause__ = frame.data
        return error
