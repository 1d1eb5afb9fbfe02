"""What a scrape of /metrics costs, and how long it holds the event loop at a time.

    python -m benchmarks.scrape [--logs 100] [--rounds 40]

Writes the answer of a service with an archive and so many logs, on the service's kind of event loop, while a task notes
how long it waits for its turns. Prints the answer's size, the whole time and the longest turn, medians of all rounds.
"""

from __future__ import annotations

import argparse
import asyncio
import statistics
import time

import uvloop

from certstream.archive_metrics import COVERAGE_KINDS
from certstream.metrics import Metrics


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description="Cost of a scrape.")
    parser.add_argument("--logs", type=int, default=100, help="that are followed and archived (default 100)")
    parser.add_argument("--rounds", type=int, default=40, help="(default 40)")
    args = parser.parse_args()
    metrics = metrics_of(args.logs)
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        rounds = [runner.run(scraped(metrics)) for _ in range(args.rounds)]
    wholes, turns = zip(*rounds, strict=True)
    text = metrics.exposition().decode()
    print(
        f"{args.logs} logs: {text.count('# TYPE')} metrics, {len(text.splitlines())} lines, {len(text) / 1000:.0f} kB"
    )
    print(f"whole {statistics.median(wholes) * 1000:.1f} ms, longest turn {statistics.median(turns) * 1000:.1f} ms")


def metrics_of(logs: int) -> Metrics:
    """As a service has them some time after its start."""
    metrics = Metrics("1.0.0")
    for stream in ("full", "lite", "domains"):
        metrics.stream(stream)
    for number in range(logs):
        name = f"An Operator's Log 2026h{number}"
        log, archived = metrics.log(name), metrics.archive.log(name)
        log.entries.inc(123_456_789)
        log.lag_seconds.set_function(lambda: 1.5)
        log.request("200")
        log.request("429")
        log.error("FetchError")
        archived.position.set(1_234_567_890)
        archived.lag_entries.set_function(lambda: 700)
    counts = dict.fromkeys(COVERAGE_KINDS, 1_234_567_890.0)
    metrics.archive.coverage.show({f"An Operator's Log 2026h{number}": counts for number in range(logs)})
    return metrics


async def scraped(metrics: Metrics) -> tuple[float, float]:
    """Seconds of one scrape, and of its longest turn."""
    started = last = time.perf_counter()
    scrape = asyncio.create_task(metrics.scrape())
    longest = 0.0
    while not scrape.done():
        await asyncio.sleep(0)
        now = time.perf_counter()
        longest, last = max(longest, now - last), now
    return last - started, longest


if __name__ == "__main__":
    main()
