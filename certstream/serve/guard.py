"""Who is served: the way of a request through tokens and limits, before anything else is done for it."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable
from typing import Final, TypeAlias

from aiohttp import hdrs, web
from aiohttp.typedefs import Handler, Middleware

from certstream.metrics import Metrics, RefusalReason
from certstream.serve import cors
from certstream.serve.access import AccessSettings, AuthSettings, Tier
from certstream.serve.addresses import client_key
from certstream.serve.limits import ConnectionCounter, RateLimiter

Stream: TypeAlias = Callable[[web.Request], Awaitable[web.StreamResponse]]

_FULL_RETRY_S: Final = 10  # a client that leaves makes room; when that is, nobody knows
_SCHEME: Final = "bearer "
_PROBES: Final = frozenset({"/health", "/health/ready"})  # what asks these must get an answer, and asks for ever
_STANDING: Final = frozenset({"/health/deep", "/coverage"})
_STATUSES: Final[dict[RefusalReason, int]] = {
    "no_token": 401,
    "wrong_token": 401,
    "origin": 403,
    "rate": 429,
    "address_connections": 429,
    "connections": 503,
}
_TEXTS: Final[dict[RefusalReason, str]] = {
    "no_token": "a token is needed\n",
    "wrong_token": "this token is not known\n",
    "origin": "pages of this origin may not read this\n",
    "rate": "too many requests from your address\n",
    "address_connections": "too many connections from your address\n",
    "connections": "all connections are taken\n",
}
_CHALLENGES: Final[dict[RefusalReason, str]] = {  # RFC 6750, 3
    "no_token": 'Bearer realm="certstream"',
    "wrong_token": 'Bearer realm="certstream", error="invalid_token"',
}


class Guard:
    """Decides by the settings of the moment. One guards all addresses, so that limits hold over all of them.

    A request is refused before its body is read or a WebSocket is upgraded, and its connection is closed.
    """

    def __init__(self, settings: AccessSettings, metrics: Metrics, clock: Callable[[], float] = time.monotonic) -> None:
        self.settings = settings
        self._metrics = metrics
        self._rates = RateLimiter(clock)
        self._clients = ConnectionCounter()

    def protect(self, app: web.Application, *, monitoring: bool = False) -> None:
        """Let every request of the application, of unknown paths too, pass here first.

        On an address for `monitoring` alone nothing is limited but guessing of tokens.
        """
        app.middlewares.append(self._middleware(monitoring=monitoring))
        app.on_response_prepare.append(self._add_cors_headers)

    def limit(self, serve: Stream) -> Stream:
        """Let only as many clients into a stream as may be there at the same time."""

        async def limited(request: web.Request) -> web.StreamResponse:
            address = self._address(request)
            if (reason := self._clients.refusal(address, self.settings.connections)) is not None:
                return self._refused(reason, _FULL_RETRY_S)
            self._clients.enter(address)
            try:
                return await serve(request)
            finally:
                self._clients.leave(address)

        return limited

    def _middleware(self, *, monitoring: bool) -> Middleware:
        @web.middleware
        async def guard(request: web.Request, handler: Handler) -> web.StreamResponse:
            answer = self._answer(request, monitoring=monitoring)
            return await handler(request) if answer is None else answer

        return guard

    def _answer(self, request: web.Request, *, monitoring: bool) -> web.Response | None:
        """What a request is answered with that goes no further, None for one that does."""
        settings, path = self.settings, request.path
        auth = settings.auth
        asked = auth.enabled and _asks_for_token(path, auth, monitoring=monitoring)
        limited = asked or not (monitoring or path in _PROBES)
        if settings.allow_origins and cors.is_preflight(request):
            return (self._over_rate(request, "free") if limited else None) or self._preflight(request)
        if not limited or (not asked and settings.rates is None):
            return None
        token = _token(request, auth)
        tier = None if token is None else auth.tokens.tier(token)
        if (over := self._over_rate(request, tier or "free")) is not None:
            return over
        if asked and tier is None:
            return self._refused("no_token" if token is None else "wrong_token")
        return None

    def _over_rate(self, request: web.Request, tier: Tier) -> web.Response | None:
        rates = self.settings.rates
        wait_s = 0 if rates is None else self._rates.wait_s(self._address(request), tier, rates)
        return self._refused("rate", wait_s) if wait_s else None

    def _preflight(self, request: web.Request) -> web.Response:
        if not cors.is_allowed(request.headers.get(hdrs.ORIGIN), self.settings.allow_origins):
            return self._refused("origin")
        return web.Response(status=204, headers=cors.preflight_headers(self.settings.auth.header_name))

    async def _add_cors_headers(self, request: web.Request, response: web.StreamResponse) -> None:
        cors.add_headers(response.headers, request.headers.get(hdrs.ORIGIN), self.settings.allow_origins)

    def _refused(self, reason: RefusalReason, retry_after_s: int = 0) -> web.Response:
        self._metrics.access_refused(reason)
        response = web.Response(status=_STATUSES[reason], text=_TEXTS[reason])
        if retry_after_s:
            response.headers[hdrs.RETRY_AFTER] = str(retry_after_s)
        if reason in _CHALLENGES:
            response.headers[hdrs.WWW_AUTHENTICATE] = _CHALLENGES[reason]
        response.force_close()
        return response

    def _address(self, request: web.Request) -> bytes:
        trusted = self.settings.trusted_proxies
        forwarded = request.headers.getall(hdrs.X_FORWARDED_FOR, ()) if trusted else ()
        return client_key(request.remote, forwarded, trusted)


def _asks_for_token(path: str, auth: AuthSettings, *, monitoring: bool) -> bool:
    if path in _PROBES or path in _STANDING:
        return auth.protect_health
    if path == "/metrics":
        return auth.protect_metrics
    return not monitoring


def _token(request: web.Request, auth: AuthSettings) -> str | None:
    """What the client sent as its token; of several headers the first."""
    sent = request.headers.get(auth.header_name)
    if sent is None:
        return request.query.get("token") if auth.query_token else None
    sent = sent.strip()
    return sent[len(_SCHEME) :].lstrip() if sent[: len(_SCHEME)].lower() == _SCHEME else sent
