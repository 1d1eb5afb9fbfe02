"""`certstream tail` as a user runs it: the real process, on pipes and on a terminal."""

from __future__ import annotations

import asyncio
import json
import os
import re
import signal
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any, Final

import pytest

import certstream
from certstream.cli import main
from tests.clients.clients_support import HEARTBEAT, PATIENCE_S, ManualServer, send, update
from tests.screen_support import Screen

ROOT: Final = Path(certstream.__file__).parent.parent

Process = asyncio.subprocess.Process


@asynccontextmanager
async def tail(*flags: str, stdout: int = asyncio.subprocess.PIPE, **environment: str) -> AsyncIterator[Process]:
    """A process of its own; ended with the test."""
    inherited = {name: value for name, value in os.environ.items() if not name.lower().endswith(("_proxy", "_color"))}
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "certstream", "tail", *flags,
        env={**inherited, "PYTHONPATH": str(ROOT), "TERM": "xterm", **environment},
        stdin=asyncio.subprocess.DEVNULL, stdout=stdout, stderr=asyncio.subprocess.PIPE,
        limit=1 << 24,
    )  # fmt: skip
    try:
        yield process
    finally:
        with suppress(ProcessLookupError):
            process.kill()
        await process.communicate()


async def line_of(stream: asyncio.StreamReader | None) -> str:
    assert stream is not None
    async with asyncio.timeout(PATIENCE_S):
        return (await stream.readline()).decode()


async def ended(process: Process) -> int:
    async with asyncio.timeout(PATIENCE_S):
        return await process.wait()


async def test_on_a_pipe_messages_are_lines_of_json_without_heartbeats(server: ManualServer) -> None:
    async with tail("--url", server.url) as process:
        await send(await server.connection(), HEARTBEAT, update("a.example"), update("ü.example"))
        assert await line_of(process.stderr) == f"certstream tail: following {server.url}\n"
        lines = [await line_of(process.stdout) for _ in range(2)]
        assert [json.loads(line) for line in lines] == [update("a.example"), update("ü.example")]


@pytest.mark.parametrize(("match", "message"), [("example", update("a.example")), ("nowhere", HEARTBEAT)])
async def test_it_ends_with_0_when_nobody_reads_any_more_also_while_nothing_matches(
    server: ManualServer, match: str, message: dict[str, Any]
) -> None:
    read_end, write_end = os.pipe()
    async with tail("--url", server.url, "--match", match, stdout=write_end) as process:
        os.close(write_end)
        connection = await server.connection()
        assert await line_of(process.stderr) == f"certstream tail: following {server.url}\n"
        os.close(read_end)
        await send(connection, message)
        assert await ended(process) == 0
        assert process.stderr is not None
        assert await process.stderr.read() == b""


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
async def test_a_signal_ends_it_as_it_ends_any_program(server: ManualServer, number: signal.Signals) -> None:
    async with tail("--url", server.url) as process:
        connection = await server.connection()
        await send(connection, update("a.example"))
        await line_of(process.stdout)
        process.send_signal(number)
        assert await ended(process) == -number
        assert process.stdout is not None
        assert process.stderr is not None
        assert await process.stdout.read() == b""
        assert (await process.stderr.read()).decode().splitlines()[1:] == []
        await connection.wait_closed()
        assert connection.close_code == 1000


async def test_ctrl_c_ends_it_also_while_it_waits_for_a_server_or_a_reader(server: ManualServer) -> None:
    server.refusal = (503, {"Retry-After": "300"})
    async with tail("--url", server.url) as process:
        assert "the server answered 503; again in 300.0 s" in await line_of(process.stderr)
        process.send_signal(signal.SIGINT)
        assert await ended(process) == -signal.SIGINT
    server.refusal = None
    read_end, write_end = os.pipe()
    try:
        async with tail("--url", server.url, stdout=write_end) as process:
            connection = await server.connection()
            await send(connection, *(update("x" * 10_000) for _ in range(20)))
            async with asyncio.timeout(PATIENCE_S):
                await (await connection.ping())
            process.send_signal(signal.SIGINT)
            assert await ended(process) == -signal.SIGINT
    finally:
        os.close(read_end)
        os.close(write_end)


async def test_a_restart_of_the_server_is_told_on_stderr(server: ManualServer) -> None:
    async with tail("--url", server.url) as process:
        await send(await server.connection(), update("a.example"))
        await line_of(process.stdout)
        await server.stop()
        await server.start()
        await send(await server.connection(), update("b.example"))
        assert json.loads(await line_of(process.stdout)) == update("b.example")
        said = [await line_of(process.stderr) for _ in range(3)]
        assert re.fullmatch(r"certstream tail: .* closed by the server with code 1001; again in [01]\.\d s\n", said[1])
        assert said[2] == said[0]


async def test_a_refusal_is_1_and_a_line(server: ManualServer, tmp_path: Path) -> None:
    server.refusal = (401, {})
    token = tmp_path / "token"
    token.write_text("hunter2\n")
    async with tail("--url", server.url, "--token-file", str(token)) as process:
        assert await ended(process) == 1
        assert process.stderr is not None
        said = (await process.stderr.read()).decode()
    assert said == f"certstream tail: {server.url}: the server answered 401: no token, or not this one\n"
    assert [request.headers["Authorization"] for request in server.requests] == ["Bearer hunter2"]


