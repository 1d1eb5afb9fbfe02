"""How fast the simulator makes and serves entries: `python -m benchmarks.simulator`.

The server is `certstream-ctlog` in a process of its own; its CPU time, user and system, comes from
/proc. The client reads over a few connections in turn and parses nothing. "made": every request
covers entries that no one asked for before; "kept": the same few thousand again and again.
"""

from __future__ import annotations

import argparse
import http.client
import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

from certstream.ct.static_ct import data_tile_path
from certstream.ct.types import TILE_WIDTH

CONNECTIONS = 4
KEPT_ENTRIES = 8192


@dataclass(frozen=True)
class Figures:
    """What one pass over entries took."""

    entries: int
    bytes: int
    cpu_s: float  # of the server
    wall_s: float

    def row(self, name: str) -> str:
        """One line of the table."""
        per_core, per_s = self.entries / self.cpu_s, self.entries / self.wall_s
        rate_mb = self.bytes / self.wall_s / 1e6
        return f"{name:34} {per_core:>16,.0f} {per_s:>12,.0f} {self.cpu_s / self.entries * 1e6:>9.2f} {rate_mb:>8,.0f}"


class Reader:
    """Reads paths over several connections, one after the other."""

    def __init__(self, url: str, *, gzip: bool) -> None:
        parts = urlsplit(url)
        self._prefix = parts.path
        self._headers = {"Accept-Encoding": "gzip"} if gzip else {}
        self._connections = [http.client.HTTPConnection(parts.hostname or "", parts.port) for _ in range(CONNECTIONS)]
        self._turn = 0

    def read(self, path: str) -> int:
        """Bytes of one answer's body, which has to be 200."""
        connection = self._connections[self._turn % CONNECTIONS]
        self._turn += 1
        connection.request("GET", self._prefix + path, headers=self._headers)
        answer = connection.getresponse()
        body = answer.read()
        if answer.status != 200:
            raise SystemExit(f"{path}: {answer.status} {body[:200]!r}")
        return len(body)


@contextmanager
def serving(initial: int) -> Iterator[tuple[int, dict[str, str]]]:
    """`certstream-ctlog` with one log that serves both protocols: its process id and URLs by kind."""
    flags = ["--port", "0", "--log", "bench=both", "--rate", "0", "--initial", str(initial)]
    command = [sys.executable, "-m", "certstream.simulator.cli", *flags]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) as process:
        assert process.stdout is not None
        described = json.loads(process.stdout.readline())
        yield process.pid, {log["kind"]: log["url"] for log in described["logs"]}
        process.terminate()


def cpu_s(pid: int) -> float:
    """User and system time of a process so far."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def measure(pid: int, reader: Reader, paths: list[str], entries: int) -> Figures:
    """Read all paths once."""
    cpu, wall = cpu_s(pid), time.perf_counter()
    size = sum(map(reader.read, paths))
    return Figures(entries, size, cpu_s(pid) - cpu, time.perf_counter() - wall)


def pages(start: int, stop: int, width: int) -> list[str]:
    """get-entries requests for [start, stop)."""
    return [f"ct/v1/get-entries?start={at}&end={min(at + width, stop) - 1}" for at in range(start, stop, width)]


def tiles(start: int, stop: int) -> list[str]:
    """Data tiles of [start, stop)."""
    return [data_tile_path(number) for number in range(start // TILE_WIDTH, stop // TILE_WIDTH)]


def main() -> int:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--entries", type=int, default=102_400, help="read in each pass (default %(default)s)")
    entries = parser.parse_args().entries // TILE_WIDTH * TILE_WIDTH
    started = time.perf_counter()
    with serving(3 * entries) as (pid, urls):
        start_s, made_cpu_s = time.perf_counter() - started, cpu_s(pid)
        print(f"start with a tree of {3 * entries:,} entries: {start_s:.1f} s, {made_cpu_s:.1f} s CPU\n")
        print(f"{'':34} {'entries/s of CPU':>16} {'entries/s':>12} {'µs/entry':>9} {'MB/s':>8}")
        classic, plain = Reader(urls["rfc6962"], gzip=False), Reader(urls["static"], gzip=False)
        packed = Reader(urls["static"], gzip=True)
        rounds = entries // KEPT_ENTRIES
        kept = rounds * KEPT_ENTRIES
        for name, reader, once in (
            ("rfc6962, pages of 1,000", classic, pages(0, entries, 1000)),
            ("rfc6962, pages of 256", classic, pages(entries, 2 * entries, 256)),
            ("static", plain, tiles(0, entries)),
            ("static, gzip", packed, tiles(2 * entries, 3 * entries)),
        ):
            print(measure(pid, reader, once, entries).row(f"{name}, made"), flush=True)
        for name, reader, again in (
            ("rfc6962, pages of 1,000", classic, pages(0, KEPT_ENTRIES, 1000)),
            ("rfc6962, pages of 256", classic, pages(0, KEPT_ENTRIES, 256)),
            ("static", plain, tiles(0, KEPT_ENTRIES)),
            ("static, gzip", packed, tiles(0, KEPT_ENTRIES)),
        ):
            measure(pid, reader, again, KEPT_ENTRIES)
            print(measure(pid, reader, again * rounds, kept).row(f"{name}, kept"), flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
