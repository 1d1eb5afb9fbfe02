"""What state a followed log is in, from what its answers were. No I/O."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, Literal

from certstream.metrics import LogState

MAX_BACKOFF_S: Final = 30.0


@dataclass(frozen=True, slots=True)
class TailSettings:
    """How a log is followed."""

    poll_interval_s: float = 1.0  # between looks at the head of a log that grows
    idle_poll_max_s: float = 10.0  # at most between looks at one that does not
    retry_initial_s: float = 1.0
    retry_max_s: float = MAX_BACKOFF_S  # more than 30 is taken as 30
    retry_max_attempts: int = 3  # attempts in a row that fail, until they count as one failure
    healthy_threshold: int = 2  # successes in a row that make a degraded or unhealthy log healthy
    unhealthy_threshold: int = 5  # failures in a row that make a degraded log unhealthy
    health_check_interval_s: float = 60.0  # at most between probes of an unhealthy log
    catching_up_entries: int = 4096  # that may be read and were not: more is catching up
    round_entries: int = 128_000  # until the head is looked at again; a multiple of every usual page size


class Condition:
    """The state of one log.

    429s change nothing but `rate_limited`. A log that never answered is degraded by the first failure, one
    that contradicts itself too; any other by `retry_max_attempts` in a row.
    """

    def __init__(self, settings: TailSettings) -> None:
        self._settings = settings
        self._answered = False
        self._limited = False
        self._trouble: Literal["degraded", "unhealthy"] | None = None
        self._successes = 0
        self.catching_up = False
        self.beyond = False  # the position lies beyond the tree: it answers, and there is nothing to read
        self.attempts = 0  # that failed in a row

    @property
    def state(self) -> LogState:
        """The worst of what holds."""
        if self._trouble is not None:
            return self._trouble
        if self.beyond:
            return "degraded"
        if self._limited:
            return "rate_limited"
        if not self._answered:
            return "starting"
        return "catching_up" if self.catching_up else "following"

    @property
    def backoff_max_s(self) -> float:
        """The longest wait before the next attempt."""
        longest = min(self._settings.retry_max_s, MAX_BACKOFF_S)
        return min(longest, self._settings.health_check_interval_s) if self._trouble == "unhealthy" else longest

    def progressed(self) -> None:
        """The log gave entries."""
        self._answered = True
        self.attempts = 0
        self._successes += 1
        if self._successes >= self._settings.healthy_threshold:
            self._trouble = None

    def completed(self) -> None:
        """The log gave all that was asked for, maybe nothing."""
        self.progressed()
        self._limited = False

    def limited(self) -> None:
        """The log asked for a slower pace."""
        self._limited = True

    def failed(self, *, misbehaved: bool) -> None:
        """The log gave no answer, or nonsense; `misbehaved` where that contradicts its protocol or itself."""
        self._limited = False
        self._successes = 0
        self.attempts += 1
        failures = self.attempts // self._settings.retry_max_attempts
        if failures >= self._settings.unhealthy_threshold:
            self._trouble = "unhealthy"
        elif self._trouble is None and (failures or misbehaved or not self._answered):
            self._trouble = "degraded"
