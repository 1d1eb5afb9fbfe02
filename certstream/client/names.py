"""From the names of hosts to addresses, where the name server may not answer."""

from __future__ import annotations

import socket
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from functools import partial
from typing import Any, Final, TypeAlias

from aiohttp.abc import AbstractResolver, ResolveResult

from certstream.client.hanging import begin, outcome

PATIENCE_S: Final = 10.0

AddressInfo: TypeAlias = tuple[socket.AddressFamily, Any, int, str, tuple[Any, ...]]
Lookup: TypeAlias = Callable[[str, int, socket.AddressFamily], Sequence[AddressInfo]]


def system_lookup(host: str, port: int, family: socket.AddressFamily) -> Sequence[AddressInfo]:
    """What the system knows of a name. Blocks; raises OSError."""
    return socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, family=family, flags=socket.AI_ADDRCONFIG)


class NameResolver(AbstractResolver):
    """Looks names up as the system does, each in a thread of its own, for at most `patience_s`.

    The event loop's own threads are four: as many names that hang would keep every other log from being read, and the
    process from ending. One thread per name hangs at most; who asks for that name meanwhile waits for the same answer.
    """

    def __init__(self, patience_s: float = PATIENCE_S, lookup: Lookup = system_lookup) -> None:
        self._patience_s = patience_s
        self._lookup = lookup
        self._asked: dict[tuple[str, int, int], Future[Sequence[AddressInfo]]] = {}  # those without an answer

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_INET
    ) -> list[ResolveResult]:
        """The host's addresses. Raises OSError where there is none, or no answer in time."""
        self._asked = {key: asked for key, asked in self._asked.items() if not asked.done()}
        key = (host, port, family)
        if (asked := self._asked.get(key)) is None:
            asked = self._asked[key] = begin(partial(self._lookup, host, port, family), "name")
        late = f"no name server answers for {host} within {self._patience_s:.0f} s"
        return [_result(host, found) for found in await outcome(asked, self._patience_s, late)]

    async def close(self) -> None:
        """Nothing is waited for."""


def _result(host: str, found: AddressInfo) -> ResolveResult:
    family, _, proto, _, address = found
    where = str(address[0])
    if family == socket.AF_INET6 and address[3] and "%" not in where:  # link-local: only with its interface
        where = f"{where}%{address[3]}"
    flags = socket.AI_NUMERICHOST | socket.AI_NUMERICSERV
    return ResolveResult(hostname=host, host=where, port=address[1], family=family, proto=proto, flags=flags)
