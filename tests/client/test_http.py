from __future__ import annotations

import asyncio
import gzip
import os
import ssl
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from datetime import UTC, datetime, timedelta
from email.utils import formatdate
from ipaddress import ip_address
from pathlib import Path

import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer, unused_port
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import NameOID

from certstream.client.http import FetchSettings, HttpClient, parse_retry_after
from certstream.client.pacing import PaceSettings
from certstream.ct.types import LogInfo
from certstream.errors import FetchError, RateLimitedError
from certstream.metrics import Metrics
from tests.client.reading_support import FakeTime

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]
NOW_S = 1_800_000_000.0


def log_at(url: str, operator: str = "op") -> LogInfo:
    return LogInfo("Testlog", url, "rfc6962", operator)


@asynccontextmanager
async def served(handler: Handler) -> AsyncIterator[LogInfo]:
    app = web.Application()
    app.router.add_get("/{path:.*}", handler)
    async with TestServer(app) as server:
        yield log_at(str(server.make_url("/log/")))


@asynccontextmanager
async def client(**settings: float | str | PaceSettings) -> AsyncIterator[HttpClient]:
    time = FakeTime()
    time.offset_s = NOW_S - time.now_s
    async with HttpClient(FetchSettings(**settings), Metrics(), time.clock) as http:  # type: ignore[arg-type]
        yield http


async def failure(handler: Handler, *, cap_bytes: int = 1 << 20, **settings: float | str) -> FetchError:
    """What `get` raised; that it names the log and the URL holds for all."""
    async with served(handler) as log, client(**settings) as http:
        with pytest.raises(FetchError) as caught:
            await http.get(log, "ct/v1/get-sth", cap_bytes=cap_bytes)
        assert str(caught.value).startswith(f"Testlog: {log.base_url}/ct/v1/get-sth: ")
        assert caught.value.__cause__ is not None
        assert counted(http, caught.value.status) == 1
        return caught.value


def counted(http: HttpClient, status: str) -> float:
    labels = {"log": "Testlog", "status": status}
    return http.metrics.registry.get_sample_value("certstream_log_requests_total", labels) or 0.0


def answering(**answer: object) -> Handler:
    async def handler(request: web.Request) -> web.StreamResponse:
        return web.Response(**answer)  # type: ignore[arg-type]

    return handler


async def test_requests_carry_the_contact_and_ask_for_gzip_on_one_connection() -> None:
    seen: list[tuple[str, str, str, object]] = []

    async def handler(request: web.Request) -> web.StreamResponse:
        assert request.transport is not None
        peer = request.transport.get_extra_info("peername")
        seen.append((request.path, request.headers["User-Agent"], request.headers["Accept-Encoding"], peer))
        return web.Response(body=b"ok")

    async with served(handler) as log, client(user_agent="reader/1 (+mailto:ops@example.org)") as http:
        for _ in range(3):
            assert await http.get(log, "checkpoint") == b"ok"
        assert counted(http, "200") == 3
    assert len(set(seen)) == 1
    assert seen[0][:3] == ("/log/checkpoint", "reader/1 (+mailto:ops@example.org)", "gzip")


async def test_the_default_user_agent_names_version_and_contact() -> None:
    assert "certstream-server/" in FetchSettings().user_agent
    assert "https://" in FetchSettings().user_agent


async def test_a_packed_body_is_inflated_up_to_its_cap() -> None:
    packed = answering(body=gzip.compress(bytes(5000)), headers={"Content-Encoding": "gzip"})
    async with served(packed) as log, client() as http:
        assert await http.get(log, "tile/data/000", cap_bytes=5000) == bytes(5000)
    assert (await failure(packed, cap_bytes=4999)).status == "too_large"


