"""Whose a file is, where this process may not do with it what it is to do."""

from __future__ import annotations

import os
import pwd
from pathlib import Path


def reason(error: OSError, path: Path) -> str:
    """Why something about the path failed; where it is not permitted, whose it is, and who this process is."""
    text = error.strerror or str(error)
    return f"{text}: {_whose(path)}" if isinstance(error, PermissionError) else text


def user_name(uid: int) -> str | None:
    """The name of a user, None where it has none."""
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return None


def _whose(path: Path) -> str:
    ours = _shown(os.geteuid())
    for each in (path, *path.absolute().parents):
        try:
            found = each.stat()
        except OSError:  # not there, or not to be seen: what is above it decides
            continue
        return f"{each} belongs to {_shown(found.st_uid)} (mode {found.st_mode & 0o7777:04o}), this process is {ours}'s"
    return f"this process is {ours}'s"


def _shown(uid: int) -> str:
    return user_name(uid) or f"uid {uid}"
