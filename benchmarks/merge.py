"""What merging a staging table costs: wall time and peak memory of the whole process, and that no row was doubled.

    python -m benchmarks.merge [--staged 200000] [--main 2000000] [--directory DIR] [--layout NAME …]

Half of the staged rows are new. In layout `files` every second staged file is held by main; in `halves` the second
half of each file is new; in `alternate` every second index; `reference` is `halves` in the columns of the reference
server. Rows have about 3 KB, of which 1.2 KB do not compress. Each merge runs in a process of its own, imports
included; main and staging are built beforehand, main's other rows once for all layouts.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

import numpy as np
import pyarrow as pa
from deltalake import DeltaTable

from certstream.archive.commit import Committer
from certstream.archive.datafile import DataFile, FileWriter, key_groups
from certstream.archive.merge.merge import Merge
from certstream.archive.schema import NATIVE, PARTITION, TableFormat
from certstream.certs.arrow import SCHEMA
from certstream.ct.types import Int64Array

LAYOUTS: Final = ("files", "halves", "alternate", "reference")
_BLOCK_ROWS: Final = 10_240
_FILE_ROWS: Final = 25_000
_LOGS: Final = 4
_DATE: Final = "2026-11-23"


def main() -> None:
    """Measure and print, or be the process that is measured."""
    parser = argparse.ArgumentParser(description="Time and memory of a merge.")
    parser.add_argument(
        "--staged", type=int, default=200_000, help="rows in staging, a multiple of 200000 (default 200000)"
    )
    parser.add_argument(
        "--main", type=int, default=2_000_000, help="rows in main, a multiple of 100000 (default 2000000)"
    )
    parser.add_argument("--layout", choices=LAYOUTS, nargs="*", default=LAYOUTS, help="default: all")
    parser.add_argument("--directory", type=Path, help="to build the tables in (default: a temporary one)")
    parser.add_argument("--run", type=Path, nargs=2, metavar=("MAIN", "STAGING"), help="merge, print JSON, end")
    args = parser.parse_args()
    if args.run:
        run(*args.run)
        return
    if args.staged % (2 * _LOGS * _FILE_ROWS) or args.main % (4 * _FILE_ROWS) or args.main < args.staged:
        parser.error("--staged must be a multiple of 200000, --main of 100000 and not less")
    with tempfile.TemporaryDirectory(dir=args.directory, prefix="merge-") as directory:
        root = Path(directory)
        others = range(0, args.main - args.staged // 2, 2 * _FILE_ROWS)
        write(
            Committer(root / "base"),
            "https://other.example",
            [range(a, a + 2 * _FILE_ROWS) for a in others],
            rows_of(8),
        )
        print(f"{args.staged:,} rows, half of them new, into {args.main:,}")
        for layout in args.layout:
            measure(root, layout, args.staged, args.main)


def run(main_root: Path, staging: Path) -> None:
    """Merge and print what came of it."""
    result = Merge(Committer(main_root), staging).run(threading.Event())
    print(json.dumps({**asdict(result), "peak_mb": peak_mb()}))


def peak_mb() -> float:
    """The greatest resident memory of this process; of it alone, unlike ru_maxrss."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM:")) / 1024


def measure(root: Path, layout: str, staged: int, main_rows: int) -> None:
    """One merge of freshly built tables, in a process of its own."""
    main_root, staging = root / f"main-{layout}", root / f"staging-{layout}"
    shutil.copytree(root / "base", main_root, copy_function=os.link)
    build(Committer(main_root), staging, layout, staged)
    subprocess.run(["sync"], check=True)
    before = time.perf_counter()
    child = [sys.executable, "-m", "benchmarks.merge", "--run", str(main_root), str(staging)]
    done = json.loads(subprocess.run(child, check=True, stdout=subprocess.PIPE).stdout)
    wall_s = time.perf_counter() - before
    rows, distinct = count(main_root)
    if not rows == distinct == main_rows + staged // 2 or done["kept"] or done["inserted"] + done["skipped"] != staged:
        raise SystemExit(f"{layout}: {rows} rows and {distinct} keys in main; {done}")
    print(
        f"{layout:10} {wall_s:6.2f} s  {done['peak_mb']:5.0f} MB  {done['inserted']:,} inserted, "
        f"{done['skipped']:,} skipped; main has {rows:,} rows, {distinct:,} keys"
    )
    shutil.rmtree(main_root)


