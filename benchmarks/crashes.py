"""Any number of kill -9 at random instants, each round followed by a clean run that must find every index once.

    python -m benchmarks.crashes [--kills 200] [--seed 1]

Not a measurement, but the long form of a test: service, backfill, merge and upkeep of two simulated logs are killed,
alone and side by side, in rounds of about ten kills. Ends at the first index that is missing or doubled.
"""

from __future__ import annotations

import argparse
import asyncio
import tempfile
import time
from pathlib import Path

from tests.e2e.crash_support import Crashes


def main() -> None:
    """Kill and look."""
    parser = argparse.ArgumentParser(description="kill -9 at random instants, then a clean run.")
    parser.add_argument("--kills", type=int, default=200, help="in all (default 200)")
    parser.add_argument("--seed", type=int, default=1, help="of the first round; each further one adds 1 (default 1)")
    args = parser.parse_args()
    kills, seed, started = 0, args.seed, time.monotonic()
    while kills < args.kills:
        with tempfile.TemporaryDirectory(prefix="certstream-crashes-") as directory:
            kills += asyncio.run(one_round(Path(directory), seed))
        print(
            f"round with seed {seed}: {kills} kills in all, every index there once, {time.monotonic() - started:.0f} s"
        )
        seed += 1


async def one_round(directory: Path, seed: int) -> int:
    """About ten kills and a clean run; the kills there were. AssertionError where an index is missing or doubled."""
    async with Crashes(directory, seed) as crashes:
        while crashes.kills < 10:
            await crashes.kill_any()
        await crashes.settle()
        return crashes.kills


if __name__ == "__main__":
    main()
