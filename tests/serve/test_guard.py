"""Tokens, limits and web pages at a running server, and settings that change under its clients."""

from __future__ import annotations

import asyncio
import ipaddress
import logging
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import replace

import aiohttp
import pytest

from certstream.metrics import Metrics
from certstream.serve.access import AccessSettings, ConnectionLimits
from certstream.serve.health import DeepHealth
from certstream.serve.listener import Address
from certstream.serve.options import ServeOptions
from certstream.serve.server import StreamServer
from certstream.stream.hub import Hub
from tests.serve.access_support import AUTH, FREE, PREMIUM, STANDARD, ask, bearer, knock, rates, url, with_tokens

Serve = Callable[..., Awaitable[StreamServer]]


@pytest.fixture
async def http() -> AsyncIterator[aiohttp.ClientSession]:
    async with aiohttp.ClientSession() as session:
        yield session


@pytest.fixture
async def server(serve: Serve) -> StreamServer:
    return await serve()


def refused(metrics: Metrics, reason: str) -> float:
    return metrics.registry.get_sample_value("certstream_access_refused_total", {"reason": reason}) or 0.0


@pytest.mark.parametrize("sent", ["Bearer {}", "bearer {}", "BEARER   {}", "{}", "  {}  "])
async def test_bearer_may_be_written_in_any_case_or_left_out(
    server: StreamServer, http: aiohttp.ClientSession, sent: str
) -> None:
    server.apply(with_tokens())
    assert (await knock(http, url(server), Authorization=sent.format(FREE))).status == 101


@pytest.mark.parametrize(
    "sent", ["Basic {}", "Bearer", "Bearer ", "", "{}x", "x{}", "{} {}", "Bearer {},", "Bearer Bearer {}", "ü{}"]
)
async def test_whatever_else_is_a_wrong_token(server: StreamServer, http: aiohttp.ClientSession, sent: str) -> None:
    server.apply(with_tokens())
    assert (await knock(http, url(server), Authorization=sent.format(FREE, FREE))).status == 401
    assert (await ask(http, url(server, "/sse"), Authorization=sent.format(FREE, FREE))).status == 401


async def test_the_header_has_the_name_that_is_configured(server: StreamServer, http: aiohttp.ClientSession) -> None:
    server.apply(with_tokens(header_name="X-Api-Key"))
    assert (await knock(http, url(server), **{"x-api-key": FREE})).status == 101
    assert (await knock(http, url(server), Authorization=FREE)).status == 401


async def test_a_token_in_the_url_is_taken_only_where_that_is_switched_on(
    server: StreamServer, http: aiohttp.ClientSession
) -> None:
    server.apply(with_tokens())
    assert (await knock(http, url(server, f"/?token={FREE}"))).status == 401
    server.apply(with_tokens(query_token=True))
    assert (await knock(http, url(server, f"/?token={FREE}"))).status == 101
    assert (await ask(http, url(server, f"/sse?stream=lite&token={FREE}"))).status == 200
    assert (await knock(http, url(server, "/?token=guessed"))).status == 401
    for header in ("guessed", ""):
        assert (await knock(http, url(server, f"/?token={FREE}"), Authorization=header)).status == 401


async def test_a_refused_client_is_told_to_go_and_its_body_is_not_waited_for(server: StreamServer) -> None:
    server.apply(with_tokens())
    reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
    writer.write(b"GET / HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\n")
    async with asyncio.timeout(10):
        answer = await reader.read()
    assert answer.startswith(b"HTTP/1.1 401 ")
    assert b"\r\nconnection: close\r\n" in answer.lower()
    assert b"upgrade: websocket" not in answer.lower()
    writer.close()
    await writer.wait_closed()


async def test_every_tier_has_its_own_rate_and_guessing_uses_up_the_free_one(
    server: StreamServer, metrics: Metrics, http: aiohttp.ClientSession
) -> None:
    server.apply(replace(with_tokens(), rates=rates(free=3, standard=2, premium=4)))

    async def statuses(token: str | None, tries: int) -> list[int]:
        return [(await ask(http, url(server), **bearer(token))).status for _ in range(tries)]

    assert await statuses("guessed", 5) == [401, 401, 401, 429, 429]
    assert await statuses(None, 1) == [429]
    assert await statuses(FREE, 1) == [429]
    assert await statuses(STANDARD, 3) == [200, 200, 429]
    assert await statuses(PREMIUM, 5) == [200, 200, 200, 200, 429]
    assert (refused(metrics, "wrong_token"), refused(metrics, "rate")) == (3, 6)


