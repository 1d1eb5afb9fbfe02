"""TLS: streams over it, a certificate that is replaced, and pairs that cannot be used."""

from __future__ import annotations

import asyncio
import ssl
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import cast

import aiohttp
import pytest
from structlog.testing import capture_logs

from certstream.errors import ConfigError
from certstream.metrics import Metrics
from certstream.serve.access import AccessSettings
from certstream.serve.health import assess
from certstream.serve.listener import Address
from certstream.serve.options import ServeOptions
from certstream.serve.server import StreamServer
from certstream.serve.tls import TlsCertificate, TlsFiles
from certstream.stream.hub import Hub
from tests.serve.access_support import ask, url, with_tokens
from tests.serve.tls_support import make_pair, replace

Serve = Callable[..., Awaitable[StreamServer]]

FIRST, SECOND = make_pair("first"), make_pair("second")


@pytest.fixture
def files(tmp_path: Path) -> TlsFiles:
    files = TlsFiles(tmp_path / "cert.pem", tmp_path / "key.pem")
    FIRST.write(files)
    return files


def any_certificate(maximum: ssl.TLSVersion = ssl.TLSVersion.TLSv1_3) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    context.maximum_version = maximum
    return context


@pytest.fixture
async def https() -> AsyncIterator[aiohttp.ClientSession]:
    connector = aiohttp.TCPConnector(ssl=any_certificate(), force_close=True)
    async with aiohttp.ClientSession(connector=connector) as session:
        yield session


def secure(server: StreamServer, path: str = "/") -> str:
    return f"https://127.0.0.1:{server.port}{path}"


def handshake(context: ssl.SSLContext, *, client: ssl.SSLContext | None = None, name: str | None = None) -> bytes:
    """Shake hands in memory, and return the certificate that the server showed."""
    to_server, to_client = ssl.MemoryBIO(), ssl.MemoryBIO()
    server = context.wrap_bio(to_server, to_client, server_side=True)
    asking = (client or any_certificate()).wrap_bio(to_client, to_server, server_hostname=name)
    sides = [asking, server]
    for side in [*sides * 3]:
        try:
            side.do_handshake()
        except ssl.SSLWantReadError:
            continue
    return asking.getpeercert(binary_form=True) or b""


async def test_streams_and_pages_are_served_over_tls(
    serve: Serve, hub: Hub, https: aiohttp.ClientSession, files: TlsFiles
) -> None:
    server = await serve(ServeOptions(tls=files))
    messages = [b"x" * size for size in (0, 125, 65_536, 1 << 20)]
    async with https.ws_connect(secure(server), max_msg_size=0) as client, https.get(secure(server, "/sse")) as events:
        hub.publish("lite", messages)
        async with asyncio.timeout(10):
            for message in messages:
                assert await client.receive_str() == message.decode()
            assert await events.content.readexactly(8) == b"data: \n\n"
        async with https.get(secure(server)) as about:
            assert "wss://" in await about.text()
    with pytest.raises(aiohttp.ClientError):
        await ask(https, url(server))  # HTTP where TLS is spoken


async def test_tokens_are_asked_for_over_tls_too(serve: Serve, https: aiohttp.ClientSession, files: TlsFiles) -> None:
    server = await serve(ServeOptions(tls=files))
    server.apply(with_tokens())
    assert (await ask(https, secure(server, "/sse"))).status == 401
    server.apply(AccessSettings())
    assert (await ask(https, secure(server, "/sse"))).status == 200


@pytest.mark.parametrize("monitoring_tls", [False, True])
async def test_the_second_address_speaks_tls_where_that_is_said(
    serve: Serve, https: aiohttp.ClientSession, files: TlsFiles, monitoring_tls: bool
) -> None:
    address = Address("127.0.0.1", 0)
    server = await serve(ServeOptions(tls=files, monitoring=address, monitoring_tls=monitoring_tls))
    scheme = "https" if monitoring_tls else "http"
    assert (await ask(https, f"{scheme}://127.0.0.1:{server.monitoring_port}/metrics")).status == 200


def test_tls_1_2_and_1_3_are_spoken_and_nothing_older(files: TlsFiles) -> None:
    context = TlsCertificate(files).context
    for version in (ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3):
        assert handshake(context, client=any_certificate(version)) == FIRST.der
    assert context.minimum_version == ssl.TLSVersion.TLSv1_2


async def test_a_new_certificate_is_for_new_connections_and_old_ones_go_on(
    serve: Serve, hub: Hub, https: aiohttp.ClientSession, files: TlsFiles
) -> None:
    server = await serve(ServeOptions(tls=files, tls_poll_s=0.01))
    async with https.ws_connect(secure(server)) as client:
        assert await shown(server) == FIRST.der
        SECOND.write(files)
        async with asyncio.timeout(10):
            while await shown(server) != SECOND.der:  # noqa: ASYNC110 - the thread that looks tells nobody
                await asyncio.sleep(0.01)
            hub.publish("lite", [b"{}"])
            assert await client.receive_str() == "{}"


async def shown(server: StreamServer) -> bytes:
    """The certificate that a new connection gets."""
    _, writer = await asyncio.open_connection("127.0.0.1", server.port, ssl=any_certificate())
    der: bytes = writer.get_extra_info("ssl_object").getpeercert(binary_form=True)
    writer.close()
    await writer.wait_closed()
    return der


