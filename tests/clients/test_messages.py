"""`certstream.messages`: an asynchronous iterator over a stream."""

from __future__ import annotations

import asyncio
import gc
import logging
import os
import sys
from collections.abc import AsyncGenerator
from contextlib import aclosing, suppress
from pathlib import Path
from typing import Any, Final

import pytest

import certstream
from tests.clients.clients_support import HEARTBEAT, PATIENCE_S, ManualServer, send, update

ROOT: Final = Path(certstream.__file__).parent.parent


async def next_of(messages: AsyncGenerator[dict[str, Any], None]) -> dict[str, Any]:
    async with asyncio.timeout(PATIENCE_S):
        return await anext(messages)


async def test_messages_come_as_dicts_without_heartbeats(server: ManualServer) -> None:
    async with aclosing(certstream.messages(server.url)) as messages:
        first = asyncio.create_task(next_of(messages))
        await send(await server.connection(), HEARTBEAT, update("a.example"), HEARTBEAT, update("b.example"))
        assert [await first, await next_of(messages)] == [update("a.example"), update("b.example")]


async def test_heartbeats_come_where_they_are_asked_for(server: ManualServer) -> None:
    async with aclosing(certstream.messages(server.url, skip_heartbeats=False)) as messages:
        first = asyncio.create_task(next_of(messages))
        await send(await server.connection(), HEARTBEAT)
        assert await first == HEARTBEAT


async def test_a_restart_of_the_server_is_survived_and_logged(
    server: ManualServer, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "certstream")
    async with aclosing(certstream.messages(server.url)) as messages:
        first = asyncio.create_task(next_of(messages))
        await send(await server.connection(), update("a.example"))
        assert await first == update("a.example")
        second = asyncio.create_task(next_of(messages))
        await server.stop()
        await server.start()
        await send(await server.connection(), update("b.example"))
        assert await second == update("b.example")
    said = [record.getMessage() for record in caplog.records if record.name == "certstream.client"]
    assert said[0] == said[-1] == f"connected to {server.url}"
    assert "closed by the server with code 1001; connecting again in" in said[1]


async def read_one(url: str) -> None:
    async for message in certstream.messages(url):
        assert message == update("a.example")
        break


async def test_leaving_the_loop_closes_the_connection(server: ManualServer) -> None:
    reading = asyncio.create_task(read_one(server.url))
    connection = await server.connection()
    await send(connection, update("a.example"))
    await reading
    gc.collect()
    async with asyncio.timeout(PATIENCE_S):
        await connection.wait_closed()
    assert connection.close_code == 1000


_LEAVES_AND_ENDS = """
import asyncio, sys, certstream

async def main():
    async for message in certstream.messages(sys.argv[1]):
        print(message["message_type"])
        break

asyncio.run(main())
"""


async def test_a_program_may_leave_the_loop_and_end(server: ManualServer) -> None:
    program = await asyncio.create_subprocess_exec(
        sys.executable, "-W", "default", "-c", _LEAVES_AND_ENDS, server.url,
        env={**os.environ, "PYTHONPATH": str(ROOT)}, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
    )  # fmt: skip
    connection = await server.connection()
    await send(connection, update("a.example"))
    async with asyncio.timeout(PATIENCE_S):
        assert await program.communicate() == (b"certificate_update\n", b"")
        await connection.wait_closed()
    assert program.returncode == 0


async def test_cancelling_whoever_reads_closes_the_connection(server: ManualServer) -> None:
    reading = asyncio.create_task(read_one(server.url))
    connection = await server.connection()
    async with asyncio.timeout(PATIENCE_S):
        await (await connection.ping())  # answered: it reads
    reading.cancel()
    with suppress(asyncio.CancelledError):
        await reading
    async with asyncio.timeout(PATIENCE_S):
        await connection.wait_closed()
    assert connection.close_code == 1000


async def test_where_another_attempt_would_not_help_it_raises(server: ManualServer) -> None:
    server.refusal = (401, {})
    with pytest.raises(certstream.StreamRefusedError, match="401") as info:
        await next_of(certstream.messages(server.url, token="wrong"))
    assert info.value.status == 401
    assert [request.headers["Authorization"] for request in server.requests] == ["Bearer wrong"]


@pytest.mark.parametrize("text", ["not JSON", "[1]", "", pytest.param("[" * 100_000, id="nested too deeply")])
async def test_what_is_no_message_raises(server: ManualServer, text: str) -> None:
    reading = asyncio.create_task(next_of(certstream.messages(server.url)))
    connection = await server.connection()
    await connection.send(text)
    with pytest.raises(certstream.StreamError, match="a message that is n"):
        await reading
    async with asyncio.timeout(PATIENCE_S):
        await connection.wait_closed()


def test_mistakes_raise_before_anything_is_iterated() -> None:
    with pytest.raises(ValueError, match="the address of a stream"):
        certstream.messages("example.com")
