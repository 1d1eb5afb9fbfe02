"""Who is let in: tokens, limits, what web pages may ask, and the address for monitoring."""

from __future__ import annotations

import ipaddress
import re
from typing import Annotated, Any

from pydantic import AfterValidator, BeforeValidator, Field

from certstream.config.option import FilePath, Section, option

_HOST = re.compile(r"(?!-)[A-Za-z0-9-]{1,63}(\.[A-Za-z0-9-]{1,63})*")
_TOKEN = re.compile(r"[!-~]{1,1024}")
_FIELD_NAME = re.compile(r"[A-Za-z0-9!#$%&'*+.^_`|~-]{1,100}")  # RFC 9110, 5.6.2 "Tokens"
_ORIGIN = re.compile(r"[a-z][a-z0-9+.-]*://([a-z0-9._-]+|\[[0-9a-f:]+\])(:[0-9]{1,5})?")
_TOKENS = "a list of strings, each 1 to 1024 printable ASCII characters without spaces"
_NETWORKS = "a list of addresses and networks: 10.0.0.7, 10.1.0.0/16, 2001:db8::/32"
_ORIGINS = 'a list of origins like https://example.com or http://localhost:3000, or "*" for all'


def checked_host(host: str) -> str:
    """Return what can be listened on, ValueError for what cannot be an address or a host name."""
    try:
        ipaddress.ip_address(host)
    except ValueError:
        if not _HOST.fullmatch(host) or re.fullmatch(r"[0-9.]*", host):
            raise ValueError("must be an IP address or a host name") from None
    return host


def is_token(text: str) -> bool:
    """Whether a client could send that as a token."""
    return _TOKEN.fullmatch(text) is not None


def _checked_tokens(tokens: tuple[str, ...]) -> tuple[str, ...]:
    if not all(map(is_token, tokens)):
        raise ValueError(f"must be {_TOKENS}")
    return tokens


def _checked_networks(networks: tuple[str, ...]) -> tuple[str, ...]:
    for network in networks:
        try:
            parsed = ipaddress.ip_network(network)
        except ValueError as exc:
            raise ValueError(f"must be {_NETWORKS}: {exc}") from None
        if parsed.version == 6 and parsed.network_address.ipv4_mapped is not None:  # which clients never have
            raise ValueError(f"must be {_NETWORKS}: {network} is IPv4, and must be written so")
    return networks


def _checked_origins(origins: tuple[str, ...]) -> tuple[str, ...]:
    if not all(origin == "*" or _ORIGIN.fullmatch(origin) for origin in origins):
        raise ValueError(f"must be {_ORIGINS}; in lower case and without a slash at the end")
    return origins


def _all_origins(value: Any) -> Any:
    return ["*"] if value == "*" else value


def _checked_field_name(name: str) -> str:
    if not _FIELD_NAME.fullmatch(name):
        raise ValueError("must be the name of an HTTP header")
    return name


_Tokens = Annotated[tuple[str, ...], Field(strict=False), AfterValidator(_checked_tokens)]
Networks = Annotated[tuple[str, ...], Field(strict=False), AfterValidator(_checked_networks)]
_Origins = Annotated[
    tuple[str, ...], Field(strict=False), AfterValidator(_checked_origins), BeforeValidator(_all_origins)
]


def trusted_proxies() -> Any:
    """The option of that name, which stands in no section."""
    return option(
        (),
        "Reverse proxies whose X-Forwarded-For is believed; it is read from the right, past those that stand here. "
        "From anybody else it is ignored.",
        allowed=_NETWORKS,
    )


class ConnectionLimitConfig(Section):
    """How many clients are let in: WebSocket and SSE together, those already in counted with them."""

    enabled: bool = option(False, "Whether the limits hold.")
    max_connections: int = option(10_000, "Clients in all; the next one gets 503.", unit="clients", ge=1, le=1_000_000)
    per_ip_limit: int | None = option(
        None,
        "Clients of one IPv4 address or IPv6 /64; the next one gets 429. Connections that are no clients may be 32 "
        "more. Null sets no limit.",
        unit="clients",
        ge=1,
        le=1_000_000,
    )


