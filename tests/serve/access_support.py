"""Servers with tokens and limits, and how a client fares there."""

from __future__ import annotations

from dataclasses import dataclass, replace

import aiohttp
from multidict import CIMultiDictProxy

from certstream.serve.access import AccessSettings, AuthSettings, Bucket, RateLimits, Tier, TokenDigests, rate_limits
from certstream.serve.server import StreamServer

FREE, STANDARD, PREMIUM = "token-free", "token-standard", "token-premium"
_TOKENS: list[tuple[str, Tier]] = [(FREE, "free"), (STANDARD, "standard"), (PREMIUM, "premium")]
AUTH = AuthSettings(enabled=True, tokens=TokenDigests.of(_TOKENS))


@dataclass(frozen=True)
class Answer:
    """What a client got."""

    status: int
    headers: CIMultiDictProxy[str]
    text: str = ""


def bearer(token: str | None) -> dict[str, str]:
    return {} if token is None else {"Authorization": f"Bearer {token}"}


def rates(free: float, standard: float = 0, premium: float = 0) -> RateLimits:
    """That many requests for ever."""
    buckets: dict[Tier, Bucket] = {
        "free": Bucket(free, 0, 0),
        "standard": Bucket(standard, 0, 0),
        "premium": Bucket(premium, 0, 0),
    }
    return rate_limits(buckets, 60, 1_000_000, 10)


def with_tokens(**auth: bool | str) -> AccessSettings:
    return AccessSettings(auth=replace(AUTH, **auth))  # type: ignore[arg-type]


def url(server: StreamServer, path: str = "/", *, monitoring: bool = False) -> str:
    return f"http://127.0.0.1:{server.monitoring_port if monitoring else server.port}{path}"


async def ask(http: aiohttp.ClientSession, url: str, method: str = "GET", **headers: str) -> Answer:
    """Make one request; of an event stream only the beginning is read."""
    async with http.request(method, url, headers=headers, allow_redirects=False) as answer:
        stream = answer.content_type == "text/event-stream"
        return Answer(answer.status, answer.headers, "" if stream else await answer.text())


async def knock(http: aiohttp.ClientSession, url: str, **headers: str) -> Answer:
    """Ask for a WebSocket and leave at once."""
    asked = {"Upgrade": "websocket", "Connection": "Upgrade", "Sec-WebSocket-Version": "13"}
    asked["Sec-WebSocket-Key"] = "dGhlIHNhbXBsZSBub25jZQ=="
    async with http.get(url, headers={**asked, **headers}) as answer:
        return Answer(answer.status, answer.headers)
