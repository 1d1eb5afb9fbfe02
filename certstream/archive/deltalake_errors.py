"""What deltalake raises, as what this program knows: one line that says why, a full disk told from all else."""

from __future__ import annotations

import errno
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from deltalake.exceptions import DeltaError

from certstream.archive import storage
from certstream.errors import StorageError

_FULL: Final = (f"(os error {errno.ENOSPC})", f"(os error {errno.EDQUOT})")
_CAUSE: Final = "↳"  # before each cause of an error, the first one last
_COLOUR: Final = re.compile(r"\x1b\[[0-9;]*m")


@contextmanager
def storage_errors(path: Path, *expected: type[DeltaError]) -> Iterator[None]:
    """Let nothing that deltalake raises out but what is expected and StorageError, which says that `path` failed.

    Its panics are no Exceptions, and some of its errors are bare ones.
    """
    try:
        yield
    except expected:
        raise
    except Exception as exc:
        raise _storage_error(path, exc) from exc
    except BaseException as exc:
        if type(exc).__name__ != "PanicException":
            raise
        raise _storage_error(path, exc) from exc


def _storage_error(path: Path, exc: BaseException) -> StorageError:
    if isinstance(exc, OSError) and exc.errno is not None:
        return storage.storage_error(path, exc)
    text = str(exc)
    full = any(number in text for number in _FULL)
    return StorageError(f"{path}: {_reason(text) or type(exc).__name__}", kind="disk_full" if full else "storage")


def _reason(text: str) -> str:
    """The last of the causes where they are named, else what precedes a backtrace."""
    lines = [line.strip() for line in _COLOUR.sub("", text).splitlines()]
    causes = [line.removeprefix(_CAUSE).strip() for line in lines if line.startswith(_CAUSE)]
    return (causes or lines[:1] or [""])[-1]
