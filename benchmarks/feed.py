"""The whole way of the feed: `python -m benchmarks.feed`.

Simulated logs in one process, the real service in a second, load clients in a third, three probes that read and
check every message in a fourth; all share the machine. Prints what the clients got, the CPU and memory of the
service and of the logs, and the time from reading an entry (`seen`) to its arrival at a probe.

`--archive off on backfill` measures each case without an archive, with one, and with a backfill of a log of two million
entries going on inside the service, through staging.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import yaml

PROBES: Final = 3
SETTLE_S: Final = 2.0
ROOT: Final = Path(__file__).parent.parent
CLIENTS: Final = Path(__file__).with_name("fanout_clients.py")
PATHS: Final = {"lite": "/", "full": "/full-stream", "domains": "/domains-only"}
ARCHIVES: Final = ("off", "on", "backfill")
FLUSH_S: Final = 5  # several flushes while it is measured
BIG: Final = 2_000_000  # entries of the log that is backfilled
HEADER: Final = (
    "archive  stream  clients entries/s  delivered  messages/s service    logs  µs/entry   p50 ms   p99 ms  RSS MB"
    " dropped backfilled\n"
    "                         (offered)  of offered             cores   cores (service)                           "
    "          entries/s"
)


@dataclass(frozen=True)
class Usage:
    """CPU seconds and resident MB of a process at one time."""

    at_s: float
    cpu_s: float
    rss_mb: float


def usage(pid: int) -> Usage:
    """Read them from /proc."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    ticks = int(fields[11]) + int(fields[12])
    rss_mb = int(fields[21]) * os.sysconf("SC_PAGE_SIZE") / 1e6
    return Usage(time.monotonic(), ticks / os.sysconf("SC_CLK_TCK"), rss_mb)


