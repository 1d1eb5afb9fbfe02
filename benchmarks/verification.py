"""What verification costs: `python -m benchmarks.verification [--entries 100096] [--rounds 5] [--cases live …]`.

The real service catches up with a simulated log, for nobody, with 100 clients of the lite stream, and with an archive
until all is committed; `certstream --backfill` fetches one into a local table. Each is done with `verification` off,
warn and enforce, in turn within each round, so that what else the machine does falls on all three. The log is served by
a process of its own that has made every answer once before; simulator, service and clients share the machine.

Prints the medians of entries/s and of CPU per entry, and what each mode costs beside `off`: the medians of the rounds'
own ratios and differences.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import multiprocessing
import os
import subprocess
import sys
import tempfile
import threading
import time
import urllib.request
from base64 import b64encode
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from statistics import median
from typing import Any, Final, Literal, get_args

import uvloop
import yaml
from deltalake import DeltaTable

from certstream.ct.types import TILE_WIDTH, LogInfo, LogKind
from certstream.simulator import SimulatedLog, SimulatorServer
from certstream.simulator.faults import HEADS, Fault, FaultKind

Mode = Literal["off", "warn", "enforce"]
Case = Literal["live", "clients", "archive", "backfill"]

MODES: Final[tuple[Mode, ...]] = get_args(Mode)
CASES: Final[tuple[Case, ...]] = get_args(Case)
KINDS: Final[tuple[LogKind, ...]] = ("rfc6962", "static")
CLIENTS: Final = 100
ROOT: Final = Path(__file__).parent.parent
READERS: Final = Path(__file__).with_name("fanout_clients.py")
ORDINARY: Final = ("rsa-leaf", "ecdsa-leaf", "wildcard", "no-common-name", "many-names", "idn", "organisation")
CACHE_BYTES: Final = 4 << 30  # every answer: what the simulator does is no part of what is measured
BACKLOG_BYTES: Final = 1 << 30  # a log that is caught up with is faster than its clients; none is to be dropped
BUFFER_BYTES: Final = 4 << 30  # and faster than its archive; nothing is to be read twice
GOAL_US: Final = 3.5
GOAL_SLOWER: Final = 0.10
HEADER: Final = (
    "case      protocol  mode      entries/s  µs CPU/entry   slower  µs more\n"
    "                                                         (beside off)"
)


@dataclass(frozen=True, slots=True)
class Figure:
    """One run."""

    rate_s: float  # entries
    cpu_us: float  # of the service or command, for each entry


def serve(pipe: Connection, kind: LogKind, entries: int) -> None:
    """Serve a log until this process is ended; holds its heads back between `hold` and `go` from `pipe`."""
    log = SimulatedLog(
        "bench",
        kinds={kind},
        seed=1,
        initial=entries,
        max_page=1000,
        gzip="never",
        shapes=ORDINARY,
        cache_bytes=CACHE_BYTES,
    )
    held = [Fault(FaultKind.STALL, on=endpoint) for endpoint in sorted(HEADS)]

    def obey() -> None:
        log.faults.clear()
        if pipe.recv() == "hold":
            for fault in held:
                log.faults.add(fault)
        pipe.send(None)

    async def run() -> None:
        async with SimulatorServer([log]) as server:
            pipe.send(server.infos()[0])
            asyncio.get_running_loop().add_reader(pipe.fileno(), obey)
            await asyncio.Event().wait()

    uvloop.run(run())


class Log:
    """A simulated log in a process of its own."""

    def __init__(self, kind: LogKind, entries: int) -> None:
        self._pipe, theirs = multiprocessing.Pipe()
        context = multiprocessing.get_context("spawn")
        self._process = context.Process(target=serve, args=(theirs, kind, entries), daemon=True)
        self._process.start()
        self.info: LogInfo = self._pipe.recv()

    def tell(self, word: Literal["hold", "go"]) -> None:
        """Let heads wait, or answer them; done on return."""
        self._pipe.send(word)
        self._pipe.recv()

    def end(self) -> None:
        """End the process."""
        self._process.kill()
        self._process.join()


def options(info: LogInfo, mode: Mode) -> dict[str, Any]:
    """A configuration that reads the log from its beginning."""
    assert info.key is not None
    section = "static_logs" if info.kind == "static" else "custom_logs"
    named = {"name": info.name, "url": info.url, "start": "beginning", "key": b64encode(info.key).decode()}
    return {
        "host": "127.0.0.1",
        "port": 0,
        "log_format": "json",
        "ct_log": {"verification": mode, "poll_interval_ms": 50, "partial_tile_wait_secs": 0},
        "streams": {"client_backlog_bytes": BACKLOG_BYTES, "total_backlog_bytes": 2 * BACKLOG_BYTES},
        section: [named],
    }


@contextmanager
def service(directory: Path, config: dict[str, Any]) -> Iterator[tuple[subprocess.Popen[str], Lines]]:
    """The service in a process of its own, ended by SIGTERM."""
    (directory / "config.yaml").write_text(yaml.safe_dump(config))
    process = subprocess.Popen(
        [sys.executable, "-m", "certstream", "--config", "config.yaml"],
        cwd=directory,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        yield process, Lines(process)
    finally:
        process.terminate()
        process.wait()


class Lines:
    """What a service logs."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self._process = process
        self._lines: list[dict[str, Any]] = []
        self._changed = threading.Condition()
        threading.Thread(target=self._read, daemon=True).start()

    def _read(self) -> None:
        assert self._process.stderr is not None
        for text in self._process.stderr:
            with self._changed:
                self._lines.append(json.loads(text))
                self._changed.notify_all()

    def wait(self, wanted: Callable[[dict[str, Any]], bool]) -> dict[str, Any]:
        """The first line that is wanted, once it is there."""
        with self._changed:
            while not (found := [line for line in self._lines if wanted(line)]):
                if not self._changed.wait(120):
                    raise SystemExit(f"the service said nothing like that: {self._lines[-3:]}")
            return found[0]


