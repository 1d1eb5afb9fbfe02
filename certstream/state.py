"""`certstream_state.json`: where the reading of each log stands.

    {"version": 1, "logs": {"<url>": {"current_index": n, "tree_size": n, "last_success": Unix s, "start_index": n,
                                      "archive_start": n, "edge": base64}}}

`current_index` is the next index to read, `start_index` where following began, `archive_start` where the archive of a
log begins, there only as long as the archive's table cannot be relied on to say so. `edge` is the right edge of the
log's tree before `current_index` (`TreeEdge.to_bytes`), there where that is proven. Only `current_index` is needed;
what else stands in the file, fields and logs that nobody asks for, is kept as it is. Beside the file lie `.lock` (who
uses it), `.prev` (the generation before) and, while it is written, `.tmp`.
"""

from __future__ import annotations

import asyncio
import base64
import os
import shutil
import threading
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final, Literal, Self

import orjson
import structlog

from certstream.ct.edge import TreeEdge
from certstream.durable import sync_directory
from certstream.errors import MalformedError, StateError, StorageError
from certstream.locks import FileLock

SAVE_INTERVAL_S: Final = 1.0
_VERSION = 1
_FIELDS = ("current_index", "tree_size", "last_success", "start_index", "archive_start")

log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class LogPosition:
    """How far one log has been read."""

    current_index: int  # next index to read
    tree_size: int  # leaves, as the log last said; 0 if it never did
    last_success: int  # Unix s of the last entries taken; 0 if there were none
    start_index: int | None = None  # where following began; None if the file does not say


