"""The place of a staging table: where it may lie, whose it is at the moment, and how it goes."""

from __future__ import annotations

import os
from pathlib import Path

from certstream.archive import storage
from certstream.errors import ConfigError, StorageError
from certstream.locks import FileLock


def check_staging(main: Path, staging: Path) -> None:
    """Refuse a place where filling, merging or deleting a staging table could harm anything else.

    Writes nothing. Raises ConfigError where `staging` is, contains or lies in the main table, by whatever links; where
    it is a symbolic link or no directory; and where it is a directory with other things in it and no Delta table.
    Raises StorageError where it cannot be looked at.
    """
    try:
        mistake = _mistake(main, staging)
    except OSError as exc:
        raise storage.storage_error(staging, exc) from exc
    if mistake is not None:
        raise ConfigError(f"staging table {staging}: {mistake}")


def _mistake(main: Path, staging: Path) -> str | None:
    if staging.is_symlink():
        return "is a symbolic link, must be a directory itself"
    relation = _relation(Path(os.path.realpath(main)), Path(os.path.realpath(staging)))
    if relation is not None:
        return f"{relation} the main table {main}, must lie elsewhere"
    if not os.path.lexists(staging):
        return None
    if not staging.is_dir():
        return "is not a directory"
    if not storage.has_log(staging) and not storage.is_vacant(staging):
        return "is a directory with other things in it and no Delta table"
    return None


def _relation(main: Path, staging: Path) -> str | None:
    """How one real path stands to the other; a directory mounted at two places is one."""
    if _same(main, staging):
        return "is"
    if any(_same(main, parent) for parent in staging.parents):
        return "lies in"
    if any(_same(staging, parent) for parent in main.parents):
        return "contains"
    return None


def _same(one: Path, other: Path) -> bool:
    if one == other:
        return True
    try:
        return one.samefile(other)
    except OSError:
        return False


def is_staged(staging: Path) -> bool:
    """Whether there is a staging table, readable or not. Cheap; raises StorageError."""
    return storage.has_log(staging)


def staging_lock(staging: Path) -> FileLock:
    """The lock that whoever fills, merges or deletes a staging table holds meanwhile.

    It lies beside the directory, which a merge renames, and is gone when it is let go. Taking it raises StorageError
    where another one holds it, naming that one, and makes the directory that staging is to lie in.
    """
    parent = Path(os.path.realpath(staging.parent))
    return FileLock(parent / f".{staging.name}.certstream-lock", subject=staging, error=StorageError, remove=True)


def sweep_staging(staging: Path) -> None:
    """Remove what a crashed deletion left of an earlier staging table.

    Takes the lock for that, so call it before taking it; what another one holds is left alone. What resists is logged.
    """
    if not storage.deleted(staging):
        return
    try:
        with staging_lock(staging):
            storage.sweep_deleted(staging)
    except StorageError:
        return  # somebody deletes it at this moment, or may; the next run looks again
