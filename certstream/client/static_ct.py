"""Reading a log by checkpoint and data tiles (C2SP static-ct-api)."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from dataclasses import dataclass, replace
from itertools import islice
from typing import Final

from certstream.client.base import HttpReader, Readable, ReadSettings
from certstream.client.flights import Flights
from certstream.client.http import TILE_CAP_BYTES, HttpClient
from certstream.client.issuers import IssuerCache
from certstream.ct.static_ct import DataTile, data_tile_path, fingerprints, parse_checkpoint, parse_data_tile
from certstream.ct.types import TILE_WIDTH, EntryBatch, LogInfo, TreeHead, concat_batches, slice_batch
from certstream.errors import FetchError, MalformedError

_BROKEN_DOWNLOADS: Final = 5  # of a broken data tile in short order: it may be a cache's or a proxy's doing
_BROKEN_AGAIN_S: Final = 10.0  # from then on between downloads at least: a log that is well again is read again soon


@dataclass(frozen=True, slots=True)
class _Broken:
    """A data tile whose framing breaks, as it was downloaded last."""

    tile: DataTile
    width: int
    downloads: int
    again_at: float  # monotonic seconds


@dataclass(frozen=True, slots=True)
class _Piece:
    """What one data tile gave of a wanted range: its entries, and why they end before the range does."""

    batch: EntryBatch
    error: MalformedError | None


class StaticClient(HttpReader):
    """A LogClient for static-ct logs.

    A data tile is kept from its arrival until all its entries were taken, so that no failure makes it come twice:
    at most `settings.fetch_concurrency` full ones, and only while they are being read. One that is broken is kept as
    well, and downloaded again at intervals after the first few.
    """

    def __init__(self, http: HttpClient, log: LogInfo, issuers: IssuerCache, settings: ReadSettings) -> None:
        super().__init__(http, log)
        self._issuers = issuers
        self._settings = settings
        self._tree_size = 0  # how wide its last tile is: the largest that the log gave, or what `readable` was told
        self._settled = False  # the last tile was there: worth asking ahead
        self._kept: dict[int, DataTile] = {}  # by tile index
        self._broken: dict[int, _Broken] = {}  # likewise
        self._held = (-1, 0.0)  # first index held back, and when a head first covered it

    async def head(self) -> TreeHead:
        """Return the checkpoint, unverified. Raises FetchError."""
        log = self._log
        head = await self._fetch_head("checkpoint", lambda body: parse_checkpoint(body, log.origin, log.log_id))
        self._tree_size = max(self._tree_size, head.tree_size)
        return head

    def readable(self, position: int, tree_size: int) -> Readable:
        """Full tiles at once; a partial tile when its first unread entry was held back for as long as it may be."""
        self._tree_size = tree_size
        full = tree_size - tree_size % TILE_WIDTH
        unread = max(position, full)
        if unread >= tree_size:
            return Readable(unread, None)
        now = self._http.clock.monotonic()
        index, since = self._held
        if index != unread:
            since = now
            self._held = (unread, since)
        wait_s = since + self._settings.partial_tile_wait_s - now
        return Readable(tree_size, None) if wait_s <= 0 else Readable(unread, wait_s)

    def forget(self) -> None:
        """Download every data tile anew, see LogClient."""
        self._kept.clear()

    async def batches(self, start: int, stop: int) -> AsyncGenerator[EntryBatch, None]:
        """Yield the entries of [start, stop) in order, see LogClient; with `join_tiles`, of several tiles together.

        Raises MalformedError where the framing of a tile breaks, after the entries before the break.
        """
        self._release(start)
        flights = Flights(self._log.name, self._fetch, self._http.prefetch(self._log.operator))
        try:
            planned = start
            while start < stop:
                planned = self._plan(flights, planned, stop)
                pieces = await self._take(flights)
                batch, error = concat_batches([piece.batch for piece in pieces]), pieces[-1].error
                start = batch.stop
                if len(batch):
                    yield batch
                    self._release(start)
                if error is not None:
                    self._settled = False
                    raise error.with_traceback(None)  # it may be raised again
        finally:
            await flights.close()

    def _plan(self, flights: Flights[_Piece], planned: int, stop: int) -> int:
        """Request ahead as far as that is worth it; where the next request will begin."""
        window = self._settings.fetch_concurrency if self._settled else 1
        while planned < stop and len(flights) < window:
            until = min(stop, planned - planned % TILE_WIDTH + TILE_WIDTH)
            if not flights.add(planned, until):
                break
            planned = until
        return planned

    async def _take(self, flights: Flights[_Piece]) -> list[_Piece]:
        """Wait for the next piece; give it with those after it that are there, up to a batch."""
        most = self._settings.batch_size if self._settings.join_tiles else 0
        pieces = [(await flights.take())[1]]
        count = len(pieces[0].batch)
        while flights.ready and pieces[-1].error is None and count + TILE_WIDTH <= most:
            pieces.append((await flights.take())[1])
            count += len(pieces[-1].batch)
        return pieces

    async def _fetch(self, start: int, stop: int) -> _Piece:
        """Entries of [start, stop), which lies in one tile; fewer only with the error that says why."""
        index = start // TILE_WIDTH
        tile = self._kept.get(index)
        if tile is None or tile.batch.stop < stop:
            tile = await self._download(index, stop)
        batch, error = tile.batch, tile.error
        if batch.stop >= stop:
            error = None  # what breaks lies behind what is wanted
        if error is None:
            self._kept[index] = tile
        batch = slice_batch(batch, min(start, batch.stop), min(stop, batch.stop))
        issuers = await self._issuers.resolve(self._log, fingerprints(batch))
        return _Piece(replace(batch, issuers=issuers), error)

    async def _download(self, index: int, stop: int) -> DataTile:
        """Fetch the tile that holds [.., stop), as wide as the tree has it."""
        width = min(TILE_WIDTH, max(stop, self._tree_size) - index * TILE_WIDTH)
        broken, now = self._broken.get(index), self._http.clock.monotonic()
        downloads = broken.downloads if broken and broken.width == width else 0
        if broken and downloads and now < broken.again_at:
            return broken.tile
        tile = await self._download_new(index, width)
        self._broken.pop(index, None)
        if tile.error is not None:
            again_at = now if downloads + 1 < _BROKEN_DOWNLOADS else now + _BROKEN_AGAIN_S
            self._broken[index] = _Broken(tile, width, downloads + 1, again_at)
        return tile

    async def _download_new(self, index: int, width: int) -> DataTile:
        try:
            tile = await self._download_width(index, width)
        except FetchError as exc:
            if exc.status != "404" or width == TILE_WIDTH:
                self._settled = False
                raise
            # "Partial Tiles": they may be gone once the full one is there.
            tile = await self._download_width(index, TILE_WIDTH)
        self._settled = True
        return tile

    async def _download_width(self, index: int, width: int) -> DataTile:
        path = data_tile_path(index, width)
        body = await self._http.get(self._log, path, cap_bytes=TILE_CAP_BYTES)
        first = index * TILE_WIDTH
        tile = parse_data_tile(self._log, first, body)
        batch, error = tile.batch, tile.error
        if len(batch) < width:
            error = self._malformed(path, error or MalformedError(f"{len(batch)} entries in a tile of {width}"))
        else:
            batch, error = slice_batch(batch, first, first + width), None
        return DataTile(batch, error)

    def _malformed(self, path: str, cause: MalformedError) -> MalformedError:
        error = MalformedError(f"{self._log.name}: {self._log.base_url}/{path}: {cause}")
        error.__cause__ = cause
        return error

    def _release(self, position: int) -> None:
        """Forget tiles with nothing unread in them, and those too far ahead to be wanted soon."""
        last = position // TILE_WIDTH + self._settings.fetch_concurrency
        kept = (item for item in sorted(self._kept.items()) if position < item[1].batch.stop and item[0] <= last)
        self._kept = dict(islice(kept, self._settings.fetch_concurrency + 1))
        broken = (item for item in sorted(self._broken.items()) if position // TILE_WIDTH <= item[0] <= last)
        self._broken = dict(islice(broken, self._settings.fetch_concurrency + 1))
