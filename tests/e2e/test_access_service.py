"""Access as an operator sets it up: the real process with tokens, TLS and an address for monitoring."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import aiohttp
import pytest
import yaml

from certstream.serve.tls import TlsFiles
from tests.e2e.e2e_support import PATIENCE_S, ROOT, StartService
from tests.serve.tls_support import make_pair

TOKENS = ("hunter-of-the-file", "hunter-of-the-config", "hunter-of-the-guess")


@pytest.fixture
async def http() -> AsyncIterator[aiohttp.ClientSession]:
    connector = aiohttp.TCPConnector(ssl=False)
    async with aiohttp.ClientSession(connector=connector) as session:
        yield session


def options(tmp_path: Path) -> dict[str, Any]:
    (tmp_path / "tokens").write_text(f"premium {TOKENS[0]}\n")
    files = TlsFiles(tmp_path / "cert.pem", tmp_path / "key.pem")
    make_pair("e2e").write(files)
    return {
        "tls_cert": str(files.certificate),
        "tls_key": str(files.key),
        "log_level": "debug",
        "monitoring": {"port": 0},
        "auth": {
            "enabled": True,
            "tokens": [TOKENS[1]],
            "tokens_file": str(tmp_path / "tokens"),
            "query_token": True,
        },
        "rate_limit": {"enabled": True, "free_max_tokens": 20, "free_burst": 0, "free_refill_rate": 0},
        "connection_limit": {"enabled": True, "max_connections": 1},
    }


async def test_tokens_tls_limits_and_monitoring_hold_and_no_token_is_told(
    start_service: StartService, tmp_path: Path, http: aiohttp.ClientSession
) -> None:
    service = await start_service(options(tmp_path))
    said = await service.until(lambda line: line["event"] == "serving")
    stream, monitoring = f"https://127.0.0.1:{service.port}/", said["monitoring"]
    assert said["url"] == stream
    async with http.get(stream, headers={"Authorization": f"Bearer {TOKENS[2]}"}) as wrong:
        assert wrong.status == 401
    async with (
        http.ws_connect(stream, headers={"Authorization": f"Bearer {TOKENS[1]}"}),
        http.get(f"{stream}sse?token={TOKENS[0]}") as full,
    ):
        assert full.status == 503
    statuses = []
    for _ in range(30):
        async with http.get(stream) as answer:
            statuses.append(answer.status)
    assert set(statuses) == {401, 429}
    async with http.get(f"{stream}metrics", headers={"Authorization": TOKENS[0]}) as gone:
        assert gone.status == 404
    async with http.get(f"{monitoring}metrics") as answer:
        metrics = await answer.text()
    assert 'certstream_access_refused_total{reason="wrong_token"} 1.0' in metrics
    assert 'certstream_access_refused_total{reason="connections"} 1.0' in metrics
    async with http.get(f"{monitoring}health/deep") as answer:
        health = await answer.text()
    told = metrics + health + str(service.lines)
    assert not [token for token in TOKENS if token in told]


def run(tmp_path: Path, options: dict[str, Any], *flags: str) -> subprocess.CompletedProcess[str]:
    config = tmp_path / "config.yaml"
    config.write_text(yaml.safe_dump({"host": "127.0.0.1", "port": 0, **options}))
    return subprocess.run(
        [sys.executable, "-m", "certstream", "--config", str(config), *flags],
        cwd=tmp_path,
        env={"PYTHONPATH": str(ROOT), "PATH": "/usr/bin:/bin"},
        capture_output=True,
        text=True,
        check=False,
        timeout=PATIENCE_S,
    )


def test_validating_a_configuration_shows_no_token(tmp_path: Path) -> None:
    done = run(tmp_path, options(tmp_path), "--validate-config")
    assert done.returncode == 0
    shown = yaml.safe_load(done.stdout)
    assert shown["auth"]["tokens"] == ["***"]
    assert not [token for token in TOKENS if token in done.stdout + done.stderr]


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"auth": {"enabled": True}}, "auth.enabled: true is not allowed, there is no token: nobody could connect"),
        ({"auth": {"enabled": True, "tokens_file": "no"}}, "auth.tokens_file: no: cannot be read: No such file"),
        ({"auth": {"tokens_file": "${CREDENTIALS_DIRECTORY}/x"}}, "CREDENTIALS_DIRECTORY is not set"),
        ({"tls_cert": "c.pem", "tls_key": "k.pem"}, "tls_cert: c.pem: cannot be read: No such file"),
    ],
)
def test_a_start_that_cannot_protect_fails_with_one_line(tmp_path: Path, change: dict[str, Any], said: str) -> None:
    done = run(tmp_path, change)
    assert done.returncode == 1
    assert "Traceback" not in done.stderr
    assert said in done.stderr.splitlines()[-1]
