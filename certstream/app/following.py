"""The logs that are followed, as they are configured now."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import Final

import structlog

from certstream.app.settings import LogRecipe
from certstream.ct.types import LogInfo
from certstream.live.supervisor import Supervisor
from certstream.live.tailer import Tailer, TailStatus
from certstream.metrics import LogState, Metrics

_HOLD_S: Final = 30.0  # that other reading waits for live reading at most
_HOLD_STEP_S: Final = 0.25
_LEAVE_S: Final = 30.0  # that the batch in hand of a log may take, when the log is left

logger: structlog.stdlib.BoundLogger = structlog.get_logger(__name__)


class Following:
    """Each configured log has a tailer, which the supervisor keeps running."""

    def __init__(self, make: Callable[[LogRecipe], Tailer], metrics: Metrics) -> None:
        """`make` gives the tailer of a log, at the position that is known then."""
        self._make = make
        self._metrics = metrics
        self._tailers: dict[LogRecipe, Tailer] = {}
        self.supervisor = Supervisor()

    def statuses(self) -> list[TailStatus]:
        """How each log is doing, in the order of the configuration."""
        return [tailer.status() for tailer in self._tailers.values()]

    def measure(self, busy: float) -> None:
        """Let each log's tailer look at what is read in time, see LogDelivery."""
        for tailer in self._tailers.values():
            tailer.measure(busy)

    def states(self) -> dict[str, LogState]:
        """The state of each log, by base URL."""
        return {status.log.base_url: status.state for status in self.statuses()}

    async def live_first(self) -> None:
        """Wait while a log is caught up with, though not for ever: it may never end."""
        for _ in range(round(_HOLD_S / _HOLD_STEP_S)):
            if "catching_up" not in self.states().values():
                return
            await asyncio.sleep(_HOLD_STEP_S)

    def begin(self, recipes: Sequence[LogRecipe]) -> None:
        """Follow these as well."""
        for recipe in recipes:
            tailer = self._tailers[recipe] = self._make(recipe)
            self.supervisor.follow(tailer)

    async def change(self, recipes: Sequence[LogRecipe], between: Callable[[], object]) -> None:
        """Follow these from now on, and no others. Those that stay as they are notice nothing.

        A log that is to be followed otherwise ends after its batch in hand and goes on at its position. `between` is
        called when all has ended that ends, and nothing new has begun.
        """
        gone = {recipe: tailer for recipe, tailer in self._tailers.items() if recipe not in recipes}
        new = [recipe for recipe in recipes if recipe not in self._tailers]
        await self.supervisor.leave(gone.values(), _LEAVE_S)
        self._tailers = {recipe: tailer for recipe, tailer in self._tailers.items() if recipe not in gone}
        self._forget([recipe.followed.info for recipe in gone], [recipe.followed.info for recipe in recipes])
        between()
        self.begin(new)
        self._tailers = {recipe: self._tailers[recipe] for recipe in recipes}
        _say(list(gone), new)

    def _forget(self, gone: Sequence[LogInfo], logs: Sequence[LogInfo]) -> None:
        """Show nothing old of those logs, and nothing at all of a log that is not followed any more by that name."""
        shared = {recipe.followed.info.name for recipe in self._tailers}  # with a log that stays as it is
        again = {(log.name, log.base_url) for log in logs}
        for log in gone:
            if log.name in shared:
                continue
            if (log.name, log.base_url) in again:
                self._metrics.log(log.name).state("starting")
            else:
                self._metrics.forget_log(log.name)


def _say(gone: Sequence[LogRecipe], new: Sequence[LogRecipe]) -> None:
    before = {recipe.followed.info.base_url: recipe.followed.info.name for recipe in gone}
    after = {recipe.followed.info.base_url: recipe.followed.info.name for recipe in new}
    for url in before.keys() - after.keys():
        logger.info("log is followed no more, its position is kept", log=before[url], url=url)
    for url in after.keys() - before.keys():
        logger.info("log is followed from now on", log=after[url], url=url)
    for url in before.keys() & after.keys():
        logger.info("log is followed by changed options", log=after[url], url=url)
