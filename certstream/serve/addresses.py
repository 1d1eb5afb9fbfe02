"""Whose request it is: the address that limits count by."""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Sequence
from typing import Final, TypeAlias

from certstream.serve.access import Network

Address: TypeAlias = ipaddress.IPv4Address | ipaddress.IPv6Address

_MOST_HOPS: Final = 32  # of X-Forwarded-For, from the right; nobody has as many proxies
_WITH_PORT: Final = re.compile(r"\[([0-9A-Fa-f:.]+)\](?::[0-9]{1,5})?|([0-9.]+):[0-9]{1,5}")
_SITE_BYTES: Final = 8  # of an IPv6 address: a /64 is what one subscriber has (RFC 6177)


def client_key(peer: str | None, forwarded: Sequence[str], trusted: Sequence[Network]) -> bytes:
    """Return what stands for the client in limits: the IPv4 address, or the /64 of the IPv6 one.

    `peer` is the other end of the connection, `forwarded` the values of X-Forwarded-For in their order. They count
    only where the peer is a trusted proxy. A connection that is gone has no peer: its key is empty.
    """
    address = parse_address(peer or "")
    if address is None:
        return b""
    if trusted and forwarded:
        address = _forwarded_for(address, forwarded, trusted)
    return _key(address)


def peer_key(peer: str, trusted: Sequence[Network]) -> bytes | None:
    """Return what stands for the other end of a connection in limits; None for a trusted proxy, and for no address."""
    address = parse_address(peer)
    return None if address is None or _is_trusted(address, trusted) else _key(address)


def parse_address(text: str) -> Address | None:
    """Return the address, an IPv4-mapped one as IPv4, None where it is none. A port after it is left out."""
    text = text.strip()
    if match := _WITH_PORT.fullmatch(text):
        text = match[1] or match[2]
    try:
        address = ipaddress.ip_address(text)
    except ValueError:
        return None
    return (address.version == 6 and address.ipv4_mapped) or address


def _key(address: Address) -> bytes:
    return address.packed if address.version == 4 else address.packed[:_SITE_BYTES]


def _forwarded_for(peer: Address, forwarded: Sequence[str], trusted: Sequence[Network]) -> Address:
    """The first address from the right that is no trusted proxy; what stands left of it is the client's own word."""
    address = peer
    for hop in reversed(_hops(forwarded)):
        if not _is_trusted(address, trusted):
            break
        before = parse_address(hop)
        if before is None:  # `unknown` and the like: nobody can tell who is behind that proxy
            break
        address = before
    return address


def _hops(forwarded: Sequence[str]) -> list[str]:
    return ",".join(forwarded).rsplit(",", _MOST_HOPS)[-_MOST_HOPS:]


def _is_trusted(address: Address, trusted: Sequence[Network]) -> bool:
    return any(address in network for network in trusted)