def build(main_table: Committer, staging: Path, layout: str, staged: int) -> None:
    """Staging, and those rows of main that are staged as well."""
    form = reference_format() if layout == "reference" else NATIVE
    target, block = Committer(staging, form=form), form.conform(rows_of(1200))
    few = rows_of(8)
    for number in range(_LOGS):
        url = f"https://log{number}.example/2026h2"
        files = [range(start, start + _FILE_ROWS) for start in range(0, staged // _LOGS, _FILE_ROWS)]
        write(target, url, files, block)
        write(main_table, url, [held for at, file in enumerate(files) if (held := held_of(layout, file, at))], few)


def held_of(layout: str, file: range, number: int) -> range:
    """What main holds of the file with that number."""
    if layout == "files":
        return file if number % 2 else range(0)
    return file[::2] if layout == "alternate" else file[: len(file) // 2]


def write(table: Committer, url: str, files: Iterable[range], block: pa.Table) -> None:
    """Add files with rows of these indices, otherwise as `block` has them."""
    written: list[DataFile] = []
    form = table.form()
    for indices in files:
        writer = FileWriter(table.root, form, _DATE, table.settings, dense=indices.step == 1)
        for start in range(0, len(indices), len(block)):
            keys = np.arange(indices.start, indices.stop, indices.step)[start : start + len(block)]
            writer.write(keyed(block.slice(0, len(keys)), url, keys))
        written.append(writer.close())
    table.add(written)


def keyed(rows: pa.Table, url: str, keys: Int64Array) -> pa.Table:
    """The rows with other keys."""
    columns = {"source_url": pa.repeat(pa.scalar(url), len(keys)), "cert_index": pa.array(keys)}
    for name, column in columns.items():
        rows = rows.set_column(rows.column_names.index(name), name, column)
    return rows


def rows_of(der_bytes: int) -> pa.Table:
    """A block of rows with random DER of that size, as far as that is large with names and chains to match."""
    large = der_bytes > 100
    random = np.random.default_rng(1)
    der, hashes = random.bytes(der_bytes * _BLOCK_ROWS), random.bytes(32 * _BLOCK_ROWS)
    chains = [["{" + random.bytes(400 if large else 1).hex() + "}"] * 2 for _ in range(100)]
    rows = [
        {
            "update_type": "X509LogEntry",
            "seen": datetime(2026, 11, 23, tzinfo=UTC),
            PARTITION: _DATE,
            "source_name": "log",
            "cert_link": "https://log.example/ct/v1/get-entries?start=1&end=1",
            "serial_number": hashes[32 * row : 32 * row + 16].hex() if large else "",
            "fingerprint": hashes[32 * row : 32 * row + 20].hex(":") if large else "",
            "sha256": hashes[32 * row : 32 * row + 32].hex(":") if large else "",
            "sha1": hashes[32 * row : 32 * row + 20].hex(":") if large else "",
            "not_before": 1_700_000_000 + row,
            "not_after": 1_800_000_000 + row,
            "is_ca": False,
            "signature_algorithm": "sha256, ecdsa",
            "subject_aggregated": f"/CN=host-{row}.example",
            "issuer_aggregated": "/C=US/O=An Authority/CN=R10",
            "all_domains": [f"host-{row}.example", f"www.host-{row}.example"],
            "as_der": der[der_bytes * row : der_bytes * (row + 1)],
            "chain": chains[row % len(chains)],
        }
        for row in range(_BLOCK_ROWS)
    ]
    return pa.Table.from_pylist(rows, schema=SCHEMA)


def reference_format() -> TableFormat:
    """The columns of the reference server."""
    text = {"as_der": pa.string()}
    return TableFormat(pa.schema([pa.field(f.name, text.get(f.name, f.type), nullable=False) for f in SCHEMA]))


def count(root: Path) -> tuple[int, int]:
    """The rows of a table and its distinct keys, by its key columns alone."""
    keys: dict[str, list[Int64Array]] = defaultdict(list)
    dataset = DeltaTable(root).to_pyarrow_dataset()
    for batch in dataset.to_batches(columns=["source_url", "cert_index"]):
        rows = pa.Table.from_batches([batch])
        for url, indices in key_groups(rows).items():
            keys[url].append(indices)
    logs = [np.concatenate(parts) for parts in keys.values()]
    return sum(map(len, logs)), sum(len(np.unique(log)) for log in logs)


if __name__ == "__main__":
    main()
