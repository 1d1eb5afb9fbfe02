"""Files that are looked at now and then, and read once they stopped changing."""

from __future__ import annotations

import asyncio
import os
import threading
import time
from collections.abc import Callable, Iterable
from concurrent.futures import Future
from pathlib import Path
from typing import Final, Generic, Self, TypeAlias, TypeVar

INTERVAL_S: Final = 0.5
_STILL_LOOKS: Final = 2  # that find the same in a row, before it is read: whoever writes may not be done
_GONE_LOOKS: Final = 10  # likewise, where a file is not there: an editor or a mount may be about to put it back
_HANGS_S: Final = 30.0

Look: TypeAlias = tuple[int, ...] | int | None  # what `stat` said, its error number, or None for no such file

T = TypeVar("T")


class Watcher(Generic[T]):
    """Calls `load` whenever files have changed, and once at first; `async with` starts and ends it.

    It looks twice a second, by `stat`, which follows links: so it sees a file that is written in place, one that
    another is renamed over, and a link, at any depth, that points elsewhere now. It does so in a thread of its own that
    nobody waits for, and `load` is called there: a file system that hangs holds neither the event loop nor the end of
    the process. Of results that nobody took, the newest is kept.
    """

    def __init__(
        self, paths: Callable[[], Iterable[Path]], load: Callable[[], T], *, interval_s: float = INTERVAL_S
    ) -> None:
        self._paths = paths
        self._load = load
        self._interval_s = interval_s
        self._looked_at: float | None = None
        self._ended = threading.Event()
        self._result: Future[T] | None = None
        self._changed = asyncio.Event()

    async def __aenter__(self) -> Self:
        self._loop, self._looked_at = asyncio.get_running_loop(), time.monotonic()
        threading.Thread(target=self._run, name="configuration", daemon=True).start()
        return self

    async def __aexit__(self, *_: object) -> None:
        self._ended.set()

    @property
    def hangs(self) -> bool:
        """Whether the files did not answer for a while."""
        return self._looked_at is not None and time.monotonic() - self._looked_at > _HANGS_S

    async def next(self) -> T:
        """Wait for the next change: what `load` returned then, or raise what it raised."""
        await self._changed.wait()
        self._changed.clear()
        assert self._result is not None
        return self._result.result()

    def _run(self) -> None:
        before: list[Look] = []
        still, loaded = 0, before
        while not self._ended.wait(self._interval_s):
            now = [look(path) for path in self._paths()]
            still = still + 1 if now == before else 1
            before = now
            if now != loaded and still >= (_GONE_LOOKS if None in now else _STILL_LOOKS):
                loaded = now
                if not self._hand_over():
                    return
            self._looked_at = time.monotonic()

    def _hand_over(self) -> bool:
        """Load and pass it on; False where the event loop is closed."""
        result: Future[T] = Future()
        try:
            result.set_result(self._load())
        except Exception as exc:  # noqa: BLE001 -- raised where somebody waits for it
            result.set_exception(exc)
        try:
            self._loop.call_soon_threadsafe(self._take, result)
        except RuntimeError:
            return False
        return True

    def _take(self, result: Future[T]) -> None:
        self._result = result
        self._changed.set()


def look(path: Path) -> Look:
    """What tells one content of a file from another without reading it."""
    try:
        found = os.stat(path)  # noqa: PTH116 -- no more of it than needed
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as exc:
        return exc.errno or 0
    return found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns
