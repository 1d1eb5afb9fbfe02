"""How patient a backfill is with a log: decided by what that log has done so far, and bounded over all of it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import structlog

from certstream.client.clock import Clock
from certstream.ct.types import LogInfo
from certstream.errors import FetchError, LogMisbehaviourError

BARREN: Final = 3  # pieces in a row without an entry, after which the log is asked whether it is there at all
HOPELESS: Final = 100  # likewise, after which a log that has used up all patience is given up
_TIRED: Final = 20  # pieces given up, after which one attempt each must do
_TIRED_SHARE: Final = 0.1  # of the first wait, between those
_STALLS: Final = 8  # requests without an answer, likewise with no patience left
_REQUEST_S: Final = 30.0  # that one failure may count for: it may have waited for its turn much longer
RATE_LIMITED_S: Final = 1.0  # wait after a 429 at least
_REGAINED_S: Final = 1.0
_QUIET_S: Final = 60.0  # between two failures that are logged

logger: structlog.stdlib.BoundLogger = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class RetrySettings:
    """How patient a backfill is with a log."""

    attempts: int = 3  # in a row without an entry, until a piece is given up for now
    initial_s: float = 1.0  # wait after the first of them; doubles
    max_s: float = 30.0
    patience_s: float = 300.0  # lost to a log's failures, requests and waits together, until it is waited for no more
    again_s: float = 60.0  # likewise, while what failed is tried once more
    down_s: float = 30.0  # until a log that was down is asked for the rest once more


class Patience:
    """Patience with one log.

    What its failures take, requests and waits together, uses the budget up, and each work item without a failure gives
    a second of it back. Then nothing is waited for: each piece has one attempt, at once. It has one as well where the
    log has failed in three pieces before it, or in many of them. A log's failing, and that it gives entries again, is
    logged, but never more than a pair of lines in a minute.
    """

    def __init__(self, log: LogInfo, settings: RetrySettings, clock: Clock) -> None:
        self._log = log
        self._settings = settings
        self._clock = clock
        self._budget_s = self._lost_s = 0.0
        self._given_up = 0  # pieces, ever
        self._stalls = 0
        self._most_barren: int | None = None
        self._failing = False  # and that was logged
        self._quiet_until = clock.monotonic()
        self.barren = 0  # pieces given up since the last entry
        self.failures = 0  # ever

    def begin(self, budget_s: float) -> None:
        """Have so much from now on."""
        self._budget_s, self._lost_s = budget_s, 0.0

    def restart(self, most_barren: int | None) -> None:
        """Other pieces follow, of which so many in a row may fail once all patience is used up; None: all of them."""
        self._most_barren = most_barren
        self.barren = 0

    @property
    def is_spent(self) -> bool:
        """Whether all of it is used up."""
        return self._lost_s >= self._budget_s

    @property
    def is_over(self) -> bool:
        """Whether the log is to be asked for nothing more."""
        if not self.is_spent:
            return False
        return self._stalls >= _STALLS or (self._most_barren is not None and self.barren >= self._most_barren)

    @property
    def attempts(self) -> int:
        """That the next piece gets."""
        one = self.is_spent or self._is_tired or self.barren >= BARREN
        return 1 if one else self._settings.attempts

    @property
    def _is_tired(self) -> bool:
        return self._given_up >= _TIRED

    def gave(self, index: int) -> None:
        """The log gave the entry at `index`, and maybe others."""
        self.barren = 0
        if self._failing:
            self._failing = False
            logger.info("log gives entries again", log=self._log.name, index=index)

    def failed(self, index: int, error: FetchError | LogMisbehaviourError, took_s: float) -> None:
        """A request for `index`, or for the log's tree head, failed after so long."""
        if self.is_spent and isinstance(error, FetchError) and error.status == "timeout":
            self._stalls += 1
        self.failures += 1
        self._lost_s += min(took_s, _REQUEST_S)
        now = self._clock.monotonic()
        if not self._failing and now >= self._quiet_until:
            self._failing, self._quiet_until = True, now + _QUIET_S
            logger.warning("log fails to give entries", log=self._log.name, index=index, error=str(error))

    def gave_up(self) -> None:
        """A piece is left out for now."""
        self.barren += 1
        self._given_up += 1

    def regain(self) -> None:
        """A work item was read without a failure."""
        self._lost_s = max(0.0, self._lost_s - _REGAINED_S)

    async def back_off(self, failures: int) -> None:
        """Wait after so many failures in a row, none where the piece was given up, while there is patience left."""
        wait_s = min(self._wait_s(failures), self._budget_s - self._lost_s)
        if wait_s > 0:
            self._lost_s += wait_s
            await self._clock.sleep(wait_s)

    def _wait_s(self, failures: int) -> float:
        settings = self._settings
        if self._is_tired and self.barren < BARREN:
            return self._clock.jittered(settings.initial_s * _TIRED_SHARE)
        if not failures and self.barren < BARREN:
            return 0.0
        return self._clock.backoff(max(failures, 1), settings.initial_s, settings.max_s)

    async def wait_for_pace(self, paused_s: float) -> None:
        """Wait after a 429; that takes no patience."""
        await self._clock.sleep(max(paused_s, RATE_LIMITED_S))
