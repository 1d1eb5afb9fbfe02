"""`certstream --healthcheck`: what it asks, what it prints, and with which exit code."""

from __future__ import annotations

import asyncio
import os
import socket
import ssl
import subprocess
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, closing
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from certstream.config import Config
from certstream.errors import ConfigError
from certstream.healthcheck import healthcheck, target
from certstream.metrics import Metrics
from certstream.serve.health import DeepHealth, assess
from certstream.serve.options import ServeOptions
from certstream.serve.server import StreamServer
from certstream.stream.hub import Hub

ROOT = Path(__file__).parent.parent
TLS = {"tls_cert": "cert.pem", "tls_key": "key.pem"}


def configured(**options: Any) -> Config:
    return Config.model_validate({"host": "127.0.0.1", **options})


def unhealthy_logs() -> DeepHealth:
    return assess([], version="1", uptime_s=1.0)


@asynccontextmanager
async def serving(**options: Any) -> AsyncIterator[int]:
    """Serve on a free port, and tell it."""
    metrics = Metrics("1")
    hub = Hub(metrics, client_backlog_bytes=1 << 20, total_backlog_bytes=1 << 20)
    async with StreamServer(hub, unhealthy_logs, metrics, "127.0.0.1", 0, options=ServeOptions(**options)) as server:
        yield server.port


@asynccontextmanager
async def answering(
    handle: Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]], tls: ssl.SSLContext | None = None
) -> AsyncIterator[int]:
    """Another program on a free port."""
    async with await asyncio.start_server(handle, "127.0.0.1", 0, ssl=tls) as server:
        yield server.sockets[0].getsockname()[1]


def says(*lines: str) -> Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]:
    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write("".join(f"{line}\r\n" for line in (*lines, "Content-Length: 0", "")).encode())
        await writer.drain()
        writer.close()

    return handle


@pytest.fixture
def silent_port() -> Iterator[int]:
    """One that takes connections and never says a word, as a process does whose loop hangs."""
    with closing(socket.create_server(("127.0.0.1", 0))) as listener:
        yield listener.getsockname()[1]


@pytest.fixture
def free_port() -> int:
    with closing(socket.create_server(("127.0.0.1", 0))) as listener:
        port: int = listener.getsockname()[1]
    return port


@pytest.mark.parametrize(
    ("options", "url"),
    [
        ({"host": "0.0.0.0"}, "http://127.0.0.1:8080/health"),
        ({"host": "::", "port": 9000}, "http://[::1]:9000/health"),
        ({"host": "fd00::7"}, "http://[fd00::7]:8080/health"),
        ({"host": "ct.example.org"}, "http://ct.example.org:8080/health"),
        ({"protocols": {"health": False}}, "http://127.0.0.1:8080/"),
        ({"monitoring": {"port": 9100}}, "http://127.0.0.1:9100/health"),
        ({"monitoring": {"port": 9100, "host": "::"}}, "http://[::1]:9100/health"),
        ({"monitoring": {"port": 9100}, "protocols": {"health": False}}, "http://127.0.0.1:8080/"),
        (TLS, "https://127.0.0.1:8080/health"),
        ({**TLS, "monitoring": {"port": 9100}}, "http://127.0.0.1:9100/health"),
        ({**TLS, "monitoring": {"port": 9100, "tls": True}}, "https://127.0.0.1:9100/health"),
    ],
)
def test_it_asks_where_the_configured_service_answers(options: dict[str, Any], url: str) -> None:
    assert target(configured(**options)).url == url


@pytest.mark.parametrize(("options", "name"), [({"port": 0}, "port"), ({"monitoring": {"port": 0}}, "monitoring.port")])
def test_a_port_that_only_the_running_service_knows_is_a_mistake(options: dict[str, Any], name: str) -> None:
    with pytest.raises(ConfigError, match=f"^{name}: 0 is whichever was free"):
        target(configured(**options))


@pytest.mark.parametrize(("status", "code"), [(200, 0), (401, 0), (429, 0), (404, 1), (500, 1), (503, 1)])
async def test_who_is_refused_by_a_living_service_knows_that_it_lives(status: int, code: int) -> None:
    async with answering(says(f"HTTP/1.1 {status} So")) as port:
        assert await asyncio.to_thread(healthcheck, configured(port=port)) == code


async def test_a_service_that_answers_is_alive_whatever_its_logs_do(capsys: pytest.CaptureFixture[str]) -> None:
    async with serving() as port:
        assert await asyncio.to_thread(healthcheck, configured(port=port)) == 0
    assert capsys.readouterr().out == f"healthy: http://127.0.0.1:{port}/health answers 200\n"


