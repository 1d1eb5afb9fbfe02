"""`certstream.listen_for_events` and `certstream.core`, as code written for the package of PyPI uses them."""

from __future__ import annotations

import asyncio
import inspect
import logging
import signal
import sys
import threading
from asyncio.subprocess import PIPE
from collections.abc import Callable
from typing import Any

import pytest

import certstream
from certstream.core import CertStreamClient, Context
from tests.clients.clients_support import HEARTBEAT, PATIENCE_S, ManualServer, send, update
from tests.e2e.e2e_support import ROOT


class Seen:
    """A callback that keeps what it is given, and ends listening with the message `end`."""

    def __init__(self) -> None:
        self.messages: list[dict[str, Any]] = []
        self.contexts: list[Context] = []
        self.threads: set[threading.Thread] = set()
        self.errors: list[BaseException] = []
        self.opened = 0

    def __call__(self, message: dict[str, Any], context: Context) -> None:
        self.threads.add(threading.current_thread())
        self.contexts.append(context)
        if message == END:
            raise KeyboardInterrupt
        self.messages.append(message)

    def on_open(self) -> None:
        self.opened += 1

    def on_error(self, error: BaseException) -> None:
        self.errors.append(error)


END = update("end.example")


def listening(callback: Callable[..., object], url: str, **options: Any) -> asyncio.Task[None]:
    return asyncio.create_task(asyncio.to_thread(certstream.listen_for_events, callback, url, **options))


async def done(task: asyncio.Task[Any]) -> Any:
    async with asyncio.timeout(PATIENCE_S):
        return await task


def test_the_parameters_are_those_of_the_other_package() -> None:
    parameters = list(inspect.signature(certstream.listen_for_events).parameters.values())
    assert [(p.name, p.default) for p in parameters[:6]] == [
        ("message_callback", inspect.Parameter.empty),
        ("url", inspect.Parameter.empty),
        ("skip_heartbeats", True),
        ("setup_logger", True),
        ("on_open", None),
        ("on_error", None),
    ]
    assert parameters[-1].kind is inspect.Parameter.VAR_KEYWORD


async def test_callbacks_get_message_and_context_until_ctrl_c(server: ManualServer) -> None:
    seen = Seen()
    task = listening(seen, server.url, on_open=seen.on_open, on_error=seen.on_error)
    await send(await server.connection(), HEARTBEAT, update("a.example"), update("b.example"), END)
    assert await done(task) is None
    assert seen.messages == [update("a.example"), update("b.example")]
    assert (seen.opened, seen.errors, len(seen.threads)) == (1, [], 1)


async def test_heartbeats_come_where_they_are_asked_for(server: ManualServer) -> None:
    seen = Seen()
    task = listening(seen, server.url, skip_heartbeats=False)
    await send(await server.connection(), HEARTBEAT, END)
    await done(task)
    assert seen.messages == [HEARTBEAT]


async def test_the_context_is_a_dict_with_attributes_that_keeps_what_is_put_into_it(server: ManualServer) -> None:
    seen = Seen()

    def counting(message: dict[str, Any], context: Context) -> None:
        context.count = (context.count or 0) + 1
        seen(message, context)

    task = listening(counting, server.url)
    await send(await server.connection(), update("a.example"), END)
    await done(task)
    first, second = seen.contexts
    assert first is second
    assert (first["count"], first.count, first.nothing) == (2, 2, None)
    del first.count
    assert first == {}


async def test_a_callback_may_run_an_event_loop_of_its_own_and_block(server: ManualServer) -> None:
    results: list[int] = []

    async def answer() -> int:
        return 42

    def callback(message: dict[str, Any], _context: Context) -> None:
        results.append(asyncio.run(answer()))
        if message == END:
            raise KeyboardInterrupt

    task = listening(callback, server.url)
    await send(await server.connection(), update("a.example"), END)
    await done(task)
    assert results == [42, 42]


