"""Tables as a sink and others leave them, passes of upkeep over them, and what a pass must not change."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Final

import pyarrow as pa
from deltalake import DeltaTable, write_deltalake

from certstream.archive.commit import Committer
from certstream.archive.datafile import DataFile, WriteSettings, write_file
from certstream.archive.upkeep.upkeep import Upkeep, UpkeepResult, UpkeepSettings
from certstream.certs.arrow import SCHEMA
from tests.archive.archive_support import rows, url

OPEN: Final = "2999-12-31"  # a partition whose day is not over, whenever the tests run
CLOSED: Final = "2020-01-01"
A: Final = url(0)
B: Final = url(1)


def written(committer: Committer, table: pa.Table) -> DataFile:
    """A file of these rows, sorted, as a sink or a backfill writes it."""
    table = table.sort_by([("source_url", "ascending"), ("cert_index", "ascending")])
    date = table.column("seen_date")[0].as_py()
    return write_file(committer.root, committer.form(), date, table, WriteSettings())


def flush(root: Path, *tables: pa.Table) -> None:
    """Commit one file of all these rows."""
    committer = Committer(root)
    committer.add([written(committer, pa.concat_tables(tables))])


def fill(root: Path, *files: Iterable[int], log_url: str = A, date: str = OPEN) -> None:
    """Commit files of these indices of one log."""
    committer = Committer(root)
    committer.add([written(committer, rows(log_url, indices, date=date)) for indices in files])


def fill_mixed(root: Path, files: int, logs: int, rows_each: int, *, date: str = OPEN, start: int = 0) -> None:
    """Commit files as a sink does: each has the next indices of every log. One commit for all."""
    committer = Committer(root)
    spans = [range(at, at + rows_each) for at in range(start, start + files * rows_each, rows_each)]
    committer.add(
        [
            written(committer, pa.concat_tables([rows(url(log), span, date=date) for log in range(logs)]))
            for span in spans
        ]
    )


def append_foreign(root: Path, *tables: pa.Table) -> None:
    """Append rows as a writer does that does not look."""
    write_deltalake(root, pa.concat_tables(tables), mode="append", partition_by=["seen_date"])


def upkeep(root: Path, *, later_s: float = 0, quiet_s: float = 0, **settings: Any) -> UpkeepResult:
    """One pass, so many seconds from now."""
    return Upkeep(
        Committer(root), UpkeepSettings(quiet_s=quiet_s, **settings), clock=lambda: time.time() + later_s
    ).run(threading.Event())


def settle(root: Path, **settings: Any) -> list[UpkeepResult]:
    """Passes until one has nothing to rewrite; the others."""
    passes: list[UpkeepResult] = []
    while (done := upkeep(root, **settings)).files_rewritten:
        passes.append(done)
        assert len(passes) < 20, "passes go on for ever"
    return passes


def contents(root: Path) -> list[dict[str, Any]]:
    """All rows with all columns, in the order of their keys; doubled ones as often as they stand there."""
    table = pa.table(DeltaTable(root).to_pyarrow_table(columns=SCHEMA.names))
    found: list[dict[str, Any]] = table.sort_by([("source_url", "ascending"), ("cert_index", "ascending")]).to_pylist()
    return found


def spans(root: Path) -> dict[str, list[tuple[int, int]]]:
    """What files cover by their statistics, by log; all files must tell."""
    snapshot = Committer(root).look()
    found = snapshot.dense_spans()
    assert found.keys() == snapshot.paths, "not every file is dense"
    by_log: dict[str, list[tuple[int, int]]] = {}
    for log_url, start, stop in sorted(found.values()):
        by_log.setdefault(log_url, []).append((start, stop))
    return by_log


def names(root: Path) -> frozenset[str]:
    """The files of the newest version."""
    return Committer(root).look().paths