def caught_up(log: Log, mode: Mode, entries: int, clients: int) -> Figure:
    """The service reads the whole log, and its clients get all of it."""
    log.tell("hold")
    with tempfile.TemporaryDirectory(prefix="certstream-verification-") as directory:
        with service(Path(directory), options(log.info, mode)) as (process, lines):
            port = int(lines.wait(lambda line: line["event"] == "serving")["port"])
            readers = start_readers(port, clients) if clients else None
            began_s, cpu_before_s = time.monotonic(), cpu_s(process.pid)
            log.tell("go")
            lines.wait(lambda line: line["event"] == "following log" and line["position"] == entries)
            while clients and metric(port, "certstream_stream_backlog_bytes"):
                time.sleep(0.05)
            took_s, used_s = time.monotonic() - began_s, cpu_s(process.pid) - cpu_before_s
            check(port, mode, clients)
        if readers is not None:
            readers.communicate()
    return Figure(entries / took_s, used_s / entries * 1e6)


def archived(log: Log, mode: Mode, entries: int) -> Figure:
    """The service reads the whole log, and stops when its archive has all of it."""
    log.tell("hold")
    with tempfile.TemporaryDirectory(prefix="certstream-verification-") as directory:
        sink = {"enabled": True, "table_path": "main", "buffer_bytes": BUFFER_BYTES}
        with service(Path(directory), {**options(log.info, mode), "delta_sink": sink}) as (process, lines):
            lines.wait(lambda line: line["event"] == "serving")
            began_s, cpu_before_s = time.monotonic(), cpu_s(process.pid)
            log.tell("go")
            lines.wait(lambda line: line["event"] == "following log" and line["position"] == entries)
            process.terminate()
            os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)  # its times are there until it is waited for
            took_s, used_s = time.monotonic() - began_s, cpu_s(process.pid) - cpu_before_s
        rows = DeltaTable(f"{directory}/main").to_pyarrow_dataset().count_rows()
    if rows != entries:
        raise SystemExit(f"{rows} of {entries} entries were archived")
    return Figure(entries / took_s, used_s / entries * 1e6)


def start_readers(port: int, clients: int) -> subprocess.Popen[str]:
    """Connect clients of the lite stream in a process of their own."""
    readers = subprocess.Popen(
        [sys.executable, str(READERS), "load", str(port), str(clients)], stdout=subprocess.PIPE, text=True
    )
    while metric(port, "certstream_stream_clients") < clients:
        time.sleep(0.05)
    return readers


