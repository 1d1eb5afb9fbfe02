"""Bringing to the disk what was written: content by its file, names by their directory."""

from __future__ import annotations

import os
import re
import time
from contextlib import suppress
from pathlib import Path
from typing import Final

_LEFT_S: Final = 3_600.0  # a file takes moments to be written: what is that old is nobody's any more


def write_file(path: Path, content: bytes) -> None:
    """Put a file in its place whole: at any instant it is the one before or this one. Raises OSError.

    What was left of the same file by processes that were killed here an hour ago or earlier is removed.
    """
    remove_left(path.parent, re.escape(path.name) + r"\.tmp-[0-9]+")
    temporary = path.with_name(f"{path.name}.tmp-{os.getpid()}")  # no other process writes to that one
    try:
        temporary.write_bytes(content)
        sync_file(temporary)
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
    sync_directory(path.parent)


def remove_left(directory: Path, name: str) -> None:
    """Remove what killed processes left in a directory: files of such a name (a pattern), an hour old. Raises nothing.

    What resists stays: it is in nobody's way.
    """
    with suppress(OSError):
        for each in directory.iterdir():
            if re.fullmatch(name, each.name):
                with suppress(OSError):
                    if time.time() - each.stat(follow_symlinks=False).st_mtime > _LEFT_S:
                        each.unlink()


def make_directory(path: Path) -> None:
    """Make a directory and its parents, each durable in its own parent. Raises OSError."""
    if path.is_dir():
        return
    make_directory(path.parent)
    path.mkdir(exist_ok=True)
    sync_directory(path.parent)


def sync_file(path: Path) -> None:
    """Bring a file's content to the disk. Raises OSError."""
    _sync(path, os.O_RDONLY)


def sync_directory(path: Path) -> None:
    """Bring a directory's entries to the disk. Raises OSError."""
    _sync(path, os.O_RDONLY | os.O_DIRECTORY)


def _sync(path: Path, flags: int) -> None:
    fd = os.open(path, flags | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
