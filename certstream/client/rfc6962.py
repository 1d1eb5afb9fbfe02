"""Reading a log by get-sth and get-entries (RFC 6962 §4.3, §4.6)."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from typing import Final

from certstream.client.base import HttpReader, Readable, ReadSettings
from certstream.client.flights import Flights
from certstream.client.http import JSON_CAP_BYTES, HttpClient
from certstream.client.pages import Pages
from certstream.ct.rfc6962 import parse_get_entries, parse_sth
from certstream.ct.types import EntryBatch, LogInfo, TreeHead
from certstream.errors import FetchError, MalformedError

# "received message larger than max" is a 403 at some logs; a page that does not arrive in time may be too large too.
_SHRINKS: Final = frozenset({"403", "413", "too_large", "timeout"})


class Rfc6962Client(HttpReader):
    """A LogClient for classic logs. `settings.fetch_concurrency` requests at most are in flight."""

    def __init__(self, http: HttpClient, log: LogInfo, settings: ReadSettings) -> None:
        super().__init__(http, log)
        self._concurrency = settings.fetch_concurrency
        self._batch_size = settings.batch_size
        self._pages = Pages(settings.batch_size)

    async def head(self) -> TreeHead:
        """Return the signed tree head, unverified. Raises FetchError."""
        return await self._fetch_head("ct/v1/get-sth", parse_sth)

    def readable(self, position: int, tree_size: int) -> Readable:
        """Everything may be read at once."""
        return Readable(max(position, tree_size), None)

    async def batches(self, start: int, stop: int) -> AsyncGenerator[EntryBatch, None]:
        """Yield the entries of [start, stop) in order, see LogClient."""
        flights = Flights(self._log.name, self._fetch, self._http.prefetch(self._log.operator))
        try:
            planned = start
            while start < stop:
                planned = self._plan(flights, planned, stop)
                flight, batch = await flights.take()
                if batch.stop < flight.stop and flights:
                    flights.add_first(batch.stop, flight.stop)
                elif not flights:
                    planned = batch.stop
                self.waits.page(min(self._batch_size, stop - start), len(batch))
                start = batch.stop
                yield batch
        finally:
            await flights.close()

    def _plan(self, flights: Flights[EntryBatch], planned: int, stop: int) -> int:
        """Request ahead as far as that is worth it; where the next request will begin."""
        window = self._concurrency if self._pages.settled else 1
        while planned < stop and len(flights) < window:
            until = self._pages.stop(planned, stop)
            if not flights.add(planned, until):
                break
            planned = until
        return planned

    async def _fetch(self, start: int, stop: int) -> EntryBatch:
        """Entries of [start, stop): maybe fewer, never none."""
        path = f"ct/v1/get-entries?start={start}&end={stop - 1}"
        try:
            body = await self._http.get(self._log, path, cap_bytes=JSON_CAP_BYTES)
        except FetchError as exc:
            if exc.status in _SHRINKS and stop - start > 1:
                self._pages.refused(start, stop, timed_out=exc.status == "timeout")
            raise
        try:
            batch = parse_get_entries(self._log, start, body, most=stop - start)
        except MalformedError as exc:
            raise FetchError(f"{self._log.name}: {self._log.base_url}/{path}: {exc}", status="body") from exc
        if not len(batch):
            raise FetchError(f"{self._log.name}: {self._log.base_url}/{path}: no entries", status="empty")
        self._pages.answered(start, stop, len(batch))
        return batch