async def test_a_body_too_large_is_not_read() -> None:
    assert (await failure(answering(body=bytes(5001)), cap_bytes=5000)).status == "too_large"

    async def endless(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse()
        await response.prepare(request)
        with suppress(OSError):
            while True:
                await response.write(bytes(1 << 16))
        return response

    assert (await failure(endless, cap_bytes=1 << 20)).status == "too_large"


async def test_a_status_names_itself_and_what_came_with_it() -> None:
    error = await failure(answering(status=400, text="need tree size: 5000\x1b[31m\n\nof  me"))
    assert error.status == "400"
    assert str(error).endswith(": 400 need tree size: 5000 [31m of me")
    for status in (204, 403, 404, 500, 503):
        assert (await failure(answering(status=status))).status == str(status)


@pytest.mark.parametrize("status", [204, 304])
async def test_answers_that_have_no_body_may_come_again_and_again(status: int) -> None:
    async with served(answering(status=status)) as log, client() as http:
        for _ in range(3):
            with pytest.raises(FetchError) as caught:
                await http.get(log, "checkpoint")
            assert (caught.value.status, counted(http, str(status)) > 0) == (str(status), True)


@pytest.mark.parametrize(
    ("header", "seconds"),
    [
        (None, None),
        ("120", 120.0),
        (formatdate(NOW_S + 90, usegmt=True), 90.0),
        (formatdate(NOW_S - 90, usegmt=True), None),
        ("0", None),
        ("soon", None),
        ("-5", None),
        ("1e3", None),
        ("٣", None),
        ("Fri, 99 Foo 2026 00:00:00 GMT", None),
    ],
)
async def test_429_is_rate_limiting_with_retry_after_in_both_forms(header: str | None, seconds: float | None) -> None:
    if header is None or header.isascii():
        headers = {} if header is None else {"Retry-After": header}
        error = await failure(answering(status=429, headers={"Date": "today", **headers}))
        assert isinstance(error, RateLimitedError)
        assert error.retry_after_s == seconds
    assert parse_retry_after(header, NOW_S) == seconds


@pytest.mark.parametrize("server_s", [NOW_S - 86_400, NOW_S + 86_400])
async def test_a_date_to_wait_for_is_one_of_the_servers_clock(server_s: float) -> None:
    asked = {"Date": formatdate(server_s), "Retry-After": formatdate(server_s + 90)}
    assert vars(await failure(answering(status=429, headers=asked)))["retry_after_s"] == 90


async def test_a_429_holds_the_operator_and_a_later_request_waits_it_out() -> None:
    answers = [web.Response(status=429, headers={"Retry-After": "120"}), web.Response(body=b"ok")]

    async def handler(request: web.Request) -> web.StreamResponse:
        return answers.pop(0)

    async with served(handler) as log, client() as http:
        with pytest.raises(RateLimitedError):
            await http.get(log, "a")
        assert http.pacing.of("op").paused_s == pytest.approx(120)
        assert http.pacing.of("another").paused_s == 0
        before = http.clock.monotonic()
        assert await http.get(log, "b") == b"ok"
        assert http.clock.monotonic() - before >= 120


@pytest.mark.parametrize(
    ("answer", "status"),
    [
        ({"status": 500}, "500"),
        ({"status": 404}, "404"),
        ({"body": b"\x1f\x8bgarbage"}, "body"),
        ({"body": bytes(5000)}, "too_large"),
        ({"status": 302, "headers": {"Location": "/log/a"}}, "redirect"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
async def test_an_operator_that_answers_otherwise_than_429_is_no_longer_slowed(
    answer: dict[str, object], status: str
) -> None:
    answers = [answering(status=429)] + [answering(**answer)] * 200

    async def handler(request: web.Request) -> web.StreamResponse:
        return await answers.pop(0)(request)

    async with served(handler) as log, client(pace=PaceSettings(sporadic=0)) as http:
        pacer = http.pacing.of("op")
        with pytest.raises(RateLimitedError):
            await http.get(log, "a")
        assert pacer.rate_per_s == 0.5
        for _ in range(30):
            with pytest.raises(FetchError) as caught:
                await http.get(log, "a", cap_bytes=4000)
            assert caught.value.status == status
        assert (pacer.rate_per_s or 100) > 0.5


async def test_an_operator_that_does_not_answer_stays_slowed() -> None:
    first = True

    async def handler(request: web.Request) -> web.StreamResponse:
        nonlocal first
        if first:
            first = False
            return web.Response(status=429)
        assert request.transport is not None
        request.transport.close()
        return web.Response()

    async with served(handler) as log, client(pace=PaceSettings(sporadic=0)) as http:
        with pytest.raises(RateLimitedError):
            await http.get(log, "a")
        for _ in range(30):
            with pytest.raises(FetchError) as caught:
                await http.get(log, "a")
            assert caught.value.status == "connection"
        assert http.pacing.of("op").rate_per_s == 0.5


async def test_a_log_that_nobody_listens_for_is_named() -> None:
    async with client() as http:
        log = log_at(f"http://127.0.0.1:{unused_port()}")
        with pytest.raises(
            FetchError, match=r"Testlog: http://127\.0\.0\.1:.* not reached: .*Cannot connect"
        ) as caught:
            await http.get(log, "checkpoint")
    assert caught.value.status == "connection"


async def test_a_host_that_does_not_exist_is_named() -> None:
    async with client() as http:
        with pytest.raises(FetchError, match=r"Testlog: https://log\.invalid/checkpoint: not reached") as caught:
            await http.get(log_at("https://log.invalid"), "checkpoint")
    assert caught.value.status == "connection"


async def test_a_connection_cut_in_the_body_is_a_broken_body() -> None:
    async def handler(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse(headers={"Content-Length": "1000"})
        await response.prepare(request)
        await response.write(bytes(10))
        assert request.transport is not None
        request.transport.close()
        return response

    assert (await failure(handler)).status == "body"


@pytest.mark.parametrize("setting", ["stall_timeout_s", "request_timeout_s"])
async def test_a_stall_ends_by_itself(setting: str) -> None:
    over = asyncio.Event()

    async def handler(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse(headers={"Content-Length": "1000"})
        await response.prepare(request)
        await response.write(bytes(10))
        await over.wait()
        return response

    async with served(handler) as log, client(**{setting: 0.05}) as http:
        with pytest.raises(FetchError) as caught:
            await http.get(log, "checkpoint")
        over.set()
    assert caught.value.status == "timeout"


async def test_redirects_are_followed_but_not_in_circles() -> None:
    async def handler(request: web.Request) -> web.StreamResponse:
        if request.path.endswith("get-sth"):
            raise web.HTTPFound("/elsewhere")
        return web.Response(body=b"there")

    async def circle(request: web.Request) -> web.StreamResponse:
        raise web.HTTPFound(request.path)

    async with served(handler) as log, client() as http:
        assert await http.get(log, "ct/v1/get-sth") == b"there"
    assert (await failure(circle)).status == "redirect"


async def test_a_certificate_that_does_not_verify_is_refused(tmp_path: Path) -> None:
    app = web.Application()
    app.router.add_get("/checkpoint", answering(body=b"never seen"))
    async with served_by_tls(app, self_signed(tmp_path)) as server, client() as http:
        with pytest.raises(FetchError, match="CERTIFICATE_VERIFY_FAILED") as caught:
            await http.get(log_at(str(server.make_url("/"))), "checkpoint")
    assert caught.value.status == "connection"


_TRUSTING_CLIENT = """
import asyncio, sys
from certstream.client.http import FetchSettings, HttpClient
from certstream.ct.types import LogInfo
from certstream.errors import FetchError
from certstream.metrics import Metrics

async def main():
    async with HttpClient(FetchSettings(), Metrics()) as http:
        log = LogInfo("Testlog", sys.argv[1], "static", "op")
        print((await http.get(log, "checkpoint")).decode())
        try:
            await http.get(log, "downgraded")
        except FetchError as error:
            print(error.status)

asyncio.run(main())
"""


async def test_a_redirect_from_tls_to_plain_http_is_refused(tmp_path: Path) -> None:
    context = self_signed(tmp_path)  # trusted by a process of its own: the trust store is read at import
    app, plain = web.Application(), web.Application()
    plain.router.add_get("/", answering(body=b"never seen"))
    app.router.add_get("/checkpoint", answering(text="secure"))
    async with TestServer(plain) as elsewhere:
        app.router.add_get("/downgraded", answering(status=302, headers={"Location": str(elsewhere.make_url("/"))}))
        async with served_by_tls(app, context) as server:
            output = await run_client(str(server.make_url("/")), tmp_path / "cert.pem")
    assert output.split() == [b"secure", b"redirect"]


async def run_client(url: str, trusted: Path) -> bytes:
    """Output of a client in a process of its own that trusts one certificate."""
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-c",
        _TRUSTING_CLIENT,
        url,
        stdout=asyncio.subprocess.PIPE,
        env=os.environ | {"SSL_CERT_FILE": str(trusted)},
    )
    return (await process.communicate())[0]


@asynccontextmanager
async def served_by_tls(app: web.Application, context: ssl.SSLContext) -> AsyncIterator[TestServer]:
    server = TestServer(app)
    await server.start_server(ssl=context)
    try:
        yield server
    finally:
        await server.close()


async def test_a_proxy_of_the_environment_is_used_unless_it_is_excluded(monkeypatch: pytest.MonkeyPatch) -> None:
    async def proxy(request: web.Request) -> web.StreamResponse:
        return web.Response(text=f"proxied {request.headers['Host']}")

    async with served(proxy) as proxy_log:
        monkeypatch.setenv("http_proxy", proxy_log.base_url)
        monkeypatch.setenv("no_proxy", "127.0.0.1")
        async with served(answering(text="direct")) as log, client() as http:
            assert await http.get(log_at("http://ct.example.test"), "checkpoint") == b"proxied ct.example.test"
            assert await http.get(log, "checkpoint") == b"direct"


async def test_no_request_goes_out_after_the_client_is_closed() -> None:
    async with served(answering(body=b"ok")) as log:
        async with client() as http:
            await http.get(log, "checkpoint")
        with pytest.raises(RuntimeError, match="not open"):
            await http.get(log, "checkpoint")


def self_signed(directory: Path) -> ssl.SSLContext:
    """A server's context with a new certificate for 127.0.0.1, also left as `cert.pem`."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "127.0.0.1")])
    now = datetime.now(UTC)
    certificate = (
        x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number())
        .not_valid_before(now - timedelta(hours=1))
        .not_valid_after(now + timedelta(hours=1))
        .add_extension(x509.SubjectAlternativeName([x509.IPAddress(ip_address("127.0.0.1"))]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    (directory / "cert.pem").write_bytes(certificate.public_bytes(Encoding.PEM))
    (directory / "key.pem").write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(directory / "cert.pem", directory / "key.pem")
    return context
