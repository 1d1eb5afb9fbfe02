"""A running sink, and waiting for what it does."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, Final, Self

from deltalake import DeltaTable

from certstream.archive import storage
from certstream.archive.commit import Committer
from certstream.archive.sink.sink import Sink
from certstream.archive.sink.standing import SinkSettings
from certstream.archive_metrics import ArchiveMetrics
from certstream.metrics import Metrics
from tests.archive.archive_support import DATE

SETTINGS: Final = SinkSettings(flush_interval_s=0.01, retry_initial_s=0.01, retry_max_s=0.02)
MANUAL: Final = replace(SETTINGS, flush_interval_s=3600.0)  # rows are committed by their number, and at the end


def sink(root: Path, settings: SinkSettings = SETTINGS, metrics: ArchiveMetrics | None = None, **more: Any) -> Sink:
    return Sink(Committer(root), settings, metrics or Metrics().archive, **more)


@asynccontextmanager
async def running(own: Sink) -> AsyncIterator[Sink]:
    """Open the sink, run it, stop it as the service does, and close it."""
    async with own:
        task = asyncio.create_task(own.run())
        try:
            yield own
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)


async def until(own: Sink, predicate: Callable[[], bool]) -> None:
    """Wait until it holds; asked again after each attempt to commit."""
    while not predicate():
        await own.attempted()


def positions(root: Path, *urls: str, version: int | None = None) -> list[int | None]:
    """The archived positions that a table's version holds."""
    table = DeltaTable(root, version=version)
    return [table.transaction_version(f"certstream.position:{url}") for url in urls]


class Pipe:
    """A file whose readers wait until `end`: a pipe without a writer."""

    def __init__(self, path: Path, content: bytes) -> None:
        """`content` is what the reader gets at the end."""
        self._path = path
        self._content = content
        self._writer: int | None = None
        self._path.parent.mkdir(parents=True, exist_ok=True)
        os.mkfifo(self._path)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.end()

    async def reached(self) -> None:
        """Wait until somebody waits for it."""
        async with asyncio.timeout(60):
            while self._writer is None:
                try:
                    self._writer = os.open(self._path, os.O_WRONLY | os.O_NONBLOCK)
                except OSError:  # nobody reads
                    await asyncio.sleep(0.01)

    def end(self) -> None:
        """Let whoever waits go on, and nobody wait again."""
        if not self._path.exists():
            return
        writer = os.open(self._path, os.O_RDWR) if self._writer is None else self._writer
        self._path.unlink()
        os.write(writer, self._content)
        os.close(writer)


class Hanging(Pipe):
    """A table that does not answer whoever commits to it."""

    def __init__(self, root: Path) -> None:
        super().__init__(root / storage.SIDE / "dropped.json", b'{"version": 1, "dropped": {}}')


class Unopenable(Pipe):
    """A table, empty yet, that does not answer whoever opens it."""

    def __init__(self, root: Path) -> None:
        Committer(root).look()
        super().__init__(root / storage.DELTA_LOG / "_last_checkpoint", b"")


class Blocked:
    """A table one day of which cannot be written: a plain file lies in its place. Root cannot write it either."""

    def __init__(self, root: Path, date: str = DATE) -> None:
        self._partition = root / f"seen_date={date}"
        self._aside = root / ".aside"

    def __enter__(self) -> None:
        if self._partition.exists():
            self._partition.rename(self._aside)
        self._partition.write_bytes(b"")

    def __exit__(self, *_: object) -> None:
        self._partition.unlink()
        if self._aside.exists():
            self._aside.rename(self._partition)
