"""How fast a backfill is: `certstream --backfill` from a simulated log on this machine into a local table.

    python -m benchmarks.backfill [--entries 1000000] [--kind static rfc6962] [--logs 1] [--staging]
        [--verification off warn]

The log is served by a process of its own. The command runs as a user runs it, in a process of its own, from start to
exit: what is printed is its time, its CPU per entry and its peak memory, and what the table then holds.

With several modes of verification each log is read once in each, in turn: compare CPU, of pairs in one run. What a mode
other than `off` read must all be verified in the end.

Certificates are of the shapes that make up real logs; with --odd the simulator mixes in all it has, 8 % of them odd,
which decoding reads one by one.
"""

from __future__ import annotations

import argparse
import asyncio
import base64
import json
import multiprocessing
import os
import subprocess
import sys
import tempfile
import time
from multiprocessing.connection import Connection
from pathlib import Path
from typing import get_args

import uvloop
import yaml

from certstream.archive.coverage import Coverage
from certstream.archive.table import Table
from certstream.config.logs import Verification
from certstream.ct.types import LogInfo, LogKind
from certstream.intervals import Intervals
from certstream.ledger import Ledger, Trust, ledger_beside
from certstream.simulator import SimulatedLog, SimulatorServer

_ROOT = Path(__file__).parent.parent
_PAGE = 1000
_CACHE_BYTES = 64 << 20  # each entry is asked for once
_ORDINARY = ("rsa-leaf", "ecdsa-leaf", "wildcard", "no-common-name", "many-names", "idn", "organisation")
_MODES: tuple[Verification, ...] = get_args(Verification)
_KINDS: tuple[LogKind, ...] = ("static", "rfc6962")


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description="Speed, CPU and memory of a backfill.")
    parser.add_argument("--entries", type=int, default=1_000_000, help="of each log (default 1000000)")
    parser.add_argument("--kind", choices=_KINDS, nargs="+", default=_KINDS, help="protocols (default both in turn)")
    parser.add_argument("--logs", type=int, default=1, help="logs at the same time (default 1)")
    parser.add_argument("--odd", action="store_true", help="odd certificates among them")
    parser.add_argument("--staging", action="store_true", help="into a staging table")
    parser.add_argument(
        "--verification", choices=_MODES, nargs="+", default=["warn"], help="modes (default warn alone)"
    )
    args = parser.parse_args()
    for kind in args.kind:
        for mode in args.verification:
            with tempfile.TemporaryDirectory(prefix="certstream-backfill-") as directory:
                measure(Path(directory), kind, args.entries, args.logs, mode, odd=args.odd, staging=args.staging)


def serve(pipe: Connection, kind: LogKind, entries: int, logs: int, odd: bool) -> None:
    """Serve the logs until this process is ended; their infos go through `pipe`."""

    async def run() -> None:
        served = [
            SimulatedLog(
                f"bench{n}",
                kinds={kind},
                seed=n,
                initial=entries,
                max_page=_PAGE,
                gzip="never",
                shapes=None if odd else _ORDINARY,
                cache_bytes=_CACHE_BYTES,
            )
            for n in range(logs)
        ]
        async with SimulatorServer(served) as server:
            pipe.send(server.infos())
            await asyncio.Event().wait()

    uvloop.run(run())


def measure(
    directory: Path, kind: LogKind, entries: int, logs: int, mode: Verification, *, odd: bool, staging: bool
) -> None:
    """One backfill of `logs` logs of `entries` entries each."""
    ours, theirs = multiprocessing.Pipe()
    context = multiprocessing.get_context("spawn")
    server = context.Process(target=serve, args=(theirs, kind, entries, logs, odd), daemon=True)
    server.start()
    try:
        infos = ours.recv()
        write_configuration(directory, infos, entries, mode)
        flags = ["--staging-path", "staging"] if staging else []
        started, before_s = time.perf_counter(), _cpu_s(server.pid)
        environ = {**os.environ, "PYTHONPATH": str(_ROOT)}
        process = subprocess.Popen(
            [sys.executable, "-m", "certstream", "--backfill", *flags],
            cwd=directory,
            env=environ,
            stderr=subprocess.DEVNULL,
        )
        _, status, usage = os.wait4(process.pid, 0)
        elapsed_s, served_s = time.perf_counter() - started, _cpu_s(server.pid) - before_s
    finally:
        server.kill()
        server.join()
    if status:
        raise SystemExit(f"the backfill ended with {os.waitstatus_to_exitcode(status)}")
    total = entries * logs
    size_bytes = check(directory / ("staging" if staging else "main"), infos, entries, verified=mode != "off")
    cpu_us = (usage.ru_utime + usage.ru_stime) / total * 1e6
    print(
        f"{kind:8} {mode:7} {total:>11,} entries  {total / elapsed_s:8,.0f} entries/s  {cpu_us:5.1f} µs CPU per entry  "
        f"{usage.ru_maxrss / 1024:4.0f} MB peak  {size_bytes / total:6.0f} bytes per row  "
        f"(simulator: {served_s / total * 1e6:.1f} µs per entry)",
        flush=True,
    )


def write_configuration(directory: Path, infos: list[LogInfo], entries: int, mode: Verification) -> None:
    """The logs, the table `main`, and a state file that makes all entries missing."""
    logs = [
        {"name": info.name, "url": info.url, "key": base64.b64encode(info.key or b"").decode(), "verification": mode}
        for info in infos
    ]
    section = "static_logs" if infos[0].kind == "static" else "custom_logs"
    config = {section: logs, "delta_sink": {"table_path": "main"}}
    (directory / "config.yaml").write_text(yaml.safe_dump(config))
    positions = {info.base_url: {"current_index": entries} for info in infos}
    (directory / "certstream_state.json").write_text(json.dumps({"version": 1, "logs": positions}))


def check(root: Path, infos: list[LogInfo], entries: int, *, verified: bool) -> int:
    """Every index is there once, and verified where it should be; the table's bytes."""
    snapshot = Table(root).open()
    if snapshot is None:
        raise SystemExit("there is no table")
    coverage = Coverage(root)
    coverage.refresh(snapshot)
    whole = Intervals.of((0, entries))
    if snapshot.rows != entries * len(infos) or any(coverage.of(info.base_url) != whole for info in infos):
        raise SystemExit(f"{snapshot.rows} rows in the table, {entries * len(infos)} expected")
    known = Ledger(ledger_beside(root)).read()
    if verified and any(known.get(info.base_url, Trust()).verified != whole for info in infos):
        raise SystemExit("not everything is verified")
    return snapshot.size_bytes


def _cpu_s(pid: int | None) -> float:
    """CPU time of a process, in seconds."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


if __name__ == "__main__":
    main()
