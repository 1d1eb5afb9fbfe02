"""Everything that is served but the streams."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable

import aiohttp
import pytest
from prometheus_client.parser import text_string_to_metric_families

from certstream.errors import StorageError
from certstream.serve.health import LateLog, LogHealth, Readiness, assess
from certstream.serve.options import EXAMPLE_PATHS, ServeOptions
from certstream.serve.server import StreamServer
from certstream.stream.hub import KINDS, Hub, StreamKind

Serve = Callable[..., Awaitable[StreamServer]]


@pytest.fixture
async def http() -> AsyncIterator[aiohttp.ClientSession]:
    async with aiohttp.ClientSession() as session:
        yield session


def url(server: StreamServer, path: str) -> str:
    return f"http://127.0.0.1:{server.port}{path}"


async def test_a_browser_at_the_root_is_told_what_is_served(serve: Serve, http: aiohttp.ClientSession) -> None:
    async with http.get(url(await serve(), "/")) as answer:
        text = await answer.text()
        assert (answer.status, answer.content_type) == (200, "text/plain")
    for path in ("/full-stream", "/domains-only", "/sse?stream=lite", "/example.json", "/health/deep", "/metrics"):
        assert path in text


@pytest.mark.parametrize("path", ["/full-stream", "/domains-only"])
async def test_a_plain_request_for_a_stream_is_told_to_upgrade(
    serve: Serve, http: aiohttp.ClientSession, path: str
) -> None:
    async with http.get(url(await serve(), path)) as answer:
        assert answer.status == 426
        assert answer.headers["Upgrade"] == "websocket"
        assert "ws://" in await answer.text()


@pytest.mark.parametrize("kind", KINDS)
async def test_the_example_is_the_newest_message_and_503_before_the_first(
    serve: Serve, hub: Hub, http: aiohttp.ClientSession, kind: StreamKind
) -> None:
    server = await serve()
    async with http.get(url(server, EXAMPLE_PATHS[kind])) as answer:
        assert answer.status == 503
        assert await answer.json() == {"error": "no certificate seen yet", "stream": kind}
        assert answer.headers["Retry-After"] == "1"
    hub.publish(kind, [b'{"n":1}', b'{"n":2}'])
    async with http.get(url(server, EXAMPLE_PATHS[kind])) as answer:
        assert (answer.status, answer.content_type) == (200, "application/json")
        assert await answer.json() == {"n": 2}


async def test_liveness_is_ok(serve: Serve, http: aiohttp.ClientSession) -> None:
    async with http.get(url(await serve(), "/health")) as answer:
        assert (answer.status, await answer.text()) == (200, "OK")


async def test_deep_health_without_logs_answers_and_says_so(serve: Serve, http: aiohttp.ClientSession) -> None:
    async with http.get(url(await serve(), "/health/deep")) as answer:
        assert answer.status == 200
        body = await answer.json()
    assert body["status"] == "degraded"
    assert body["warnings"] == ["no logs are configured: nothing to stream"]
    assert body["logs"] == []


async def test_coverage_is_what_is_told_of_the_archive(serve: Serve, http: aiohttp.ClientSession) -> None:
    async def covered() -> bytes:
        return b'{"logs":[]}'

    server = await serve(ServeOptions(coverage=True), coverage=covered)
    async with http.get(url(server, "/coverage")) as answer:
        assert (answer.status, answer.content_type) == (200, "application/json")
        assert answer.headers["Cache-Control"] == "no-store"
        assert await answer.json() == {"logs": []}
    async with http.get(url(server, "/")) as answer:
        assert "/coverage" in await answer.text()


async def test_coverage_that_cannot_be_read_is_503(serve: Serve, http: aiohttp.ClientSession) -> None:
    async def unreadable() -> bytes:
        raise StorageError("the disk is gone")

    async with http.get(url(await serve(coverage=unreadable), "/coverage")) as answer:
        assert answer.status == 503
        assert await answer.json() == {"error": "the disk is gone"}


async def test_without_an_archive_there_is_no_coverage(serve: Serve, http: aiohttp.ClientSession) -> None:
    server = await serve()
    async with http.get(url(server, "/coverage")) as answer:
        assert answer.status == 404
    async with http.get(url(server, "/")) as answer:
        assert "/coverage" not in await answer.text()


async def test_deep_health_is_503_when_the_service_is_unhealthy(serve: Serve, http: aiohttp.ClientSession) -> None:
    failing = LogHealth(
        "a", "https://a/", "static", "a", "unhealthy", None, None, None, None, None, "connection refused"
    )
    server = await serve(health=lambda: assess([failing], version="1", uptime_s=1.0))
    async with http.ws_connect(url(server, "/")), http.get(url(server, "/health/deep")) as answer:
        assert answer.status == 503
        body = await answer.json()
    assert body["status"] == "unhealthy"
    assert body["active_connections"] == 1
    assert body["logs"][0]["last_error"] == "connection refused"
    assert body["logs"][0]["position"] is None


async def test_readiness_is_200_and_says_the_share(serve: Serve, http: aiohttp.ClientSession) -> None:
    server = await serve(readiness=lambda: Readiness(share=0.75, min_share=0.5))
    async with http.get(url(server, "/health/ready")) as answer:
        assert (answer.status, answer.headers["Cache-Control"]) == (200, "no-store")
        assert await answer.json() == {
            "status": "ready",
            "reason": None,
            "share": 0.75,
            "min_share": 0.5,
            "logs": [],
        }


async def test_readiness_is_503_and_says_why_and_which_logs(serve: Serve, http: aiohttp.ClientSession) -> None:
    late = LateLog("a", 0.1, "slow_answers", 900)
    server = await serve(readiness=lambda: Readiness("too slow", 0.25, 0.5, [late]))
    async with http.get(url(server, "/health/ready")) as answer:
        assert answer.status == 503
        assert await answer.json() == {
            "status": "not_ready",
            "reason": "too slow",
            "share": 0.25,
            "min_share": 0.5,
            "logs": [{"name": "a", "share": 0.1, "cause": "slow_answers", "late_entries": 900}],
        }


async def test_metrics_parse_and_show_the_clients(serve: Serve, http: aiohttp.ClientSession) -> None:
    server = await serve()
    async with http.ws_connect(url(server, "/full-stream")), http.get(url(server, "/metrics")) as answer:
        assert answer.status == 200
        assert answer.headers["Content-Type"] == "text/plain; version=0.0.4; charset=utf-8"
        text = await answer.text()
    families = {family.name: family for family in text_string_to_metric_families(text)}
    clients = {(*sample.labels.values(),): sample.value for sample in families["certstream_stream_clients"].samples}
    assert clients == {("full", "websocket"): 1, ("full", "sse"): 0}
    assert families["certstream_build_info"].samples[0].labels["version"] == "1.2.3"


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", "/nothing-here", 404),
        ("POST", "/", 405),
        ("DELETE", "/metrics", 405),
        ("POST", "/sse", 405),
        ("HEAD", "/sse", 405),
        ("HEAD", "/", 200),
        ("HEAD", "/health", 200),
        ("HEAD", "/example.json", 503),
    ],
)
async def test_other_methods_and_paths_are_answered_as_http_says(
    serve: Serve, http: aiohttp.ClientSession, method: str, path: str, status: int
) -> None:
    async with http.request(method, url(await serve(), path)) as answer:
        assert answer.status == status
        assert status != 405 or "GET" in answer.headers["Allow"]


@pytest.mark.parametrize(
    ("options", "paths"),
    [
        (ServeOptions(example_json=False), ["/example.json", "/full-stream/example.json"]),
        (ServeOptions(health=False), ["/health", "/health/deep"]),
        (ServeOptions(metrics=False), ["/metrics"]),
        (ServeOptions(sse=False), ["/sse"]),
        (ServeOptions(streams=frozenset({"lite"})), ["/full-stream", "/domains-only", "/full-stream/example.json"]),
        (ServeOptions(websocket=False), ["/full-stream", "/domains-only"]),
    ],
)
async def test_what_is_switched_off_is_not_there_and_not_listed(
    serve: Serve, http: aiohttp.ClientSession, options: ServeOptions, paths: list[str]
) -> None:
    server = await serve(options)
    for path in paths:
        async with http.get(url(server, path)) as answer:
            assert answer.status == 404
    async with http.get(url(server, "/")) as answer:
        listed = [line.split()[1] for line in (await answer.text()).splitlines()[2:]]
    assert listed
    assert not set(paths) & set(listed)


async def test_without_the_lite_stream_the_root_is_a_page_and_no_stream(
    serve: Serve, http: aiohttp.ClientSession
) -> None:
    server = await serve(ServeOptions(streams=frozenset({"full"})))
    async with http.get(url(server, "/")) as answer:
        assert answer.status == 200
    with pytest.raises(aiohttp.WSServerHandshakeError):
        await http.ws_connect(url(server, "/"))
