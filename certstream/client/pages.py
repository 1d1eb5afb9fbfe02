"""Where get-entries requests should end, learned from what the log returned. No I/O.

Logs limit a page in one of three ways: to a count (1,000 from anywhere), to the next multiple of a page
(Trillian's aligned pages, 32 at Google, 256 at Sectigo and DigiCert), or by the size of the message. A request that
reaches further gets a short answer; one that ends where the log ends costs nothing extra.
"""

from __future__ import annotations

from typing import Final

_CREDIBLE: Final = 16  # a smaller short answer must come twice to be believed a limit
_BOUNDARY: Final = 32  # the smallest page boundary known of a real log
_FIRST_PROBE: Final = 8  # full answers until a longer request is tried; doubles each time that nothing comes of it
_LAST_PROBE: Final = 4096


class Pages:
    """The page limits of one log, as far as they are known."""

    def __init__(self, max_page: int) -> None:
        self._max_page = max_page
        self._limit = max_page  # entries to ask for at most
        self._page = 1  # requests end on multiples of it
        self._suspect = 0  # length of the last short answer that was not believed
        self._full = 0  # answers in a row that were as long as the limit
        self._probe_at = self._patience = _FIRST_PROBE
        self.settled = False  # the last answer was as long as asked for: worth asking ahead

    def stop(self, start: int, end: int) -> int:
        """Where a request from `start` should end, `end` (past `start`) at most."""
        stop = min(start + self._limit, end)
        aligned = stop - stop % self._page
        return aligned if start < aligned < stop else stop

    def answered(self, start: int, stop: int, count: int) -> None:
        """The request for [start, stop) was answered with `count` (at least 1) entries."""
        self.settled = count >= stop - start
        if not self.settled:
            self._limited()
            self._learn(start, count)
        elif stop - start >= self._limit < self._max_page:
            self._full += 1
            if self._full >= self._probe_at:
                self._probe()

    def refused(self, start: int, stop: int) -> None:
        """The answer to [start, stop) was too large for the log, for our cap, or for the time it may take."""
        self.settled = False
        self._limited()
        self._limit, self._page = max(1, (stop - start) // 2), 1

    def _learn(self, start: int, count: int) -> None:
        end = start + count
        boundary = end & -end  # the largest power of two that the answer ended on
        if boundary > count and boundary >= _BOUNDARY:  # maybe the rest of a longer page; the next answer will tell
            self._page = min(boundary, self._limit)
        elif start % count == 0 and (count >= _CREDIBLE or count == self._suspect):
            self._limit = self._page = count
        elif boundary >= _BOUNDARY:
            self._page = min(boundary, self._limit)
        elif count == self._suspect:
            self._limit, self._page = count, 1
        self._suspect = count

    def _probe(self) -> None:
        """Ask for twice as much, and again at once as long as that is given: a passing shortage is soon forgotten."""
        self._full, self._probe_at = 0, 1
        self._limit = min(2 * self._limit, self._max_page)

    def _limited(self) -> None:
        if self._probe_at == 1:
            self._patience = min(2 * self._patience, _LAST_PROBE)
        self._full, self._probe_at = 0, self._patience
