"""How much of logs that fail at random is delivered, and how late.

    python -m benchmarks.faults [--seconds 120] [--verification warn] [--seed 1]

Two simulated logs, one of each protocol, grow by 200 entries/s. Of the requests to them 5 % are answered with 429, 2 %
with 503, and 1 % each with a reset, half a body, garbage or a head of a smaller tree. One service with its default
options follows them; a client counts what it gets. Exits with 1 where anything is missing, doubled, out of order or
more than 10 s old.
"""

from __future__ import annotations

import argparse
import asyncio
import sys
import tempfile
from pathlib import Path

from tests.e2e.lossy_support import IN_TIME_S, RATE, deliver


def main() -> int:
    """Follow, and print what came."""
    parser = argparse.ArgumentParser(description="Delivery from logs that fail at random.")
    parser.add_argument("--seconds", type=float, default=120.0, help="of entries (default %(default)s)")
    parser.add_argument("--verification", choices=("off", "warn", "enforce"), default="warn")
    parser.add_argument("--seed", type=int, default=1, help="of the logs and their faults (default %(default)s)")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="certstream-faults-") as directory:
        found = asyncio.run(deliver(Path(directory), int(args.seconds * RATE), args.verification, args.seed))
    for each in found:
        in_time = 100 * (each.came - each.doubled - each.late) / each.expected
        print(
            f"{each.name}: {each.came:,} of {each.expected:,} entries, {in_time:.2f} % within {IN_TIME_S:.0f} s, "
            f"worst {each.worst_lag_s:.1f} s; missing {each.missing}, doubled {each.doubled}, "
            f"{'in order' if each.in_order else 'OUT OF ORDER'}; {each.struck:,} requests failed"
        )
    return 0 if all(each.is_whole for each in found) else 1


if __name__ == "__main__":
    sys.exit(main())
