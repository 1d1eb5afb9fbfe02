"""Whether what is read of a log stands in a tree that the log has signed, and what becomes of what does not."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Final, Literal, TypeAlias

import structlog

from certstream.backfill.patience import BARREN, RATE_LIMITED_S, RetrySettings
from certstream.client.base import LogClient
from certstream.client.clock import Clock
from certstream.client.known_tree import KnownTree
from certstream.client.proofs import Prover
from certstream.client.range_proofs import RangeChecker, Unproven
from certstream.client.signed_heads import SignedHeads
from certstream.ct.types import HASH_BYTES, EntryBatch, LogInfo, TreeHead
from certstream.errors import FetchError, LogMisbehaviourError, RateLimitedError
from certstream.evidence import Case
from certstream.intervals import Intervals
from certstream.ledger import Trust

Mode: TypeAlias = Literal["warn", "enforce"]

_CASES: Final = 10  # of a log; each may be a file
_LINES: Final = 20  # likewise, in the log

logger: structlog.stdlib.BoundLogger = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Verification:
    """How what is read of one log is verified."""

    mode: Mode
    key: bytes  # DER SubjectPublicKeyInfo
    prover: Prover
    evidence: Callable[[Case], None]  # called in the event loop; must not raise
    known: KnownTree | None = None  # whose heads count, and no other's


@dataclass(frozen=True, slots=True)
class Checked:
    """What came of a range: `refused` is not to be archived, and of the rest `trust` is known."""

    refused: tuple[Unproven, ...] = ()
    trust: Trust = field(default_factory=Trust)

    @property
    def refused_indices(self) -> Intervals:
        """The same as a set."""
        return Intervals.of(*((each.start, each.stop) for each in self.refused))


class LogVerifier:
    """Verifies the entries of one log, a range at a time; belongs to one task at a time.

    `enforce`: what is not proven is refused, and what could not be tried as well. `warn`: nothing is refused; what is
    not proven is tainted, and what could not be tried is not verified. A proof that does not come is asked for again
    like entries, and only once where several in a row did not come.
    """

    def __init__(self, client: LogClient, verification: Verification, retry: RetrySettings, clock: Clock) -> None:
        self.client = SignedHeads(client, verification.key, verification.evidence, verification.known)
        self._log = client.log
        self._verification = verification
        self._checker = RangeChecker(verification.prover, client.log)
        self._retry = retry
        self._clock = clock
        self._without_proof = 0  # ranges in a row
        self._cases = self._lines = 0

    @property
    def log(self) -> LogInfo:
        """The log that is read."""
        return self._log

    @property
    def enforces(self) -> bool:
        """Whether only what is proven is archived."""
        return self._verification.mode == "enforce"

    async def check(self, batches: Sequence[EntryBatch], leaves: bytes) -> Checked:
        """What of consecutive batches is proven, given their leaf hashes, 32 bytes each. Raises nothing of a log's."""
        start, stop = batches[0].start, batches[-1].stop
        error = f"{self._log.name}: no head with a signature that holds"
        while (head := self.client.covering(stop)) is not None:
            try:
                return await self._check_under(head, batches, leaves)
            except LogMisbehaviourError as exc:  # it covers nothing any more
                error = str(exc)
            except FetchError as exc:
                self._say_untried(exc)
                return Checked((Unproven(start, stop, str(exc)),)) if self.enforces else Checked()
        return self._found([Unproven(start, stop, error)])

    async def _check_under(self, head: TreeHead, batches: Sequence[EntryBatch], leaves: bytes) -> Checked:
        """Raises FetchError; LogMisbehaviourError where the head is not of the known tree."""
        start, stop = batches[0].start, batches[-1].stop
        unproven = await self._unproven(head, start, leaves)
        for each in unproven:
            self._show(head, each, batches, leaves)
        checked = self._found(unproven)
        proven = Intervals.of((start, stop)) - Intervals.of(*((each.start, each.stop) for each in unproven))
        return Checked(checked.refused, Trust(proven, checked.trust.tainted))

    async def _unproven(self, head: TreeHead, start: int, leaves: bytes) -> list[Unproven]:
        failures = 0
        while True:
            try:
                await self.client.check(head, start + len(leaves) // HASH_BYTES)
                unproven = await self._checker.check_leaves(head, start, leaves)
            except RateLimitedError:
                await self._clock.sleep(max(self.client.paused_s, RATE_LIMITED_S))
            except FetchError:
                failures += 1
                if failures >= (1 if self._without_proof >= BARREN else self._retry.attempts):
                    self._without_proof += 1
                    raise
                await self._clock.sleep(self._clock.backoff(failures, self._retry.initial_s, self._retry.max_s))
            else:
                self._without_proof = 0
                return unproven

    def _found(self, unproven: Sequence[Unproven]) -> Checked:
        if self.enforces:
            return Checked(tuple(unproven))
        for each in unproven:
            self._lines += 1
            if self._lines <= _LINES:
                logger.warning(
                    "entries are not proven, they are archived all the same",
                    log=self._log.name,
                    start=each.start,
                    stop=each.stop,
                    error=each.error,
                )
        return Checked(trust=Trust(tainted=Intervals.of(*((each.start, each.stop) for each in unproven))))

    def _say_untried(self, error: FetchError) -> None:
        if self._without_proof == 1:
            logger.warning("log gives no proof of its entries", log=self._log.name, error=str(error))

    def _show(self, head: TreeHead, unproven: Unproven, batches: Sequence[EntryBatch], leaves: bytes) -> None:
        self._cases += 1
        if self._cases > _CASES:
            return
        start, stop, first = unproven.start, unproven.stop, batches[0].start
        hashes = leaves[(start - first) * HASH_BYTES : (stop - first) * HASH_BYTES]
        self._verification.evidence(
            Case(
                "wrong_leaf",
                self._log,
                unproven.error,
                [head],
                start,
                stop,
                hashes={"first_leaf": hashes[:HASH_BYTES], "last_leaf": hashes[-HASH_BYTES:]},
                bodies={"first_leaf": _leaf(batches, start)},
            )
        )


def _leaf(batches: Sequence[EntryBatch], index: int) -> bytes:
    """What the leaf hash is that of."""
    batch = next(each for each in batches if index < each.stop)
    at = index - batch.start
    return batch.leaf_prefix + batch.data[batch.leaf.start[at] : batch.leaf.stop[at]]
