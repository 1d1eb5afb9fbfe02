"""Where get-entries requests should end, learned from what the log returned. No I/O.

Logs limit a page in one of three ways: to a count (1,000 from anywhere), to the next multiple of a page
(Trillian's aligned pages, 32 at Google, 256 at Sectigo and DigiCert), or by the size of the message. A request that
reaches further gets a short answer; one that ends where the log ends costs nothing extra.

Whatever was learned may be wrong, or true for a while only. So after some requests that were answered in full one
goes further than it should, and a page that comes whole or reaches further than believed corrects the belief: a log
is back at its full pages at most `RECOVERS_WITHIN` requests after whatever went wrong.
"""

from __future__ import annotations

from typing import Final

RECOVERS_WITHIN: Final = 1100  # requests, all answered: the longest patience and the steps up again
_CREDIBLE: Final = 16  # a smaller short answer must come twice to be believed a limit
_BOUNDARY: Final = 32  # the smallest power of two known of a real log as a page boundary
_LAST_BOUNDARY: Final = 1024  # a larger one matters only where pages are longer still
_SMALL: Final = 64  # a request below it that is refused says little of how long a page may be
_FIRST_PROBE: Final = 8  # full answers until a longer request is tried; doubles each time that nothing comes of it
_LAST_PROBE: Final = 1024
_CONFIRMED: Final = 2  # probes in a row that end on the boundary: the first may have begun right before a longer page


class Pages:
    """The page limits of one log, as far as they are known: a count, and a boundary that pages end on."""

    def __init__(self, max_page: int) -> None:
        self._max_page = max_page
        self._limit = max_page  # entries to ask for at most
        self._boundary = 1  # requests end on multiples of it; 1 for none known
        self._suspect = 0  # length of the last short answer that was not believed
        self._timed_out_at = -1  # start of the last request that timed out, if none was answered since
        self._patience = self._left = _FIRST_PROBE  # full answers from probe to probe, and until the next one
        self._confirmed = 0  # probes in a row that ended on the boundary
        self._whole = False  # the last answer was as long as asked for

    @property
    def settled(self) -> bool:
        """Whether it is worth asking ahead. Not for a probe: what is asked for behind it begins where none may end."""
        return self._whole and self._left > 0

    def stop(self, start: int, end: int) -> int:
        """Where a request from `start` should end, `end` (past `start`) at most."""
        if not self._left:
            return min(start + min(2 * self._limit, self._max_page), end)
        return min(start + self._limit, self._next_boundary(start), end)

    def answered(self, start: int, stop: int, count: int) -> None:
        """The request for [start, stop) was answered with `count` (at least 1) entries."""
        self._timed_out_at = -1
        self._whole = count >= stop - start
        surpassed = self._correct(start, count)
        if not self._whole:
            self._short(start, count)
        elif stop - start >= self._limit or stop % self._boundary == 0:
            self._left = max(0, self._left - 1)
        if surpassed:  # ask for more at once: a passing shortage is soon forgotten
            self._patience, self._left, self._confirmed = _FIRST_PROBE, 0, 0
        if self._limit == self._max_page and self._boundary == 1:
            self._patience = self._left = _FIRST_PROBE

    def refused(self, start: int, stop: int, *, timed_out: bool = False) -> None:
        """The answer to [start, stop) was too large for the log, for our cap, or maybe for the time it may take."""
        self._whole = False
        self._probe_failed()
        if timed_out and start != self._timed_out_at:  # once is chance: it may be any stall
            self._timed_out_at = start
            return
        least = _SMALL if self._limit > _SMALL else 1
        self._limit = max(1, min(self._limit, max(stop - start, least) // 2))

    def _next_boundary(self, start: int) -> int:
        return start - start % self._boundary + self._boundary if self._boundary > 1 else start + self._max_page

    def _correct(self, start: int, count: int) -> bool:
        """Drop what the answer disproves; whether that is anything."""
        crossed = self._boundary > 1 and self._next_boundary(start) < start + count
        longer = count > self._limit
        if crossed:
            self._boundary = 1
        if longer:
            self._limit = min(count, self._max_page)
        return crossed or longer

    def _short(self, start: int, count: int) -> None:
        if self._boundary > 1 and start + count == self._next_boundary(start):
            self._confirmed += not self._left
            if self._confirmed >= _CONFIRMED:
                self._probe_failed()
            return
        if count != self._limit:  # which would explain it
            self._probe_failed()
            believed = self._limit, self._boundary
            self._learn(start, count)
            if believed != (self._limit, self._boundary):
                self._patience = self._left = _FIRST_PROBE
        elif self._boundary == 1:  # else the boundary is to be probed still
            self._probe_failed()

    def _learn(self, start: int, count: int) -> None:
        end = start + count
        power = end & -end  # the largest power of two that the answer ended on
        if max(_BOUNDARY, count) <= power <= max(_LAST_BOUNDARY, self._max_page):
            self._boundary = power  # maybe the end of a longer page still: the next answers will tell
        elif start % count == 0 and (count >= _CREDIBLE or count == self._suspect):
            self._boundary = count
        elif count == self._suspect:
            self._limit = count
        self._suspect = count

    def _probe_failed(self) -> None:
        """Wait longer until the next probe, if this was one."""
        self._confirmed = 0
        if not self._left:
            self._patience = min(2 * self._patience, _LAST_PROBE)
            self._left = self._patience
