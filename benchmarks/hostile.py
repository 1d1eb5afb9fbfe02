"""What hostile clients do to honest ones: `python -m benchmarks.hostile`.

The real service on simulated logs of 600 entries/s; 100 honest clients of the lite stream whose latency is measured,
from reading an entry (`seen`) to its arrival; each attack of benchmarks/hostile_clients.py in turn, from a process of
its own on the same machine.

Before each attack it is quiet for as long; `quiet` is all of that. An attacker takes CPU time that on two cores the
service and the honest clients lack, whatever the service does. So after each attack the same time is measured with a
process that uses as much CPU and leaves the service alone: `work` is its p99, and the last ratio what the attack itself
did. At the end every honest client must have had the same bytes.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from array import array
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from benchmarks.feed import connected, free_port, spawn, start_logs, start_service, usage
from benchmarks.hostile_clients import ATTACKS

HONEST: Final = 100
RATE: Final = 600.0
LOGS: Final = 4
SETTLE_S: Final = 3.0
CLIENTS: Final = Path(__file__).with_name("hostile_clients.py")
HEADER: Final = (
    "             opened  closed     sent attack service       p50 ms  p99 ms  of quiet    work of work   RSS MB\n"
    "attack            (by server)     MB  cores   cores                                  p99     p99"
)


@dataclass(frozen=True)
class Phase:
    """What went on in a stretch of time."""

    name: str
    start: float  # Unix seconds
    stop: float
    service_cores: float
    rss_mb: float
    did: dict[str, float]


def run_phase(name: str, port: int, service: int, seconds: float, role: str = "", what: str = "") -> Phase:
    """Let a client do its work for so long, or nobody."""
    before, start = usage(service), time.time()
    did: dict[str, Any] = {}
    if role:
        process = client(role, what, port, seconds)
        did = json.loads(process.communicate()[0])
    else:
        time.sleep(seconds)
    after, stop = usage(service), time.time()
    cores = (after.cpu_s - before.cpu_s) / (after.at_s - before.at_s)
    return Phase(name, start, stop, cores, after.rss_mb, did)


def client(role: str, what: str, port: int, seconds: float, *more: str) -> subprocess.Popen[str]:
    """Start a process of clients."""
    return spawn([sys.executable, str(CLIENTS), role, what, str(port), str(seconds), *more])


def run(names: Sequence[str], seconds: float) -> tuple[list[list[Phase]], array[float]]:
    """Attack by all, one after the other; quiet, attack and work of each, and the samples."""
    with tempfile.TemporaryDirectory() as directory:
        log_port = free_port()
        urls = [f"http://127.0.0.1:{log_port}/log{i}/rfc6962/" for i in range(LOGS)]
        service, port = start_service(Path(directory), urls, "off", "")
        samples = Path(directory) / "samples"
        honest = client("honest", str(HONEST), port, 0, "--samples", str(samples))
        while connected(port) < HONEST:
            time.sleep(0.05)
        logs = start_logs(log_port, LOGS, RATE)
        time.sleep(SETTLE_S)
        phases = []
        for name in names:
            quiet = run_phase(name, port, service.pid, seconds)
            attacked = run_phase(name, port, service.pid, seconds, "attack", name)
            time.sleep(1.5)  # for what it left behind
            share = attacked.did["cpu_s"] / (attacked.stop - attacked.start)
            phases.append([quiet, attacked, run_phase(name, port, service.pid, seconds, "work", f"{share:.3f}")])
        left = connected(port)
        logs.terminate()
        received: list[int] = json.loads(honest.communicate()[0].rpartition("\n")[2])
        service.terminate()
        service.communicate()
        logs.communicate()
        found = array("d")
        found.frombytes(samples.read_bytes())
    if left != HONEST or len(set(received)) != 1:
        raise SystemExit(f"{left} clients are left, of {HONEST}; they had {min(received)} to {max(received)} bytes")
    return phases, found


def latencies_ms(samples: array[float], *phases: Phase) -> tuple[float, float]:
    """p50 and p99 of what arrived in these phases."""
    inside = sorted(
        latency
        for at, latency in zip(samples[::2], samples[1::2], strict=True)
        if any(phase.start + 0.2 <= at <= phase.stop for phase in phases)
    )
    return inside[len(inside) // 2] * 1e3, inside[int(len(inside) * 0.99)] * 1e3


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--attacks", nargs="+", choices=tuple(ATTACKS), default=list(ATTACKS))
    parser.add_argument("--seconds", type=float, default=5, help="that each attack lasts, at most 30")
    args = parser.parse_args()
    resource.setrlimit(resource.RLIMIT_NOFILE, (resource.getrlimit(resource.RLIMIT_NOFILE)[1],) * 2)
    phases, samples = run(args.attacks, min(args.seconds, 30.0))
    quiets = [quiet for quiet, _, _ in phases]
    quiet_p50, quiet_p99 = latencies_ms(samples, *quiets)
    cores = sum(quiet.service_cores for quiet in quiets) / len(quiets)
    print(HEADER)
    print(f"{'quiet':44} {cores:>7.2f} {quiet_p50:>12.1f} {quiet_p99:>7.1f} {'':26} {quiets[0].rss_mb:>8.0f}")
    for _, phase, work in phases:
        (p50, p99), (_, work_p99), did = latencies_ms(samples, phase), latencies_ms(samples, work), phase.did
        print(
            f"{phase.name:11} {did['opened']:>7,.0f} {did['closed']:>7,.0f} {did['sent_mb']:>8,.1f}"
            f" {did['cpu_s'] / (phase.stop - phase.start):>6.2f} {phase.service_cores:>7.2f}"
            f" {p50:>12.1f} {p99:>7.1f} {p99 / quiet_p99:>9.2f} {work_p99:>7.1f} {p99 / work_p99:>7.2f}"
            f" {phase.rss_mb:>8.0f}"
        )


if __name__ == "__main__":
    main()
