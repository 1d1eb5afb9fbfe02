"""Where tables lie: the one module that knows they are directories of this machine.

A table is addressed by its absolute path. Everything that writes here is durable when it returns: the file and the
directory entry that names it are synced.
"""

from __future__ import annotations

import errno
import os
import re
import secrets
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from urllib.parse import unquote, urlsplit

import structlog

from certstream import durable
from certstream.durable import remove_left, sync_directory, sync_file
from certstream.errors import ConfigError, StorageError
from certstream.permissions import reason

DELTA_LOG = "_delta_log"
SIDE = "_certstream"  # beside the table's files: what this program remembers of it

_ASIDE = ".certstream-deleted-"
_COPY_BYTES = 16 << 20  # at a time
# deltalake 1.6 makes `/` of a backslash and decodes what looks encoded, in a path and once more in a file:// URL
_MISTAKEN = re.compile(r"[\\\x00-\x1f\x7f]|%[0-9A-Fa-f]{2}")
_UNREMARKABLE = frozenset({SIDE, "lost+found"})

log = structlog.get_logger(__name__)


def local_path(text: str, option: str) -> Path:
    """The absolute path that a table's address names: a path or a file:// URL.

    Raises ConfigError, naming `option`, for any other scheme, and for a path that deltalake takes for another one.
    """
    if "://" in text:
        parts = urlsplit(text)
        if parts.scheme.lower() != "file" or parts.netloc not in ("", "localhost") or not parts.path.strip("/"):
            raise ConfigError(f"{option}: {text!r} is not allowed, must be a path or a file:// URL of this machine")
        text = unquote(parts.path)
    path = os.path.abspath(text)  # noqa: PTH100 -- resolve() would follow links, which are looked at later
    for name in (path, os.path.realpath(path)):  # deltalake follows them
        if _MISTAKEN.search(name):
            raise ConfigError(
                f"{option}: {name!r} is not allowed, must be without backslashes, control characters and % before two "
                "hexadecimal digits"
            )
    return Path(path)


def new_name(kind: str) -> str:
    """A file name never used before; names of one kind sort by the time when they were made."""
    return f"{kind}-{time.time_ns() // 1_000_000:012x}-{secrets.token_hex(8)}.parquet"


def age_s(name: str) -> float | None:
    """Seconds since `new_name` gave that name, None of any other name."""
    parts = Path(name).name.split("-")
    try:
        return time.time() - int(parts[1], 16) / 1000 if len(parts) == 3 else None
    except ValueError:
        return None


def has_log(root: Path) -> bool:
    """Whether the directory holds the log of a Delta table, readable or not."""
    try:
        names = [path.name for path in (root / DELTA_LOG).iterdir()]
    except (FileNotFoundError, NotADirectoryError):
        return False
    except OSError as exc:
        raise storage_error(root / DELTA_LOG, exc) from exc
    return any(name.endswith((".json", ".parquet")) for name in names)


def is_vacant(root: Path) -> bool:
    """Whether a table may be made there: nothing is, or a directory with nothing of anybody's in it.

    Empty directories count for nothing: a table that was removed while it was written leaves one.
    """
    try:
        others = [path for path in root.iterdir() if path.name not in (*_UNREMARKABLE, DELTA_LOG)]
        return all(path.is_dir() and not any(path.iterdir()) for path in others)
    except FileNotFoundError:
        return True
    except OSError as exc:
        raise storage_error(root, exc) from exc


def free_bytes(path: Path) -> int:
    """Bytes that may still be written where the path is or will be. Raises StorageError."""
    for place in (path, *path.parents):
        try:
            return shutil.disk_usage(place).free
        except (FileNotFoundError, NotADirectoryError):
            continue
        except OSError as exc:
            raise storage_error(place, exc) from exc
    raise StorageError(f"{path}: is on no disk")


def storage_error(path: Path, exc: OSError) -> StorageError:
    """The StorageError that says what failed where."""
    full = exc.errno in (errno.ENOSPC, errno.EDQUOT)
    return StorageError(f"{path}: {reason(exc, path)}", kind="disk_full" if full else "storage")