async def test_tokens_tell_the_tier_while_none_is_asked_for(server: StreamServer, http: aiohttp.ClientSession) -> None:
    server.apply(AccessSettings(auth=replace(AUTH, enabled=False), rates=rates(free=0, premium=1)))
    assert (await ask(http, url(server))).status == 429
    assert (await ask(http, url(server), **bearer(PREMIUM))).status == 200


async def test_where_a_token_is_asked_for_it_cannot_be_guessed_without_end(
    serve: Serve, http: aiohttp.ClientSession
) -> None:
    server = await serve(ServeOptions(monitoring=Address("127.0.0.1", 0)))
    server.apply(replace(with_tokens(protect_health=True, protect_metrics=True), rates=rates(free=2)))
    for path in ("/metrics", "/health", "/health"):
        answer = await ask(http, url(server, path, monitoring=True), **bearer("guessed"))
    assert answer.status == 429


async def test_a_client_that_leaves_makes_room(
    server: StreamServer, metrics: Metrics, http: aiohttp.ClientSession
) -> None:
    server.apply(AccessSettings(connections=ConnectionLimits(total=3, per_address=2)))
    async with http.ws_connect(url(server)), http.get(url(server, "/sse")) as events:
        assert (await knock(http, url(server))).status == 429
        assert (await ask(http, url(server, "/sse?stream=full"))).status == 429
        assert refused(metrics, "address_connections") == 2
        events.close()
        async with asyncio.timeout(10):
            while (await knock(http, url(server))).status != 101:  # noqa: ASYNC110 - nobody tells when the server saw it
                await asyncio.sleep(0.001)


async def test_a_wrong_handshake_takes_no_place(server: StreamServer, http: aiohttp.ClientSession) -> None:
    server.apply(AccessSettings(connections=ConnectionLimits(total=1)))
    for _ in range(3):
        assert (await ask(http, url(server), Upgrade="websocket", Connection="Upgrade")).status == 400
        assert (await ask(http, url(server, "/sse?stream=nothing"))).status == 400
    async with http.ws_connect(url(server)):
        assert (await knock(http, url(server))).status == 503


@pytest.mark.parametrize("path", ["/", "/sse"])
async def test_a_client_that_is_gone_before_the_answer_takes_no_place_and_is_not_logged(
    server: StreamServer, hub: Hub, http: aiohttp.ClientSession, caplog: pytest.LogCaptureFixture, path: str
) -> None:
    server.apply(AccessSettings(connections=ConnectionLimits(total=1)))
    head = f"GET {path} HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    key = "Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
    for _ in range(20):
        with socket.create_connection(("127.0.0.1", server.port)) as client:
            client.sendall((head + key).encode())
    assert (await ask(http, url(server, "/health"))).status == 200  # came after them
    async with asyncio.timeout(10):
        while server.open_connections > 1:  # noqa: ASYNC110 - nobody tells when the server saw it
            await asyncio.sleep(0.001)
    assert hub.clients() == 0
    async with http.ws_connect(url(server)):
        assert (await knock(http, url(server))).status == 503
    assert [record for record in caplog.records if record.levelno >= logging.WARNING] == []


async def test_those_who_are_in_stay_in_while_settings_change(
    server: StreamServer, hub: Hub, http: aiohttp.ClientSession
) -> None:
    server.apply(with_tokens())
    async with http.ws_connect(url(server), headers=bearer(FREE)) as client:
        nobody = AccessSettings(auth=replace(AUTH, tokens=type(AUTH.tokens).of([("new", "free")])))
        server.apply(replace(nobody, rates=rates(free=100), connections=ConnectionLimits(total=2)))
        assert (await knock(http, url(server), **bearer(FREE))).status == 401
        async with http.ws_connect(url(server), headers=bearer("new")):
            assert (await knock(http, url(server), **bearer("new"))).status == 503  # the one before counts
            hub.publish("lite", [b"{}"])
            async with asyncio.timeout(10):
                assert await client.receive_str() == "{}"
        server.apply(AccessSettings())
        assert (await knock(http, url(server))).status == 101


async def test_clients_of_a_trusted_proxy_are_told_apart_and_of_nobody_else(
    server: StreamServer, http: aiohttp.ClientSession
) -> None:
    loopback = (ipaddress.ip_network("127.0.0.0/8"),)
    server.apply(AccessSettings(rates=rates(free=1)))
    assert (await ask(http, url(server), **{"X-Forwarded-For": "192.0.2.1"})).status == 200
    assert (await ask(http, url(server), **{"X-Forwarded-For": "192.0.2.2"})).status == 429
    server.apply(AccessSettings(rates=rates(free=1), trusted_proxies=loopback))
    for client in ("192.0.2.1", "192.0.2.2", "2001:db8::1"):
        assert (await ask(http, url(server), **{"X-Forwarded-For": client})).status == 200
    assert (await ask(http, url(server), **{"X-Forwarded-For": "198.51.100.9, 192.0.2.1"})).status == 429
    assert (await ask(http, url(server), **{"X-Forwarded-For": "2001:db8::2"})).status == 429


