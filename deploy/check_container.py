"""Tries the image that check-image.sh built: does to it what an operator does, and looks at what comes of it.

Standard library only, Python 3.11 or newer, as root.
"""

from __future__ import annotations

import json
import os
import re
import resource
import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from deploy.container import PATIENCE_S, UID, Container, Image, expect, fail, say, until, volume, zombies

DATA: Final = "/data"

_STREAMS: Final = """
import asyncio, json, urllib.request
import aiohttp

async def main():
    async with aiohttp.ClientSession() as session:
        for path in ("/", "/full-stream", "/domains-only"):
            async with session.ws_connect("http://127.0.0.1:8080" + path, max_msg_size=0) as stream:
                kinds = [json.loads((await stream.receive()).data)["message_type"] for _ in range(5)]
            assert set(kinds) <= {"certificate_update", "dns_entries"}, kinds

asyncio.run(asyncio.wait_for(main(), 30))
events = urllib.request.urlopen("http://127.0.0.1:8080/sse?stream=lite", timeout=30)
assert next(line for line in events if line.startswith(b"data: ")).startswith(b'data: {"')
"""

_CERTIFICATE: Final = """
from datetime import UTC, datetime, timedelta
from pathlib import Path
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

key, now = ec.generate_private_key(ec.SECP256R1()), datetime.now(UTC)
name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "ct.example.org")])
built = x509.CertificateBuilder(name, name, key.public_key(), 1, now - timedelta(1), now + timedelta(1))
Path("/data/cert.pem").write_bytes(built.sign(key, hashes.SHA256()).public_bytes(Encoding.PEM))
Path("/data/key.pem").write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
"""

_GUARDED: Final = """
tls_cert: /data/cert.pem
tls_key: /data/key.pem
auth: {{enabled: true, tokens: [a-token], protect_health: true}}
monitoring: {{port: {port}}}
"""

_FOLLOWING: Final = """
custom_logs:
  - {{name: classic, url: "http://127.0.0.1:6962/sim-rfc6962/rfc6962/", start: {start}}}
static_logs:
  - {{name: tiled, url: "http://127.0.0.1:6962/sim-static/static/", start: {start}}}
ct_log: {{state_file: /data/certstream_state.json, poll_interval_ms: 200, partial_tile_wait_secs: 0}}
delta_sink: {{enabled: true, table_path: /data/archive, flush_interval_secs: 1}}
backfill: {{staging_path: /data/staging, from_index: {from_index}}}
maintenance: {{interval_secs: 10, quiet_secs: 0}}
log_lists: {{enabled: false}}
log_format: json
"""
_ENTRIES, _START, _FROM_INDEX = (
    3_000,
    2_000,
    1_000,
)  # of each log: in it, where following begins, what SIGHUP fetches from


def check_metadata(image: Image) -> None:
    config = image.config
    expect("user", config["User"], f"{UID}:{UID}")
    expect("entry point", config["Entrypoint"], ["certstream"])
    expect("stop signal", config["StopSignal"], "SIGTERM")
    expect("health check", config["Healthcheck"]["Test"], ["CMD", "certstream", "--healthcheck"])
    expect("volumes", [*config["Volumes"]], [DATA])
    owner = (image.root / DATA[1:]).stat()
    expect("owner of the volume", (owner.st_uid, owner.st_gid), (UID, UID))
    tools = [name for name in ("pip", "pytest", "mypy", "ruff", "hatchling") if list(image.root.glob(f"opt/**/{name}"))]
    expect("tools of development in the image", tools, [])
    say("user, entry point, stop signal, health check and volume are in the image; tools of development are not")


def check_without_arguments(image: Image, work: Path) -> None:
    with Container(image, work, volume(work, "plain")) as container:
        container.until_says("serving")
        container.until_says("log list cannot be had")  # it would follow all logs, and has no network
        say(container.run("certstream", "--healthcheck").strip())
        container.stop()
    say("runs without arguments and without a configuration")


def check_guarded(image: Image, work: Path) -> None:
    """TLS, tokens and an address for monitoring, by a configuration on the volume."""
    data = volume(work, "guarded")
    with Container(image, work, data) as container:
        container.run("python3", "-c", _CERTIFICATE)
    for port, url in (("null", "https://127.0.0.1:8080"), ("9100", "http://127.0.0.1:9100")):
        (data / "config.yaml").write_text(_GUARDED.format(port=port))
        with Container(image, work, data) as container:
            container.until_says("serving")
            said = container.run("certstream", "--healthcheck").strip()
            expect("health check of a guarded service", said, f"healthy: {url}/health answers 401")
    say("the health check finds a service with TLS, tokens and an address for monitoring")


