from __future__ import annotations

import gzip

import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer

from certstream.client.http import FetchSettings, HttpClient, Page, Validators
from certstream.errors import FetchError, RateLimitedError
from certstream.metrics import Metrics

PACKED = gzip.compress(b"body" * 100)


async def handle(request: web.Request) -> web.StreamResponse:
    if request.path == "/agent":
        return web.Response(text=request.headers["User-Agent"])
    if request.path == "/packed":
        return web.Response(body=PACKED, headers={"Content-Encoding": "gzip", "ETag": '"1"'})
    if request.path == "/limited":
        return web.Response(status=429, headers={"Retry-After": "9"})
    if request.path == "/conditions":
        asked = {name: value for name, value in request.headers.items() if name.startswith("If-")}
        return web.json_response(asked, status=304 if asked else 200)
    raise web.HTTPNotFound(text="none here")


async def get(path: str, known: Validators | None = None, cap_bytes: int = 1000) -> tuple[str, Page | None]:
    """The URL and what it gave."""
    app = web.Application()
    app.router.add_get("/{path:.*}", handle)
    async with TestServer(app) as server, HttpClient(FetchSettings(user_agent="a/1"), Metrics()) as http:
        url = str(server.make_url(path))
        try:
            return url, await http.get_page(url, cap_bytes=cap_bytes, known=known or Validators())
        finally:
            assert "certstream_log_requests_total{" not in http.metrics.exposition().decode()


async def test_a_page_comes_inflated_with_its_version() -> None:
    _, page = await get("/packed")
    assert page == Page(b"body" * 100, Validators('"1"', ""))


async def test_a_page_is_asked_for_with_the_contact() -> None:
    _, page = await get("/agent")
    assert page is not None
    assert page.body == b"a/1"


async def test_a_known_version_is_no_page_and_an_unasked_304_a_failure() -> None:
    assert (await get("/conditions", Validators('"1"', "")))[1] is None
    assert (await get("/conditions", Validators("", "Mon, 05 Jan 2026 00:00:00 GMT")))[1] is None
    _, page = await get("/conditions")
    assert page is not None
    assert page.body == b"{}"


async def test_a_failure_names_the_url_and_its_status() -> None:
    with pytest.raises(FetchError, match=r"http://127\.0\.0\.1:[0-9]+/nothing: 404 none here") as caught:
        await get("/nothing")
    assert caught.value.status == "404"
    with pytest.raises(FetchError) as caught:
        await get("/packed", cap_bytes=399)
    assert caught.value.status == "too_large"
    with pytest.raises(RateLimitedError, match="/limited: 429") as limited:
        await get("/limited")
    assert limited.value.retry_after_s == 9


@pytest.mark.parametrize("value", [None, "", "a\r\nX-Evil: 1", "é", "a" * 501])
def test_a_version_that_no_header_can_carry_is_forgotten(value: str | None) -> None:
    assert Validators.of(value, value) == Validators()
    assert Validators.of('W/"1"', value).conditions == {"If-None-Match": 'W/"1"'}
