"""What reading a log means, whatever its protocol."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable
from dataclasses import dataclass
from typing import NamedTuple, Protocol

from certstream.client.http import HttpClient
from certstream.client.waits import Waits
from certstream.ct.types import EntryBatch, LogInfo, TreeHead
from certstream.errors import FetchError, MalformedError


@dataclass(frozen=True, slots=True)
class ReadSettings:
    """How a log is read."""

    batch_size: int = 1024  # entries to ask for in one get-entries, and to put together from data tiles
    fetch_concurrency: int = 4  # requests in flight at most while catching up
    partial_tile_wait_s: float = 15.0  # that an entry may wait for its data tile to fill
    join_tiles: bool = True  # else each data tile is a batch of its own: for decode_together, which needs no copy


class Readable(NamedTuple):
    """How far a log may be read now."""

    stop: int  # entries before this index
    wait_s: float | None  # until more of the same tree may be read; None where nothing is held back


class LogClient(Protocol):
    """Reads one log."""

    @property
    def log(self) -> LogInfo:
        """The log that is read."""

    @property
    def paused_s(self) -> float:
        """Seconds until the log's operator takes requests again, as a 429 to any of its logs asked for; mostly 0."""

    @property
    def waits(self) -> Waits:
        """What reading the log spends its time on; the same object each time."""

    async def head(self) -> TreeHead:
        """Return the log's newest word on its tree, unverified. Raises FetchError."""

    def readable(self, position: int, tree_size: int) -> Readable:
        """Say how far to read now, with everything before `position` read and a tree of `tree_size` leaves.

        Ask after each head: the time that entries may be held back counts from the first head that covers them, and
        `tree_size` is what is believed from then on, whatever larger sizes heads gave.
        """

    def forget(self) -> None:
        """Keep nothing of what was downloaded: it turned out to be wrong, and is asked for again."""

    def batches(self, start: int, stop: int) -> AsyncGenerator[EntryBatch, None]:
        """Yield the entries of [start, stop) in order, all of them, each batch beginning where the last one ended.

        No batch is empty. `stop` must not lie beyond a tree size that the log gave. Raises FetchError or
        LogMisbehaviourError where the log gives no more: what was yielded before stands, nothing else moved.
        Close the generator (`aclosing`) to drop what is in flight.
        """


class WrappedClient:
    """Another LogClient, as it is: for what changes a part of it."""

    def __init__(self, client: LogClient) -> None:
        self._client = client

    @property
    def log(self) -> LogInfo:
        """The log that is read."""
        return self._client.log

    @property
    def paused_s(self) -> float:
        """Seconds until the log's operator takes requests again."""
        return self._client.paused_s

    @property
    def waits(self) -> Waits:
        """What reading the log spends its time on."""
        return self._client.waits

    async def head(self) -> TreeHead:
        """Return the log's newest word on its tree, see LogClient."""
        return await self._client.head()

    def readable(self, position: int, tree_size: int) -> Readable:
        """Say how far to read now, see LogClient."""
        return self._client.readable(position, tree_size)

    def forget(self) -> None:
        """Keep nothing of what was downloaded, see LogClient."""
        self._client.forget()

    def batches(self, start: int, stop: int) -> AsyncGenerator[EntryBatch, None]:
        """Yield the entries of [start, stop) in order, see LogClient."""
        return self._client.batches(start, stop)


class HttpReader:
    """What reading a log over HTTP has in common, whatever the protocol."""

    def __init__(self, http: HttpClient, log: LogInfo) -> None:
        self._http = http
        self._log = log

    @property
    def log(self) -> LogInfo:
        """The log that is read."""
        return self._log

    @property
    def paused_s(self) -> float:
        """Seconds until the log's operator takes requests again."""
        return self._http.pacing.of(self._log.operator).paused_s

    @property
    def waits(self) -> Waits:
        """What reading the log spends its time on."""
        return self._http.waits(self._log)

    def forget(self) -> None:
        """Keep nothing of what was downloaded, see LogClient."""

    async def _fetch_head(self, path: str, parse: Callable[[bytes], TreeHead]) -> TreeHead:
        """The tree head at `path`, unverified. Raises FetchError."""
        body = await self._http.get(self._log, path)
        try:
            return parse(body)
        except MalformedError as exc:
            raise FetchError(f"{self._log.name}: {self._log.base_url}/{path}: {exc}", status="body") from exc