class StateStore:
    """The positions of all logs, in memory and in one file that this process alone writes.

    `async with` opens and closes it. `run()` saves what changed, at most once in SAVE_INTERVAL_S; closing saves the
    rest. All methods belong to the event loop's thread. A save that fails is logged once and tried again; meanwhile
    `save_error` says why. With `path` None nothing is kept.
    """

    def __init__(
        self,
        path: Path | None,
        *,
        recovery: Literal["fail", "fresh"] = "fail",
        sleep: Callable[[float], Awaitable[object]] = asyncio.sleep,
    ) -> None:
        self._file = None if path is None else _StateFile(Path(os.path.realpath(path)))
        self._recovery = recovery
        self._sleep = sleep
        self._document: dict[str, Any] = {}
        self._logs: dict[str, dict[str, Any]] = {}
        self._keys: dict[str, str] = {}  # URL without trailing slash → key in the file
        self._changes = 0
        self._saved = 0
        self._changed = asyncio.Event()
        self._writing = threading.Lock()
        self.save_error: str | None = None

    async def __aenter__(self) -> Self:
        self.open()
        return self

    async def __aexit__(self, *_: object) -> None:
        await asyncio.to_thread(self.close)

    def open(self) -> None:
        """Lock the file and read it. Raises StateError if another process holds it or it cannot be read."""
        if self._file is None:
            return
        self._file.lock()
        try:
            self._document = self._load(self._file)
        except BaseException:
            self._file.unlock()
            raise
        self._logs = self._document.setdefault("logs", {})
        # A key with a position goes before the same without, one without trailing slash before the same with it
        for key in sorted(self._logs, key=lambda key: ("current_index" not in self._logs[key], key)):
            self._keys.setdefault(key.rstrip("/"), key)

    def _load(self, file: _StateFile) -> dict[str, Any]:
        try:
            return file.read()
        except StateError as exc:
            if self._recovery == "fail":
                raise
            kept = file.put_aside()
            log.warning("state file unreadable, starting fresh", error=str(exc), kept=str(kept))
            return {}

    def close(self) -> None:
        """Save what is not saved yet and let go of the file. A failure to save is logged, not raised."""
        if self._file is None:
            return
        try:
            self._try_save(*self._snapshot())
        finally:
            self._file.unlock()

    def position(self, url: str) -> LogPosition | None:
        """Return how far the log has been read, None if it never was; `url` with or without trailing slash."""
        return _position(self._logs.get(self._key(url), {}))

    def begin(self, url: str, start_index: int, tree_size: int) -> None:
        """Record where following a log begins. Raises ValueError if it began before."""
        if self.position(url) is not None:
            raise ValueError(f"{url} is followed already")
        self._update(url, current_index=start_index, tree_size=tree_size, last_success=0, start_index=start_index)

    def advance(self, url: str, current_index: int, tree_size: int, last_success: int) -> None:
        """Move a log's position on: everything before `current_index` has gone out; `last_success` in Unix s.

        The edge of another position is let go of. Raises ValueError for a position behind the one that is known.
        """
        known = self.position(url)
        if known is not None and current_index < known.current_index:
            raise ValueError(f"{url} stands at {known.current_index} and cannot advance to {current_index}")
        if known is not None and current_index > known.current_index:
            self._logs[self._key(url)].pop("edge", None)
        self._update(url, current_index=current_index, tree_size=tree_size, last_success=last_success)

    def edge(self, url: str) -> TreeEdge | None:
        """Return the proven edge of a log's tree before its position, None where none is known or it does not fit."""
        entry = self._logs.get(self._key(url), {})
        if "edge" not in entry:
            return None
        try:
            edge = TreeEdge.from_bytes(base64.b64decode(entry["edge"], validate=True))
            if edge.size == entry.get("current_index"):
                return edge
            error = f"it is that of {edge.size} entries"
        except (TypeError, ValueError, MalformedError) as exc:
            error = str(exc)
        log.debug("the edge of a log's tree does not fit its position, discarded", url=url, error=error)
        return None

    def set_edge(self, url: str, edge: TreeEdge | None) -> None:
        """Record the proven edge before a log's position, None for none; that of another position counts as none."""
        entry = self._logs.get(self._key(url))
        if entry is None:
            return
        fits = edge is not None and edge.size == entry.get("current_index")
        text = base64.b64encode(edge.to_bytes()).decode() if edge is not None and fits else None
        if text == entry.get("edge"):
            return
        if text is None:
            del entry["edge"]
        else:
            entry["edge"] = text
        self._note_change()

    def archive_start(self, url: str) -> int | None:
        """Return where the archive of a log begins, None where the archive's table says so."""
        index: int | None = self._logs.get(self._key(url), {}).get("archive_start")
        return index

    def set_archive_start(self, url: str, index: int | None) -> None:
        """Record where the archive of a log begins; None once the archive's table says so."""
        if index == self.archive_start(url):
            return
        if index is not None:
            self._update(url, archive_start=index)
        else:
            del self._logs[self._key(url)]["archive_start"]
            self._note_change()

    def _key(self, url: str) -> str:
        base = url.rstrip("/")
        return self._keys.get(base, base)

    def _update(self, url: str, **fields: int) -> None:
        for name, value in fields.items():
            if not _is_count(value, needed=True):
                raise ValueError(f"{name} of {url} is {value}, which the state file cannot hold")
        key = self._key(url)
        self._keys.setdefault(url.rstrip("/"), key)
        self._logs.setdefault(key, {}).update(fields)
        self._note_change()

    def _note_change(self) -> None:
        self._changes += 1
        self._changed.set()

    async def run(self) -> None:
        """Save whenever something changed, at most once in SAVE_INTERVAL_S, until cancelled."""
        while True:
            await self._changed.wait()
            self._changed.clear()
            if not await asyncio.to_thread(self._try_save, *self._snapshot()):
                self._changed.set()
            await self._sleep(SAVE_INTERVAL_S)

    def _snapshot(self) -> tuple[int, bytes]:
        document = {**self._document, "version": _VERSION, "logs": self._logs}
        return self._changes, orjson.dumps(document, option=orjson.OPT_INDENT_2)

    def _write(self, changes: int, content: bytes) -> None:
        # A save that was cancelled goes on in its thread: never two at once, never an older one last.
        with self._writing:
            if self._file is None or changes <= self._saved:
                return
            self._file.write(content)
            self._saved = changes

    def _try_save(self, changes: int, content: bytes) -> bool:
        try:
            self._write(changes, content)
        except StorageError as exc:
            if self.save_error is None:
                log.error("state cannot be saved", error=str(exc))  # noqa: TRY400 -- no bug, no trace
            self.save_error = str(exc)
            return False
        if self.save_error is not None:
            log.warning("state is saved again")
            self.save_error = None
        return True


