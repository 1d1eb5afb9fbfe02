"""The state file on disk: one document, read strictly, replaced as a whole, with its lock and the generation before."""

from __future__ import annotations

import os
import shutil
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

import orjson
import structlog

from certstream.durable import sync_directory
from certstream.errors import StateError, StorageError
from certstream.locks import FileLock
from certstream.permissions import reason

VERSION: Final = 1
_FIELDS = ("current_index", "tree_size", "last_success", "start_index", "archive_start")

log = structlog.get_logger(__name__)


class StateFile:
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
            return read_document(self._path)
        except FileNotFoundError:
            if self._beside(".prev").exists():
                log.warning("no state file, but a previous generation of one", previous=str(self._beside(".prev")))
            return {}
        except StateError as exc:
            if is_not_permitted(exc):
                raise  # starting anew would be the wrong way out
            raise StateError(f"{exc}; {self._way_out()}") from exc

    def _way_out(self) -> str:
        previous = self._beside(".prev")
        try:
            document = read_document(previous)
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
            raise StorageError(f"{self._path}: {reason(exc, self._path)}") from exc

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


def read_document(path: Path) -> dict[str, Any]:
    """Read and check one file. Raises FileNotFoundError, or StateError for anything else that is wrong with it."""
    try:
        if path.exists() and not path.is_file():  # reading a named pipe would wait for ever
            raise StateError(f"{path}: is not a file")
        content = path.read_bytes()
    except FileNotFoundError:
        raise
    except OSError as exc:
        raise StateError(f"{path}: cannot be read: {reason(exc, path)}") from exc
    try:
        document = orjson.loads(content)
        orjson.dumps(document)  # as it will be written again: what nests too deeply is read, and not written
    except (ValueError, TypeError) as exc:
        raise StateError(f"{path}: is not JSON: {exc}") from exc
    mistake = _mistake(document)
    if mistake:
        raise StateError(f"{path}: {mistake}")
    return dict(document)


def is_not_permitted(error: StateError) -> bool:
    """Whether there is nothing wrong with a file but that this process may not read it."""
    return isinstance(error.__cause__, PermissionError)


def _mistake(document: Any) -> str | None:
    """Say what is wrong with a document, None if it is a state file of version 1."""
    if not isinstance(document, dict):
        return "is not an object"
    version = document.get("version", VERSION)
    if version != VERSION or isinstance(version, bool):
        newer = isinstance(version, int) and version > VERSION
        return f"has version {version!r}, {VERSION} is known here{': go on with a newer certstream' if newer else ''}"
    logs = document.get("logs", {})
    if not isinstance(logs, dict) or not all(isinstance(entry, dict) for entry in logs.values()):
        return "has no object of objects in `logs`"
    for url, entry in logs.items():
        for name in _FIELDS:
            if not is_count(entry.get(name), needed=name == "current_index" and name in entry):
                return f"{name} of {url} is {entry[name]!r}, must be an integer from 0 to 2^63 - 1"
    return None


def is_count(value: Any, *, needed: bool) -> bool:
    """Whether it is an integer from 0 to 2^63 - 1; None is as well where none is `needed`."""
    if value is None:
        return not needed
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 1 << 63


def _time(when: datetime) -> str:
    return when.strftime("%Y-%m-%d %H:%M:%S UTC")
