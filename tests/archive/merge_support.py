"""Staging tables made by hand, merged for real, and what a directory holds to the byte."""

from __future__ import annotations

import subprocess
import sys
import threading
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, Final

import pyarrow as pa
from deltalake import DeltaTable

from certstream.archive.commit import Committer
from certstream.archive.datafile import WriteSettings, write_file
from certstream.archive.merge.merge import Merge, MergeResult
from certstream.archive.schema import NATIVE, PARTITION, TableFormat
from certstream.archive.table import Table
from tests.archive.archive_support import rows, url

A: Final = url(0)
B: Final = url(1)

_ROOT: Final = Path(__file__).parents[2]


def fill(root: Path, *tables: pa.Table, form: TableFormat = NATIVE, settings: WriteSettings | None = None) -> None:
    """A table with one file and one commit for each of `tables`, whatever it held before."""
    for table in tables:
        snapshot = Table(root).open_or_create(form)
        date = table.column(PARTITION)[0].as_py()
        snapshot.commit([write_file(root, snapshot.form, date, table, settings or WriteSettings())], {})
    Table(root).open_or_create(form)


def fill_indices(root: Path, *files: Iterable[int], log_url: str = A) -> None:
    """A table with a file of one log for each set of indices."""
    fill(root, *(rows(log_url, indices) for indices in files))


def merge(main: Path | Committer, staging: Path, **options: Any) -> MergeResult:
    """Merge and return what came of it."""
    committer = main if isinstance(main, Committer) else Committer(main)
    return Merge(committer, staging, **options).run(threading.Event())


def crash_merging(crash: str, main: Path, staging: Path) -> None:
    """Merge in a process that ends at once, without any cleaning up, where `crash` is called."""
    script = f"""
import os, shutil, sys, threading
from pathlib import Path
import certstream.archive.merge.carried
from certstream.archive.commit import Committer
from certstream.archive.merge.merge import Merge
{crash} = lambda *_, **__: os._exit(9)
main, staging = map(Path, sys.argv[1:])
Merge(Committer(main), staging, batch_rows=10).run(threading.Event())
"""
    done = subprocess.run([sys.executable, "-c", script, str(main), str(staging)], cwd=_ROOT, check=False)
    assert done.returncode == 9


def picture(root: Path) -> dict[str, tuple[bytes, int]]:
    """Every file below a directory, with its bytes and the time of its last change."""
    files = (path for path in root.rglob("*") if path.is_file())
    return {str(path.relative_to(root)): (path.read_bytes(), path.stat().st_mtime_ns) for path in files}


def break_pages(staging: Path, first: int) -> Callable[[], object]:
    """Overwrite what stands between the ends of the file that begins with that index; what makes it good again."""
    actions = pa.table(DeltaTable(staging).get_add_actions(flatten=True)).to_pylist()
    (path,) = (staging / action["path"] for action in actions if action["min.cert_index"] == first)
    content = path.read_bytes()
    length = int.from_bytes(content[-8:-4], "little") + 8
    path.write_bytes(content[:4] + bytes(len(content) - length - 4) + content[-length:])
    return lambda: path.write_bytes(content)