def _rate(default: float, description: str, unit: str = "requests") -> Any:
    return option(default, description, unit=unit, ge=0, le=1_000_000_000)


class RateLimitConfig(Section):
    """How often one IPv4 address or IPv6 /64 may ask, by the tier of its token; past it, it gets 429.

    A request takes one from its bucket; where that is empty, one from the burst; and none goes through once the
    window is full. A stream is one request, however long it lasts. A token of auth.tokens alone has the limits of
    free_*.
    """

    enabled: bool = option(False, "Whether the limits hold.")
    free_max_tokens: float = _rate(100.0, "Bucket of clients without token.")
    free_refill_rate: float = _rate(10.0, "What comes back into that bucket.", "requests per second")
    free_burst: float = _rate(20.0, "What they may ask in burst_window_seconds while the bucket is empty.")
    standard_max_tokens: float = _rate(500.0, "Bucket of clients with a standard token.")
    standard_refill_rate: float = _rate(50.0, "What comes back into that bucket.", "requests per second")
    standard_burst: float = _rate(100.0, "What they may ask in burst_window_seconds while the bucket is empty.")
    premium_max_tokens: float = _rate(2_000.0, "Bucket of clients with a premium token.")
    premium_refill_rate: float = _rate(200.0, "What comes back into that bucket.", "requests per second")
    premium_burst: float = _rate(500.0, "What they may ask in burst_window_seconds while the bucket is empty.")
    window_seconds: int = option(
        60, "The sliding window that all requests are counted in, whatever the tier.", unit="seconds", ge=1, le=86_400
    )
    window_max_requests: int = option(1_000, "Requests in one window.", unit="requests", ge=1, le=1_000_000_000)
    burst_window_seconds: int = option(10, "How long a burst counts.", unit="seconds", ge=1, le=86_400)


class AuthConfig(Section):
    """Who may connect. A token is sent as `Authorization: Bearer <token>`; the word Bearer may be left out."""

    enabled: bool = option(False, "Whether a token is asked for; without a right one, the answer is 401.")
    tokens: _Tokens = option((), "Tokens that let in.", secret=True, allowed=_TOKENS)
    header_name: Annotated[str, AfterValidator(_checked_field_name)] = option(
        "Authorization", "The header that carries the token.", allowed="the name of an HTTP header"
    )
    standard_tokens: _Tokens = option(
        (), "Tokens that let in with the limits of rate_limit.standard_*.", secret=True, allowed=_TOKENS
    )
    premium_tokens: _Tokens = option(
        (), "Tokens that let in with the limits of rate_limit.premium_*.", secret=True, allowed=_TOKENS
    )
    tokens_file: FilePath | None = option(
        None,
        "A file of further tokens, one in a line; `standard ` or `premium ` before it sets its tier, `#` begins a "
        "comment. ${CREDENTIALS_DIRECTORY}/<name> is a credential of systemd.",
        allowed="a path",
    )
    query_token: bool = option(
        False,
        "Whether `?token=` is taken as well, for browsers, whose WebSocket and EventSource send no header. Mind that "
        "proxies write URLs into their logs.",
    )
    protect_health: bool = option(
        False, "Whether /health, /health/ready, /health/deep and /coverage ask for a token too."
    )
    protect_metrics: bool = option(False, "Whether /metrics asks for a token too.")


class CorsConfig(Section):
    """What pages of other sites may read with fetch() and EventSource. WebSockets know no such rule."""

    allow_origins: _Origins = option((), "Origins whose pages may. An empty list allows none.", allowed=_ORIGINS)


class MonitoringConfig(Section):
    """An address of its own for /metrics, /coverage, and /health and its kin, which are then gone from the first."""

    host: Annotated[str, AfterValidator(checked_host)] = option(
        "127.0.0.1", "Address to listen on.", allowed="an IP address or a host name"
    )
    port: int | None = option(
        None, "TCP port to listen on; 0 takes a free one. Null leaves them where they are.", ge=0, le=65_535
    )
    tls: bool = option(False, "Whether that address serves TLS too, with tls_cert.")
