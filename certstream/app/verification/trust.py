"""Which of the followed logs are verified, what was proven of them, and the evidence against them."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from contextlib import AsyncExitStack
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Literal, Protocol, Self, TypeAlias

import structlog

from certstream.app.lists.bounds import bounded
from certstream.app.settings import FollowedLog, LogRecipe
from certstream.app.verification.evidence_desk import EvidenceDesk
from certstream.app.verification.streamed import StreamedLeaves
from certstream.client.base import LogClient
from certstream.client.http import HttpClient
from certstream.client.proofs import prover
from certstream.client.verified import Findings, VerifiedClient
from certstream.config import Config
from certstream.ct.edge import TreeEdge
from certstream.ct.types import LogInfo
from certstream.evidence import Case
from certstream.intervals import Intervals
from certstream.serve.health import LogHealth, Verified
from certstream.state import StateStore
from certstream.trust_metrics import TrustMetrics

TrustState: TypeAlias = Literal["off", "unverified", "verified", "suspect"]

_DIRECTORY = "evidence"

logger: structlog.stdlib.BoundLogger = structlog.get_logger(__name__)


class Rows(Protocol):
    """What keeps which entries are proven; all is called in the event loop, and never raises."""

    def proven(self, log: LogInfo, start: int, stop: int) -> None:
        """The entries [start, stop) stand in a tree that the log has signed."""

    def tainted(self, log: LogInfo, start: int, stop: int) -> None:
        """They went out, and it could not be proven that they do."""

    def tainted_of(self, log: LogInfo) -> Intervals:
        """Those of a log that are tainted now."""


def evidence_directory(config: Config) -> Path | None:
    """Where evidence lies: beside the state file, nowhere without one."""
    state_file = config.ct_log.state_file
    return None if state_file is None else Path(state_file).parent / _DIRECTORY


def verification_of(followed: FollowedLog) -> Verified:
    """What is done about that log."""
    if followed.verification != "off" and followed.info.key is None:
        return "unverified"
    return followed.verification


class Trustees:
    """Gives the logs that are followed clients that prove what they read; `async with` opens and closes it.

    What is proven moves the edge that the state keeps beside a log's position.
    """

    def __init__(
        self, http: HttpClient, state: StateStore, metrics: TrustMetrics, evidence: Path | None, rows: Rows
    ) -> None:
        self._http = http
        self._state = state
        self._metrics = metrics
        self._directory = evidence
        self._rows = rows
        self.streamed = StreamedLeaves()  # what is tainted, as it went out
        self._desk = EvidenceDesk(evidence, self._count)
        self._recipes: dict[str, LogRecipe] = {}  # by base_url
        self._clients: dict[str, VerifiedClient] = {}
        self._cases: Mapping[str, int] = {}
        self._unverified: frozenset[str] = frozenset()
        self._parts = AsyncExitStack()

    async def __aenter__(self) -> Self:
        await self._parts.enter_async_context(self._desk)
        return self

    async def __aexit__(self, *_: object) -> None:
        for client in self._clients.values():
            client.close()
        await self._parts.aclose()

    async def finish(self, budget_s: float) -> None:
        """Prove what went out and is not proven yet, within `budget_s`; for the end of the process."""
        if self._clients:
            await asyncio.wait([asyncio.create_task(each.finish(budget_s)) for each in self._clients.values()])

    def watch(self, logs: Sequence[FollowedLog]) -> None:
        """These are the logs that are followed from now on; those whose keys are not known are named once."""
        self._desk.watch([each.info for each in logs])
        urls = {each.info.base_url for each in logs}
        self._recipes = {url: recipe for url, recipe in self._recipes.items() if url in urls}
        for url in self._clients.keys() - urls:
            self._clients.pop(url).close()
        unverified = {each.info.base_url: each.info.name for each in logs if verification_of(each) == "unverified"}
        if new := [name for url, name in unverified.items() if url not in self._unverified]:
            logger.info("logs are read unverified, their keys are not known", logs=", ".join(new))
        self._unverified = frozenset(unverified)

    def client(self, recipe: LogRecipe, reading: LogClient) -> LogClient:
        """What reads a log from its position on, up to where it ends: verified as its recipe says, or as it is."""
        info = recipe.followed.info
        verified = self._client(recipe, reading)
        position = self._state.position(info.base_url)
        return bounded(verified, recipe.followed, position, lambda: prover(self._http, info), self.found)

    def _client(self, recipe: LogRecipe, reading: LogClient) -> LogClient:
        info, url = recipe.followed.info, recipe.followed.info.base_url
        if (before := self._clients.pop(url, None)) is not None:
            before.close()
        self._recipes[url] = recipe
        self._show(info)
        self._metrics.watch_log(
            info.name,
            lambda: self._rows.tainted_of(info).count,
            unverified=verification_of(recipe.followed) == "unverified",
        )
        mode = recipe.followed.verification
        if mode == "off" or info.key is None:
            anchor = None if mode == "off" else self._state.anchor(url)
            self._state.set_edge(url, None)
            self._state.set_anchor(url, anchor)
            return reading
        client = self._clients[url] = VerifiedClient(
            reading,
            prover(self._http, info),
            info.key,
            self._findings(info),
            mode=mode,
            edge=self._state.edge(url),
            anchor=self._state.anchor(url),
            max_unproven=recipe.max_unproven,
        )
        return client

    def _findings(self, info: LogInfo) -> Findings:
        def proven(start: int, stop: int) -> None:
            self._metrics.verified_position.labels(info.name).set(stop)
            self._rows.proven(info, start, stop)
            self.keep_edge(info)

        def tainted(start: int, stop: int) -> None:
            self._rows.tainted(info, start, stop)

        return Findings(proven, tainted, self.found, partial(self.streamed.keep, info))

    def found(self, case: Case) -> None:
        """Keep what did not fit."""
        self._metrics.found(case.log.name, case.kind)
        self._desk.bring(case)

    def keep_edge(self, info: LogInfo) -> None:
        """Let the state know the edge of a log's tree before its position, if it is proven, and the longest that is."""
        client, position = self._clients.get(info.base_url), self._state.position(info.base_url)
        if client is not None and position is not None:
            self._state.set_edge(info.base_url, client.edge_at(position.current_index))
            self._state.set_anchor(info.base_url, client.anchor)

    def anchor(self, info: LogInfo) -> TreeEdge | None:
        """The longest edge that is proven to be of a log's tree; None where none is known."""
        client = self._clients.get(info.base_url)
        return self._state.anchor(info.base_url) if client is None else client.anchor

    def state(self, info: LogInfo) -> TrustState:
        """What is to be thought of a log."""
        if info.base_url in self._cases:
            return "suspect"
        verification = self._verification(info)
        return verification if verification in ("off", "unverified") else "verified"

    def is_verified(self, info: LogInfo) -> bool:
        """Whether what is read of a log is verified."""
        return info.base_url in self._clients

    def compares(self, info: LogInfo) -> bool:
        """Whether its precertificates are compared with their leaves."""
        return self._verification(info) != "off"

    def verified(self) -> list[LogInfo]:
        """The logs whose entries are to be proven."""
        followed = (recipe.followed for recipe in self._recipes.values())
        return [each.info for each in followed if verification_of(each) in ("warn", "enforce")]

    def _verification(self, info: LogInfo) -> Verified:
        recipe = self._recipes.get(info.base_url)
        return "off" if recipe is None else verification_of(recipe.followed)

    def shown(self, health: LogHealth, info: LogInfo) -> LogHealth:
        """The log's health with what is verified of it."""
        return replace(
            health,
            verification=self._verification(info),
            suspect=info.base_url in self._cases,
            tainted_entries=self._rows.tainted_of(info).count,
        )

    def warnings(self) -> list[str]:
        """What an operator has to look at."""
        where = "" if self._directory is None else f" in {self._directory}"
        return [
            f"log {self._recipes[url].followed.info.name} is suspect: there is evidence about it{where} ({count})"
            for url, count in self._cases.items()
            if url in self._recipes
        ]

    def _count(self, cases: Mapping[str, int]) -> None:
        before, self._cases = self._cases, cases
        for url, recipe in self._recipes.items():
            info = recipe.followed.info
            self._show(info)
            if url in cases and url not in before:
                logger.warning("log is suspect, there is evidence about it", log=info.name, url=url, cases=cases[url])
            elif url in before and url not in cases:
                logger.info("log is suspect no more, the evidence is gone", log=info.name, url=url)

    def _show(self, info: LogInfo) -> None:
        self._metrics.suspect.labels(info.name).set(info.base_url in self._cases)