async def test_what_a_callback_raises_goes_to_on_error_and_the_next_message_comes(
    server: ManualServer, caplog: pytest.LogCaptureFixture
) -> None:
    seen = Seen()

    def callback(message: dict[str, Any], context: Context) -> None:
        if message == update("bad.example"):
            raise LookupError("of the callback")
        seen(message, context)

    task = listening(callback, server.url, on_error=seen.on_error)
    connection = await server.connection()
    await connection.send("not JSON")
    await send(connection, update("bad.example"), update("a.example"), END)
    await done(task)
    assert seen.messages == [update("a.example")]
    assert [type(error) for error in seen.errors[1:]] == [LookupError]
    assert isinstance(seen.errors[0], ValueError)
    assert "error in the callback for message" in caplog.text


async def test_handlers_may_take_the_client_first_as_the_documents_of_the_other_package_have_it(
    server: ManualServer,
) -> None:
    got: list[Any] = []

    def on_open(instance: Any) -> None:
        got.append(instance)

    def on_error(instance: Any, exception: Any) -> None:
        got.extend((instance, exception))

    def callback(message: dict[str, Any], _context: Context) -> None:
        if message == END:
            raise KeyboardInterrupt
        raise LookupError

    task = listening(callback, server.url, on_open=on_open, on_error=on_error)
    await send(await server.connection(), update("a.example"), END)
    await done(task)
    assert [type(each) for each in got] == [CertStreamClient, CertStreamClient, LookupError]


async def test_an_error_handler_that_fails_itself_does_not_end_it(server: ManualServer) -> None:
    seen = Seen()

    def on_error(_error: BaseException) -> None:
        raise RuntimeError("of the handler")

    task = listening(seen, server.url, on_error=on_error)
    connection = await server.connection()
    await connection.send("not JSON")
    await send(connection, update("a.example"), END)
    await done(task)
    assert seen.messages == [update("a.example")]


async def test_a_restart_of_the_server_is_survived_without_an_error(
    server: ManualServer, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "certstream")
    seen = Seen()
    task = listening(seen, server.url, on_open=seen.on_open, on_error=seen.on_error)
    await send(await server.connection(), update("a.example"))
    await server.stop()
    await server.start()
    await send(await server.connection(), update("b.example"), END)
    await done(task)
    assert seen.messages == [update("a.example"), update("b.example")]
    assert (seen.opened, seen.errors) == (2, [])
    assert "Connecting to CertStream again in" in caplog.text


async def test_a_connection_that_is_refused_or_cut_is_an_error_and_tried_again(server: ManualServer) -> None:
    seen = Seen()
    server.refusal = (401, {})
    refused = threading.Event()

    def on_error(error: BaseException) -> None:
        seen.on_error(error)
        refused.set()

    task = listening(seen, server.url, on_error=on_error, token="t")
    assert await asyncio.to_thread(refused.wait, PATIENCE_S)
    server.refusal = None
    await send(await server.connection(), END)
    await done(task)
    assert [type(error) for error in seen.errors] == [certstream.StreamRefusedError]
    assert {request.headers["Authorization"] for request in server.requests} == {"Bearer t"}


_LISTENER = """
import certstream, logging, sys
logging.basicConfig(format="%(message)s", level=logging.INFO)
certstream.listen_for_events(lambda message, context: print("message", flush=True), sys.argv[1])
print("after")
"""


async def test_ctrl_c_ends_it_and_the_program_goes_on(server: ManualServer) -> None:
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-c", _LISTENER, server.url, cwd=ROOT, stdout=PIPE, stderr=PIPE,
    )  # fmt: skip
    assert process.stdout is not None
    connection = await server.connection()
    await send(connection, update("a.example"))
    async with asyncio.timeout(PATIENCE_S):
        assert await process.stdout.readline() == b"message\n"
        process.send_signal(signal.SIGINT)
        out, err = await process.communicate()
    assert (process.returncode, out) == (0, b"after\n")
    assert err.decode().splitlines()[-1] == "Kill command received, exiting!!"
    assert "Traceback" not in err.decode()
    await connection.wait_closed()
    assert connection.close_code == 1000


