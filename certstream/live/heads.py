"""What a log's tree heads, unverified as they are, together say of how long its tree is. No I/O."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

CREDIBLE_HEADS: Final = 10  # in a row that say the same against what was believed
CREDIBLE_S: Final = 60.0  # over which they must come: frontends of a log lag behind each other, but not all, not long


@dataclass(slots=True)
class _Row:
    """Heads in a row that say something."""

    count: int = 0
    since_s: float = 0.0
    largest: int = 0

    def add(self, tree_size: int, now_s: float) -> bool:
        """Take one more; whether they are enough to be believed."""
        if not self.count:
            self.since_s = now_s
        self.count += 1
        self.largest = max(self.largest, tree_size)
        return self.count >= CREDIBLE_HEADS and now_s - self.since_s >= CREDIBLE_S


class Heads:
    """The tree's size: the largest of this run's heads, until only smaller ones come for a while.

    So a head far too large, once, does not hold a log for good, and a frontend that lags changes nothing. A head
    below the position, where entries beyond it were read, says nothing against a larger one; but when none else
    comes for a while, the position lies `beyond` the tree. Heads whose signatures are verified are believed for good:
    no smaller one is followed.
    """

    def __init__(self, tree_size: int, *, signed: bool = False) -> None:
        self._signed = signed
        self.tree_size = tree_size  # until the first head of this run: what the last run knew
        self.beyond = False
        self._first = True
        self._smaller = _Row()
        self._below = _Row()

    def take(self, tree_size: int, position: int | None, now_s: float) -> int | None:
        """Take a head that came at `now_s` (monotonic) with `position` next to read.

        Returns the tree size that it made us give up, None mostly.
        """
        below = position is not None and tree_size < position
        self._take_below(tree_size, now_s, below=below)
        if self._first or tree_size >= self.tree_size:
            self._first = False
            self._believe(tree_size)
            return None
        if below or self._signed or not self._smaller.add(tree_size, now_s):
            return None
        given_up = self.tree_size
        self._believe(self._smaller.largest)
        return given_up

    def _believe(self, tree_size: int) -> None:
        self.tree_size = tree_size
        self._smaller = _Row()

    def _take_below(self, tree_size: int, now_s: float, *, below: bool) -> None:
        if not below:
            self._below = _Row()
            self.beyond = False
        elif self._below.add(tree_size, now_s):
            self.beyond = True
