"""What was removed from a table on purpose: no gap, and never fetched again.

    _certstream/dropped.json: {"version": 1, "dropped": {"<source_url>": [[start, stop], …]}}

Written before the commit that removes the rows. Unlike the coverage beside it, nothing else knows this: an unreadable
file is an error.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import orjson

from certstream.archive import storage
from certstream.errors import StorageError
from certstream.intervals import Intervals

_VERSION: Final = 1


class Dropped:
    """The record of one table; reads again what another process changed."""

    def __init__(self, root: Path) -> None:
        self._path = root / storage.SIDE / "dropped.json"
        self._seen: tuple[int, int] | None = None  # inode and time of what was read
        self._logs: dict[str, Intervals] = {}

    def of(self, url: str) -> Intervals:
        """The indices of a log that were removed. Raises StorageError where the record cannot be read."""
        self._refresh()
        return self._logs.get(url, Intervals())

    def logs(self) -> Sequence[str]:
        """The logs of which something was removed. Raises StorageError where the record cannot be read."""
        self._refresh()
        return sorted(self._logs)

    def add(self, covers: Mapping[str, Intervals]) -> None:
        """Record indices durably, before they are removed. Raises StorageError; nothing is recorded then."""
        self._refresh()
        logs = {**self._logs, **{url: self.of(url) | intervals for url, intervals in covers.items()}}
        spans = {url: [list(span) for span in intervals] for url, intervals in sorted(logs.items())}
        storage.make_directory(self._path.parent)
        storage.replace_file(self._path, orjson.dumps({"version": _VERSION, "dropped": spans}))
        self._refresh()

    def _refresh(self) -> None:
        try:
            stat = self._path.stat()
            seen = stat.st_ino, stat.st_mtime_ns
            if seen != self._seen:
                self._logs = _parsed(orjson.loads(self._path.read_bytes()))
                self._seen = seen
        except FileNotFoundError:
            self._logs, self._seen = {}, None
        except OSError as exc:
            raise storage.storage_error(self._path, exc) from exc
        except (ValueError, TypeError, AttributeError, KeyError) as exc:
            raise StorageError(
                f"{self._path}: is not a record of what was removed ({exc}); restore it, or remove it to have "
                "removed rows fetched again"
            ) from exc


def _parsed(document: Any) -> dict[str, Intervals]:
    if document["version"] != _VERSION:
        raise ValueError(f"version {document['version']!r}, {_VERSION} is known here")
    return {
        str(url): Intervals.of(*((int(start), int(stop)) for start, stop in spans))
        for url, spans in document["dropped"].items()
    }
