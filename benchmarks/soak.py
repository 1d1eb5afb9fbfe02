"""Hours of what goes wrong, and then an audit of everything.

    python -m benchmarks.soak [--hours 1] [--seed 1] [--rate 30] [--period 60]

Six simulated logs, three of each protocol, grow by --rate entries/s each; half of them are read under `enforce`, half
under `warn`. One service follows and archives them. By --seed, faults come and go, the service is killed (SIGKILL) or
ended (SIGTERM) and started again, gets SIGHUP and a changed configuration, backfills into a staging table, merges and
upkeep run beside it; one client reads all, others connect and read nothing. Every --period seconds a line tells
memory, files and threads of the service. Afterwards the faults end, everything is read to its end, and it is checked
that every index of every log is one row with the log's own content, that the client missed nothing while it was
connected, that positions, ledger and files fit together, and that nothing grew. Exits with 1 where anything did not.
"""

from __future__ import annotations

import argparse
import asyncio
import sys
import tempfile
from pathlib import Path

from benchmarks.soak_audit import audit
from benchmarks.soak_world import World


def main() -> int:
    """Let it run, and report."""
    parser = argparse.ArgumentParser(description="Hours of faults, kills and upkeep, then an audit.")
    parser.add_argument("--hours", type=float, default=1.0, help="until the faults end (default %(default)s)")
    parser.add_argument("--seed", type=int, default=1, help="of all that happens (default %(default)s)")
    parser.add_argument("--rate", type=float, default=30.0, help="entries/s of each log (default %(default)s)")
    parser.add_argument("--period", type=float, default=60.0, help="seconds between lines (default %(default)s)")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="certstream-soak-") as directory:
        violations = asyncio.run(soak(Path(directory), args.hours * 3600, args.seed, args.rate, args.period))
    print("\n".join(["", *(f"VIOLATION: {each}" for each in violations)]) if violations else "\nno violation")
    return 1 if violations else 0


async def soak(directory: Path, duration_s: float, seed: int, rate: float, period_s: float) -> list[str]:
    """What did not hold."""
    async with World(directory, seed, rate) as world:
        await world.live(duration_s, period_s)
        await world.settle()
        return world.violations + audit(world)


if __name__ == "__main__":
    sys.exit(main())
