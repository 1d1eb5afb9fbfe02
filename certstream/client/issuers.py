"""Chain certificates of static-ct logs, by SHA-256, for all logs together."""

from __future__ import annotations

import asyncio
import hashlib
from collections import OrderedDict, deque
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from typing import Final

from certstream.client.http import HttpClient
from certstream.ct.static_ct import issuer_path
from certstream.ct.types import LogInfo
from certstream.errors import FetchError, RateLimitedError

CACHE_BYTES: Final = 16 * 2**20  # about 10,000 issuers; a few hundred serve almost all entries
MISSING_S: Final = 300.0  # until an issuer that a log did not give is asked for again
ATTEMPTS: Final = 3
_FIRST_DELAY_S: Final = 0.5
_MAX_DELAY_S: Final = 5.0
_PATIENCE_S: Final = 20.0  # for all issuers of one `resolve` together, after which no further attempt begins
_AT_ONCE: Final = 4  # requests of one `resolve` at a time: other logs of the operator wait behind no more
_PACED_ROUNDS: Final = 3  # that the pace ended in a row without giving anything, until entries go out all the same
_MISSING_MAX: Final = 10_000


class IssuerCache:
    """Issuers found, the least recently used leaving first past `cache_bytes`.

    What a log does not give after `ATTEMPTS` is left out and counted, and not asked of that log for `MISSING_S`:
    an issuer that is gone must hold no log. At most 10,000 such are remembered, the oldest forgotten first.
    A 429 says nothing of an issuer, see `resolve`.
    """

    def __init__(self, http: HttpClient, *, cache_bytes: int = CACHE_BYTES) -> None:
        self._http = http
        self._clock = http.clock
        self._metrics = http.metrics
        self._cache_bytes = cache_bytes
        self._size_bytes = 0
        self._known: OrderedDict[bytes, bytes] = OrderedDict()
        self._missing: OrderedDict[tuple[str, bytes], float] = OrderedDict()  # base_url and SHA-256 → asked again at
        self._locks: dict[tuple[str, bytes], _CountedLock] = {}
        self._paced: dict[str, int] = {}  # base_url → rounds in a row that the pace ended without giving anything

    async def resolve(self, log: LogInfo, fingerprints: Iterable[bytes]) -> dict[bytes, bytes]:
        """Return the DER of those fingerprints that are known or that `log` gives; the others are left out.

        Raises RateLimitedError where the operator's pace left some unanswered.
        """
        found: dict[bytes, bytes] = {}
        wanted: list[bytes] = []
        for fingerprint in fingerprints:
            der = self._look_up(fingerprint)
            if der is None:
                wanted.append(fingerprint)
            else:
                found[fingerprint] = der
        self._metrics.issuer_cache_hits.inc(len(found))
        if wanted:
            self._metrics.issuer_cache_misses.inc(len(wanted))
            found |= await self._fetch_all(log, wanted)
        return found

    async def _fetch_all(self, log: LogInfo, wanted: list[bytes]) -> dict[bytes, bytes]:
        unknown = [fingerprint for fingerprint in wanted if not self._is_missing(log, fingerprint)]
        queue, found = deque(unknown), dict[bytes, bytes]()
        give_up_at = self._clock.monotonic() + _PATIENCE_S
        async with asyncio.TaskGroup() as group:
            for _ in range(min(_AT_ONCE, len(unknown))):
                group.create_task(self._work(log, queue, found, give_up_at), name=f"issuer:{log.name}")
        left = [each for each in unknown if each not in found and not self._is_missing(log, each)]
        self._check_pace(log, found=len(found), left=len(left))
        self._metrics.issuers_unresolved.inc(len(left))
        return found

    async def _work(self, log: LogInfo, queue: deque[bytes], found: dict[bytes, bytes], give_up_at: float) -> None:
        while queue and self._clock.monotonic() < give_up_at:
            fingerprint = queue.popleft()
            der = await self._fetch_once(log, fingerprint, give_up_at)
            if der is not None:
                found[fingerprint] = der

    def _check_pace(self, log: LogInfo, *, found: int, left: int) -> None:
        # What loses least while the operator asks for a slower pace is to wait and ask again: whatever else would be
        # read must wait for the same pace, the data tile is kept, and what was found so far is known then. Only an
        # operator that never gives its issuers must hold no log: after some rounds without any, entries go out.
        pacer = self._http.pacing.of(log.operator)
        if not left or (pacer.rate_per_s is None and not pacer.paused_s):
            self._paced.pop(log.base_url, None)
            return
        rounds = self._paced[log.base_url] = 0 if found else self._paced.get(log.base_url, 0) + 1
        if rounds <= _PACED_ROUNDS:
            raise RateLimitedError(
                f"{log.name}: {left} issuers wait for the pace of {log.operator}", retry_after_s=None
            )

    async def _fetch_once(self, log: LogInfo, fingerprint: bytes, give_up_at: float) -> bytes | None:
        """Fetch one issuer; who asks for it meanwhile, at a log of the same operator, waits for the same answer."""
        async with self._lock((log.operator, fingerprint)):
            der = self._look_up(fingerprint)
            if der is None and not self._is_missing(log, fingerprint):
                der = await self._fetch_patiently(log, fingerprint, give_up_at)
                if der is not None:
                    self._keep(fingerprint, der)
            return der

    async def _fetch_patiently(self, log: LogInfo, fingerprint: bytes, give_up_at: float) -> bytes | None:
        failures = 0
        pacer = self._http.pacing.of(log.operator)
        while self._clock.monotonic() + pacer.paused_s < give_up_at:
            try:
                return await self._fetch(log, fingerprint)
            except RateLimitedError:
                continue  # the operator's pace makes the next attempt wait
            except FetchError:
                failures += 1
                if failures == ATTEMPTS:
                    self._note_missing(log, fingerprint)
                    break
                await self._clock.sleep(self._clock.backoff(failures, _FIRST_DELAY_S, _MAX_DELAY_S))
        return None

    async def _fetch(self, log: LogInfo, fingerprint: bytes) -> bytes:
        der = await self._http.get(log, issuer_path(fingerprint))
        if hashlib.sha256(der).digest() != fingerprint:
            raise FetchError(f"{log.name}: issuer {fingerprint.hex()} has another hash", status="body")
        return der

    def _look_up(self, fingerprint: bytes) -> bytes | None:
        der = self._known.get(fingerprint)
        if der is not None:
            self._known.move_to_end(fingerprint)
        return der

    def _keep(self, fingerprint: bytes, der: bytes) -> None:
        if len(der) > self._cache_bytes or fingerprint in self._known:
            return
        self._known[fingerprint] = der
        self._size_bytes += len(der)
        while self._size_bytes > self._cache_bytes:
            _, oldest = self._known.popitem(last=False)
            self._size_bytes -= len(oldest)
        self._metrics.issuer_cache_certificates.set(len(self._known))

    def _is_missing(self, log: LogInfo, fingerprint: bytes) -> bool:
        return self._clock.monotonic() < self._missing.get((log.base_url, fingerprint), float("-inf"))

    def _note_missing(self, log: LogInfo, fingerprint: bytes) -> None:
        self._metrics.issuers_unresolved.inc()
        self._missing[log.base_url, fingerprint] = self._clock.monotonic() + MISSING_S
        self._missing.move_to_end((log.base_url, fingerprint))
        if len(self._missing) > _MISSING_MAX:
            self._missing.popitem(last=False)

    @asynccontextmanager
    async def _lock(self, key: tuple[str, bytes]) -> AsyncIterator[None]:
        lock = self._locks.setdefault(key, _CountedLock())
        lock.users += 1
        try:
            async with lock:
                yield
        finally:
            lock.users -= 1
            if not lock.users:
                del self._locks[key]


class _CountedLock(asyncio.Lock):
    """A lock that knows how many hold it or wait for it, so that it can go when nobody does."""

    users = 0
