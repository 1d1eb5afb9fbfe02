"""How what is read for the archive is verified: each log by its mode, its key and its protocol."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import structlog

from certstream.app.settings import FollowedLog
from certstream.app.verification.altered import AlteredPrecertificates
from certstream.backfill.verify import Verification
from certstream.client.http import HttpClient
from certstream.client.known_tree import KnownTree
from certstream.client.proofs import prover
from certstream.config import logs as log_options
from certstream.ct.edge import TreeEdge
from certstream.ct.types import LogInfo
from certstream.evidence import Case, EvidenceStore
from certstream.metrics import Metrics

logger: structlog.stdlib.BoundLogger = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Verifying:
    """What verification needs beside a log and its entries; all is called in the event loop and does not raise."""

    mode: Callable[[LogInfo], log_options.Verification]
    evidence: Callable[[Case], None]
    altered: AlteredPrecertificates | None = None
    edge: Callable[[LogInfo], TreeEdge | None] = lambda _log: None  # of the tree that is known to be the log's

    def of(self, http: HttpClient, log: LogInfo) -> Verification | None:
        """How entries of that log are verified; None where they are not."""
        mode = self.mode(log)
        if mode == "off" or log.key is None:
            return None
        known = KnownTree(log, prover(http, log), partial(self.edge, log), self.evidence)
        return Verification(mode, log.key, prover(http, log), self.evidence, known)


def command_verifying(
    modes: Mapping[str, log_options.Verification], edges: Mapping[str, TreeEdge], evidence_directory: Path | None
) -> Verifying:
    """That of a command, whose logs have these modes and known trees by base_url; its evidence goes where the service's
    does."""
    store = None if evidence_directory is None else EvidenceStore(evidence_directory)

    def mode(log: LogInfo) -> log_options.Verification:
        return modes.get(log.base_url, "off")

    def evidence(case: Case) -> None:
        if store is not None:
            store.record(case, time.time())

    altered = AlteredPrecertificates(
        Metrics().trust,
        compares=lambda log: mode(log) != "off",
        mark=lambda _log, _indices: None,  # that goes with the rows
        evidence=evidence,
    )
    return Verifying(mode, evidence, altered, lambda log: edges.get(log.base_url))


def say_unverified(logs: Iterable[FollowedLog]) -> None:
    """Log once which logs are read without verification because their keys are not known."""
    names = [log.info.name for log in logs if log.info.key is None and log.verification != "off"]
    if names:
        logger.info("logs are read unverified, their keys are not known", logs=", ".join(names))
