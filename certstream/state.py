"""`certstream_state.json`: where the reading of each log stands.

    {"version": 1, "logs": {"<url>": {"current_index": n, "tree_size": n, "last_success": Unix s, "start_index": n,
                                      "archive_start": n, "edge": base64, "log_id": base64}}}

`current_index` is the next index to read, `start_index` where following began, `archive_start` where the archive of a
log begins, there only as long as the archive's table cannot be relied on to say so. `edge` is the right edge of the
log's tree before `current_index` (`TreeEdge.to_bytes`), there where that is proven. `log_id` is that of a log of a log
list, which may move to another URL. Only `current_index` is needed; what else stands in the file, members, fields and
logs that nobody asks for, is kept as it is. Beside the file lie `.lock` (who uses it), `.prev` (the
generation before) and, while it is written, `.tmp`.
"""

from __future__ import annotations

import asyncio
import base64
import os
import threading
from collections.abc import Awaitable, Callable, Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Literal, Self

import orjson
import structlog

from certstream.ct.edge import TreeEdge
from certstream.errors import MalformedError, StateError, StorageError
from certstream.state_file import VERSION, StateFile, is_count, is_not_permitted, read_document

SAVE_INTERVAL_S: Final = 1.0

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
        self._file = None if path is None else StateFile(Path(os.path.realpath(path)))
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

    def _load(self, file: StateFile) -> dict[str, Any]:
        try:
            return file.read()
        except StateError as exc:
            if self._recovery == "fail" or is_not_permitted(exc):
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
        return _edge(url, self._logs.get(self._key(url), {}))

    def anchor(self, url: str) -> TreeEdge | None:
        """Return the longest edge of a log's tree that was proven, wherever its position is; None where none is known.

        Reading may have gone on without proof behind it: what comes has to begin with it all the same.
        """
        return _anchor(url, self._logs.get(self._key(url), {}))

    def set_edge(self, url: str, edge: TreeEdge | None) -> None:
        """Record the proven edge before a log's position, None for none; that of another position counts as none."""
        position = self._logs.get(self._key(url), {}).get("current_index")
        self._set_edge(url, "edge", edge if edge is not None and edge.size == position else None)

    def set_anchor(self, url: str, edge: TreeEdge | None) -> None:
        """Record the longest edge that is proven, None for none; where it is that of the position, once is enough."""
        self._set_edge(url, "anchor", None if edge is None or edge == self.edge(url) else edge)

    def _set_edge(self, url: str, member: str, edge: TreeEdge | None) -> None:
        entry = self._logs.get(self._key(url))
        text = None if edge is None else base64.b64encode(edge.to_bytes()).decode()
        if entry is None or (member in entry, entry.get(member)) == (text is not None, text):
            return
        if text is None:
            del entry[member]
        else:
            entry[member] = text
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

    def settle(self, url: str, log_id: str, elsewhere: Collection[str]) -> str | None:
        """Record that the log with that id is read from `url` now; the URL that it was read from, if another one.

        What is known of it there moves here. `elsewhere` are the URLs that are read as well: nothing of theirs moves.
        """
        key = self._key(url)
        self._keys.setdefault(url.rstrip("/"), key)
        before = None if "current_index" in self._logs.get(key, {}) else self._known_as(log_id, elsewhere)
        if before is not None:
            moved = self._logs.pop(before)
            moved.pop("archive_start", None)  # the rows of the other URL stay with it
            self._logs[key] = {**moved, "start_index": moved["current_index"]}
        if before is not None or self._logs.get(key, {}).get("log_id") != log_id:
            self._logs.setdefault(key, {})["log_id"] = log_id
            self._note_change()
        return before

    def _known_as(self, log_id: str, elsewhere: Collection[str]) -> str | None:
        """Under which key the log with that id was read last."""
        read = {self._key(url) for url in elsewhere}
        positions = {
            key: entry["current_index"]
            for key, entry in self._logs.items()
            if entry.get("log_id") == log_id and "current_index" in entry and key not in read
        }
        return max(positions, key=lambda key: positions[key], default=None)

    def member(self, name: str) -> Any:
        """What the file holds beside the logs, None where there is none of that name."""
        return self._document.get(name)

    def set_member(self, name: str, value: Any) -> None:
        """Keep something JSON can hold beside the logs."""
        if self._document.get(name) != value:
            self._document[name] = value
            self._note_change()

    def _key(self, url: str) -> str:
        base = url.rstrip("/")
        return self._keys.get(base, base)

    def _update(self, url: str, **fields: int) -> None:
        for name, value in fields.items():
            if not is_count(value, needed=True):
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
        document = {**self._document, "version": VERSION, "logs": self._logs}
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


def read_positions(path: Path) -> dict[str, LogPosition]:
    """The positions in a state file that another process may be writing, by URL without trailing slash.

    Nothing where there is no file. Raises StateError where it cannot be read.
    """
    positions = ((url, _position(entry)) for url, entry in _read_logs(path).items())
    return {url: position for url, position in positions if position is not None}


def read_anchors(path: Path) -> dict[str, TreeEdge]:
    """Likewise the longest edges of the logs' trees that were proven, where there are any."""
    anchors = ((url, _anchor(url, entry)) for url, entry in _read_logs(path).items())
    return {url: anchor for url, anchor in anchors if anchor is not None}


def read_member(path: Path, name: str) -> Any:
    """Likewise what the file holds beside the logs, None where there is none of that name."""
    try:
        return read_document(path).get(name)
    except FileNotFoundError:
        return None


def _read_logs(path: Path) -> dict[str, dict[str, Any]]:
    """What a file says of the logs, by URL without trailing slash."""
    try:
        logs = read_document(path).get("logs", {})
    except FileNotFoundError:
        return {}
    found: dict[str, dict[str, Any]] = {}
    for key in sorted(logs, key=lambda key: ("current_index" not in logs[key], key)):  # as StateStore.open goes
        found.setdefault(key.rstrip("/"), logs[key])
    return found


def _edge(url: str, entry: Mapping[str, Any]) -> TreeEdge | None:
    edge, at = _edge_in(url, entry, "edge"), entry.get("current_index")
    if edge is None or edge.size == at:
        return edge
    log.debug("the edge of a log's tree does not fit its position, discarded", url=url, size=edge.size, at=at)
    return None


def _anchor(url: str, entry: Mapping[str, Any]) -> TreeEdge | None:
    return _edge_in(url, entry, "anchor") or _edge(url, entry)


def _edge_in(url: str, entry: Mapping[str, Any], member: str) -> TreeEdge | None:
    if member not in entry:
        return None
    try:
        return TreeEdge.from_bytes(base64.b64decode(entry[member], validate=True))
    except (TypeError, ValueError, MalformedError) as exc:
        log.debug("the edge of a log's tree cannot be read, discarded", url=url, member=member, error=str(exc))
    return None


def _position(entry: Mapping[str, Any]) -> LogPosition | None:
    if "current_index" not in entry:
        return None
    tree_size, last_success = int(entry.get("tree_size") or 0), int(entry.get("last_success") or 0)
    return LogPosition(entry["current_index"], tree_size, last_success, entry.get("start_index"))
