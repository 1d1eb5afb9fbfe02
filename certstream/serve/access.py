"""What is asked of a client before it is served: all of it may change while the service runs."""

from __future__ import annotations

import hashlib
import ipaddress
import secrets
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Final, Literal, TypeAlias, get_args

Tier: TypeAlias = Literal["free", "standard", "premium"]
TIERS: Final[tuple[Tier, ...]] = get_args(Tier)
Network: TypeAlias = ipaddress.IPv4Network | ipaddress.IPv6Network

_DIGEST_KEY: Final = secrets.token_bytes(32)  # of this process


@dataclass(frozen=True, slots=True)
class TokenDigests:
    """The tokens that let in, each with its tier, as keyed digests: the tokens themselves are kept nowhere.

    How long a look-up takes tells nothing of them: it works on digests, whose key no client knows, so that none can
    send what has the beginning of a right one. And it takes the same with one token as with a file full of them.
    """

    tiers: Mapping[bytes, Tier] = field(default_factory=lambda: MappingProxyType({}), repr=False)

    @classmethod
    def of(cls, tokens: Iterable[tuple[str, Tier]]) -> TokenDigests:
        """Take tokens of printable ASCII; one that is there more than once has its highest tier."""
        lowest_first = sorted(tokens, key=lambda pair: TIERS.index(pair[1]))
        return cls(MappingProxyType({_digest(token): tier for token, tier in lowest_first}))

    def tier(self, token: str) -> Tier | None:
        """The tier of what a client sent, None for a wrong token."""
        return self.tiers.get(_digest(token))


def _digest(token: str) -> bytes:
    return hashlib.blake2b(token.encode("utf-8", "surrogateescape"), digest_size=32, key=_DIGEST_KEY).digest()


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
