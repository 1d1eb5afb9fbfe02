"""From a log to its tailer, and from there to streams, archive and state."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from certstream.app.lists.listed_logs import ListedLogs
from certstream.app.settings import LogRecipe, log_client
from certstream.app.verification.trust import Trustees
from certstream.client.http import HttpClient
from certstream.client.issuers import IssuerCache
from certstream.ct.types import EntryBatch, LogInfo
from certstream.live.publisher import Publisher
from certstream.live.share import ShareSettings
from certstream.live.tailer import Tailer
from certstream.metrics import Metrics
from certstream.state import StateStore

if TYPE_CHECKING:
    from certstream.app.archive import ArchiveParts


class Tailers:
    """Makes the tailer of each log: what it reads is verified as configured, published, and then the state moves."""

    def __init__(
        self,
        http: HttpClient,
        state: StateStore,
        publisher: Publisher,
        metrics: Metrics,
        *,
        trust: Trustees,
        lists: ListedLogs,
        archive: ArchiveParts | None,
        share: ShareSettings,
    ) -> None:
        self._http = http
        self._issuers = IssuerCache(http)
        self._state = state
        self._publisher = publisher
        self._metrics = metrics
        self._trust = trust
        self._lists = lists
        self._archive = archive
        self._share = share

    def make(self, recipe: LogRecipe) -> Tailer:
        """The tailer of a log, at the position that is known now."""
        followed, info = recipe.followed, recipe.followed.info
        position = self._state.position(info.base_url)
        metrics = self._metrics.log(info.name)  # a log that is new begins without figures
        self._metrics.trust.mmd(info.name, followed.mmd_s if followed.final is None else None)
        return Tailer(
            self._trust.client(recipe, log_client(self._http, info, self._issuers, recipe.read)),
            publish=self._publish,
            advance=lambda index, tree_size: self._advance(info, index, tree_size),
            metrics=metrics,
            position=None if position is None else position.current_index,
            tree_size=0 if position is None else position.tree_size,
            start=followed.start,
            signed_heads=self._trust.is_verified(info),
            settings=recipe.tail,
            share=self._share,
        )

    async def _publish(self, batch: EntryBatch) -> None:
        waits = self._http.waits(batch.log)
        if self._archive is not None:
            with waits.on("archive"):
                await self._archive.before(batch)
        await self._publisher.publish(batch, waits)

    def _advance(self, info: LogInfo, index: int, tree_size: int) -> None:
        url = info.base_url
        known = self._state.position(url)
        if known is None:
            self._state.begin(url, index, tree_size)
            if self._archive is not None:
                self._archive.take_up(info, index)
        else:
            took_entries = index > known.current_index
            self._state.advance(url, index, tree_size, int(time.time()) if took_entries else known.last_success)
        self._trust.keep_edge(info)
        self._lists.advanced(url, index, tree_size)
