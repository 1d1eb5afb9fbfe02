"""Real clients against a real server: called by deploy/check-clients.sh, which made their environments.

Each client follows a server in demo mode, prints the messages that it gets as lines of JSON, and lives through a
restart of the server, if it is one that connects again. Then each example of docs/clients.md is run as it stands there.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from deploy.clients.messages import FormatError, check

HERE: Final = Path(__file__).resolve().parent
ROOT: Final = HERE.parent.parent
WANTED: Final = 30  # messages, before and after a restart
PATIENCE_S: Final = 60.0
TOKEN: Final = "3b6f0c1e5d7a49d28c5f7a1b"  # that of the examples
EXAMPLE: Final = re.compile(r"<!-- example: (\S+?)( token)? -->\n```(\w+)\n(.*?)```\n", re.DOTALL)
EXAMPLE_LINES: Final = 3


class CheckError(Exception):
    """A client did not get what it should."""


@dataclass(frozen=True)
class Environments:
    """Where each client is installed; nothing of one is seen by another."""

    server: str  # Python that runs `python -m certstream`
    pypi: str  # Python with the package certstream of PyPI
    websockets: str  # Python with websockets
    node: Path  # directory with node_modules
    work: Path


class Server:
    """`certstream --demo` on a port that it keeps over restarts."""

    def __init__(self, python: str, work: Path, options: Mapping[str, Any]) -> None:
        work.mkdir()
        self.port = 0
        self._python = python
        self._work = work
        self._options = options
        self._process: subprocess.Popen[str] | None = None

    def __enter__(self) -> Server:
        try:
            self.start()
        except CheckError:
            self.kill()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def start(self) -> None:
        """Start it, and wait until it serves."""
        options = {"host": "127.0.0.1", "port": self.port, "log_format": "json", **self._options}
        (self._work / "config.yaml").write_text(json.dumps(options))  # JSON is YAML
        log = self._work / "log"
        with log.open("w") as stderr:
            self._process = subprocess.Popen(
                [self._python, "-m", "certstream", "--demo", "--config", str(self._work / "config.yaml")],
                cwd=self._work, env=_environment(ours=True), stderr=stderr, text=True,
            )  # fmt: skip
        process = self._process
        _wait(lambda: '"serving"' in log.read_text() or process.poll() is not None, "the server did not start", log)
        if process.poll() is not None:
            raise CheckError(f"the server did not start\n{log.read_text()}")
        self.port = next(int(m[1]) for m in re.finditer(r'"port": ?(\d+)', log.read_text()))

    def stop(self) -> None:
        if self._process is not None and self._process.poll() is None:
            self._process.terminate()
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._process.wait(PATIENCE_S)
        code = self.kill()
        if code:
            raise CheckError(f"the server ended with {code}")

    def kill(self) -> int | None:
        """End it in any case; its exit code, None where there was no process."""
        if self._process is None:
            return None
        self._process.kill()
        code = self._process.wait()
        self._process = None
        return code


class Client:
    """A process that prints messages as lines of JSON; those of curl begin with `data: `."""

    def __init__(self, name: str, stream: str, command: list[str], places: Environments, *, reconnects: bool) -> None:
        self.name = f"{name}, {stream}"
        self.stream = stream
        self.reconnects = reconnects
        self._out = places.work / f"{name}-{stream}.out"
        self._err = places.work / f"{name}-{stream}.err"
        environment = _environment(ours=command[0] == places.server)
        with self._out.open("w") as stdout, self._err.open("w") as stderr:
            self.process = subprocess.Popen(command, cwd=places.work, env=environment, stdout=stdout, stderr=stderr)

    def messages(self) -> list[Any]:
        """All that came up to now, each checked. Raises CheckError."""
        whole, _, _ = self._out.read_text().rpartition("\n")  # of the last line there may be only a part yet
        return [json.loads(line.removeprefix("data: ")) for line in whole.split("\n") if line]

    def counts(self) -> tuple[int, int]:
        """Certificates and heartbeats up to now. Raises CheckError where one is not what it should be."""
        try:
            beats = [check(self.stream, message) for message in self.messages()]
        except (FormatError, KeyError, ValueError) as exc:
            raise CheckError(f"{self.name}: {type(exc).__name__}: {exc}") from exc
        return len(beats) - sum(beats), sum(beats)

    def wait_for(self, certificates: int, heartbeats: int) -> None:
        def enough() -> bool:
            got = self.counts()
            return got[0] >= certificates and got[1] >= heartbeats

        _wait(enough, f"{self.name}: {certificates} certificates did not come", self._err)

    def wait_for_end(self) -> None:
        try:
            code = self.process.wait(PATIENCE_S)
        except subprocess.TimeoutExpired:
            raise CheckError(f"{self.name}: did not notice that the server stopped") from None
        if code != 0:
            raise CheckError(f"{self.name}: ended with {code}: {self._err.read_text()}")

    def end(self) -> None:
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait()


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    for name in ("server", "pypi", "websockets", "node", "work"):
        parser.add_argument(f"--{name}", required=True)
    flags = parser.parse_args()
    places = Environments(flags.server, flags.pypi, flags.websockets, Path(flags.node), Path(flags.work))
    for script in HERE.glob("*.mjs"):
        shutil.copy(script, places.node)  # modules are looked for beside the script
    try:
        check_clients(places)
        check_examples(places)
    except CheckError as exc:
        print(f"check-clients: {exc}", file=sys.stderr)
        return 1
    return 0


def check_clients(places: Environments) -> None:
    """Every client on every stream, over a restart."""
    options = {"streams": {"heartbeat_interval_secs": 1}}
    with Server(places.server, places.work / "server", options) as server, contextlib.ExitStack() as stack:
        clients = list(_clients(places, server.port))
        for client in clients:
            stack.callback(client.end)
        for client in clients:
            client.wait_for(WANTED, heartbeats=2)
        before = {client.name: client.counts() for client in clients}
        server.stop()
        for client in clients:
            if not client.reconnects:
                client.wait_for_end()
        server.start()
        for client in clients:
            if client.reconnects:
                certificates, beats = before[client.name]
                client.wait_for(certificates + WANTED, beats + 1)
            print(f"{client.name}: {client.counts()[0]} certificates{' over a restart' * client.reconnects}, ok")


def _clients(places: Environments, port: int) -> Iterator[Client]:
    paths = {"lite": "/", "full": "/full-stream", "domains": "/domains-only"}
    for stream, path in paths.items():
        url = f"ws://127.0.0.1:{port}{path}"
        events = f"http://127.0.0.1:{port}/sse?stream={stream}"
        commands = {
            "pypi-certstream": ([places.pypi, str(HERE / "pypi.py"), url], True),
            "websockets": ([places.websockets, str(HERE / "websockets_client.py"), url], True),
            "ws": (["node", str(places.node / "ws.mjs"), url], False),
            "curl": (["curl", "-sN", events], False),
            "eventsource": (["node", str(places.node / "eventsource.mjs"), events], True),
            "our-listen_for_events": ([places.server, str(HERE / "pypi.py"), url], True),
        }
        for name, (command, reconnects) in commands.items():
            yield Client(name, stream, command, places, reconnects=reconnects)


def check_examples(places: Environments) -> None:
    """Every example of docs/clients.md, as it stands there but for the port."""
    secret = {"auth": {"enabled": True, "tokens": [TOKEN]}}
    examples = EXAMPLE.findall((ROOT / "docs/clients.md").read_text())
    with (
        Server(places.server, places.work / "open", {}) as server,
        Server(places.server, places.work / "protected", secret) as protected,
    ):
        for name, token, language, text in examples:
            port = (protected if token else server).port
            _run_example(places, name, language, text.replace("127.0.0.1:8080", f"127.0.0.1:{port}"), port)
            print(f"docs/clients.md, {name}{token}: ok")


def _run_example(places: Environments, name: str, language: str, text: str, port: int) -> None:
    """Run it until it has printed a few lines, or, what ends by itself, to its end."""
    if language == "sh":
        _run_commands(places, name, text, port)
        return
    python = {"pypi": places.pypi, "websockets": places.websockets}.get(name, places.server)
    script = places.node / "example.mjs" if language == "js" else places.work / "example.py"
    script.write_text(text)
    command = ["node" if language == "js" else python, str(script)]
    environment = _environment(ours=command[0] == places.server)
    out, err = places.work / "example.out", places.work / "example.err"
    with out.open("w") as stdout, err.open("w") as stderr:
        process = subprocess.Popen(command, cwd=places.work, env=environment, stdout=stdout, stderr=stderr)
    try:
        _wait(lambda: len(out.read_text().splitlines()) >= EXAMPLE_LINES, f"docs/clients.md, {name}: nothing came", err)
    finally:
        process.kill()
        process.wait()


def _run_commands(places: Environments, name: str, text: str, port: int) -> None:
    command = f'"{places.server}" -m certstream "$1" --url ws://127.0.0.1:{port}/ "${{@:2}}"'
    script = f"certstream() {{ {command}; }}\n{text}"
    done = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", script],
        env=_environment(ours=True), capture_output=True, text=True, timeout=PATIENCE_S, check=False,
    )  # fmt: skip
    printed = [line for line in done.stdout.splitlines() if line]
    # curl says 23 where nobody reads any more
    if done.returncode not in (0, 23) or len(printed) < EXAMPLE_LINES * text.count("| head"):
        raise CheckError(f"docs/clients.md, {name}: {done.returncode}, {done.stdout!r}, {done.stderr}")


def _environment(*, ours: bool = False) -> dict[str, str]:
    """Without what would change server or clients; this package is seen by its own processes alone."""
    foreign = re.compile(r"CERTSTREAM_|RUST_LOG|PYTHONPATH|.*_proxy$", re.IGNORECASE)
    kept = {name: value for name, value in os.environ.items() if not foreign.match(name)}
    return {**kept, "PYTHONUNBUFFERED": "1", **({"PYTHONPATH": str(ROOT)} if ours else {})}


def _wait(done: Callable[[], bool], failure: str, log: Path) -> None:
    """Look again and again: files tell nobody. Raises CheckError."""
    until = time.monotonic() + PATIENCE_S
    while not done():
        if time.monotonic() > until:
            raise CheckError(f"{failure}\n{log.read_text()[-2000:]}")
        time.sleep(0.1)


if __name__ == "__main__":
    sys.exit(main())