def make_directory(path: Path) -> None:
    """Make a directory and its parents, each durable in its own parent. Raises StorageError."""
    try:
        durable.make_directory(path)
    except OSError as exc:  # which part of the path it is that cannot be made
        raise storage_error(Path(exc.filename or path), exc) from exc


def replace_file(path: Path, content: bytes) -> None:
    """Put a file in place as a whole: whatever happens, a reader finds the old one or the new. Raises StorageError.

    What was left of the same file by processes that were killed here an hour ago or earlier is removed.
    """
    remove_left(path.parent, rf"\.{re.escape(path.name)}\.[0-9a-f]{{8}}\.tmp")
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}.tmp")
    try:
        with temporary.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
        sync_directory(path.parent)
    except OSError as exc:
        with suppress(OSError):  # of a disk that is read-only now; what failed first is what to say
            temporary.unlink()
        raise storage_error(path, exc) from exc


def link_or_copy(source: Path, target: Path, step: Callable[[], object] = lambda: None) -> None:
    """Give a file that never changes a second name, on another file system a copy of it. Raises StorageError.

    `step` is called again and again while a copy is made; what it raises ends that, and nothing is left.
    """
    try:
        try:
            os.link(source, target)
        except OSError as exc:
            if exc.errno not in (errno.EXDEV, errno.EPERM, errno.EMLINK, errno.EOPNOTSUPP):
                raise
            _copy(source, target, step)
        sync_file(target)
        sync_directory(target.parent)
    except OSError as exc:
        remove(target)
        raise storage_error(target, exc) from exc
    except BaseException:
        remove(target)
        raise


def _copy(source: Path, target: Path, step: Callable[[], object]) -> None:
    with source.open("rb") as reader, target.open("xb") as writer:
        while part := reader.read(_COPY_BYTES):
            step()
            writer.write(part)
            writer.flush()
            os.fdatasync(writer.fileno())  # bit by bit: all of it at the end could take minutes


def remove(path: Path) -> None:
    """Remove a file that no table names; one that resists is left for a later sweep."""
    try:
        path.unlink(missing_ok=True)
    except OSError as exc:
        log.warning("file cannot be removed", file=str(path), error=exc.strerror)


def delete_table(root: Path) -> None:
    """Remove a table: renamed aside in one step, then removed file by file. Raises StorageError.

    A crash in between leaves what `sweep_deleted` finds.
    """
    aside = root.with_name(f"{_ASIDE}{root.name}-{secrets.token_hex(4)}")
    try:
        root.rename(aside)
        sync_directory(root.parent)
        shutil.rmtree(aside)
    except OSError as exc:
        raise storage_error(root, exc) from exc


def deleted(root: Path) -> list[Path]:
    """What deletions of that table left behind, or one leaves behind at this moment. Raises StorageError."""
    try:
        return list(root.parent.glob(f"{_ASIDE}{_escaped(root.name)}-????????"))
    except OSError as exc:
        raise storage_error(root.parent, exc) from exc


def sweep_deleted(root: Path) -> None:
    """Remove what earlier deletions of that table left behind; what resists is said and left."""
    for aside in deleted(root):
        try:
            shutil.rmtree(aside)
        except OSError as exc:
            log.warning("what a deleted table left cannot be removed", directory=str(aside), error=exc.strerror)


def _escaped(name: str) -> str:
    return "".join(f"[{c}]" if c in "*?[" else c for c in name)


def data_files(root: Path) -> Iterator[str]:
    """Every Parquet file below the table, by its path from there; not those of `_delta_log` and the like."""
    for directory, names, files in os.walk(root):
        names[:] = [name for name in names if not name.startswith(("_", "."))]
        for name in files:
            if name.endswith(".parquet"):
                yield os.path.relpath(os.path.join(directory, name), root)  # noqa: PTH118 -- a hundred thousand of them