async def silent_clients(server: StreamServer, count: int) -> list[asyncio.StreamWriter]:
    """Clients of /sse that read no more than the head."""
    writers = []
    for _ in range(count):
        reader, writer = await asyncio.open_connection("127.0.0.1", server.port, ssl=any_certificate(), limit=1024)
        writer.write(b"GET /sse HTTP/1.1\r\nHost: x\r\n\r\n")
        assert b" 200 " in await reader.readline()
        cast("asyncio.ReadTransport", writer.transport).pause_reading()
        writers.append(writer)
    return writers


async def test_shutdown_ends_within_two_seconds_with_tls_clients_that_do_not_read(
    serve: Serve, hub: Hub, files: TlsFiles
) -> None:
    server = await serve(ServeOptions(tls=files))
    writers = await silent_clients(server, 3)
    while not hub.held_bytes():
        hub.publish("lite", [b"x" * 60_000])
        hub.flush()
        await asyncio.sleep(0)
    started = time.monotonic()
    await server.close()
    assert time.monotonic() - started < 2
    assert hub.clients() == 0
    for writer in writers:
        writer.transport.abort()


async def test_a_slow_reader_over_tls_is_dropped_while_another_reads_everything(
    serve: Serve, hub: Hub, https: aiohttp.ClientSession, files: TlsFiles
) -> None:
    server = await serve(ServeOptions(tls=files))
    (slow,) = await silent_clients(server, 1)
    async with https.ws_connect(secure(server)) as client:
        count = 0
        while hub.clients() == 2:
            message = b"%d:" % count + b"x" * 60_000
            hub.publish("lite", [message])
            async with asyncio.timeout(10):
                assert await client.receive_str() == message.decode()
            count += 1
            assert count < 1_000
        assert hub.held_bytes() == 0
    slow.transport.abort()


def looks(certificate: TlsCertificate, count: int = 2) -> None:
    for _ in range(count):
        certificate.check()


@pytest.mark.parametrize("name", [None, "stream.example"])
def test_a_change_is_taken_up_when_it_is_at_rest(files: TlsFiles, name: str | None) -> None:
    certificate = TlsCertificate(files)
    replace(files.certificate, SECOND.certificate_pem())
    certificate.check()
    replace(files.key, SECOND.key_pem())
    with capture_logs() as logs:
        certificate.check()
        assert handshake(certificate.context, name=name) == FIRST.der
        certificate.check()
    assert handshake(certificate.context, name=name) == SECOND.der
    assert [entry["event"] for entry in logs] == ["TLS certificate read again"]


def test_files_written_in_place_or_by_another_link_are_seen(files: TlsFiles, tmp_path: Path) -> None:
    live = TlsFiles(tmp_path / "live.pem", tmp_path / "live-key.pem")
    live.certificate.symlink_to(files.certificate)
    live.key.symlink_to(files.key)
    certificate = TlsCertificate(live)
    files.certificate.write_bytes(SECOND.certificate_pem())
    files.key.write_bytes(SECOND.key_pem())
    looks(certificate)
    assert handshake(certificate.context) == SECOND.der
    other = TlsFiles(tmp_path / "other.pem", tmp_path / "other-key.pem")
    FIRST.write(other)
    for link, target in ((live.certificate, other.certificate), (live.key, other.key)):
        link.unlink()
        link.symlink_to(target)
    looks(certificate)
    assert handshake(certificate.context) == FIRST.der


@pytest.mark.parametrize("broken", ["mismatch", "garbage", "gone"])
def test_a_broken_pair_is_told_once_and_the_old_one_stays_until_it_is_mended(files: TlsFiles, broken: str) -> None:
    certificate = TlsCertificate(files)
    if broken == "mismatch":
        replace(files.certificate, SECOND.certificate_pem())
    elif broken == "garbage":
        replace(files.key, b"nothing")
    else:
        files.certificate.unlink()
    with capture_logs() as logs:
        looks(certificate, 5)
    (entry,) = logs
    assert entry["log_level"] == "warning"
    assert str(files.certificate) in entry["reason"]
    assert handshake(certificate.context) == FIRST.der
    SECOND.write(files)
    looks(certificate)
    assert handshake(certificate.context) == SECOND.der


def _encrypted(files: TlsFiles) -> None:
    files.key.write_bytes(FIRST.key_pem(b"password"))


def _mismatched(files: TlsFiles) -> None:
    files.key.write_bytes(SECOND.key_pem())


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (lambda files: files.certificate.unlink(), "tls_cert: {cert}: cannot be read: No such file or directory"),
        (lambda files: files.key.unlink(), "tls_key: {key}: cannot be read: No such file or directory"),
        (_mismatched, "tls_key: {key}: is not the key of the certificate in {cert}"),
        (_encrypted, "tls_key: {key}: is encrypted; it must not be"),
        (lambda files: files.key.write_bytes(b""), "tls_cert: {cert}, tls_key: {key}: cannot be used: "),
        (lambda files: files.certificate.write_bytes(b"x"), "tls_cert: {cert}, tls_key: {key}: cannot be used: "),
    ],
)
async def test_a_pair_that_cannot_be_used_stops_the_start_and_says_why(
    files: TlsFiles, spoil: Callable[[TlsFiles], None], said: str
) -> None:
    spoil(files)
    metrics = Metrics()
    server = StreamServer(
        Hub(metrics),
        lambda: assess([], version="1", uptime_s=0),
        metrics,
        "127.0.0.1",
        0,
        options=ServeOptions(tls=files),
    )
    with pytest.raises(ConfigError) as caught:
        await server.start()
    (mistake,) = caught.value.mistakes
    assert mistake.startswith(said.format(cert=files.certificate, key=files.key))
    assert server.port == 0
    await server.close()