def check_process(container: Container) -> None:
    status = Path(f"/proc/{container.pid}/status").read_text()
    numbers = dict(re.findall(r"^(NSpid|Uid|Gid|CapEff|CapPrm|NoNewPrivs):\s+(.*)$", status, re.MULTILINE))
    expect("process of certstream in the container", numbers["NSpid"].split()[1:], ["1"])
    expect("users of process 1", {*numbers["Uid"].split(), *numbers["Gid"].split()}, {str(UID)})
    expect("privileges of process 1", {int(numbers["CapEff"], 16), int(numbers["CapPrm"], 16)}, {0})
    container.run("sh", "-c", "! touch /somewhere && ! touch /tmp/somewhere && ! touch /opt/certstream/somewhere")
    say(f"certstream is process 1 with uid {UID}, no privileges and a read-only root file system")


def check_health(container: Container) -> None:
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    container.run("certstream", "--healthcheck")
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    os.kill(container.pid, signal.SIGSTOP)
    said = container.run("certstream", "--healthcheck", code=1)
    os.kill(container.pid, signal.SIGCONT)
    expect("health check of a service that hangs", "unhealthy" in said and "no answer" in said, wanted=True)
    say(f"the health check takes {cpu:.2f} s of CPU, and tells a service that hangs")


def check_demo(image: Image, work: Path) -> None:
    data = volume(work, "demo")
    for start in ("first", "second"):
        with Container(image, work, data, "--demo") as container:
            container.until_says("following log", 2)
            container.run("python3", "-c", _STREAMS)
            say(f"the demo streams over WebSocket and SSE, {start} start on one volume")
            if start == "first":
                check_process(container)
                check_health(container)
            container.stop()
            expect("what the demo leaves", [path.name for path in data.iterdir()], [])


def check_archive(image: Image, work: Path) -> None:
    """The service archives what it follows, SIGHUP and the commands fetch the rest: each entry one row in the end."""
    data, etc = volume(work, "archive"), work / "etc"
    etc.mkdir()
    (etc / "config.yaml").write_text(_FOLLOWING.format(start=_START, from_index=_FROM_INDEX))
    with Container(image, work, data, etc=etc) as container, simulated_logs(container):
        container.until_says("serving")
        until("the followed entries", lambda: followed(container, 2 * (_ENTRIES - _START)), lambda: container.output)
        container.run("sh", "-c", "sleep 0.5 & exit 0")  # an orphan: process 1 becomes its parent
        say(f"archived while following: {container.count('/data/archive')} rows")
        check_hang_up(container)
        check_commands(container)
        check_upkeep(container)
        container.stop()
        left = [path.name for path in data.iterdir() if not path.name.startswith(("archive", "certstream_state.json"))]
        expect("what else /data holds", left, [])
        strangers = [str(path) for path in data.rglob("*") if path.stat().st_uid != UID]
        expect("files of other users", strangers, [])
    check_restart(image, work, data, etc)


class simulated_logs:  # noqa: N801 -- used as a function
    """Two logs that do not grow, inside the container."""

    def __init__(self, container: Container) -> None:
        self.command = ("certstream-ctlog", "--initial", str(_ENTRIES), "--rate", "0")
        self.container = container

    def __enter__(self) -> None:
        self.process = subprocess.Popen(
            self.container.entering(*self.command), stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
        )
        assert self.process.stdout is not None
        if not self.process.stdout.readline():
            fail("the simulated logs did not start")

    def __exit__(self, *_: object) -> None:
        self.process.terminate()
        self.process.wait()


def followed(container: Container, rows: int) -> bool:
    health = json.loads(container.get("/health/deep"))
    positions = [log["position"] for log in health["logs"]]
    return (
        positions == [_ENTRIES] * 2
        and health["archive"]["lag_entries"] == 0
        and container.count("/data/archive") == rows
    )


