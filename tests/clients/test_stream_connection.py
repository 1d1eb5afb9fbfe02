"""One connection: what comes over it, and each way in which it ends or never begins."""

from __future__ import annotations

import asyncio
import socket
import ssl
from collections.abc import AsyncGenerator
from contextlib import aclosing
from pathlib import Path
from typing import Any

import pytest

from certstream import __version__
from certstream.errors import StreamError, StreamRefusedError
from certstream.subscribe.connection import Opened, stream
from certstream.subscribe.options import ConnectOptions
from tests.clients.clients_support import PATIENCE_S, ManualServer, http_proxy, raw_server, tls_files

Events = AsyncGenerator[Opened | bytes, None]


async def next_of(events: Events) -> Opened | bytes:
    async with asyncio.timeout(PATIENCE_S):
        return await anext(events)


async def error_of(url: str, **options: Any) -> StreamError:
    """How the connection ends, or why there is none."""
    async with aclosing(stream(ConnectOptions(url=url, **options))) as events:
        try:
            while True:
                await next_of(events)
        except StreamError as exc:
            return exc


async def test_it_opens_then_gives_each_message_as_its_bytes(server: ManualServer) -> None:
    async with aclosing(stream(ConnectOptions(url=server.url))) as events:
        assert await next_of(events) == Opened(server.url)
        connection = await server.connection()
        await connection.send('{"a":"ü"}')
        await connection.send(b"binary")
        assert [await next_of(events), await next_of(events)] == ['{"a":"ü"}'.encode(), b"binary"]
    await connection.wait_closed()
    assert connection.close_code == 1000


async def test_the_server_gets_token_agent_and_headers(server: ManualServer) -> None:
    options = ConnectOptions(url=f"{server.url}full-stream?x=1", token="t0ken", headers={"X-Mine": "yes"})
    async with aclosing(stream(options)) as events:
        await next_of(events)
    (request,) = server.requests
    assert request.path == "/full-stream?x=1"
    assert request.headers["Authorization"] == "Bearer t0ken"
    assert request.headers["User-Agent"] == f"certstream-client/{__version__}"
    assert request.headers["X-Mine"] == "yes"


async def test_messages_are_read_compressed_where_the_server_offers_it_and_of_any_size(server: ManualServer) -> None:
    big = "".join(str(n) for n in range(1_000_000))
    async with aclosing(stream(ConnectOptions(url=server.url))) as events:
        await next_of(events)
        connection = await server.connection()
        assert connection.response is not None
        assert "permessage-deflate" in connection.response.headers["Sec-WebSocket-Extensions"]
        sending = asyncio.create_task(connection.send(big))
        assert await next_of(events) == big.encode()
        await sending


@pytest.mark.parametrize("compression", ["deflate", None])
async def test_a_message_above_the_bound_ends_the_connection(compression: str | None) -> None:
    async with ManualServer(compression=compression) as server:
        ending = asyncio.create_task(error_of(server.url, max_message_bytes=10_000))
        connection = await server.connection()
        await connection.send("x" * 9_999)
        await connection.send("x" * 10_001)
        assert "the connection was given up" in str(await ending)
        await connection.wait_closed()
        assert connection.close_code == 1009


async def test_pings_of_the_server_are_answered_while_somebody_reads(server: ManualServer) -> None:
    async with aclosing(stream(ConnectOptions(url=server.url))) as events:
        await next_of(events)
        connection = await server.connection()
        reading = asyncio.create_task(next_of(events))
        async with asyncio.timeout(PATIENCE_S):
            await (await connection.ping())
        await connection.send("{}")
        assert await reading == b"{}"


async def test_a_silent_connection_is_asked_and_lives_as_long_as_it_answers() -> None:
    async with raw_server(answers_pings=True) as url:
        options = ConnectOptions(url=url, ping_interval_s=0.05, ping_timeout_s=PATIENCE_S)
        async with aclosing(stream(options)) as events:
            assert [await next_of(events), await next_of(events)] == [Opened(url), b"{}"]  # after three pings


async def test_a_connection_that_answers_no_ping_is_lost() -> None:
    async with raw_server(answers_pings=False) as url:
        error = await error_of(url, ping_interval_s=0.05, ping_timeout_s=0.05)
    assert str(error) == f"{url}: no sign of life for 0.1 s"


async def test_a_close_of_the_server_tells_its_code_and_reason(server: ManualServer) -> None:
    ending = asyncio.create_task(error_of(server.url))
    await (await server.connection()).close(1008, "too slow: backlog is full")
    error = await ending
    assert (error.code, str(error)) == (
        1008,
        f"{server.url}: closed by the server with code 1008: too slow: backlog is full",
    )


async def test_what_the_server_says_steers_neither_a_terminal_nor_a_log(server: ManualServer) -> None:
    ending = asyncio.create_task(error_of(server.url))
    await (await server.connection()).close(1008, "\x1b]0;title\x07\x9b2J\nnext line")
    assert str(await ending) == f"{server.url}: closed by the server with code 1008: ?]0;title??2J?next line"
    server.moved = {"/": "foo://\x9b2J/"}
    said = str(await error_of(server.url))
    assert "foo://" in said
    assert said.isprintable()


async def test_a_connection_that_is_cut_is_lost(server: ManualServer) -> None:
    ending = asyncio.create_task(error_of(server.url))
    (await server.connection()).transport.abort()
    error = await ending
    assert (error.code, type(error)) == (None, StreamError)
    assert "the connection was lost" in str(error)