async def test_without_the_health_page_any_answer_is_alive(capsys: pytest.CaptureFixture[str]) -> None:
    async with serving(health=False) as port:
        config = configured(port=port, protocols={"health": False})
        assert await asyncio.to_thread(healthcheck, config) == 0
        assert await asyncio.to_thread(healthcheck, configured(port=port)) == 1
    assert capsys.readouterr().out.splitlines() == [
        f"healthy: http://127.0.0.1:{port}/ answers 200",
        f"unhealthy: http://127.0.0.1:{port}/health: status 404",
    ]


def test_nobody_there_is_not_alive(free_port: int, capsys: pytest.CaptureFixture[str]) -> None:
    assert healthcheck(configured(port=free_port)) == 1
    assert capsys.readouterr().out == f"unhealthy: http://127.0.0.1:{free_port}/health: Connection refused\n"


def test_a_service_that_hangs_is_not_alive(silent_port: int, capsys: pytest.CaptureFixture[str]) -> None:
    assert healthcheck(configured(port=silent_port), timeout_s=0.2) == 1
    assert capsys.readouterr().out == f"unhealthy: http://127.0.0.1:{silent_port}/health: no answer within 0.2 s\n"


async def test_what_speaks_no_http_is_not_alive(capsys: pytest.CaptureFixture[str]) -> None:
    async with answering(says("SSH-2.0-OpenSSH_9.2")) as port:
        assert await asyncio.to_thread(healthcheck, configured(port=port)) == 1
    assert capsys.readouterr().out == f"unhealthy: http://127.0.0.1:{port}/health: no HTTP answer (BadStatusLine)\n"


def self_signed(directory: Path) -> ssl.SSLContext:
    """What serves TLS for a name that is not the address asked."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "ct.example.org")])
    now = datetime.now(UTC)
    certificate = (
        x509.CertificateBuilder(name, name, key.public_key(), 1, now - timedelta(hours=1), now + timedelta(hours=1))
    ).sign(key, hashes.SHA256())
    pem = serialization.Encoding.PEM
    (directory / "cert.pem").write_bytes(certificate.public_bytes(pem))
    (directory / "key.pem").write_bytes(
        key.private_bytes(pem, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    )
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(directory / "cert.pem", directory / "key.pem")
    return context


async def test_a_service_with_tls_is_asked_over_tls_whatever_its_certificates_name(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    async with answering(says("HTTP/1.1 200 OK"), self_signed(tmp_path)) as port:
        config = configured(port=port, **TLS)
        assert await asyncio.to_thread(healthcheck, config) == 0
    assert capsys.readouterr().out == f"healthy: https://127.0.0.1:{port}/health answers 200\n"


async def test_a_service_without_tls_is_not_the_one_that_is_configured(capsys: pytest.CaptureFixture[str]) -> None:
    async with serving() as port:
        config = configured(port=port, **TLS)
        assert await asyncio.to_thread(healthcheck, config) == 1
    said = capsys.readouterr().out
    assert said.startswith(f"unhealthy: https://127.0.0.1:{port}/health: [SSL")
    assert len(said.splitlines()) == 1


def run(*flags: str, code: str | None = None, **environ: str) -> subprocess.CompletedProcess[str]:
    clean = {name: value for name, value in os.environ.items() if not name.startswith(("CERTSTREAM_", "RUST_LOG"))}
    command = [sys.executable, *(["-m", "certstream"] if code is None else ["-c", code]), *flags]
    return subprocess.run(
        command, env={**clean, **environ}, cwd=ROOT, capture_output=True, text=True, check=False, timeout=60
    )


async def test_the_program_reads_the_services_configuration_and_says_one_line() -> None:
    async with serving() as port:
        settings = {"CERTSTREAM_HOST": "127.0.0.1", "CERTSTREAM_PORT": str(port)}
        done = await asyncio.to_thread(run, "--healthcheck", **settings)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == f"healthy: http://127.0.0.1:{port}/health answers 200\n"
    done = await asyncio.to_thread(run, "--healthcheck", **settings)
    assert (done.returncode, done.stderr) == (1, "")
    assert done.stdout == f"unhealthy: http://127.0.0.1:{port}/health: Connection refused\n"


def test_a_mistaken_configuration_is_not_alive() -> None:
    done = run("--healthcheck", CERTSTREAM_PORT="99999")
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == "port: 99999 is not allowed, must be an integer from 0 to 65535 [CERTSTREAM_PORT]\n"


_HEAVY = """
import sys
HEAVY = {"aiohttp", "deltalake", "prometheus_client", "pyarrow", "structlog", "uvloop"}
from certstream.cli import main
code = main(["--healthcheck"])
print(*sorted(HEAVY & {*sys.modules}))
"""


def test_it_loads_nothing_of_the_service(free_port: int) -> None:
    done = run(code=_HEAVY, CERTSTREAM_PORT=str(free_port))
    assert done.stdout.splitlines()[1:] == [""], done.stderr
