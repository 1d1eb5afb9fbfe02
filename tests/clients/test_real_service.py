"""The clients of the package against the real service: every stream, heartbeats, tokens, a restart."""

from __future__ import annotations

import asyncio
import itertools
import threading
from contextlib import aclosing
from pathlib import Path
from typing import Any

import pytest

import certstream
from certstream.subscribe.options import StreamKind, stream_url
from tests.e2e.e2e_support import PATIENCE_S, Service

LEAF = {"subject", "issuer", "serial_number", "not_before", "not_after", "fingerprint", "sha1", "sha256",
        "signature_algorithm", "is_ca", "all_domains", "extensions"}  # fmt: skip
DATA = {"update_type", "leaf_cert", "cert_index", "cert_link", "seen", "submission_timestamp", "source"}


async def read(service: Service, kind: StreamKind, count: int, **options: Any) -> list[dict[str, Any]]:
    url = stream_url(f"ws://{service.url}/", kind)
    async with asyncio.timeout(PATIENCE_S), aclosing(certstream.messages(url, **options)) as messages:
        return [await anext(messages) for _ in range(count)]


async def test_every_stream_has_the_fields_that_clients_read(tmp_path: Path) -> None:
    async with Service(tmp_path, {}, ["--demo"]) as service:
        lite, full, domains = await asyncio.gather(*(read(service, kind, 20) for kind in ("lite", "full", "domains")))
    for message in lite:
        assert (message["message_type"], message["data"].keys()) == ("certificate_update", DATA)
        assert message["data"]["leaf_cert"].keys() == LEAF
    for message in full:
        assert message["data"].keys() == DATA | {"chain"}
        assert message["data"]["leaf_cert"].keys() == LEAF | {"as_der"}
    for message in domains:
        assert message["message_type"] == "dns_entries"
        assert message["data"]
        assert {type(name) for name in message["data"]} == {str}


async def test_tokens_are_asked_for_and_heartbeats_come(tmp_path: Path) -> None:
    options = {"auth": {"enabled": True, "tokens": ["t0ken"]}, "streams": {"heartbeat_interval_secs": 1}}
    async with Service(tmp_path, options, ["--demo"]) as service:
        for token in (None, "wrong"):
            with pytest.raises(certstream.StreamRefusedError, match="401"):
                await read(service, "lite", 1, token=token)
        url = f"ws://{service.url}/"
        async with (
            asyncio.timeout(PATIENCE_S),
            aclosing(certstream.messages(url, token="t0ken", skip_heartbeats=False)) as messages,
        ):
            async for message in messages:
                if message["message_type"] == "heartbeat":
                    assert isinstance(message["timestamp"], float)
                    break


async def test_listening_goes_on_after_a_restart_of_the_service(tmp_path: Path) -> None:
    numbers = itertools.count(1)
    came, came_again = threading.Event(), threading.Event()
    opened: list[int] = []

    def callback(_message: dict[str, Any], _context: Any) -> None:
        if next(numbers) >= 10:
            came.set()
        if len(opened) == 2:
            came_again.set()
            raise KeyboardInterrupt

    async with Service(tmp_path, {}, ["--demo"]) as service:
        service.options = {"port": service.port}
        url = f"ws://{service.url}/"
        listening = asyncio.create_task(
            asyncio.to_thread(certstream.listen_for_events, callback, url, on_open=lambda: opened.append(1))
        )
        assert await asyncio.to_thread(came.wait, PATIENCE_S)
        assert (await service.stop())[0] == 0
        await service.start()
        assert await asyncio.to_thread(came_again.wait, PATIENCE_S)
        await listening
