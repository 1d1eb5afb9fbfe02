"""One address that is listened on."""

from __future__ import annotations

import asyncio
import logging
import os
import ssl
from dataclasses import dataclass
from typing import Final

from aiohttp import ClientConnectionResetError, web
from aiohttp.http_exceptions import HttpProcessingError
from prometheus_client import Counter

from certstream.errors import ConfigError
from certstream.serve.arrivals import Arrivals, Bounds
from certstream.serve.handshakes import TlsServer, listening_sockets
from certstream.serve.peers import PeerConnections

_BACKLOG: Final = 4096  # connections not accepted yet; the kernel cuts it to its somaxconn
_HANDLER_GRACE_S: Final = 0.2  # for requests that are no streams, at shutdown


@dataclass(frozen=True, slots=True)
class Address:
    """Where to listen; port 0 takes a free one."""

    host: str
    port: int

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


class Listener:
    """Serves one application on one address, with TLS where there is a context for it."""

    def __init__(
        self,
        app: web.Application,
        address: Address,
        bounds: Bounds,
        refused: Counter,
        tls: ssl.SSLContext | None = None,
        peers: PeerConnections | None = None,
    ) -> None:
        self._address = address
        self._bounds = bounds
        self._refused = refused
        self._tls = tls
        self._peers = peers
        self._arrivals: Arrivals | None = None
        self._runner = web.AppRunner(
            app,
            handler_cancellation=True,  # a stream's handler ends with its connection
            shutdown_timeout=_HANDLER_GRACE_S,
        )
        self._server: asyncio.Server | TlsServer | None = None

    @property
    def port(self) -> int:
        """The port that is listened on; the kernel's choice where 0 was asked for."""
        if self._server is None or not self._server.sockets:
            return self._address.port
        port: int = self._server.sockets[0].getsockname()[1]
        return port

    @property
    def open_connections(self) -> int:
        """Connections of all kinds that are open now."""
        return self._arrivals.open if self._arrivals else 0

    async def start(self) -> None:
        """Listen. Raises ConfigError where the address cannot be listened on."""
        await self._runner.setup()
        server = self._runner.server
        assert server is not None
        arrivals = self._arrivals = Arrivals(server, self._bounds, self._refused, self._peers, logger=_logger())
        try:
            self._server = await self._listen(arrivals)
        except OSError as exc:
            await self._runner.cleanup()
            raise ConfigError(f"cannot listen on {self._address}: {_why(exc)}") from exc
        for sock in self._server.sockets:
            for level, option, value in self._bounds.socket_options():
                sock.setsockopt(level, option, value)

    async def _listen(self, arrivals: Arrivals) -> asyncio.Server | TlsServer:
        host, port = self._address.host, self._address.port
        if self._tls is not None:
            return TlsServer(await listening_sockets(host, port, _BACKLOG), self._tls, arrivals)
        return await asyncio.get_running_loop().create_server(arrivals, host, port, backlog=_BACKLOG)

    def stop(self) -> None:
        """Take no more connections; those that are there go on."""
        if self._server is not None:
            self._server.close()
            self._server = None

    async def close(self) -> None:
        """End all connections."""
        self.stop()
        await self._runner.cleanup()


def _logger() -> logging.Logger:
    """Return the logger of failing handlers. What clients do wrong is not logged, or they could fill a disk.

    That is what is no HTTP, as scanners send it, and a client that is gone before it is answered.
    """
    logger = logging.getLogger("certstream.serve")
    logger.addFilter(_is_of_the_server)
    return logger


def _is_of_the_server(record: logging.LogRecord) -> bool:
    return not (record.exc_info and isinstance(record.exc_info[1], HttpProcessingError | ClientConnectionResetError))


def _why(exc: OSError) -> str:
    return os.strerror(exc.errno) if exc.errno and exc.errno > 0 else exc.strerror or str(exc)