class _StateFile:
    """The file, its lock, its previous generation."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._lock = FileLock(self._beside(".lock"), subject=path, error=StateError)

    def _beside(self, suffix: str) -> Path:
        return self._path.with_name(self._path.name + suffix)

    def lock(self) -> None:
        """Take the lock; it is a file of its own because each save replaces the state file's inode."""
        self._lock.take()

    def unlock(self) -> None:
        """Let go of the lock."""
        self._lock.release()

    def read(self) -> dict[str, Any]:
        """Return the document, `{}` where there is no file. Raises StateError, offering the previous generation."""
        try:
            return _read(self._path)
        except FileNotFoundError:
            if self._beside(".prev").exists():
                log.warning("no state file, but a previous generation of one", previous=str(self._beside(".prev")))
            return {}
        except StateError as exc:
            raise StateError(f"{exc}; {self._way_out()}") from exc

    def _way_out(self) -> str:
        previous = self._beside(".prev")
        try:
            document = _read(previous)
            written = _time(datetime.fromtimestamp(previous.stat().st_mtime, UTC))
        except (OSError, StateError):
            offer = "there is no readable previous generation"
        else:
            logs = len(document.get("logs", {}))
            offer = f"{previous} of {written} is readable ({logs} logs): copy it over the file to resume from there"
        return f"{offer}; ct_log.state_recovery: fresh starts anew and keeps the file aside"

    def put_aside(self) -> Path:
        """Rename an unreadable file, so that it is kept and out of the way."""
        stamp = datetime.now(UTC).strftime("%Y%m%dT%H%M%S.%fZ")
        kept = self._beside(f".unreadable-{stamp}")
        try:
            self._path.rename(kept)
        except OSError as exc:
            raise StateError(f"{self._path}: unreadable, and cannot be put aside: {exc.strerror}") from exc
        return kept

    def write(self, content: bytes) -> None:
        """Replace the file: whatever happens, a reader finds the old state or the new one. Raises StorageError."""
        temporary = self._beside(".tmp")
        try:
            with temporary.open("wb") as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
            self._keep_previous()
            temporary.replace(self._path)
            sync_directory(self._path.parent)
        except OSError as exc:
            raise StorageError(f"{self._path}: {exc.strerror or exc}") from exc

    def _keep_previous(self) -> None:
        """Give the file a second name, `.prev`, before another one takes its own."""
        if not self._path.exists():
            return
        link = self._beside(".prev.tmp")
        link.unlink(missing_ok=True)
        try:
            os.link(self._path, link)
        except OSError:  # a file system without hard links
            shutil.copyfile(self._path, link)
        link.replace(self._beside(".prev"))


def read_positions(path: Path) -> dict[str, LogPosition]:
    """The positions in a state file that another process may be writing, by URL without trailing slash.

    Nothing where there is no file. Raises StateError where it cannot be read.
    """
    try:
        logs = _read(path).get("logs", {})
    except FileNotFoundError:
        return {}
    positions: dict[str, LogPosition] = {}
    for key in sorted(logs):  # a key without trailing slash goes before the same with one
        position = _position(logs[key])
        if position is not None:
            positions.setdefault(key.rstrip("/"), position)
    return positions


def _position(entry: Mapping[str, Any]) -> LogPosition | None:
    if "current_index" not in entry:
        return None
    tree_size, last_success = int(entry.get("tree_size") or 0), int(entry.get("last_success") or 0)
    return LogPosition(entry["current_index"], tree_size, last_success, entry.get("start_index"))


def _time(when: datetime) -> str:
    return when.strftime("%Y-%m-%d %H:%M:%S UTC")


def _read(path: Path) -> dict[str, Any]:
    """Read and check one file. Raises FileNotFoundError, or StateError for anything else that is wrong with it."""
    try:
        content = path.read_bytes()
    except FileNotFoundError:
        raise
    except OSError as exc:
        raise StateError(f"{path}: cannot be read: {exc.strerror}") from exc
    try:
        document = orjson.loads(content)
        orjson.dumps(document)  # as it will be written again: what nests too deeply is read, and not written
    except (ValueError, TypeError) as exc:
        raise StateError(f"{path}: is not JSON: {exc}") from exc
    mistake = _mistake(document)
    if mistake:
        raise StateError(f"{path}: {mistake}")
    return dict(document)


def _mistake(document: Any) -> str | None:
    """Say what is wrong with a document, None if it is a state file of version 1."""
    if not isinstance(document, dict):
        return "is not an object"
    version = document.get("version", _VERSION)
    if version != _VERSION or isinstance(version, bool):
        return f"has version {version!r}, {_VERSION} is known here"
    logs = document.get("logs", {})
    if not isinstance(logs, dict) or not all(isinstance(entry, dict) for entry in logs.values()):
        return "has no object of objects in `logs`"
    for url, entry in logs.items():
        for name in _FIELDS:
            if not _is_count(entry.get(name), needed=name == "current_index" and name in entry):
                return f"{name} of {url} is {entry[name]!r}, must be an integer from 0 to 2^63 - 1"
    return None


def _is_count(value: Any, *, needed: bool) -> bool:
    if value is None:
        return not needed
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 1 << 63
