"""How many clients the streams serve: `python -m benchmarks.fanout`.

For each number of clients and offered rate: a server of its own, lite-sized messages published at that
rate, load clients in one process, three probes that read and time every message in another. Server,
clients and probes share the machine: on few cores the clients' work limits what can be delivered.

`whole` is how many clients got every byte; `cores` and `ns/msg` are the server's CPU time per second of
publishing and per message delivered; latency runs from the making of a message to its arrival at a probe.
`held` is the longest that the server's event loop was not free for a timer.
"""

from __future__ import annotations

import argparse
import asyncio
import itertools
import json
import os
import resource
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal, TypeAlias, get_args

import uvloop

from certstream.metrics import Metrics
from certstream.serve.health import assess
from certstream.serve.options import ServeOptions
from certstream.serve.server import StreamServer
from certstream.stream.hub import Hub

PROBES = 3
TICK_S = 0.002
SETTLE_S = 0.5
ENTRIES = Path(__file__).parents[1] / "tests/data/ct_entries.json"
Size: TypeAlias = Literal["small", "real", "full"]
CLIENTS = Path(__file__).with_name("fanout_clients.py")


@dataclass(frozen=True)
class ServerReport:
    """What the server process measured of itself."""

    published: int
    bytes: int  # framed, of one client
    publish_s: float
    cpu_s: float  # while publishing and until all was written
    idle_rss_mb: float  # before the first client
    rss_mb: float  # at the end of publishing
    dropped: int
    held_s: float  # the longest that the event loop was not free for a timer, while publishing


def templates(size: Size) -> list[tuple[bytes, bytes, bytes]]:
    """Messages of real certificates, cut where index and time go.

    `real` is everything of the lite stream, 1.6 KB on average. `small` leaves the extensions and one fingerprint out:
    1 KB, about the size that such servers are usually measured with. `full` is the full stream's.
    """
    made = []
    for entry in json.loads(ENTRIES.read_text()):
        message = json.loads(entry["expected_full" if size == "full" else "expected_lite"])
        leaf = message["data"]["leaf_cert"]
        for key in ("extensions", "fingerprint") if size == "small" else ():
            del leaf[key]
        message["data"] |= {"cert_index": "@INDEX", "seen": "@SEEN"}
        before, _, rest = json.dumps(message, separators=(",", ":")).encode().partition(b'"@INDEX"')
        between, _, after = rest.partition(b'"@SEEN"')
        made.append((before, between, after))
    return made


def message_source(size: Size) -> Iterator[bytes]:
    """Yield messages with a rising index and the time of their making."""
    for index, (before, between, after) in enumerate(itertools.cycle(templates(size))):
        yield b"%b%d%b%.6f%b" % (before, index, between, time.monotonic(), after)


