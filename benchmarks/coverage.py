"""How long it takes to say what is archived, verified and missing of a large archive.

    python -m benchmarks.coverage [--rows 100000000] [--rows-per-file 50000] [--logs 40]

Makes the log of a table whose rows lie in dense files, without the files: they are not read, for their statistics say
what they hold. Prints the seconds of the whole command `certstream --coverage --json`, and of a second look in the
same process, as the running service does it.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import orjson
import yaml
from deltalake import CommitProperties, DeltaTable
from deltalake.transaction import AddAction, RemoveAction

from certstream.app.backfill import Tables
from certstream.app.coverage.reader import CoverageReader
from certstream.archive.datafile import new_path
from certstream.archive.table import Table
from certstream.intervals import Intervals
from certstream.ledger import Ledger, Trust, ledger_beside

_DATE: Final = "2026-11-23"
_ROOT: Final = Path(__file__).parents[1]


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description="Time of a look at a large archive.")
    parser.add_argument("--rows", type=int, default=100_000_000, help="in the archive (default 100 million)")
    parser.add_argument("--rows-per-file", type=int, default=50_000, help="(default 50,000)")
    parser.add_argument("--logs", type=int, default=40, help="that the rows are of (default 40)")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as directory:
        root = Path(directory) / "archive"
        files = make_table(root, args.rows, args.rows_per_file, args.logs)
        print(f"{args.rows:,} rows of {args.logs} logs in {files:,} dense files")
        print(f"certstream --coverage --json: {command_s(Path(directory)):.2f} s")
        print("in the service, first and second look: {:.2f} s, {:.2f} s".format(*looks_s(root)))


def make_table(root: Path, rows: int, rows_per_file: int, logs: int) -> int:
    """A table of that many rows, every fourth log of which has a gap in it; the number of its files."""
    Table(root).open_or_create()
    delta = DeltaTable(root)
    actions: list[AddAction | RemoveAction] = [*added(rows, rows_per_file, logs)]
    delta.create_write_transaction(
        actions, "append", delta.schema(), partition_by=["seen_date"], commit_properties=CommitProperties()
    )
    DeltaTable(root).create_checkpoint()
    of_log = rows // logs
    Ledger(ledger_beside(root)).note({url(n): Trust(Intervals.of((0, of_log - of_log // 10))) for n in range(logs)})
    return len(actions)


def added(rows: int, rows_per_file: int, logs: int) -> Iterator[AddAction]:
    """The files as the table's log names them."""
    now_ms = time.time_ns() // 1_000_000
    for log in range(logs):
        for start in range(0, rows // logs, rows_per_file):
            first = start + (1 if log % 4 == 0 and start else 0)
            last = min(start + rows_per_file, rows // logs) - 1
            stats = {
                "numRecords": last - first + 1,
                "minValues": {"cert_index": first, "source_url": url(log), "not_before": 1},
                "maxValues": {"cert_index": last, "source_url": url(log), "not_before": 2},
                "nullCount": {"cert_index": 0, "source_url": 0, "not_before": 0},
            }
            path = new_path(_DATE, dense=True)
            yield AddAction(
                path, 1_200 * (last - first), {"seen_date": _DATE}, now_ms, True, orjson.dumps(stats).decode()
            )


def url(log: int) -> str:
    """The URL of a log."""
    return f"https://log{log}.example/2026h2"


def command_s(directory: Path) -> float:
    """Seconds that the command takes, from the start of its process to its end."""
    options = {"delta_sink": {"table_path": str(directory / "archive")}, "log_lists": {"enabled": False}}
    config = directory / "config.yaml"
    config.write_text(yaml.safe_dump(options))
    command = [sys.executable, "-m", "certstream", "--coverage", "--json", "--config", str(config)]
    started = time.perf_counter()
    done = subprocess.run(
        command, cwd=directory, check=True, capture_output=True, env={**os.environ, "PYTHONPATH": str(_ROOT)}
    )
    took_s = time.perf_counter() - started
    totals = orjson.loads(done.stdout)["totals"]
    print(f"archived {totals['archived']:,}, verified {totals['verified']:,}")
    return took_s


def looks_s(root: Path) -> tuple[float, float]:
    """Seconds of two looks, one after the other."""
    reader = CoverageReader(Tables(root, None))
    times = [time.perf_counter()]
    for _ in range(2):
        reader.report([], {}).json()
        times.append(time.perf_counter())
    return times[1] - times[0], times[2] - times[1]


if __name__ == "__main__":
    main()
