"""Containers without an engine, for check_container.py.

Standard library only, Python 3.11 or newer, as root. A container is a process with mount, PID and network namespaces of
its own (util-linux), its root file system mounted read-only, /data from a directory: what is missing beside a real
engine is cgroups and seccomp.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any, Final, NoReturn, Self

PATIENCE_S: Final = 60.0  # after which what is waited for has failed
UID: Final = 10_001

# Root file system, volume, /etc/certstream or nothing, then the command. Runs in the new namespaces, which take their
# mounts with them when they end.
_INSIDE: Final = """
set -eu
root=$1 data=$2 etc=$3; shift 3
python3 -c 'import fcntl, socket, struct; fcntl.ioctl(socket.socket(), 0x8914, struct.pack("16sH14x", b"lo", 0x41))'
mount --bind "$root" "$root"
mount --bind "$data" "$root/data"
mount --bind /dev "$root/dev"
mount -t proc proc "$root/proc"
[ -z "$etc" ] || mount --bind "$etc" "$root/etc/certstream"
mount -o remount,bind,ro "$root"
exec chroot "$root" "$@"
"""

_GET: Final = (
    "import sys, urllib.request; print(urllib.request.urlopen('http://127.0.0.1:8080' + sys.argv[1]).read().decode())"
)

_COUNT: Final = """
import sys
import pyarrow
from deltalake import DeltaTable, QueryBuilder

found = QueryBuilder().register("rows", DeltaTable(sys.argv[1])).execute(
    "SELECT sum(n) AS all, count(*) AS different FROM (SELECT count(*) AS n FROM rows GROUP BY source_url, cert_index)"
)
print(*pyarrow.RecordBatchReader.from_stream(found).read_all().to_pylist()[0].values())
"""


def say(text: str) -> None:
    print(f"check-image: ok: {text}", flush=True)


def fail(text: str) -> NoReturn:
    print(f"check-image: FAILED: {text}", file=sys.stderr, flush=True)
    sys.exit(1)


def expect(what: str, found: Any, wanted: Any) -> None:
    if found != wanted:
        fail(f"{what}: {found!r} instead of {wanted!r}")


def until(what: str, true: Callable[[], bool], otherwise: Callable[[], str] = str) -> None:
    """Look until it is true; FAILED where that takes too long."""
    deadline = time.monotonic() + PATIENCE_S
    while not true():
        if time.monotonic() > deadline:
            fail(f"{what}: not within {PATIENCE_S:g} s\n{otherwise()}")
        time.sleep(0.05)


class Image:
    """What an engine reads of an image: its file system, and how it is run."""

    def __init__(self, inspected: Path, root: Path) -> None:
        self.root = root
        document = json.loads(inspected.read_text())
        self.config: dict[str, Any] = document["Docker"]["config"]
        self.environment: list[str] = self.config["Env"]

    def command(self, *command: str) -> list[str]:
        """That command as the image's user, with its environment and without any privilege."""
        drop = ("--clear-groups", "--bounding-set=-all", "--inh-caps=-all", "--no-new-privs")
        # With a death signal, which the kernel forgets when the user changes: nothing outlives whoever started it
        user = ("setpriv", "--pdeathsig=KILL", f"--reuid={UID}", f"--regid={UID}", *drop)
        return ["env", "-i", "-C", str(self.config["WorkingDir"]), *self.environment, *user, *command]


