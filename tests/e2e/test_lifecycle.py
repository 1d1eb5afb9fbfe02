"""Start, stop and what the operator sees, of the real process."""

from __future__ import annotations

import asyncio
import json
import os
import pty
import shutil
import signal
import socket
import subprocess
import sys
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from certstream.simulator.faults import Fault, FaultKind
from certstream.simulator.log import SimulatedLog
from tests.e2e.archive_service_support import unanswering
from tests.e2e.e2e_support import PATIENCE_S, ROOT, Service, Simulate, StartService, options_for

READ_BY_URLLIB = (
    "import sys, urllib.request\nfor line in urllib.request.urlopen(sys.argv[1]): sys.stdout.buffer.write(line)"
)
STOPS_IN_S = 2.0
AN_ORDERLY_END_S = 0.5  # what it takes with a client that does not read


async def silent_client(port: int, path: str) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    """A WebSocket client that shakes hands and then reads nothing more."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port, limit=1024)
    key = "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13"
    writer.write(
        f"GET {path} HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n{key}\r\n\r\n".encode()
    )
    assert b"101" in await reader.readline()
    transport = writer.transport
    assert isinstance(transport, asyncio.ReadTransport)
    transport.pause_reading()
    return reader, writer


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
async def test_signal_ends_it_in_two_seconds_with_clients_that_do_not_read(
    start_service: StartService, simulate: Simulate, number: signal.Signals
) -> None:
    logs = [
        SimulatedLog("a", kinds={"rfc6962"}, initial=10, seed=1),
        SimulatedLog("b", kinds={"static"}, initial=10, seed=2),
    ]
    server = await simulate(*logs)
    service = await start_service(options_for(server.infos()))
    await service.until_following(*server.infos())
    async with service.listen() as client, AsyncExitStack() as stack:
        for path in ("/", "/full-stream", "/domains-only"):
            _, writer = await silent_client(service.port, path)
            stack.callback(writer.close)
        for log in logs:
            log.grow(3000)
        await client.until_index("a rfc6962", 3009)
        code, seconds = await service.stop(number)
        await asyncio.wait_for(client.ended.wait(), PATIENCE_S)
        assert client.connection.close_code == 1001
    assert code == 0
    assert seconds < STOPS_IN_S
    for info in server.infos():
        entry = service.state["logs"][info.base_url]
        assert entry["current_index"] == [9, *client.indices(f"{info.name} {info.kind}")][-1] + 1


async def test_a_state_file_whose_disk_hangs_holds_up_neither_the_streams_nor_the_end(
    tmp_path: Path, start_service: StartService, simulate: Simulate
) -> None:
    log = SimulatedLog("log", kinds={"rfc6962"}, initial=10, seed=1)
    server = await simulate(log)
    async with unanswering(tmp_path / "certstream_state.json.tmp") as asked:
        service = await start_service(options_for(server.infos()))
        await service.until_following(*server.infos())
        await asked.wait()
        async with service.listen() as client:
            log.grow(50)
            await client.until_index("log rfc6962", 59)
        code, seconds = await service.stop()
    assert (code, seconds < 5) == (0, True)
    await service.start()
    await service.until_following(*server.infos())
    assert (await service.stop())[0] == 0
    assert service.state["logs"][server.infos()[0].base_url]["current_index"] == 60


async def test_second_signal_leaves_at_once(start_service: StartService, simulate: Simulate) -> None:
    log = SimulatedLog("log", kinds={"rfc6962"}, initial=10, seed=1)
    server = await simulate(log)
    service = await start_service(options_for(server.infos()))
    await service.until_following(*server.infos())
    _, writer = await silent_client(service.port, "/full-stream")  # makes an orderly end take its time
    async with service.listen("/full-stream") as client:
        log.grow(3000)
        await client.until_index("log rfc6962", 3009)
    service.send(signal.SIGTERM)
    await service.until(lambda line: line["event"] == "stopping")
    code, seconds = await service.stop(signal.SIGTERM)
    assert code == 128 + signal.SIGTERM
    assert seconds < AN_ORDERLY_END_S
    writer.close()


async def test_hang_up_signal_is_logged_and_nothing_else(start_service: StartService) -> None:
    service = await start_service({})
    service.send(signal.SIGHUP)
    await service.until(lambda line: line.get("signal") == "SIGHUP")
    assert (await service.get("/health"))[0] == 200
    assert (await service.stop())[0] == 0


def test_it_ends_when_its_terminal_is_gone(tmp_path: Path) -> None:
    pid, terminal = pty.fork()
    if pid == 0:  # pragma: no cover - the child
        os.chdir(tmp_path)
        environ = {**os.environ, "CERTSTREAM_PORT": "0", "PYTHONPATH": str(ROOT)}
        os.execve(sys.executable, [sys.executable, "-W", "ignore", "-m", "certstream", "--dry-run"], environ)
    shown = b""
    while b"serving" not in shown:
        shown += os.read(terminal, 4096)
    os.close(terminal)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0


async def test_second_service_on_the_same_state_file_names_the_first(
    start_service: StartService, tmp_path: Path
) -> None:
    first = await start_service({})
    second = Service(tmp_path, {}, ())
    await second.start(serving=False)
    assert await second.exit_code() == 1
    assert f"in use by process {first.pid}" in second.lines[-1]["event"]
    assert (await first.get("/health"))[0] == 200


async def test_port_in_use_is_one_line_and_exit_1(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        service = Service(tmp_path, {"port": port}, ())
        await service.start(serving=False)
        assert await service.exit_code() == 1
    assert f"cannot listen on 127.0.0.1:{port}: Address already in use" in service.lines[-1]["event"]


async def test_log_that_cannot_be_reached_is_named_and_taken_up_later(
    start_service: StartService, simulate: Simulate
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as reserved:
        port = reserved.getsockname()[1]
    log = SimulatedLog("late", kinds={"rfc6962"}, initial=10, seed=1)
    url = f"http://127.0.0.1:{port}/late/rfc6962/"
    options = {"custom_logs": [{"name": "late rfc6962", "url": url, "start": "beginning"}]}
    quick = {"poll_interval_ms": 50, "retry_initial_delay_ms": 50, "retry_max_delay_ms": 200}
    service = await start_service({**options, "ct_log": quick})
    line = await service.until(lambda line: line.get("log") == "late rfc6962")
    assert "not reached" in line["error"]
    assert line["level"] == "warning"
    health = await service.health()
    assert health["logs"][0]["state"] == "degraded"
    assert url in health["logs"][0]["last_error"]
    outage = log.faults.add(Fault(FaultKind.UNAVAILABLE))
    await simulate(log, port=port)
    async with service.listen() as client:
        log.faults.remove(outage)
        await client.until_index("late rfc6962", 9)
        assert client.indices("late rfc6962") == list(range(10))
    await service.until(lambda line: line.get("state") == "following")


@pytest.mark.parametrize("lists", [{"enabled": False}, {"google": False, "apple": False}])
async def test_without_logs_it_serves_and_warns_once(start_service: StartService, lists: dict[str, Any]) -> None:
    service = await start_service({"log_lists": lists})
    warned = [line for line in service.lines if "no logs are configured" in line["event"]]
    assert len(warned) == 1
    assert any("no logs are configured" in warning for warning in (await service.health())["warnings"])
    assert (await service.get("/example.json"))[0] == 503


async def test_dry_run_serves_and_connects_to_no_log(start_service: StartService, simulate: Simulate) -> None:
    log = SimulatedLog("log", initial=10, seed=1)
    server = await simulate(log)
    service = await start_service(options_for(server.infos()), "--dry-run")
    assert (await service.get("/health"))[0] == 200
    assert (await service.stop())[0] == 0
    assert log.requests.total() == 0


async def test_demo_streams_at_once_and_leaves_nothing_behind(
    tmp_path: Path, start_service: StartService, monkeypatch: pytest.MonkeyPatch
) -> None:
    state = tmp_path / "certstream_state.json"
    state.write_text('{"logs": {"https://kept.example": {"current_index": 7}}}')
    temporary = tmp_path / "temporary"
    temporary.mkdir()
    monkeypatch.setenv("TMPDIR", str(temporary))
    service = await start_service({"delta_sink": {"enabled": False}}, "--demo")
    async with service.listen("/full-stream") as client:
        await client.until(lambda: len(client.messages) == 2)
    assert list(temporary.rglob("certstream_state.json"))
    health = await service.health()
    assert {log["kind"] for log in health["logs"]} == {"rfc6962", "static"}
    assert (await service.stop())[0] == 0
    assert state.read_text() == '{"logs": {"https://kept.example": {"current_index": 7}}}'
    assert {path.name for path in state.parent.glob("*")} == {"certstream_state.json", "config.yaml", "temporary"}
    assert not list(temporary.glob("*"))


async def test_streaming_loads_neither_pyarrow_nor_deltalake(start_service: StartService, simulate: Simulate) -> None:
    logs = [SimulatedLog("a", kinds={"rfc6962"}, initial=10), SimulatedLog("b", kinds={"static"}, initial=10, seed=1)]
    server = await simulate(*logs)
    service = await start_service(options_for(server.infos()))
    await service.until_following(*server.infos())
    async with service.listen("/full-stream") as client:
        for log in logs:
            log.grow(300)
        await client.until(lambda: len(client.messages) == 2)
    loaded = await asyncio.to_thread(Path(f"/proc/{service.pid}/maps").read_text)
    assert "numpy" in loaded
    assert "libarrow" not in loaded
    assert "deltalake" not in loaded


async def test_aiohttp_and_curl_read_the_same_stream(start_service: StartService) -> None:
    service = await start_service({}, "--demo")
    # A machine without curl still has a client that knows nothing of this program.
    command = ["curl", "-sN"] if shutil.which("curl") else [sys.executable, "-u", "-c", READ_BY_URLLIB]
    curl = await asyncio.create_subprocess_exec(
        *command, f"http://{service.url}/sse?stream=lite", stdout=asyncio.subprocess.PIPE
    )
    by_curl: dict[tuple[str, int], object] = {}
    by_aiohttp: dict[tuple[str, int], object] = {}
    enough = asyncio.Event()

    def take(seen: dict[tuple[str, int], object], text: str | bytes) -> None:
        message = json.loads(text)
        if message["message_type"] == "certificate_update":
            data = message["data"]
            seen[data["source"]["name"], data["cert_index"]] = data
        if len(by_curl.keys() & by_aiohttp.keys()) >= 10:
            enough.set()

    async def read_curl() -> None:
        assert curl.stdout is not None
        async for line in curl.stdout:
            if line.startswith(b"data: "):
                take(by_curl, line[6:])

    async def read_aiohttp() -> None:
        async with aiohttp.ClientSession() as session, session.ws_connect(f"http://{service.url}/") as connection:
            async for message in connection:
                take(by_aiohttp, message.data)

    readers = [asyncio.create_task(read_curl()), asyncio.create_task(read_aiohttp())]
    try:
        await asyncio.wait_for(enough.wait(), PATIENCE_S)
    finally:
        curl.kill()
        await curl.wait()
        readers[1].cancel()
        await asyncio.wait(readers)
    assert all(by_curl[key] == by_aiohttp[key] for key in by_curl.keys() & by_aiohttp.keys())


async def test_examples_and_metrics_show_what_was_read(start_service: StartService, simulate: Simulate) -> None:
    log = SimulatedLog("log", kinds={"rfc6962"}, initial=10, seed=1)
    server = await simulate(log)
    service = await start_service(options_for(server.infos(), start="beginning"))
    async with service.listen() as client:
        log.grow(50)
        await client.until_index("log rfc6962", 59)
    for path, kind in (("/example.json", "certificate_update"), ("/domains-only/example.json", "dns_entries")):
        status, text = await service.get(path)
        assert status == 200
        assert json.loads(text)["message_type"] == kind
    full = json.loads((await service.get("/full-stream/example.json"))[1])["data"]
    assert full["leaf_cert"]["as_der"]
    _, metrics = await service.get("/metrics")
    assert 'certstream_log_entries_total{log="log rfc6962"} 60.0' in metrics
    assert 'certstream_log_position{log="log rfc6962"} 60.0' in metrics
    assert 'certstream_log_requests_total{log="log rfc6962",status="200"}' in metrics
    assert "certstream_event_loop_lag_seconds_count" in metrics


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (["--nonsense"], "unrecognized arguments: --nonsense"),
        (["--config"], "expected one argument"),
        (["--config", "missing.yaml"], "missing.yaml"),
    ],
)
def test_mistake_in_the_flags_is_one_line_and_exit_1(tmp_path: Path, flags: list[str], said: str) -> None:
    ended = subprocess.run(
        [sys.executable, "-m", "certstream", *flags], cwd=tmp_path, env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert ended.returncode == 1
    assert ended.stdout == ""
    assert said in ended.stderr
    assert len(ended.stderr.splitlines()) == 1
    assert not list(tmp_path.iterdir())
