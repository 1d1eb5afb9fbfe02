"""The running server answers as the table of docs/access.md says, row by row."""

from __future__ import annotations

import contextlib
import re
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, replace
from pathlib import Path

import aiohttp
import pytest

from certstream.metrics import REFUSAL_REASONS
from certstream.serve.access import AccessSettings, ConnectionLimits
from certstream.serve.listener import Address
from certstream.serve.options import EXAMPLE_PATHS, WEBSOCKET_PATHS, ServeOptions
from certstream.serve.server import StreamServer
from certstream.stream.hub import KINDS, Hub
from tests.serve.access_support import AUTH, FREE, Answer, ask, bearer, knock, rates, url

Serve = Callable[..., Awaitable[StreamServer]]

DOCUMENT = (Path(__file__).parents[2] / "docs" / "access.md").read_text()
FIXED = ("request", "with")
ALLOWED = "https://allowed.example"
HELD = 1  # clients that are there where an address or the server is full


@dataclass(frozen=True)
class Row:
    """One request of the table."""

    method: str
    path: str
    conditions: str
    statuses: dict[str, int]  # by situation

    @property
    def monitoring(self) -> bool:
        return "`monitoring.port`, there" in self.conditions


def rows() -> list[Row]:
    lines = [line for line in DOCUMENT.splitlines() if line.startswith("| ")]
    first = next(number for number, line in enumerate(lines) if line.startswith("| request | with |"))
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines[first:]]
    names = cells[0]
    found = [line for line in cells[1:] if len(line) == len(names)]
    assert tuple(names[:2]) == FIXED
    return [_row(line, names[2:]) for line in found]


def _row(cells: list[str], situations: list[str]) -> Row:
    match = re.fullmatch(r"`([A-Za-z]+) (/\S*)`", cells[0])
    assert match is not None, cells[0]
    assert all(re.fullmatch(r"[1-5][0-9][0-9]", cell) for cell in cells[2:]), cells
    return Row(match[1], match[2], cells[1], dict(zip(situations, map(int, cells[2:]), strict=True)))


# What the words of the table mean
SITUATIONS: dict[str, tuple[AccessSettings, str | None]] = {  # settings, and the token that is sent
    "open": (AccessSettings(), None),
    "no token": (AccessSettings(auth=AUTH), None),
    "wrong token": (AccessSettings(auth=AUTH), "guessed"),
    "right token": (AccessSettings(auth=AUTH), FREE),
    "over the rate": (AccessSettings(rates=rates(free=0)), None),
    "address full": (AccessSettings(connections=ConnectionLimits(total=100, per_address=HELD)), None),
    "all full": (AccessSettings(connections=ConnectionLimits(total=HELD)), None),
}
CONDITIONS = (
    "`delta_sink.enabled`",
    "`auth.protect_health`",
    "`auth.protect_metrics`",
    "`monitoring.port`, there",
    "`monitoring.port`, on the first",
    "`cors.allow_origins`, an allowed origin",
    "`cors.allow_origins`, another origin",
)


def settings_of(row: Row, situation: str) -> AccessSettings:
    settings, _ = SITUATIONS[situation]
    auth = replace(
        settings.auth,
        protect_health="protect_health" in row.conditions,
        protect_metrics="protect_metrics" in row.conditions,
    )
    origins = frozenset({ALLOWED}) if "cors" in row.conditions else frozenset[str]()
    return replace(settings, auth=auth, allow_origins=origins)


def headers_of(row: Row, situation: str) -> dict[str, str]:
    _, token = SITUATIONS[situation]
    headers = bearer(token)
    if row.method == "OPTIONS":
        origin = ALLOWED if "an allowed origin" in row.conditions else "https://other.example"
        headers |= {"Origin": origin, "Access-Control-Request-Method": "GET"}
    return headers


@pytest.fixture
async def http() -> AsyncIterator[aiohttp.ClientSession]:
    async with aiohttp.ClientSession() as session:
        yield session


async def covered() -> bytes:
    return b"{}"


async def answer_to(http: aiohttp.ClientSession, server: StreamServer, row: Row, situation: str) -> Answer:
    target = url(server, row.path, monitoring=row.monitoring)
    headers = headers_of(row, situation)
    async with contextlib.AsyncExitStack() as held:
        if situation in ("address full", "all full"):
            for _ in range(HELD):
                await held.enter_async_context(http.ws_connect(url(server)))
        if row.method == "WebSocket":
            return await knock(http, target, **headers)
        return await ask(http, target, row.method, **headers)


@pytest.mark.parametrize("row", rows(), ids=lambda row: f"{row.method} {row.path} {row.conditions}".strip())
async def test_each_request_is_answered_as_the_table_says(
    serve: Serve, hub: Hub, http: aiohttp.ClientSession, row: Row
) -> None:
    for kind in KINDS:
        hub.publish(kind, [b"{}"])
    monitoring = Address("127.0.0.1", 0) if "monitoring" in row.conditions else None
    found: dict[str, int] = {}
    for situation in row.statuses:
        coverage = covered if "delta_sink.enabled" in row.conditions else None
        server = await serve(ServeOptions(monitoring=monitoring), coverage=coverage)
        server.apply(settings_of(row, situation))
        answer = await answer_to(http, server, row, situation)
        found[situation] = answer.status
        if answer.status == 401:
            assert answer.headers["WWW-Authenticate"].startswith("Bearer")
            assert ("invalid_token" in answer.headers["WWW-Authenticate"]) == (situation == "wrong token")
        assert (answer.status in (429, 503)) == ("Retry-After" in answer.headers)
        assert int(answer.headers.get("Retry-After", "1")) >= 1
    assert found == row.statuses


def test_the_table_speaks_of_every_route_and_every_situation() -> None:
    assert {situation for row in rows() for situation in row.statuses} == set(SITUATIONS)
    named = {row.path for row in rows() if row.method == "GET"}
    assert {
        *EXAMPLE_PATHS.values(),
        *WEBSOCKET_PATHS.values(),
        "/sse",
        "/health",
        "/health/deep",
        "/coverage",
        "/metrics",
    } <= named
    assert {row.path for row in rows() if row.method == "WebSocket"} == set(WEBSOCKET_PATHS.values())
    for row in rows():
        for condition in filter(None, row.conditions.split("; ")):
            assert condition in CONDITIONS, row


def test_the_document_names_every_reason_of_a_refusal() -> None:
    assert all(f"`{reason}`" in DOCUMENT for reason in REFUSAL_REASONS)