SITE = "https://site.example"


@pytest.mark.parametrize("path", ["/", "/sse", "/example.json", "/nothing-here", "/metrics"])
async def test_pages_of_an_allowed_origin_may_read_every_answer(
    server: StreamServer, http: aiohttp.ClientSession, path: str
) -> None:
    server.apply(AccessSettings(allow_origins=frozenset({SITE, "http://localhost:3000"})))
    allowed = await ask(http, url(server, path), Origin=SITE)
    assert (allowed.headers["Access-Control-Allow-Origin"], allowed.headers["Vary"]) == (SITE, "Origin")
    for headers in ({"Origin": "https://site.example.evil"}, {"Origin": "null"}, {}):
        other = await ask(http, url(server, path), **headers)
        assert "Access-Control-Allow-Origin" not in other.headers
        assert other.headers["Vary"] == "Origin"
    server.apply(AccessSettings(allow_origins=frozenset({"*"})))
    anybody = await ask(http, url(server, path), Origin="https://anybody.example")
    assert anybody.headers["Access-Control-Allow-Origin"] == "*"
    server.apply(AccessSettings())
    nobody = await ask(http, url(server, path), Origin=SITE)
    assert not [name for name in nobody.headers if name.startswith("Access-Control") or name == "Vary"]


async def test_a_page_may_read_that_it_was_refused(server: StreamServer, http: aiohttp.ClientSession) -> None:
    server.apply(replace(with_tokens(), allow_origins=frozenset({SITE})))
    answer = await ask(http, url(server, "/sse"), Origin=SITE)
    assert answer.status == 401
    assert answer.headers["Access-Control-Allow-Origin"] == SITE


async def test_a_preflight_says_that_the_token_may_be_sent(server: StreamServer, http: aiohttp.ClientSession) -> None:
    preflight = {"Origin": SITE, "Access-Control-Request-Method": "GET"}
    server.apply(replace(with_tokens(header_name="X-Api-Key"), allow_origins=frozenset({SITE})))
    answer = await ask(http, url(server, "/sse"), "OPTIONS", **preflight)
    assert answer.status == 204
    assert answer.headers["Access-Control-Allow-Origin"] == SITE
    assert "X-Api-Key" in answer.headers["Access-Control-Allow-Headers"].split(", ")
    assert answer.headers["Access-Control-Allow-Methods"] == "GET, HEAD"
    server.apply(AccessSettings())
    assert (await ask(http, url(server, "/sse"), "OPTIONS", **preflight)).status == 405


async def test_no_token_is_in_the_log_of_a_handler_that_fails(
    serve: Serve, http: aiohttp.ClientSession, caplog: pytest.LogCaptureFixture
) -> None:
    def broken() -> DeepHealth:
        raise ValueError("health is broken")

    caplog.set_level(logging.DEBUG)
    server = await serve(health=broken)
    server.apply(with_tokens(query_token=True, protect_health=True))
    asked = url(server, f"/health/deep?token={FREE}")
    answer = await ask(http, asked)
    wrong = await ask(http, url(server, "/sse?token=guessed"))
    assert (answer.status, wrong.status) == (500, 401)
    said = [record for record in caplog.records if not record.name.startswith("asyncio")]
    assert [record.levelname for record in said if record.name == "certstream.serve"] == ["ERROR"]
    shown = "\n".join([*map(caplog.handler.format, said), answer.text, wrong.text])
    assert FREE not in shown
    assert "guessed" not in shown


async def test_monitoring_has_an_address_of_its_own_and_is_gone_from_the_first(
    serve: Serve, http: aiohttp.ClientSession
) -> None:
    server = await serve(ServeOptions(monitoring=Address("127.0.0.1", 0)))
    assert server.monitoring_port not in (None, 0, server.port)
    about = (await ask(http, url(server))).text
    assert "/sse" in about
    assert "/metrics" not in about
    assert "/health" not in about
    port = server.monitoring_port
    await server.close()
    for gone in (server.port, port):
        with pytest.raises(aiohttp.ClientConnectorError):
            await ask(http, f"http://127.0.0.1:{gone}/health")


async def test_what_is_switched_off_is_not_on_the_second_address_either(
    serve: Serve, http: aiohttp.ClientSession
) -> None:
    server = await serve(ServeOptions(monitoring=Address("127.0.0.1", 0), metrics=False))
    assert (await ask(http, url(server, "/metrics", monitoring=True))).status == 404
    assert (await ask(http, url(server, "/health", monitoring=True))).status == 200