def check(port: int, mode: Mode, clients: int) -> None:
    """Nobody was dropped, and the log is verified where that is on; else nothing was measured."""
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/health/deep") as answer:
        (log,) = json.load(answer)["logs"]
    if log["verification"] != mode or metric(port, "certstream_stream_clients") != clients:
        raise SystemExit(f"{log['verification']} instead of {mode}, or clients were dropped")


def metric(port: int, name: str) -> float:
    """The sum of a metric over its labels."""
    text = urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics").read().decode()
    rows = [row for row in text.splitlines() if row.partition("{")[0].partition(" ")[0] == name]
    return sum(float(row.rsplit(" ", 1)[1]) for row in rows)


def backfilled(log: Log, mode: Mode, entries: int) -> Figure:
    """The command fetches the whole log into a table."""
    log.tell("go")
    with tempfile.TemporaryDirectory(prefix="certstream-verification-") as directory:
        config = {**options(log.info, mode), "delta_sink": {"table_path": "main"}}
        (Path(directory) / "config.yaml").write_text(yaml.safe_dump(config))
        state = {"version": 1, "logs": {log.info.base_url: {"current_index": entries}}}
        (Path(directory) / "certstream_state.json").write_text(json.dumps(state))
        began_s = time.monotonic()
        process = subprocess.Popen(
            [sys.executable, "-m", "certstream", "--backfill"],
            cwd=directory,
            env={**os.environ, "PYTHONPATH": str(ROOT)},
            stderr=subprocess.DEVNULL,
        )
        _, status, usage = os.wait4(process.pid, 0)
        took_s = time.monotonic() - began_s
    if status:
        raise SystemExit(f"the backfill ended with {os.waitstatus_to_exitcode(status)}")
    return Figure(entries / took_s, (usage.ru_utime + usage.ru_stime) / entries * 1e6)


def cpu_s(pid: int) -> float:
    """CPU time of a process, in seconds."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def measure(case: Case, log: Log, mode: Mode, entries: int) -> Figure:
    """Run one mode once."""
    if case == "backfill":
        return backfilled(log, mode, entries)
    if case == "archive":
        return archived(log, mode, entries)
    return caught_up(log, mode, entries, CLIENTS if case == "clients" else 0)


def table(case: Case, kind: LogKind, rounds: Sequence[dict[Mode, Figure]]) -> Iterator[str]:
    """The lines of one case."""
    for mode in MODES:
        rate_s = median(figures[mode].rate_s for figures in rounds)
        cpu_us = median(figures[mode].cpu_us for figures in rounds)
        text = f"{case:9} {kind:9} {mode:8} {rate_s:>10,.0f} {cpu_us:>13.2f}"
        if mode != "off":
            slower = median(1 - figures[mode].rate_s / figures["off"].rate_s for figures in rounds)
            more_us = median(figures[mode].cpu_us - figures["off"].cpu_us for figures in rounds)
            missed = " above the goal" * (slower > GOAL_SLOWER or more_us > GOAL_US)
            text += f" {slower:>8.1%} {more_us:>8.2f}{missed}"
        yield text


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--entries", type=int, default=391 * TILE_WIDTH, help="of the log, whole tiles")
    parser.add_argument("--rounds", type=int, default=5, help="of which the median counts (default 5)")
    parser.add_argument("--kinds", choices=KINDS, nargs="+", default=KINDS)
    parser.add_argument("--cases", choices=CASES, nargs="+", default=CASES)
    args = parser.parse_args()
    entries = max(TILE_WIDTH, args.entries // TILE_WIDTH * TILE_WIDTH)
    print(HEADER, flush=True)
    for kind in args.kinds:
        log = Log(kind, entries)
        try:
            for case in args.cases:
                measure(case, log, "off", entries)  # fills the simulator's caches
                rounds = []
                for number in range(args.rounds):
                    turn = MODES[number % len(MODES) :] + MODES[: number % len(MODES)]
                    rounds.append({mode: measure(case, log, mode, entries) for mode in turn})
                print("\n".join(table(case, kind, rounds)), flush=True)
        finally:
            log.end()
    print(f"The goal is {GOAL_SLOWER:.0%} of the entries/s and {GOAL_US} µs at most.")


if __name__ == "__main__":
    main()