def free_port() -> int:
    """A port that nobody listens on."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port: int = taken.getsockname()[1]
    return port


def start_logs(port: int, count: int, rate: float) -> subprocess.Popen[str]:
    """Start `count` RFC 6962 logs that grow by `rate` entries/s together, and wait until they serve."""
    logs = [part for i in range(count) for part in ("--log", f"log{i}=rfc6962")]
    return start_simulator(
        [*logs, "--port", str(port), "--rate", str(rate / count), "--publish-interval", "0.25", "--initial", "100"]
    )


def start_big_log(port: int) -> subprocess.Popen[str]:
    """Start a static-ct log with entries to backfill, and wait until it serves."""
    flags = ["--log", "big=static", "--port", str(port), "--rate", "0.1", "--initial", str(BIG), "--gzip", "never"]
    return start_simulator(flags)


def start_simulator(flags: Sequence[str]) -> subprocess.Popen[str]:
    """Start simulated logs, and wait until they serve."""
    process = spawn([sys.executable, "-m", "certstream.simulator.cli", *flags])
    assert process.stdout is not None
    process.stdout.readline()
    return process


def start_service(
    directory: Path, urls: Sequence[str], archive: str, big_url: str
) -> tuple[subprocess.Popen[str], int]:
    """Start the service on those logs; its port."""
    config: dict[str, Any] = {
        "host": "127.0.0.1",
        "port": 0,
        "log_format": "json",
        "ct_log": {"poll_interval_ms": 250, "retry_initial_delay_ms": 250, "retry_max_delay_ms": 250},
        "streams": {"heartbeat_interval_secs": 3600},
        "log_lists": {"enabled": False},
        "custom_logs": [{"name": f"log{i}", "url": url, "operator": f"o{i}"} for i, url in enumerate(urls)],
    }
    if archive != "off":
        config["delta_sink"] = {"enabled": True, "table_path": "archive", "flush_interval_secs": FLUSH_S}
    if archive == "backfill":
        config["static_logs"] = [{"name": "big", "url": big_url}]
        config["backfill"] = {"staging_path": "staging", "from_index": 0, "logs": "big"}
    (directory / "config.yaml").write_text(yaml.safe_dump(config))
    environ = {**os.environ, "PYTHONPATH": str(ROOT)}
    process = subprocess.Popen(
        [sys.executable, "-m", "certstream", "--config", "config.yaml"],
        cwd=directory, env=environ, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    assert process.stderr is not None
    for text in process.stderr:
        line = json.loads(text)
        if line["event"] == "serving":
            return process, int(line["port"])
    raise SystemExit("the service did not start")


def connected(port: int) -> int:
    """Clients that the service has."""
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/health/deep") as answer:
        return int(json.load(answer)["active_connections"])


def spawn(command: list[str]) -> subprocess.Popen[str]:
    """Start a part in a process of its own."""
    return subprocess.Popen(
        command, cwd=ROOT, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    )


def written(port: int) -> float:
    """Entries that backfills committed."""
    metrics = urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics").read().decode()
    found = [row for row in metrics.splitlines() if row.startswith("certstream_backfill_entries_written_total ")]
    return float(found[0].rsplit(" ", 1)[1]) if found else 0.0


def measure(stream: str, clients: int, rate: float, logs: int, seconds: float, archive: str) -> str:
    """Run one case; returns its line of the table."""
    with tempfile.TemporaryDirectory() as directory:
        log_port, big_port = free_port(), free_port()
        urls = [f"http://127.0.0.1:{log_port}/log{i}/rfc6962/" for i in range(logs)]
        simulators = [start_big_log(big_port)] if archive == "backfill" else []
        big_url = f"http://127.0.0.1:{big_port}/big/static/"
        service, port = start_service(Path(directory), urls, archive, big_url)
        more = ["--path", PATHS[stream], "--clock", "wall", "--by-source"]
        readers = [
            spawn([sys.executable, str(CLIENTS), role, str(port), str(count), *more])
            for role, count in (("load", clients - PROBES), ("probe", PROBES))
        ]
        while connected(port) < clients:
            time.sleep(0.05)
        simulator = start_logs(log_port, logs, rate)  # only now: a client that still connects others reads nothing
        simulators.append(simulator)
        if archive == "backfill":
            service.send_signal(signal.SIGHUP)
        time.sleep(SETTLE_S)
        before = [usage(process.pid) for process in (service, simulator)]
        began = written(port)
        time.sleep(seconds)
        after = [usage(process.pid) for process in (service, simulator)]
        filled = (written(port) - began) / seconds
        metrics = urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics").read().decode()
        for process in simulators:
            process.terminate()
        loaded, probed = (json.loads(process.communicate()[0]) for process in readers)
        service.terminate()
        service.communicate()
        for process in simulators:
            process.communicate()
    if probed["out_of_order"]:
        raise SystemExit(f"{probed['out_of_order']} messages out of order")
    return f"{archive:8} {line(stream, clients, rate, before, after, loaded, probed, metrics)} {filled:>10,.0f}"


def line(
    stream: str,
    clients: int,
    rate: float,
    before: Sequence[Usage],
    after: Sequence[Usage],
    loaded: dict[str, Any],
    probed: dict[str, Any],
    metrics: str,
) -> str:
    """Return one case as a line of the table."""
    took_s = probed["last"] - probed["first"]
    messages = probed["messages"][0]
    share = min(loaded["bytes"]) / max(loaded["bytes"])  # of the client that got least
    service, simulator = ((b.cpu_s - a.cpu_s) / (b.at_s - a.at_s) for a, b in zip(before, after, strict=True))
    latencies = probed["latencies_s"]
    p50, p99 = (latencies[int(len(latencies) * q)] * 1e3 for q in (0.5, 0.99))
    dropped = sum(
        float(row.rsplit(" ", 1)[1])
        for row in metrics.splitlines()
        if row.startswith("certstream_stream_clients_dropped")
    )
    each = messages / took_s
    return (
        f"{stream:7} {clients:>7} {rate:>9,.0f} {each / rate * share:>10.3f} {each * clients:>12,.0f}"
        f" {service:>7.2f} {simulator:>7.2f} {service / rate * 1e6:>9.0f} {p50:>8.1f} {p99:>8.1f}"
        f" {after[0].rss_mb:>7.0f} {dropped:>7.0f}"
    )


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--clients", type=int, nargs="+", default=[100, 500])
    parser.add_argument("--rates", type=float, nargs="+", default=[600, 4000], help="entries/s of all logs together")
    parser.add_argument("--logs", type=int, default=8)
    parser.add_argument("--seconds", type=float, default=10)
    parser.add_argument("--stream", choices=tuple(PATHS), default="lite")
    parser.add_argument("--archive", choices=ARCHIVES, nargs="+", default=["off"])
    args = parser.parse_args()
    resource.setrlimit(resource.RLIMIT_NOFILE, (resource.getrlimit(resource.RLIMIT_NOFILE)[1],) * 2)
    print(HEADER, flush=True)
    for clients in args.clients:
        for rate in args.rates:
            for archive in args.archive:
                print(measure(args.stream, clients, rate, args.logs, args.seconds, archive), flush=True)


if __name__ == "__main__":
    main()
