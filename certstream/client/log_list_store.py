"""The last good list of each source on disk, with what it takes to verify it again.

One file per source, so that a list and its signature are always of the same publication:

    {"version": 1, "location": …, "checked_ms": …, "signature": base64, "sha256": hex of the list, …}\\n
    the list, byte by byte as its publisher signed it
"""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import orjson
import pybase64

from certstream.client.http import Validators
from certstream.client.log_list_source import ListSource
from certstream.ct.log_list import MAX_LIST_BYTES
from certstream.durable import write_file
from certstream.errors import MalformedError

_VERSION: Final = 1
_HEAD_CAP_BYTES: Final = 16_384


@dataclass(frozen=True, slots=True)
class KeptList:
    """A list as its publisher gave it."""

    body: bytes
    signature: bytes  # empty where the source is not signed
    checked_ms: int  # Unix ms: when its publisher gave it last, or said that it is current
    validators: Validators


def kept_path(directory: Path, source: ListSource) -> Path:
    """The file of a source's list; another location is another file."""
    name = re.sub(r"[^a-z0-9]+", "-", source.name.casefold())[:40]
    return directory / f"{name}-{hashlib.sha256(source.location.encode()).hexdigest()[:8]}.loglist"


def keep_list(directory: Path, source: ListSource, kept: KeptList) -> None:
    """Put a list to the disk in place of the one before. Raises OSError."""
    directory.mkdir(parents=True, exist_ok=True)
    write_file(kept_path(directory, source), _packed(source, kept))


def kept_list(directory: Path, source: ListSource) -> KeptList | None:
    """The list that was kept last, not verified yet; None where none was. Raises OSError, MalformedError."""
    try:
        with kept_path(directory, source).open("rb") as file:
            data = file.read(_HEAD_CAP_BYTES + MAX_LIST_BYTES + 1)
    except FileNotFoundError:
        return None
    return _unpacked(source, data)


def _packed(source: ListSource, kept: KeptList) -> bytes:
    head = {
        "version": _VERSION,
        "location": source.location,
        "checked_ms": kept.checked_ms,
        "etag": kept.validators.etag,
        "last_modified": kept.validators.last_modified,
        "signature": pybase64.b64encode(kept.signature).decode(),
        "sha256": hashlib.sha256(kept.body).hexdigest(),
    }
    return orjson.dumps(head) + b"\n" + kept.body


def _unpacked(source: ListSource, data: bytes) -> KeptList:
    line, _, body = data.partition(b"\n")
    try:
        head = orjson.loads(line)
        signature = pybase64.b64decode(_text(head["signature"]), validate=True)
        validators = Validators.of(_text(head["etag"]), _text(head["last_modified"]))
        checked_ms = head["checked_ms"]
        found = head["version"], head["location"], head["sha256"]
    except (ValueError, KeyError, TypeError) as exc:
        raise MalformedError(f"not a kept log list: {type(exc).__name__}: {exc}") from exc
    if found != (_VERSION, source.location, hashlib.sha256(body).hexdigest()):
        raise MalformedError("not the kept log list of that location, or damaged")
    if not isinstance(checked_ms, int) or not 0 <= checked_ms < 1 << 63:
        raise MalformedError("kept log list without a time")
    return KeptList(body, signature, checked_ms, validators)


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise TypeError("not a text")
    return value
