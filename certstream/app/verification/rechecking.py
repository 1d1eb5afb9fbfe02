"""Reading tainted entries again beside the service: with requests of its own, at the pace of a backfill."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from functools import partial
from typing import Self

from certstream.app.settings import backfill_fetch_settings, log_client
from certstream.app.verification.recheck import Archived, Rechecker, Source
from certstream.app.verification.recheck import Rows as TaintedRows
from certstream.app.verification.trust import Trustees
from certstream.client.base import ReadSettings
from certstream.client.http import HttpClient
from certstream.client.issuers import IssuerCache
from certstream.client.known_tree import KnownTree
from certstream.client.proofs import prover
from certstream.client.signed_heads import SignedHeads
from certstream.config import Config
from certstream.ct.types import LogInfo
from certstream.metrics import Metrics
from certstream.serve.health import TaintedRange


class Rechecking:
    """What reads tainted entries again, by the configuration; `async with` opens and closes it."""

    def __init__(
        self,
        config: Config,
        metrics: Metrics,
        rows: TaintedRows,
        trust: Trustees,
        *,
        archived: Archived | None,
        hold: Callable[[], Awaitable[None]],
    ) -> None:
        """See Rechecker."""
        self._config = config
        self._trust = trust
        self._http = HttpClient(backfill_fetch_settings(config.ct_log, config.backfill), metrics)
        self._issuers = IssuerCache(self._http)
        self._rechecker = Rechecker(
            rows,
            trust.verified,
            self._source,
            streamed=trust.streamed,
            archived=archived,
            evidence=trust.found,
            most=lambda: self._config.ct_log.verification_max_unproven_entries,
            hold=hold,
        )
        self._parts = AsyncExitStack()
        self.run = self._rechecker.run

    async def __aenter__(self) -> Self:
        await self._parts.enter_async_context(self._http)
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._parts.aclose()

    def apply(self, config: Config) -> None:
        """Go on as configured now."""
        self._config = config
        self._http.apply(backfill_fetch_settings(config.ct_log, config.backfill))

    def tainted(self) -> list[TaintedRange]:
        """What is tainted, and why; the first ranges."""
        return self._rechecker.tainted()

    def _source(self, log: LogInfo) -> Source:
        if log.key is None:
            raise ValueError(f"{log.name}: its key is not known")
        reading = ReadSettings(self._config.ct_log.batch_size, self._config.backfill.fetch_concurrency)
        client = log_client(self._http, log, self._issuers, reading)
        known = KnownTree(log, prover(self._http, log), partial(self._trust.anchor, log), self._trust.found)
        return Source(SignedHeads(client, log.key, self._trust.found, known), prover(self._http, log))