@pytest.mark.parametrize(
    ("status", "said"),
    [
        (401, "401: no token, or not this one"),
        (403, "403: not allowed"),
        (404, "404: no such stream"),
        (400, "400: no WebSocket there"),
        (200, "200: no WebSocket there"),
    ],
)
async def test_a_refusal_that_another_attempt_would_not_change_is_told_apart(
    server: ManualServer, status: int, said: str
) -> None:
    server.refusal = (status, {})
    error = await error_of(f"{server.url}?token=secret")
    assert isinstance(error, StreamRefusedError)
    assert (error.status, str(error)) == (status, f"{server.url}: the server answered {said}")


@pytest.mark.parametrize(
    ("status", "headers", "asked_s"),
    [
        (429, {"Retry-After": "7"}, 7.0),
        (503, {"Retry-After": "120"}, 120.0),
        (503, {"Retry-After": "Wed, 21 Oct 2026 07:28:00 GMT"}, None),
        (503, {"Retry-After": "-5"}, None),
        (502, {}, None),
    ],
)
async def test_a_refusal_for_now_is_worth_another_attempt(
    server: ManualServer, status: int, headers: dict[str, str], asked_s: float | None
) -> None:
    server.refusal = (status, headers)
    error = await error_of(server.url)
    assert (type(error), error.retry_after_s) == (StreamError, asked_s)


async def test_where_nobody_listens_is_worth_another_attempt() -> None:
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))
        error = await error_of(f"ws://127.0.0.1:{bound.getsockname()[1]}/")
    assert type(error) is StreamError


async def test_a_server_that_never_answers_is_given_up_in_time() -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        url = f"ws://127.0.0.1:{silent.getsockname()[1]}/"
        error = await error_of(url, connect_timeout_s=0.1)
    assert (type(error), str(error)) == (StreamError, f"{url}: no connection within 0.1 s")


async def test_a_certificate_is_checked_against_who_is_trusted(tmp_path: Path) -> None:
    context, file = tls_files(tmp_path)
    async with ManualServer(context) as server:
        refused = await error_of(server.url)
        assert isinstance(refused, StreamRefusedError)
        assert "its certificate is not trusted" in str(refused)
        trusting = ssl.create_default_context(cafile=file)
        other_name = f"wss://127.0.0.1:{server.port}/"
        assert isinstance(await error_of(other_name, ssl_context=trusting), StreamRefusedError)
        named = ConnectOptions(url=other_name, ssl_context=trusting, server_hostname="localhost")
        for options in (ConnectOptions(url=server.url, ssl_context=trusting), named):
            async with aclosing(stream(options)) as events:
                assert isinstance(await next_of(events), Opened)


async def test_a_redirect_to_another_server_takes_neither_token_nor_headers_along(server: ManualServer) -> None:
    options = ConnectOptions(url=server.url, token="t0ken", headers={"x-api-key": "secret", "Host": "mine.example"})
    async with ManualServer() as other:
        server.moved = {"/": other.url.replace("ws://", "http://")}
        async with aclosing(stream(options)) as events:
            assert isinstance(await next_of(events), Opened)
    (asked,), (redirected,) = server.requests, other.requests
    assert (asked.headers["X-Api-Key"], asked.headers["Authorization"]) == ("secret", "Bearer t0ken")
    assert not {"X-Api-Key", "Authorization"} & {name.title() for name in redirected.headers}
    assert (asked.headers["Host"], redirected.headers["Host"]) == ("mine.example", f"localhost:{other.port}")


async def test_a_redirect_on_the_same_server_keeps_headers(server: ManualServer) -> None:
    server.moved = {"/": "/full-stream"}
    async with aclosing(stream(ConnectOptions(url=server.url, headers={"X-Mine": "yes"}))) as events:
        assert isinstance(await next_of(events), Opened)
    assert [(request.path, request.headers["X-Mine"]) for request in server.requests] == [
        ("/", "yes"),
        ("/full-stream", "yes"),
    ]


async def test_a_redirect_from_tls_to_plain_text_is_refused(tmp_path: Path) -> None:
    context, file = tls_files(tmp_path)
    async with ManualServer(context) as secure, ManualServer() as plain:
        secure.moved = {"/": plain.url.replace("ws://", "http://")}
        error = await error_of(secure.url, ssl_context=ssl.create_default_context(cafile=file))
    assert isinstance(error, StreamRefusedError)
    assert str(error) == f"{secure.url}: redirected from TLS to plain text"
    assert plain.requests == []


async def test_a_proxy_is_used_with_its_user(tmp_path: Path) -> None:
    context, file = tls_files(tmp_path)
    trusting = ssl.create_default_context(cafile=file)
    async with http_proxy() as proxy, ManualServer(context) as secure, ManualServer() as plain:
        address = f"http://me:secret@127.0.0.1:{proxy.port}"
        for server in (secure, plain):
            options = ConnectOptions(url=server.url, proxy=address, ssl_context=trusting, token="t")
            async with aclosing(stream(options)) as events:
                await next_of(events)
                await (await server.connection()).send("{}")
                assert await next_of(events) == b"{}"
    tunnelled, forwarded = proxy.heads
    assert tunnelled.startswith(f"CONNECT localhost:{secure.port} ")
    assert forwarded.startswith("GET ")
    assert [f"Proxy-Authorization: Basic {'bWU6c2VjcmV0'}" in head for head in proxy.heads] == [True, True]
    assert "Bearer" not in tunnelled


async def test_options_of_the_socket_are_set_before_it_connects(server: ManualServer) -> None:
    option = (socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    async with aclosing(stream(ConnectOptions(url=server.url, socket_options=[option]))) as events:
        assert isinstance(await next_of(events), Opened)
    wrong = await error_of(server.url, socket_options=[(socket.SOL_SOCKET, 9999, 1)])
    assert type(wrong) is StreamError
