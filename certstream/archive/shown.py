"""What the archive shows of single entries: to compare it with what a log gives now."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Final

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from certstream.archive.schema import KEY
from certstream.archive.table import Table
from certstream.errors import StorageError

_URL, _INDEX = KEY
_COLUMNS: Final = ("update_type", "sha256")


def shown_entries(root: Path, url: str, start: int, stop: int) -> dict[int, tuple[str, str]]:
    """What kind of entry and which certificate, as upper hex with colons, the rows [start, stop) of a log have.

    By index; those without a row are not in it. It blocks, and takes memory in proportion to the rows asked for. Raises
    StorageError.
    """
    snapshot = Table(root).open()
    if snapshot is None:
        return {}
    found: dict[int, tuple[str, str]] = {}
    for file in snapshot.files():
        if _may_hold(file.stats, url, start, stop):
            found.update(_rows(root / file.path, url, start, stop))
    return found


def _may_hold(stats: Mapping[str, Any], url: str, start: int, stop: int) -> bool:
    """By the table's statistics, which cut what is long: only numbers, and the begin of a URL, say that it does not."""
    low, high = stats.get(f"min.{_INDEX}"), stats.get(f"max.{_INDEX}")
    if low is not None and high is not None and (high < start or low >= stop):
        return False
    first = stats.get(f"min.{_URL}")
    return first is None or first <= url


def _rows(file: Path, url: str, start: int, stop: int) -> Iterator[tuple[int, tuple[str, str]]]:
    wanted = (pc.field(_URL) == url) & (pc.field(_INDEX) >= start) & (pc.field(_INDEX) < stop)
    try:
        rows = pq.read_table(
            file, columns=[_INDEX, *_COLUMNS], filters=wanted, partitioning=None, use_threads=False, pre_buffer=False
        )
    except FileNotFoundError as exc:
        raise StorageError(f"{file}: is gone, though the table names it") from exc
    except (OSError, pa.ArrowException) as exc:
        raise StorageError(f"{file}: cannot be read: {exc}") from exc
    kinds, digests = (
        ["" if text is None else str(text) for text in rows.column(name).to_pylist()] for name in _COLUMNS
    )
    indices = rows.column(_INDEX).to_pylist()
    return iter(zip(indices, zip(kinds, map(str.upper, digests), strict=True), strict=True))
