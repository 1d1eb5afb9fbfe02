"""Which stream connections are open, and how one ends."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Iterator
from typing import Final

GRACE_S: Final = 1.0  # from the last bytes queued for a client until its connection is cut
_CUT_S: Final = 0.2  # until whoever serves a connection has noticed that it was cut


class Connections:
    """The transports of all stream clients, so that shutdown can wait for them and cut those that stay."""

    def __init__(self) -> None:
        self._open: set[asyncio.Transport] = set()
        self._empty = asyncio.Event()
        self._empty.set()

    @contextlib.contextmanager
    def track(self, transport: asyncio.Transport) -> Iterator[None]:
        """Count the connection as open for the duration of the context."""
        self._open.add(transport)
        self._empty.clear()
        try:
            yield
        finally:
            self._open.discard(transport)
            if not self._open:
                self._empty.set()

    async def close(self, timeout_s: float) -> None:
        """Wait until all connections have ended; cut those that are left after `timeout_s`."""
        if not await self._ended(timeout_s):
            for transport in self._open:
                transport.abort()
            await self._ended(_CUT_S)

    async def _ended(self, timeout_s: float) -> bool:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(timeout_s):
                await self._empty.wait()
        return not self._open


def hang_up(transport: asyncio.Transport, *, close: bool = True) -> None:
    """Cut the connection after GRACE_S if it is still there; with `close`, before that once all bytes are sent."""
    if close:
        transport.close()
    asyncio.get_running_loop().call_later(GRACE_S, transport.abort)