async def publish(hub: Hub, size: Size, rate: float, seconds: float, burst: int) -> tuple[int, int, float]:
    """Publish at `rate`, in pieces of `burst`; returns messages, their bytes in frames, the longest hold (s)."""
    source, loop = message_source(size), asyncio.get_running_loop()
    started, count, framed, held_s = loop.time(), 0, 0, 0.0
    while (now := loop.time() - started) < seconds:
        messages = [next(source) for _ in range(int(now * rate) // burst * burst - count)]
        hub.publish("lite", messages)
        count += len(messages)
        framed += sum(len(message) + 4 for message in messages)  # all between 126 and 65,535 bytes
        asked = loop.time()
        await asyncio.sleep(TICK_S)
        held_s = max(held_s, loop.time() - asked - TICK_S)
    return count, framed, held_s


async def serve(clients: int, size: Size, rate: float, seconds: float, burst: int) -> None:
    """Be the server: print the port, wait for the clients, publish, print the report."""
    metrics = Metrics()
    hub = Hub(metrics)
    options = ServeOptions(heartbeat_s=3600)
    async with StreamServer(
        hub, lambda: assess([], version="", uptime_s=0), metrics, "127.0.0.1", 0, options=options
    ) as server:
        idle_rss_mb = rss_mb()
        print(server.port, flush=True)
        while hub.clients() < clients:  # noqa: ASYNC110 - the hub tells nobody, the benchmark may poll
            await asyncio.sleep(0.05)
        await asyncio.sleep(SETTLE_S)
        cpu, started = time.process_time(), time.monotonic()
        published, framed, held_s = await publish(hub, size, rate, seconds, burst)
        publish_s, rss = time.monotonic() - started, rss_mb()
        hub.flush()
        while hub.backlog_bytes():  # noqa: ASYNC110
            await asyncio.sleep(0.01)
        cpu_s = time.process_time() - cpu
        dropped = clients - hub.clients()
        report = ServerReport(published, framed, publish_s, cpu_s, idle_rss_mb, rss, dropped, held_s)
        print(json.dumps(asdict(report)), flush=True)
        await asyncio.to_thread(sys.stdin.read)


def rss_mb() -> float:
    """Resident memory of this process."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 1e6


def measure(clients: int, size: Size, rate: float, seconds: float, burst: int) -> str:
    """Run one case; returns its line of the table."""
    server = spawn(
        [
            sys.executable,
            "-m",
            "benchmarks.fanout",
            "--serve",
            str(clients),
            "--size",
            size,
            "--rates",
            str(rate),
            "--seconds",
            str(seconds),
            "--burst",
            str(burst),
        ]
    )
    assert server.stdout is not None
    port = server.stdout.readline().strip()
    load = spawn([sys.executable, str(CLIENTS), "load", port, str(clients - PROBES)])
    probe = spawn([sys.executable, str(CLIENTS), "probe", port, str(PROBES)])
    report = ServerReport(**json.loads(server.stdout.readline()))
    loaded, probed = (json.loads(process.communicate()[0]) for process in (load, probe))
    server.communicate()
    if probed["out_of_order"]:
        raise SystemExit(f"{probed['out_of_order']} messages out of order")
    return line(clients, rate, report, loaded["bytes"], loaded["last"] - loaded["first"], probed)


def spawn(command: list[str]) -> subprocess.Popen[str]:
    """Start a part in a process of its own."""
    return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)


def line(
    clients: int, rate: float, report: ServerReport, received: list[int], took_s: float, probed: dict[str, list[float]]
) -> str:
    """Return one case as a line of the table."""
    whole = sum(size == report.bytes for size in received) + sum(n == report.published for n in probed["messages"])
    delivered = sum(received) / report.bytes * report.published + sum(probed["messages"])
    latencies = probed["latencies_s"]
    p50, p99 = (latencies[int(len(latencies) * q)] * 1e3 for q in (0.5, 0.99))
    return (
        f"{clients:>7} {rate:>9,.0f} {delivered / took_s:>12,.0f} {whole:>6} {report.dropped:>7}"
        f" {report.cpu_s / report.publish_s:>6.2f} {report.cpu_s / delivered * 1e9:>7.0f}"
        f" {p50:>7.1f} {p99:>7.1f} {report.held_s * 1e3:>7.1f}"
        f" {report.idle_rss_mb:>7.0f} {report.rss_mb:>7.0f}"
    )


HEADER = (
    "clients entries/s   messages/s  whole dropped  cores  ns/msg  p50 ms  p99 ms held ms idle MB  RSS MB\n"
    "        (offered)  (delivered)               (server)"
)


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--clients", type=int, nargs="+", default=[100, 500, 2000])
    parser.add_argument("--rates", type=float, nargs="+", default=[100, 600, 1600, 4000], help="entries/s")
    parser.add_argument("--seconds", type=float, default=6)
    parser.add_argument("--size", choices=get_args(Size), default="small", help="of a message: 1.0, 1.6 or 6 KB")
    parser.add_argument("--burst", type=int, default=1, help="messages that come at once")
    parser.add_argument("--serve", type=int, help=argparse.SUPPRESS)
    args = parser.parse_args()
    resource.setrlimit(resource.RLIMIT_NOFILE, (resource.getrlimit(resource.RLIMIT_NOFILE)[1],) * 2)
    if args.serve:
        uvloop.run(serve(args.serve, args.size, args.rates[0], args.seconds, args.burst))
        return
    print(HEADER, flush=True)
    for clients in args.clients:
        for rate in args.rates:
            print(measure(clients, args.size, rate, args.seconds, args.burst), flush=True)


if __name__ == "__main__":
    main()
