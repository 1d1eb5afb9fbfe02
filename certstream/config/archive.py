"""The archive's sections: `delta_sink`, `backfill`, `maintenance`, and what a table's path may be."""

from __future__ import annotations

import re
from typing import Annotated
from urllib.parse import unquote

from pydantic import AfterValidator

from certstream.config.option import Section, option

_MIB = 1 << 20
_PATH = "a path or a file:// URL"
_SCHEME = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*:/")
_FILE_URL = re.compile(r"file://(localhost)?/+[^/?#][^?#]*")
_MISTAKEN = re.compile(r"\\|%[0-9A-Fa-f]{2}")  # what Delta Lake's implementation takes for another path
_NO_TEXT = re.compile(r"[\x00-\x1f\x7f\ud800-\udfff]")  # what no store's URL can hold


def checked_table_path(text: str) -> str:
    """Return where a table is, unchanged; ValueError, to follow a key's name, unless it is on this machine."""
    if not text.strip() or _NO_TEXT.search(text):
        raise ValueError(f"must be {_PATH}")
    if not _SCHEME.match(text):
        return _taken_as_it_is(text, text)
    if not text.startswith("file://"):
        raise ValueError(f"must be {_PATH}: tables are local in this version")
    if not _FILE_URL.fullmatch(text) or _NO_TEXT.search(unquote(text)):
        raise ValueError("must be a file:// URL with an absolute path and nothing else, as in file:///srv/certstream")
    return _taken_as_it_is(text, unquote(text))


def _taken_as_it_is(text: str, path: str) -> str:
    if _MISTAKEN.search(path):
        raise ValueError(f"must be {_PATH}, its path without backslashes and % before two hexadecimal digits")
    return text


TablePath = Annotated[str, AfterValidator(checked_table_path)]


def _part_of_a_log(text: str) -> str:
    if not text.strip():
        raise ValueError("must be a part of a log's name or URL")
    return text


class DeltaSinkConfig(Section):
    """The archive: every entry as one row of a Delta table."""

    enabled: bool = option(False, "Whether entries are archived.")
    table_path: TablePath = option("./data/certstream", "The table's directory.", allowed=_PATH)
    batch_size: int = option(
        10_000, "Rows that are committed as soon as there are as many.", unit="rows", ge=1, le=10_000_000
    )
    flush_interval_secs: int = option(30, "The longest time between commits.", unit="seconds", ge=1, le=86_400)
    compression_level: int = option(3, "zstd's level; higher is smaller and slower.", ge=1, le=22)
    heavy_column_compression_level: int = option(
        1, "The same for the columns that hardly become smaller: as_der, chain and the hashes.", ge=1, le=22
    )
    buffer_bytes: int = option(
        128 * _MIB,
        "What may wait in memory for the archive; past it, it is let go and read from the log again later.",
        unit="bytes",
        ge=_MIB,
        le=1 << 36,
    )


class BackfillConfig(Section):
    """Fetching what the archive does not have yet.

    The service does it on SIGHUP, and as on_start and interval_secs say. `certstream --backfill` takes the staging
    path, the first index and the logs from its flags alone.
    """

    staging_path: TablePath | None = option(
        None,
        "The table to fetch into, merged into the archive afterwards. Recommended: the archive then gets whole "
        "ranges, and is written only by sink and merge. Null fetches into the archive itself.",
        allowed=_PATH,
    )
    from_index: int | None = option(
        None,
        "Fetch all that is missing from this index on. Null catches up: from where the archive of a log begins.",
        ge=0,
        le=(1 << 63) - 1,
    )
    logs: Annotated[str, AfterValidator(_part_of_a_log)] | None = option(
        None,
        "Only logs with this text in their name or URL, in upper or lower case. Null takes all.",
        allowed="a text",
    )
    merge_after: bool = option(
        True, "Whether staging is merged when the backfill is done, or left for inspection and `certstream --merge`."
    )
    on_start: bool = option(False, "Whether the service starts a backfill when it starts.")
    interval_secs: int | None = option(
        None,
        "Time from the end of one backfill to the start of the next. Null starts none by itself.",
        unit="seconds",
        ge=60,
        le=31_536_000,
    )
    max_share: float = option(
        0.5,
        "The share of an operator's configured limit that a backfill may take; see ct_log.operator_rate_limits.",
        gt=0,
        le=1,
        allowed="a number above 0, up to 1",
    )
    fetch_concurrency: int = option(4, "Requests in flight to one log.", unit="requests", ge=1, le=64)


class MaintenanceConfig(Section):
    """Upkeep of the archive, in a process of its own: many small files become few, and old ones are deleted."""

    enabled: bool = option(True, "Whether the service does it, where delta_sink is on.")
    quiet_secs: int = option(3_600, "How old a file is before it is rewritten.", unit="seconds", ge=0, le=31_536_000)
    interval_secs: int = option(3_600, "Time between two passes.", unit="seconds", ge=10, le=2_592_000)
    target_file_bytes: int = option(
        128 * _MIB, "How large rewritten files become, about.", unit="bytes", ge=_MIB, le=1 << 34
    )
    retention_hours: int = option(
        168,
        "How long a file that was replaced stays on disk, for readers and for looking at earlier versions.",
        unit="hours",
        ge=168,
        le=87_600,
    )
    keep_days: int | None = option(
        None,
        "How many days of entries are kept, by seen_date; older ones are deleted. Null keeps them for ever.",
        unit="days",
        ge=1,
        le=36_500,
    )