async def test_what_is_no_exception_leaves_through_it(server: ManualServer) -> None:
    left: list[BaseException] = []

    def callback(_message: dict[str, Any], _context: Context) -> None:
        raise SystemExit(3)

    def listen() -> None:
        try:
            certstream.listen_for_events(callback, server.url)
        except SystemExit as exc:  # which would end the thread of an executor
            left.append(exc)

    task = asyncio.create_task(asyncio.to_thread(listen))
    connection = await server.connection()
    await send(connection, update("a.example"))
    await done(task)
    assert [exc.code for exc in left if isinstance(exc, SystemExit)] == [3]
    async with asyncio.timeout(PATIENCE_S):
        await connection.wait_closed()


@pytest.mark.parametrize(
    ("options", "error"),
    [({"url": "example.com"}, ValueError), ({"url": "ws://h/", "ping_intervall": 3}, TypeError)],
)
def test_mistakes_raise_at_once(options: dict[str, Any], error: type[Exception]) -> None:
    with pytest.raises(error):
        certstream.listen_for_events(lambda *_: None, **options)


async def test_a_client_ends_when_another_thread_closes_it(server: ManualServer) -> None:
    seen = Seen()
    client = CertStreamClient(seen, server.url)
    task = asyncio.create_task(asyncio.to_thread(client.run_forever, ping_interval=30))
    connection = await server.connection()
    async with asyncio.timeout(PATIENCE_S):
        await (await connection.ping())  # answered: it reads
    assert client.keep_running
    client.close()
    assert await done(task) is False
    assert not client.keep_running
    async with asyncio.timeout(PATIENCE_S):
        await connection.wait_closed()
    assert connection.close_code == 1000


async def test_a_client_runs_once_and_says_whether_it_failed(server: ManualServer) -> None:
    seen = Seen()
    client = CertStreamClient(seen, server.url, on_error=seen.on_error)
    for end, failed in (("close", False), ("abort", True)):
        task = asyncio.create_task(asyncio.to_thread(client.run_forever))
        connection = await server.connection()
        if end == "close":
            await connection.close()
        else:
            connection.transport.abort()
        assert await done(task) is failed
    assert [type(error) for error in seen.errors] == [certstream.StreamError]


async def test_with_reconnect_it_runs_until_it_is_closed(server: ManualServer) -> None:
    seen = Seen()
    client = CertStreamClient(seen, server.url, on_open=seen.on_open)
    task = asyncio.create_task(asyncio.to_thread(client.run_forever, reconnect=0.01))
    for _ in range(3):
        await (await server.connection()).close()
    await server.connection()
    client.close()
    assert await done(task) is False
    assert seen.opened >= 3


async def test_its_methods_may_be_overridden(server: ManualServer) -> None:
    seen = Seen()

    class Stopping(CertStreamClient):
        def _on_message(self, ws: Any, message: str) -> None:
            super()._on_message(ws, message)
            if END["data"]["leaf_cert"]["all_domains"][0] in message:
                ws.close()

    client = Stopping(lambda message, _: seen.messages.append(message), server.url)
    task = asyncio.create_task(asyncio.to_thread(client.run_forever))
    await send(await server.connection(), update("a.example"), END, update("after.example"))
    assert await done(task) is False
    assert seen.messages == [update("a.example"), END]


@pytest.mark.parametrize("header", [["Authorization: Bearer a:b"], {"Authorization": "Bearer a:b"}])
async def test_further_headers_go_out(server: ManualServer, header: Any) -> None:
    client = CertStreamClient(lambda *_: None, server.url)
    client.header = header
    task = asyncio.create_task(asyncio.to_thread(client.run_forever))
    await (await server.connection()).close()
    await done(task)
    assert server.requests[0].headers["Authorization"] == "Bearer a:b"