def check_hang_up(container: Container) -> None:
    os.kill(container.pid, signal.SIGHUP)
    until("merge after SIGHUP", lambda: container.job("merge")["state"] == "succeeded", lambda: container.output)
    expect("rows after SIGHUP", container.count("/data/archive"), 2 * (_ENTRIES - _FROM_INDEX))
    expect("staging after SIGHUP", (container.data / "staging").exists(), wanted=False)
    say(f"SIGHUP to process 1 fetches and merges: {container.count('/data/archive')} rows")


def check_commands(container: Container) -> None:
    planned = container.run("certstream", "--backfill", "--from", "0", "--dry-run")
    expect(
        "indices in the plan",
        re.findall(r"^total +\d+ +\d+ +([\d,]+) ", planned, re.MULTILINE),
        [f"{2 * _FROM_INDEX:,}"],
    )
    container.run("certstream", "--backfill", "--from", "0", "--staging-path", "/data/staging")
    staged = container.count("/data/staging")
    expect("rows in staging", staged, 2 * _FROM_INDEX)
    expect("rows in the archive meanwhile", container.count("/data/archive"), 2 * (_ENTRIES - _FROM_INDEX))
    container.run("certstream", "--merge", "--staging-path", "/data/staging")
    expect("rows after the merge", container.count("/data/archive"), 2 * _ENTRIES)
    expect("staging after the merge", (container.data / "staging").exists(), wanted=False)
    say(f"backfill into staging: {staged} rows; merge: {container.count('/data/archive')} rows, staging is gone")


def check_upkeep(container: Container) -> None:
    until("a pass of upkeep", lambda: container.job("maintenance")["state"] == "succeeded", lambda: container.output)
    expect("rows after upkeep", container.count("/data/archive"), 2 * _ENTRIES)
    until("the end of processes without a parent", lambda: not zombies(container.pid))
    say("upkeep has run in a process of its own; that is gone, and so is an orphan")


def check_restart(image: Image, work: Path, data: Path, etc: Path) -> None:
    with Container(image, work, data, etc=etc) as container, simulated_logs(container):
        container.until_says("following log", 2)
        expect("rows after a restart", container.count("/data/archive"), 2 * _ENTRIES)
        expect("complaints about the file system", re.findall(r".*Read-only.*", container.output), [])
        container.stop(signal.SIGINT)
    say("a new container on the same volume goes on where the old one ended")


def check_foreign_volume(image: Image, work: Path) -> None:
    with Container(image, work, volume(work, "foreign", owner=0)) as container:
        expect("exit code on a volume of another user", container.process.wait(PATIENCE_S), 1)
        expect("what it says", "/data" in container.output.splitlines()[-1], wanted=True)
        say(f"a volume of another user stops the start: {container.output.splitlines()[-1]}")


def check_shared_volume(image: Image, work: Path) -> None:
    data = volume(work, "shared")
    with Container(image, work, data) as first:
        first.until_says("serving")
        (work / "second").mkdir()
        with Container(image, work / "second", data) as second:
            expect("exit code of a second service on one volume", second.process.wait(PATIENCE_S), 1)
            expect("what it says", "in use by process 1" in second.output.splitlines()[-1], wanted=True)
        first.stop()
    say("a second service on one volume is refused")


def check_size(layout: Path, limit_mb: int) -> None:
    """The layers of an OCI layout above the first, which is the base."""
    manifest = json.loads(blob(layout, json.loads((layout / "index.json").read_text())["manifests"][0]["digest"]))
    sizes = [layer["size"] / 1e6 for layer in manifest["layers"]]
    above = sum(sizes[1:])
    if len(sizes) < 2 or above > limit_mb:
        fail(f"layers above the base: {above:.1f} MB compressed, of {len(sizes)} layers; the limit is {limit_mb} MB")
    say(f"layers above the base: {above:.1f} MB compressed (the base here: {sizes[0]:.1f} MB)")


def blob(layout: Path, digest: str) -> bytes:
    return (layout / "blobs" / digest.replace(":", "/")).read_bytes()


def main(arguments: Sequence[str]) -> None:
    if arguments[0] == "size":
        check_size(Path(arguments[1]), int(arguments[2]))
        return
    inspected, root, work = map(Path, arguments[1:])
    image = Image(inspected, root)
    check_metadata(image)
    check_without_arguments(image, work)
    check_guarded(image, work)
    check_demo(image, work)
    check_archive(image, work)
    check_foreign_volume(image, work)
    check_shared_volume(image, work)


if __name__ == "__main__":
    main(sys.argv[1:])