class Container:
    """One running container. A context manager, which leaves nothing of it."""

    def __init__(self, image: Image, work: Path, data: Path, *arguments: str, etc: Path | None = None) -> None:
        self.image = image
        self.data = data
        self.log = work / "container.log"
        self.command = [
            *("setpriv", "--pdeathsig=KILL"),
            *("unshare", "--mount", "--pid", "--net", "--fork", "--kill-child"),
            *("sh", "-c", _INSIDE, "sh", str(image.root), str(data), str(etc or "")),
            *image.command(*image.config["Entrypoint"], *(image.config.get("Cmd") or ()), *arguments),
        ]

    def __enter__(self) -> Self:
        with self.log.open("wb") as log:
            self.process = subprocess.Popen(self.command, stdin=subprocess.DEVNULL, stdout=log, stderr=log)
        until("the container's start", self._runs, lambda: self.output)
        return self

    def __exit__(self, *_: object) -> None:
        with suppress(OSError, ValueError):  # it has ended
            os.kill(self.pid, signal.SIGKILL)  # and with it all that is in the container; unshare waits for the end
        self.process.wait()

    @property
    def output(self) -> str:
        return self.log.read_text(errors="replace")

    @property
    def pid(self) -> int:
        """Process 1 of the container, as the machine counts."""
        return int(Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children").read_text())

    def _runs(self) -> bool:
        """Whether all that comes before the image's entry point is done; also where that has ended already."""
        if self.process.poll() is not None:
            return True
        try:
            name: str = self.image.config["Entrypoint"][0]
            return Path(f"/proc/{self.pid}/comm").read_text().strip() == name
        except (OSError, ValueError):  # not there yet, or not any more
            return False

    def until_says(self, text: str, times: int = 1) -> None:
        def said() -> bool:
            if self.output.count(text) < times and self.process.poll() is not None:
                fail(f"ended with {self.process.returncode} before it said {text!r}:\n{self.output}")
            return self.output.count(text) >= times

        until(f"{text!r} in its output", said, lambda: self.output)

    def run(self, *command: str, code: int = 0) -> str:
        """Run a command inside, as `docker exec` does; what it printed. FAILED if it ends with another code."""
        done = subprocess.run(self.entering(*command), capture_output=True, text=True, check=False, timeout=120)
        if done.returncode != code:
            fail(f"{' '.join(command)[:200]}: exit code {done.returncode}, not {code}\n{done.stdout}{done.stderr}")
        return done.stdout

    def entering(self, *command: str) -> list[str]:
        target = ("nsenter", f"--target={self.pid}", "--mount", "--pid", "--net", "--root", "--wd=/")
        return [*target, *self.image.command(*command)]

    def get(self, path: str) -> str:
        return self.run("python3", "-c", _GET, path)

    def job(self, name: str) -> dict[str, Any]:
        """The newest run of a job, by /health/deep."""
        found: dict[str, Any] = json.loads(self.get("/health/deep"))["jobs"][name]
        return found

    def count(self, table: str) -> int:
        """Rows of a table; FAILED if an entry has two."""
        rows, keys = map(int, self.run("python3", "-c", _COUNT, table).split())
        expect(f"entries among the rows of {table}", keys, rows)
        return rows

    def stop(self, number: signal.Signals = signal.SIGTERM) -> None:
        """End it by a signal to process 1: within five seconds, with exit code 0."""
        began = time.monotonic()
        os.kill(self.pid, number)
        try:
            expect(f"exit code after {number.name}", self.process.wait(10), 0)
        except subprocess.TimeoutExpired:
            fail(f"{number.name} did not end it within 10 s:\n{self.output}")
        say(f"{number.name} to process 1 ends it in {time.monotonic() - began:.1f} s, exit code 0")


def volume(work: Path, name: str, owner: int = UID) -> Path:
    """An empty volume, which an engine gives the owner that the image's directory has."""
    path = work / name
    path.mkdir()
    os.chown(path, owner, owner)
    return path


def zombies(namespace_of: int) -> list[str]:
    """Ended processes that are still listed in that PID namespace."""
    inside = Path(f"/proc/{namespace_of}/ns/pid").readlink()
    found = []
    for status in Path("/proc").glob("[0-9]*/status"):
        try:
            if (status.parent / "ns" / "pid").readlink() == inside and "State:\tZ" in status.read_text():
                found.append(str(status.parent))
        except OSError:  # it has just ended
            continue
    return found
