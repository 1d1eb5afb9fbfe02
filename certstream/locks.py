"""Locks across processes: who holds a file says who it is, and the lock goes with its process."""

from __future__ import annotations

import fcntl
import os
import socket
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from types import TracebackType
from typing import Self

import structlog

from certstream.errors import CertstreamError
from certstream.permissions import reason

log = structlog.get_logger(__name__)


class FileLock:
    """An exclusive lock on `path`, a file of its own, that guards `subject`.

    Taking it never waits: where another process holds it, `error` is raised and names that one. With `remove`, letting
    go removes the file; else it stays, empty.
    """

    def __init__(self, path: Path, *, subject: Path, error: type[CertstreamError], remove: bool = False) -> None:
        self._path = path
        self._subject = subject
        self._error = error
        self._remove = remove
        self._fd: int | None = None

    def __enter__(self) -> Self:
        self.take()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.release()

    def take(self) -> None:
        """Take the lock. Raises `error` where another process holds it or the file cannot be made."""
        while self._fd is None:
            fd = self._locked()
            try:
                is_ours = _is_at(self._path, fd)
            except OSError as exc:
                os.close(fd)
                raise self._error(f"{self._path}: cannot be locked: {exc.strerror}") from exc
            if is_ours:
                self._fd = fd
            else:
                os.close(fd)  # the one before removed it between our opening and our locking

    def _locked(self) -> int:
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            fd = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o644)
        except OSError as exc:
            raise self._error(f"{self._path}: cannot be locked: {reason(exc, self._path)}") from exc
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as exc:
            holder = _content(fd)
            os.close(fd)
            raise self._error(f"{self._subject}: in use by {holder or 'another process'}") from exc
        except OSError as exc:
            os.close(fd)
            raise self._error(f"{self._path}: cannot be locked: {exc.strerror}") from exc
        with suppress(OSError):  # of a full disk: the lock holds all the same
            os.ftruncate(fd, 0)
            os.pwrite(fd, _holder().encode(), 0)
        return fd

    def release(self) -> None:
        """Let go of the lock; without effect where it is not held. What cannot be removed stays, and locks nothing."""
        if self._fd is None:
            return
        fd, self._fd = self._fd, None
        try:
            if self._remove:
                self._path.unlink(missing_ok=True)  # while it is held: whoever opened it meanwhile looks again
            else:
                os.ftruncate(fd, 0)
        except OSError as exc:
            log.warning("lock file cannot be tidied up", file=str(self._path), error=exc.strerror)
        finally:
            os.close(fd)


def _is_at(path: Path, fd: int) -> bool:
    """Whether the open file is the one that the path names."""
    try:
        return os.path.samestat(path.stat(), os.fstat(fd))
    except FileNotFoundError:
        return False


def _content(fd: int) -> str:
    """What the holder wrote; nothing where that cannot be read."""
    try:
        return os.pread(fd, 200, 0).decode("utf-8", "replace").strip()
    except OSError:
        return ""


def _holder() -> str:
    now = datetime.now(UTC).strftime("%Y-%m-%d %H:%M:%S UTC")
    return f"process {os.getpid()} on {socket.gethostname()} since {now}\n"
