"""Servers that a test moves by hand, and what goes wrong between them and a client."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import json
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from http import HTTPStatus
from pathlib import Path
from typing import Any, Final, Self

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from websockets.asyncio.server import Server, ServerConnection, serve
from websockets.datastructures import Headers
from websockets.http11 import Request, Response

PATIENCE_S: Final = 20.0
HEARTBEAT: Final = {"message_type": "heartbeat", "timestamp": 1.5}


def update(name: str, index: int = 0) -> dict[str, Any]:
    """A message as short as one can be."""
    leaf = {"subject": {"CN": name, "aggregated": f"/CN={name}"}, "all_domains": [name]}
    data = {"leaf_cert": leaf, "cert_index": index, "seen": 1_700_000_000.25, "source": {"name": "Log", "url": "u"}}
    return {"message_type": "certificate_update", "data": data}


class ManualServer:
    """Takes connections, or refuses them; what goes over one is up to the test."""

    def __init__(self, tls: ssl.SSLContext | None = None, compression: str | None = "deflate") -> None:
        self.refusal: tuple[int, dict[str, str]] | None = None  # status and headers
        self.moved: dict[str, str] = {}  # path to where it is now
        self.requests: list[Request] = []
        self._tls = tls
        self._compression = compression
        self._server: Server | None = None
        self._connections: asyncio.Queue[ServerConnection] = asyncio.Queue()
        self.port = 0

    @property
    def url(self) -> str:
        return f"{'wss' if self._tls else 'ws'}://localhost:{self.port}/"

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.stop()

    async def start(self) -> None:
        """Listen, after the first time on the same port."""
        self._server = await serve(
            self._handle,
            "127.0.0.1",
            self.port,
            process_request=self._answer,
            ssl=self._tls,
            compression=self._compression,
        )
        self.port = next(iter(self._server.sockets)).getsockname()[1]

    async def stop(self) -> None:
        """Close every connection with 1001, as a server that is stopped does."""
        if self._server is not None:
            self._server.close()
            await self._server.wait_closed()

    async def connection(self) -> ServerConnection:
        """The next client."""
        async with asyncio.timeout(PATIENCE_S):
            return await self._connections.get()

    def _answer(self, _connection: ServerConnection, request: Request) -> Response | None:
        self.requests.append(request)
        if request.path in self.moved:
            status, headers = 302, {"Location": self.moved[request.path]}
        elif self.refusal is not None:
            status, headers = self.refusal
        else:
            return None
        return Response(status, HTTPStatus(status).phrase, Headers({"Content-Length": "0", **headers}), b"")

    async def _handle(self, connection: ServerConnection) -> None:
        self._connections.put_nowait(connection)
        await connection.wait_closed()


async def send(connection: ServerConnection, *messages: dict[str, Any]) -> None:
    for message in messages:
        await connection.send(json.dumps(message))


def tls_files(directory: Path) -> tuple[ssl.SSLContext, Path]:
    """A server's context, and the file of the certificate that a client has to trust for it."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "localhost")])
    now = datetime.now(UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(days=1))
        .not_valid_after(now + timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName("localhost")]), critical=False)
        .sign(key, hashes.SHA256())
    )
    file, key_file = directory / "certificate.pem", directory / "key.pem"
    file.write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
    key_file.write_bytes(
        key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    )
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(file, key_file)
    return context, file


class Proxy:
    """An HTTP proxy that tunnels and forwards, and keeps the heads of the requests."""

    def __init__(self) -> None:
        self.heads: list[str] = []
        self.port = 0


@asynccontextmanager
async def http_proxy() -> AsyncIterator[Proxy]:
    proxy = Proxy()
    tasks: set[asyncio.Task[None]] = set()

    async def copy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while data := await reader.read(65536):
                writer.write(data)
                await writer.drain()
        except ConnectionError:
            pass
        finally:
            writer.close()

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = (await reader.readuntil(b"\r\n\r\n")).decode()
        proxy.heads.append(head)
        method, target, _ = head.split(" ", 2)
        host, port = target.removeprefix("http://").removeprefix("ws://").partition("/")[0].split(":")
        up_reader, up_writer = await asyncio.open_connection(host, int(port))
        if method == "CONNECT":
            writer.write(b"HTTP/1.1 200 OK\r\n\r\n")
        else:
            up_writer.write(head.encode())
        tasks.add(asyncio.create_task(copy(up_reader, writer)))
        await copy(reader, up_writer)

    server = await asyncio.start_server(handle, "127.0.0.1", 0)
    proxy.port = server.sockets[0].getsockname()[1]
    try:
        yield proxy
    finally:
        server.close()
        async with asyncio.timeout(PATIENCE_S):
            await asyncio.gather(*tasks)


@asynccontextmanager
async def raw_server(answers_pings: bool) -> AsyncIterator[str]:
    """A server that speaks just enough WebSocket: the URL. After three pings it sends `{}`, if it answers them."""

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = (await reader.readuntil(b"\r\n\r\n")).decode()
        key = next(line.split(": ")[1] for line in head.split("\r\n") if line.lower().startswith("sec-websocket-key"))
        digest = hashlib.sha1(f"{key}258EAFA5-E914-47DA-95CA-C5AB0DC85B11".encode()).digest()
        accept = base64.b64encode(digest).decode()
        writer.write(
            b"HTTP/1.1 101 x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
            + f"Sec-WebSocket-Accept: {accept}\r\n\r\n".encode()
        )
        pings = 0
        while first := await reader.read(1):
            size = (await reader.readexactly(1))[0] & 0x7F
            await reader.readexactly(4 + size)
            if first == b"\x89" and answers_pings:
                pings += 1
                writer.write(b"\x8a\x00" + (b"\x81\x02{}" if pings == 3 else b""))
            elif first == b"\x88":
                break
        writer.close()

    server = await asyncio.start_server(handle, "127.0.0.1", 0)
    try:
        yield f"ws://127.0.0.1:{server.sockets[0].getsockname()[1]}/"
    finally:
        server.close()
        await server.wait_closed()
