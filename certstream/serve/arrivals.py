"""How connections are taken in, and what one may cost before it has asked for anything.

aiohttp bounds a request line, each header and their number, and closes what is idle between two requests. It does
not bound how long the first request may take, what all headers hold together, and how many connections there are.
"""

from __future__ import annotations

import asyncio
import resource
import socket
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any, Final

from aiohttp import web
from prometheus_client import Counter

from certstream.metrics import CutReason
from certstream.serve.peers import UNLIMITED, Arrival, PeerConnections

_SPARE_FILES: Final = 256  # of those the process may open, for all but clients: logs, state, archive
_FULL: Final = Arrival(refused="full")
_TOO_LARGE: Final = b"HTTP/1.1 431 Request Header Fields Too Large\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"

TCP_NOTSENT_LOWAT: Final = 25  # linux/tcp.h; the socket module has no name for it
_NOT_SENT_BYTES: Final = 128 << 10
_RECEIVE_BYTES: Final = 64 << 10


@dataclass(frozen=True, slots=True)
class Bounds:
    """What a connection may take, and how many there may be."""

    request_s: float = 10.0  # from the connection (and its TLS handshake, which may take as long) to a whole request
    idle_s: float = 75.0  # between two requests; longer than reverse proxies keep a connection
    head_bytes: int = 32 << 10  # of a request's line and headers together
    field_bytes: int = 8190  # of the line, and of each header
    headers: int = 64
    connections: int | None = None  # None: as many as the process may have open files, less those it needs itself
    dead_s: float = 60.0  # without a sign of life from the client's machine while one is due

    def most_connections(self) -> int:
        """Connections that may be open at the same time."""
        if self.connections is not None:
            return self.connections
        files = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
        return max(files - _SPARE_FILES, files // 2)

    def socket_options(self) -> list[tuple[int, int, int]]:
        """Level, name and value of what every accepted socket inherits from the one that listens (tcp(7))."""
        tcp = socket.IPPROTO_TCP
        return [
            (socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1),
            (tcp, socket.TCP_KEEPIDLE, max(1, round(self.dead_s / 2))),  # seconds of silence until the first probe
            (tcp, socket.TCP_KEEPINTVL, max(1, round(self.dead_s / 6))),
            (tcp, socket.TCP_KEEPCNT, 3),
            # How long bytes may stay unacknowledged, or the client's window shut: milliseconds.
            (tcp, socket.TCP_USER_TIMEOUT, round(self.dead_s * 1000)),
            # What the kernel takes beyond the bytes that are on their way: the rest waits in memory that clients share.
            (tcp, TCP_NOTSENT_LOWAT, _NOT_SENT_BYTES),
            # What a client may send without being read. The kernel doubles it, and would else let it grow to megabytes.
            (socket.SOL_SOCKET, socket.SO_RCVBUF, _RECEIVE_BYTES),
        ]


class Connection(web.RequestHandler):
    """A connection that is cut when no whole request comes in time, or one that is too large."""

    __slots__ = ("_arrival", "_arrivals", "_head_bytes", "_late", "_wants_request", "was_made")

    def __init__(self, arrivals: Arrivals, server: web.Server, arrival: Arrival | None, **settings: Any) -> None:
        super().__init__(server, loop=asyncio.get_running_loop(), **settings)
        self.was_made = False
        self._arrivals = arrivals
        self._arrival = arrival
        self._late: asyncio.TimerHandle | None = None
        self._wants_request = True
        self._head_bytes = 0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Let the client ask, or end the connection at once where there are too many."""
        super().connection_made(transport)
        self.was_made = True
        if self._arrival is None:
            self._arrival = self._arrivals.opened(lambda: transport.get_extra_info("peername"))
        if self._arrival.refused is None:
            self._late = self._loop.call_later(self._arrivals.bounds.request_s, self._cut, "slow_request")
        else:
            self._cut(self._arrival.refused)

    def connection_lost(self, exc: BaseException | None) -> None:
        """Forget the connection."""
        if self._arrival is not None:
            self._arrivals.closed(self._arrival)
        if self._late is not None:
            self._late.cancel()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Take bytes; while no request is being served, no more than one may have."""
        if self._wants_request:
            self._head_bytes += len(data)
            if self._head_bytes > self._arrivals.bounds.head_bytes:
                self._refuse()
                return
        super().data_received(data)

    def asked(self) -> None:
        """Note that a request came whole."""
        self._wants_request = False
        if self._late is not None:
            self._late.cancel()
            self._late = None

    def answered(self) -> None:
        """Note that the next request may come."""
        self._wants_request = True
        self._head_bytes = 0

    def _refuse(self) -> None:
        self._arrivals.refused.labels("large_request").inc()
        transport = self.transport
        if transport is not None and not transport.is_closing():
            transport.write(_TOO_LARGE)
        self.force_close()

    def _cut(self, reason: CutReason) -> None:
        self._arrivals.refused.labels(reason).inc()
        if self.transport is not None:
            self.transport.abort()


class Arrivals:
    """Makes the connections of one address, and knows how many are open."""

    def __init__(
        self,
        server: web.Server,
        bounds: Bounds,
        refused: Counter,
        peers: PeerConnections | None = None,
        **settings: Any,
    ) -> None:
        """Without `peers` one address may have them all. `settings`: see `aiohttp.web.RequestHandler`."""
        self.bounds = bounds
        self.refused = refused
        self.open = 0
        self._server = server
        self._peers = peers
        self._most = bounds.most_connections()
        self._settings = {
            "access_log": None,
            "keepalive_timeout": bounds.idle_s,
            "tcp_keepalive": False,  # the listening socket passes it on
            "max_line_size": bounds.field_bytes,
            "max_field_size": bounds.field_bytes,
            "max_headers": bounds.headers,
            **settings,
        }

    def __call__(self, arrival: Arrival | None = None) -> Connection:
        """Return the protocol of a new connection; `arrival` is what `opened` returned, where it was told before."""
        return Connection(self, self._server, arrival, **self._settings)

    def opened(self, peername: Callable[[], Any]) -> Arrival:
        """Count a connection, also one that may not stay: it has a file until `closed` is told.

        `peername` gives what `socket.getpeername` does, or None for a peer that is gone.
        """
        self.open += 1
        if self.open > self._most:
            return _FULL
        return UNLIMITED if self._peers is None else self._peers.arrive(peername)

    def closed(self, arrival: Arrival) -> None:
        """Count a connection that ended."""
        self.open -= 1
        if self._peers is not None:
            self._peers.leave(arrival)


@web.middleware
async def note_requests(
    request: web.Request, handler: Callable[[web.Request], Awaitable[web.StreamResponse]]
) -> web.StreamResponse:
    """Tell a connection when its request is whole, and when the next one may come."""
    connection = request.protocol
    if not isinstance(connection, Connection):
        return await handler(request)
    connection.asked()
    try:
        return await handler(request)
    finally:
        connection.answered()
