"""Names of hosts, where the name server may not answer."""

from __future__ import annotations

import asyncio
import socket
import threading
from collections.abc import Iterator
from typing import Any

import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer

from certstream.client.http import FetchSettings, HttpClient, Validators
from certstream.client.names import AddressInfo, NameResolver
from certstream.errors import FetchError
from certstream.metrics import Metrics

ADDRESS: AddressInfo = (socket.AF_INET, socket.SOCK_STREAM, 6, "", ("192.0.2.1", 443))


class NameServer:
    """Answers for any host, but for those of `hung.example` not before `answers` is set."""

    def __init__(self) -> None:
        self.answers = threading.Event()
        self.asked: list[str] = []

    def lookup(self, host: str, *_: Any) -> list[AddressInfo]:
        self.asked.append(host)
        if host.endswith("hung.example"):
            self.answers.wait()
        return [ADDRESS]


@pytest.fixture
def server() -> Iterator[NameServer]:
    server = NameServer()
    yield server
    server.answers.set()


async def test_a_name_that_hangs_is_asked_for_once_and_no_other_waits_for_it(server: NameServer) -> None:
    resolver = NameResolver(patience_s=0.05, lookup=server.lookup)
    hung = [resolver.resolve(f"{n}.hung.example", 443) for n in range(40)]
    for failure in await asyncio.gather(*hung, return_exceptions=True):
        assert isinstance(failure, OSError)
    with pytest.raises(OSError, match=r"no name server answers for 0\.hung\.example within"):
        await resolver.resolve("0.hung.example", 443)
    assert server.asked.count("0.hung.example") == 1
    (found,) = await resolver.resolve("ct.example.com", 443)
    assert (found["hostname"], found["host"], found["port"]) == ("ct.example.com", "192.0.2.1", 443)
    threads = [thread for thread in threading.enumerate() if thread.name == "name"]
    assert len(threads) == 40
    assert all(thread.daemon for thread in threads), "the process ends all the same"
    server.answers.set()
    for thread in threads:
        await asyncio.to_thread(thread.join)
    assert await resolver.resolve("0.hung.example", 443)


async def test_who_gives_up_waiting_leaves_the_answer_to_the_next(server: NameServer) -> None:
    resolver = NameResolver(lookup=server.lookup)
    first = asyncio.ensure_future(resolver.resolve("hung.example", 443))
    second = asyncio.ensure_future(resolver.resolve("hung.example", 443))
    await asyncio.sleep(0)
    first.cancel()
    server.answers.set()
    assert len(await second) == 1
    assert server.asked == ["hung.example"]


async def test_a_name_that_there_is_not_and_the_name_of_this_host() -> None:
    with pytest.raises(OSError, match=r"."):
        await NameResolver().resolve("no.such.invalid", 443)
    found = await NameResolver().resolve("localhost", 443, socket.AF_UNSPEC)
    assert {each["host"] for each in found} & {"127.0.0.1", "::1"}


async def test_the_client_looks_names_up_in_threads_that_nothing_waits_for(monkeypatch: pytest.MonkeyPatch) -> None:
    known, threads = socket.getaddrinfo, list[threading.Thread]()

    def lookup(*arguments: Any, **options: Any) -> Any:
        threads.append(threading.current_thread())
        return known(*arguments, **options)

    async def answer(_: web.Request) -> web.Response:
        return web.Response(body=b"here")

    app = web.Application()
    app.router.add_get("/", answer)
    async with TestServer(app) as server, HttpClient(FetchSettings(), Metrics()) as http:
        monkeypatch.setattr(socket, "getaddrinfo", lookup)
        page = await http.get_page(f"http://localhost:{server.port}/", cap_bytes=100, known=Validators())
        assert page is not None
        assert page.body == b"here"
        with pytest.raises(FetchError, match=r"no\.such\.invalid"):
            await http.get_page("http://no.such.invalid/", cap_bytes=100, known=Validators())
    assert {thread.name for thread in threads if not thread.name.startswith("Main")} == {"name"}