async def test_an_output_that_cannot_be_written_is_1_and_a_line(server: ManualServer) -> None:
    full = os.open("/dev/full", os.O_WRONLY)
    try:
        async with tail("--url", server.url, stdout=full) as process:
            await send(await server.connection(), update("a.example"))
            assert await ended(process) == 1
            assert process.stderr is not None
            said = (await process.stderr.read()).decode().splitlines()
    finally:
        os.close(full)
    assert said[1:] == ["certstream tail: the output cannot be written: No space left on device"]


async def test_an_output_that_does_not_block_gets_everything(server: ManualServer) -> None:
    read_end, write_end = os.pipe()
    os.set_blocking(write_end, False)
    reader = asyncio.StreamReader(limit=1 << 20)
    pipe, _ = await asyncio.get_running_loop().connect_read_pipe(
        lambda: asyncio.StreamReaderProtocol(reader), os.fdopen(read_end, "rb")
    )
    messages = [update(f"{n}" * 50_000) for n in range(10)]
    try:
        async with tail("--url", server.url, stdout=write_end) as process:
            os.close(write_end)
            await asyncio.gather(send(await server.connection(), *messages), line_of(process.stderr))
            assert [json.loads(await line_of(reader)) for _ in messages] == messages
            assert process.returncode is None
    finally:
        pipe.close()


async def test_only_what_matches_is_printed_and_heartbeats_are_told_on_request(server: ManualServer) -> None:
    async with tail("--url", server.url, "--match", "PayPa1", "--verbose") as process:
        names = ("a.example", "www.paypa1.example", "b.example", "PAYPA1.example")
        await send(await server.connection(), HEARTBEAT, *map(update, names))
        lines = [json.loads(await line_of(process.stdout)) for _ in range(2)]
        assert lines == [update("www.paypa1.example"), update("PAYPA1.example")]
        assert [await line_of(process.stderr) for _ in range(2)][1] == "certstream tail: heartbeat\n"


@pytest.mark.parametrize(("flags", "path"), [(["--full"], "/full-stream"), (["--domains"], "/domains-only"), ([], "/")])
async def test_the_flags_choose_the_stream(server: ManualServer, flags: list[str], path: str) -> None:
    async with tail("--url", server.url, *flags):
        await server.connection()
    assert [request.path for request in server.requests] == [path]


OnScreen = Callable[..., Awaitable[list[str]]]


@pytest.fixture
def on_screen(server: ManualServer) -> OnScreen:
    """What a terminal gets for a message, as it is: with what colours are made of."""

    async def run(*flags: str, columns: int = 60, **environment: str) -> list[str]:
        screen = Screen(columns)
        try:
            async with tail("--url", server.url, *flags, stdout=screen.stream.fileno(), **environment) as process:
                await send(await server.connection(), update("a.example"), update("b" * 90))
                await line_of(process.stderr)
                data = b""
                async with asyncio.timeout(PATIENCE_S):
                    while data.count(b"\n") < 2:
                        data += await asyncio.to_thread(screen._arrived.get, timeout=PATIENCE_S)
            return data.decode().replace("\r\n", "\n").splitlines()
        finally:
            screen.close()

    return run


async def test_on_a_terminal_messages_are_lines_that_fit_and_have_colours(on_screen: OnScreen) -> None:
    first, second = await on_screen()
    assert re.fullmatch(r"\x1b\[2m\d\d:\d\d:\d\d\x1b\[0m  \x1b\[36mLog     \x1b\[0m  \x1b\[1ma\.example\x1b\[0m", first)
    assert len(re.sub(r"\x1b\[\d*m", "", second)) == 60


@pytest.mark.parametrize(
    ("flags", "environment"),
    [
        (["--no-color"], {}),
        (["--disable-colors"], {}),
        ([], {"NO_COLOR": "1"}),
        ([], {"TERM": "dumb"}),
    ],
)
async def test_colours_can_be_switched_off(on_screen: OnScreen, flags: list[str], environment: dict[str, str]) -> None:
    lines = await on_screen(*flags, **environment)
    assert re.fullmatch(r"\d\d:\d\d:\d\d  Log       a\.example", lines[0])
    assert [line.isprintable() for line in lines] == [True, True]


async def test_json_can_be_had_on_a_terminal(on_screen: OnScreen) -> None:
    lines = await on_screen("--json")
    assert [json.loads(line) for line in lines] == [update("a.example"), update("b" * 90)]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--full", "--domains"], "argument --domains: not allowed with argument --full (see certstream tail --help)"),
        (["--jsn"], "unrecognized arguments: --jsn (see certstream tail --help)"),
        (["--url", "127.0.0.1:8080"], "the address of a stream is ws://host:port/ or wss://host/"),
    ],
)
def test_a_mistake_is_exit_1_and_one_line(capsys: pytest.CaptureFixture[str], arguments: list[str], said: str) -> None:
    assert main(["tail", *arguments]) == 1
    assert capsys.readouterr() == ("", f"certstream tail: {said}\n")


@pytest.mark.parametrize(("content", "said"), [(None, "cannot be read: No such file"), (b"\xff", "a token is")])
def test_a_token_that_cannot_be_read_is_exit_1_and_one_line(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, content: bytes | None, said: str
) -> None:
    file = tmp_path / "token"
    if content is not None:
        file.write_bytes(content)
    assert main(["tail", "--token-file", str(file)]) == 1
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.startswith(f"{file}: {said}")
    assert captured.err.count("\n") == 1


def test_help_is_a_result(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["tail", "--help"]) == 0
    captured = capsys.readouterr()
    assert "--match TEXT" in captured.out
    assert captured.err == ""
