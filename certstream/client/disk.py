"""Files that may lie on a disk that does not answer: a network mount whose server is gone."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future
from typing import Any, Final, TypeVar

from certstream.client.hanging import begin, outcome

PATIENCE_S: Final = 10.0

T = TypeVar("T")


class Disk:
    """Blocking work on files in a thread of its own, for which nobody waits longer than `patience_s`.

    Not even the end of the process does. While one piece of work hangs, further ones fail at once: one thread hangs at
    most.
    """

    def __init__(self, patience_s: float = PATIENCE_S) -> None:
        self._patience_s = patience_s
        self._latest: Future[Any] | None = None

    async def run(self, work: Callable[[], T]) -> T:
        """What `work` returns or raises; raises TimeoutError, which is an OSError, where the disk does not answer."""
        if self._latest is not None and not self._latest.done():
            raise TimeoutError("the disk has not answered since an earlier attempt")
        result = self._latest = begin(work, "disk")
        return await outcome(result, self._patience_s, f"the disk does not answer within {self._patience_s:.0f} s")
