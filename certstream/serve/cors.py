"""What pages of other sites may read (Fetch Standard, "HTTP CORS protocol")."""

from __future__ import annotations

from collections.abc import Collection
from typing import Final

from aiohttp import hdrs, web
from multidict import CIMultiDict

_METHODS: Final = "GET, HEAD"
_MAX_AGE_S: Final = "600"  # that a browser may keep the answer; the rules may change meanwhile
_SENT_HEADERS: Final = "Cache-Control, Last-Event-ID"  # beside the token: what readers of event streams send
_READ_HEADERS: Final = "Retry-After, WWW-Authenticate"


def is_preflight(request: web.Request) -> bool:
    """Whether a browser asks if a page may ask."""
    return (
        request.method == hdrs.METH_OPTIONS
        and hdrs.ORIGIN in request.headers
        and hdrs.ACCESS_CONTROL_REQUEST_METHOD in request.headers
    )


def is_allowed(origin: str | None, allowed: Collection[str]) -> bool:
    """Whether pages of that origin may read the answers."""
    return origin is not None and ("*" in allowed or origin in allowed)


def add_headers(headers: CIMultiDict[str], origin: str | None, allowed: Collection[str]) -> None:
    """Tell the browser who may read an answer; nothing where nobody may."""
    if not allowed:
        return
    if "*" not in allowed:
        headers.add(hdrs.VARY, hdrs.ORIGIN)  # or a cache would answer one origin with what is another's
    if origin is not None and is_allowed(origin, allowed):
        headers[hdrs.ACCESS_CONTROL_ALLOW_ORIGIN] = "*" if "*" in allowed else origin
        headers[hdrs.ACCESS_CONTROL_EXPOSE_HEADERS] = _READ_HEADERS


def preflight_headers(token_header: str) -> dict[str, str]:
    """What a page of an allowed origin may ask. `*` would not cover Authorization."""
    return {
        hdrs.ACCESS_CONTROL_ALLOW_METHODS: _METHODS,
        hdrs.ACCESS_CONTROL_ALLOW_HEADERS: f"{token_header}, {_SENT_HEADERS}",
        hdrs.ACCESS_CONTROL_MAX_AGE: _MAX_AGE_S,
    }
