"""Root works on nobody else's files: what it wrote there, their owner could neither change nor delete."""

from __future__ import annotations

import os
import shlex
from collections.abc import Iterable
from pathlib import Path

from certstream.errors import ConfigError
from certstream.permissions import user_name


def refuse_as_root(paths: Iterable[Path], *, work: str, unit: str) -> None:
    """Raise ConfigError where this process is root's and one of the files or directories is another user's.

    Of what is not there yet the directory counts in which it would be made. `work` are the flags to run as that user
    instead, none for the service, and `unit` the systemd unit that does the same.
    """
    if os.geteuid() != 0:
        return
    for path in paths:
        found, uid = _nearest(path)
        if uid != 0:
            owner = _name(uid)
            command = " ".join(["sudo -u", owner, "certstream", work]).strip()
            raise ConfigError(
                f"{found}: belongs to {owner}, who could not change what root writes there; run this as that user: "
                f"{command} …, or by systemctl start {unit}"
            )


def _nearest(path: Path) -> tuple[Path, int]:
    """The path, or the nearest directory above it that is there, links followed, and its owner's uid.

    What cannot be looked at counts as root's: who opens it says why it cannot.
    """
    path = Path(os.path.realpath(path))
    for each in (path, *path.parents):
        try:
            return each, each.stat().st_uid
        except (FileNotFoundError, NotADirectoryError):
            continue
        except OSError:
            break
    return path, 0


def _name(uid: int) -> str:
    """A user's name, as a shell and sudo take it."""
    name = user_name(uid)
    return f"'#{uid}'" if name is None else shlex.quote(name)
