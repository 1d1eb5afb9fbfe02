"""What is asked of a client before it is served: all of it may change while the service runs."""

from __future__ import annotations

import hashlib
import hmac
import ipaddress
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Final, Literal, TypeAlias, get_args

Tier: TypeAlias = Literal["free", "standard", "premium"]
TIERS: Final[tuple[Tier, ...]] = get_args(Tier)
Network: TypeAlias = ipaddress.IPv4Network | ipaddress.IPv6Network


@dataclass(frozen=True, slots=True)
class TokenDigests:
    """The tokens that let in, each with its tier, as SHA-256: the tokens themselves are kept nowhere."""

    tiers: tuple[tuple[bytes, Tier], ...] = field(default=(), repr=False)

    @classmethod
    def of(cls, tokens: Iterable[tuple[str, Tier]]) -> TokenDigests:
        """Take tokens of printable ASCII; one that is there more than once has its highest tier."""
        highest: dict[bytes, Tier] = {}
        for token, tier in sorted(tokens, key=lambda pair: TIERS.index(pair[1])):
            highest[_digest(token)] = tier
        return cls(tuple(sorted(highest.items())))

    def tier(self, token: str) -> Tier | None:
        """The tier of what a client sent, None for a wrong token.

        Compares with every digest in a time that depends on their number alone.
        """
        sent = _digest(token)
        found: Tier | None = None
        for digest, tier in self.tiers:
            if hmac.compare_digest(digest, sent):
                found = tier
        return found


def _digest(token: str) -> bytes:
    return hashlib.sha256(token.encode("utf-8", "surrogateescape")).digest()


@dataclass(frozen=True, slots=True)
class AuthSettings:
    """Who may come in. Tokens tell the tier even while none is asked for."""

    enabled: bool = False
    tokens: TokenDigests = TokenDigests()
    header_name: str = "Authorization"
    query_token: bool = False  # `?token=` where the header is not there
    protect_health: bool = False  # where `enabled`: /health and /health/deep too
    protect_metrics: bool = False


@dataclass(frozen=True, slots=True)
class ConnectionLimits:
    """Stream clients at the same time; None is no limit."""

    total: int | None = None
    per_address: int | None = None  # of one IPv4 address or IPv6 /64


@dataclass(frozen=True, slots=True)
class Bucket:
    """What one tier may ask."""

    capacity: float  # requests
    refill_per_s: float
    burst: float  # requests in one burst window, while the bucket is empty


@dataclass(frozen=True, slots=True)
class RateLimits:
    """Requests of one address. The names of certstream-server-rust, and their meaning there."""

    buckets: Mapping[Tier, Bucket]
    window_s: float
    window_requests: int  # in any tier
    burst_window_s: float


@dataclass(frozen=True, slots=True)
class AccessSettings:
    """Everything is open where nothing is said. Two of them are equal where a client could see no difference."""

    auth: AuthSettings = AuthSettings()
    connections: ConnectionLimits = ConnectionLimits()
    rates: RateLimits | None = None  # None: no limit
    trusted_proxies: tuple[Network, ...] = ()
    allow_origins: frozenset[str] = frozenset()  # "*" among them: all


def rate_limits(buckets: Mapping[Tier, Bucket], window_s: float, requests: int, burst_window_s: float) -> RateLimits:
    """Return limits whose buckets cannot be changed; there is one for each tier."""
    return RateLimits(MappingProxyType({tier: buckets[tier] for tier in TIERS}), window_s, requests, burst_window_s)
