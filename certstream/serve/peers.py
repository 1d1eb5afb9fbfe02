"""How many connections one peer may have open on an address, whatever it asks on them, and be it nothing."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

from certstream.metrics import CutReason
from certstream.serve.access import AccessSettings, ConnectionLimits
from certstream.serve.addresses import peer_key
from certstream.serve.limits import ConnectionCounter

SPARE_CONNECTIONS: Final = 32  # of one address beside its stream clients: pages, health, handshakes, what is kept idle


@dataclass(frozen=True, slots=True)
class Arrival:
    """What became of a connection when it came, and what is to be given back when it ends."""

    refused: CutReason | None = None  # None: it may stay
    address: bytes | None = None  # that it counts for; None for what is refused, or has no limit


UNLIMITED: Final = Arrival()
_REFUSED: Final = Arrival(refused="address_full")


class PeerConnections:
    """Counts the open connections of each peer address by the settings of the moment.

    The peer is the other end of the socket: what a request says of proxies nobody knows before it is there. So trusted
    proxies have no limit here. Without a limit nothing is counted; connections that came in such a time, or as those
    of a trusted proxy, never are. Of an address without connections nothing is kept.
    """

    def __init__(self, settings: Callable[[], AccessSettings]) -> None:
        self._settings = settings
        self._counter = ConnectionCounter()

    def __len__(self) -> int:
        """Addresses that have connections which count."""
        return len(self._counter)

    def arrive(self, peername: Callable[[], Any]) -> Arrival:
        """Count a connection, or refuse it. `peername` gives what `socket.getpeername` does, or None."""
        settings = self._settings()
        clients = settings.connections.per_address
        if clients is None:
            return UNLIMITED
        peer = peername()
        address = peer_key(peer[0], settings.trusted_proxies) if peer else None
        if address is None:
            return UNLIMITED
        if self._counter.refusal(address, ConnectionLimits(per_address=clients + SPARE_CONNECTIONS)) is not None:
            return _REFUSED
        self._counter.enter(address)
        return Arrival(address=address)

    def leave(self, arrival: Arrival) -> None:
        """Count a connection no more that ended, if it ever was."""
        if arrival.address is not None:
            self._counter.leave(arrival.address)
