"""What upkeep costs: rows/s and memory of a pass, and what a writer beside it notices.

    python -m benchmarks.upkeep [--files 100] [--logs 40] [--seconds 30] [--interval 0.25] [--directory DIR]

First --files files like the sink's (10,000 rows of 40 logs each) become dense ones. Then a writer commits such a file
every --interval seconds (0: back to back) while passes of upkeep run in their own process, one after the other. That
process is stopped (SIGSTOP) for every other two seconds, so that both figures come from the same table and the same
minutes: --seconds of each. A flush is from rows in Arrow to the commit. Rows have about 3 KB, of which 1.2 KB do not
compress.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import re
import signal
import tempfile
import threading
import time
from contextlib import suppress
from pathlib import Path
from typing import Final

import numpy as np
import pyarrow as pa

from certstream.archive.commit import Committer
from certstream.archive.datafile import WriteSettings, write_file
from certstream.archive.upkeep.process import run_upkeep
from certstream.archive.upkeep.upkeep import UpkeepSettings
from certstream.certs.arrow import SCHEMA

_FILE_ROWS: Final = 10_000
_DER_BYTES: Final = 1_200
_CHAIN: Final = [f'{{"subject": "CN=issuer {n}", "as_der": "{"A" * 700}"}}' for n in range(2)]
_TURN_S: Final = 2.0
_SETTINGS: Final = UpkeepSettings(quiet_s=0)


class SinkFiles:
    """Rows as a sink commits them: each file has the next indices of every log."""

    def __init__(self, logs: int) -> None:
        self._share = _FILE_ROWS // logs
        self._logs = logs
        self._start = 0
        self._random = np.random.default_rng(1)
        log = np.repeat(np.arange(logs), self._share)
        n = len(log)
        serials = [f"{number:032X}" for number in range(n)]
        hashes = [bytes(self._random.bytes(32)).hex(":") for _ in range(n)]
        date = time.strftime("%Y-%m-%d", time.gmtime())
        self._columns = {
            "update_type": pa.array(["X509LogEntry"] * n),
            "seen": pa.array(np.full(n, time.time_ns() // 1000)).cast(pa.timestamp("us", tz="UTC")),
            "seen_date": pa.array([date] * n),
            "source_name": pa.array([f"log {number}" for number in log]),
            "source_url": pa.array([f"https://log{number:03}.example/2026h2" for number in log]),
            "cert_link": pa.array([f"https://log{number:03}.example/2026h2/ct/v1/{number}" for number in log]),
            "serial_number": pa.array(serials),
            **{name: pa.array(hashes) for name in ("fingerprint", "sha256", "sha1")},
            "not_before": pa.array(np.arange(n)),
            "not_after": pa.array(np.arange(n)),
            "is_ca": pa.array([False] * n),
            "signature_algorithm": pa.array(["sha256, ecdsa"] * n),
            "subject_aggregated": pa.array([f"/CN={number}.example" for number in range(n)]),
            "issuer_aggregated": pa.array(["/CN=issuer"] * n),
            "all_domains": pa.array([[f"{number}.example", f"www.{number}.example"] for number in range(n)]),
            "chain": pa.array([_CHAIN] * n),
        }

    def next(self) -> pa.Table:
        """The rows of the next file."""
        count = self._share * self._logs
        indices = np.tile(np.arange(self._start, self._start + self._share), self._logs)
        self._start += self._share
        offsets = pa.py_buffer(np.arange(0, count * _DER_BYTES + 1, _DER_BYTES, dtype=np.int32))
        ders = pa.py_buffer(self._random.bytes(count * _DER_BYTES))
        columns = {
            **self._columns,
            "cert_index": pa.array(indices),
            "as_der": pa.Array.from_buffers(pa.binary(), count, [None, offsets, ders]),
        }
        return pa.Table.from_arrays([columns[name] for name in SCHEMA.names], schema=SCHEMA)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description="What upkeep costs.")
    parser.add_argument("--files", type=int, default=100, help="written before each pass (default 100)")
    parser.add_argument("--logs", type=int, default=40, help="in each file (default 40)")
    parser.add_argument("--seconds", type=float, default=30, help="measured with upkeep and without (default 30)")
    parser.add_argument("--interval", type=float, default=0.25, help="seconds between commits (default 0.25)")
    parser.add_argument("--directory", type=Path, help="to build the table in (default: a temporary one)")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=args.directory, prefix="upkeep-") as directory:
        root = Path(directory) / "table"
        files = SinkFiles(args.logs)
        fill(root, files, args.files)
        asyncio.run(one_pass(root))
        alone, beside = asyncio.run(flushes(root, files, args))
        print(f"flush of {_FILE_ROWS:,} rows, one every {args.interval:g} s")
        report("alone", alone)
        report("beside upkeep", beside)
        for percent in (50, 90, 99):
            print(f"  p{percent} beside / alone: {np.percentile(beside, percent) / np.percentile(alone, percent):.2f}")


def fill(root: Path, files: SinkFiles, count: int) -> None:
    """Commit files as a sink does."""
    committer = Committer(root)
    for _ in range(count):
        commit(committer, files.next())


async def one_pass(root: Path) -> None:
    """Let a process of its own do the upkeep, watch its memory, and print what came of it."""
    ended = threading.Event()
    watching = asyncio.create_task(asyncio.to_thread(peak_of_children, ended))
    began = time.perf_counter()
    try:
        result = await run_upkeep(root, _SETTINGS, write=WriteSettings())
    finally:
        wall_s = time.perf_counter() - began
        ended.set()
        peak = await watching
    rate = f"{result.rows:,} rows in {wall_s:.1f} s: {result.rows / wall_s:,.0f} rows/s"
    print(f"{result.files_rewritten} files into {result.files_written}, {rate}, peak {peak / 2**20:.0f} MiB")


def children() -> list[int]:
    """The processes that this one started."""
    found: list[int] = []
    for task in Path("/proc/self/task").iterdir():
        with suppress(OSError):  # threads end
            found += map(int, (task / "children").read_text().split())
    return found


def peak_of_children(ended: threading.Event) -> int:
    """The greatest resident memory of any child, in bytes; of it alone, unlike ru_maxrss."""
    peak = 0
    while not ended.wait(0.02):
        for pid in children():
            with suppress(OSError):
                match = re.search(r"VmHWM:\s+(\d+) kB", Path(f"/proc/{pid}/status").read_text())
                peak = max(peak, int(match[1]) << 10 if match else 0)
    return peak


async def flushes(root: Path, files: SinkFiles, args: argparse.Namespace) -> tuple[list[float], list[float]]:
    """Seconds of each flush without upkeep, and with it."""
    writer = Writer(root, files, args.interval)
    alone: list[float] = []
    beside: list[float] = []
    spent_s = 0.0
    while spent_s < args.seconds:
        await asyncio.to_thread(fill, root, files, args.files)
        upkeep = asyncio.create_task(one_pass(root))
        while not upkeep.done():
            for number, found in ((signal.SIGSTOP, alone), (signal.SIGCONT, beside)):
                for pid in children():
                    os.kill(pid, number)
                if not upkeep.done():
                    found += await asyncio.to_thread(writer.run, _TURN_S)
            spent_s += _TURN_S
        await upkeep
    return alone, beside


class Writer:
    """Commits one file after the other."""

    def __init__(self, root: Path, files: SinkFiles, interval_s: float) -> None:
        self._committer = Committer(root)
        self._files = files
        self._interval_s = interval_s

    def run(self, seconds: float) -> list[float]:
        """Commit for so long; seconds of each flush."""
        flushes: list[float] = []
        until = time.perf_counter() + seconds
        while time.perf_counter() < until:
            rows = self._files.next()
            began = time.perf_counter()
            commit(self._committer, rows)
            flushes.append(time.perf_counter() - began)
            time.sleep(max(0.0, self._interval_s - flushes[-1]))
        return flushes


def commit(committer: Committer, rows: pa.Table) -> None:
    """What a sink does with the rows of a flush."""
    date = rows.column("seen_date")[0].as_py()
    committer.add([write_file(committer.root, committer.form(), date, rows, committer.settings)])


def report(name: str, flushes: list[float]) -> None:
    """One line about flushes."""
    p50, p90, p99 = np.percentile(flushes, [50, 90, 99]) * 1000
    print(f"  {name:14} p50 {p50:6.1f} ms  p90 {p90:6.1f} ms  p99 {p99:6.1f} ms  of {len(flushes)}")


if __name__ == "__main__":
    main()
