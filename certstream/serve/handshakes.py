"""TLS connections, counted from the moment they are accepted."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import ssl
from collections.abc import Sequence
from typing import Any, Final

from certstream.serve.arrivals import Arrivals
from certstream.serve.peers import Arrival

_AT_ONCE: Final = 64  # connections that are accepted before anything else gets a turn
_PAUSE_S: Final = 0.5  # in accepting, where the process has no file left
_GOODBYE_S: Final = 1.0  # for a client to answer the end of TLS


async def listening_sockets(host: str, port: int, backlog: int) -> list[socket.socket]:
    """Listen on every address that a host has. Raises OSError where one cannot be listened on."""
    sockets: list[socket.socket] = []
    found = await asyncio.get_running_loop().getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    try:
        for family, address in dict.fromkeys((info[0], info[4]) for info in found):
            sockets.append(socket.create_server(address, family=family, backlog=backlog))
            sockets[-1].setblocking(False)
    except OSError:
        for sock in sockets:
            sock.close()
        raise
    return sockets


class TlsServer:
    """Accepts on its sockets and shakes hands; past the bound of `arrivals` it closes at once.

    `create_server` would tell of a connection when its handshake is done: those that never finish theirs would take
    all the files that the process may open. Here they count as connections.
    """

    def __init__(self, sockets: Sequence[socket.socket], context: ssl.SSLContext, arrivals: Arrivals) -> None:
        self.sockets = tuple(sockets)
        self._context = context
        self._arrivals = arrivals
        self._loop = asyncio.get_running_loop()
        self._handshakes: set[asyncio.Task[None]] = set()
        self._closed = False
        for sock in self.sockets:
            self._watch(sock)

    def close(self) -> None:
        """Take no more connections; handshakes end, connections go on."""
        self._closed = True
        for sock in self.sockets:
            self._loop.remove_reader(sock)
            sock.close()
        for task in self._handshakes:
            self._loop.call_soon(task.cancel)  # after its first step: before it, the task would give back nothing

    def _watch(self, sock: socket.socket) -> None:
        if not self._closed:
            self._loop.add_reader(sock, self._accept, sock)

    def _accept(self, sock: socket.socket) -> None:
        for _ in range(_AT_ONCE):
            try:
                accepted, peername = sock.accept()
            except (BlockingIOError, InterruptedError, ConnectionError):  # no more, or gone again (accept(2))
                return
            except OSError:
                self._loop.remove_reader(sock)  # or it would be called again and again
                self._loop.call_later(_PAUSE_S, self._watch, sock)
                return
            self._arrived(accepted, peername)

    def _arrived(self, accepted: socket.socket, peername: Any) -> None:
        arrival = self._arrivals.opened(lambda: peername)
        if arrival.refused is not None:
            self._arrivals.closed(arrival)
            self._arrivals.refused.labels(arrival.refused).inc()
            accepted.close()
            return
        accepted.setblocking(False)
        task = self._loop.create_task(self._shake_hands(accepted, arrival), name="serve:handshake")
        self._handshakes.add(task)
        task.add_done_callback(self._handshakes.discard)

    async def _shake_hands(self, accepted: socket.socket, arrival: Arrival) -> None:
        connection = self._arrivals(arrival)
        try:
            with contextlib.suppress(OSError):  # no TLS, too slow, or gone
                await self._loop.connect_accepted_socket(
                    lambda: connection,
                    accepted,
                    ssl=self._context,
                    ssl_handshake_timeout=self._arrivals.bounds.request_s,
                    ssl_shutdown_timeout=_GOODBYE_S,
                )
        finally:
            if not connection.was_made:  # from then on, it tells of its end itself
                self._arrivals.closed(arrival)
