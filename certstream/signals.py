"""What the operating system tells the running process: end, end at once, hang-up."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Callable
from types import FrameType, TracebackType
from typing import Self

import structlog

from certstream.starting import ALL, Handler, current, has_terminal, restore

log = structlog.get_logger(__name__)


class Signals:
    """SIGINT and SIGTERM set `stop`, a second one of them leaves at once. A context manager, inside a running loop.

    SIGHUP calls `on_hang_up`, each time; without that it is logged and changes nothing. If the process had a terminal
    and that is gone, SIGHUP sets `stop` instead; under nohup, which ignores SIGHUP, it never does. With
    `hang_up_ends`, SIGHUP sets `stop` wherever it comes from, except under nohup, and `on_hang_up` is not called.

    Inside of a `Start`, what that has noted comes on entering. Leaving it restores what was before; inside of a `Start`
    the work is done then: signals are ignored, only a second SIGINT or SIGTERM still leaves at once.
    """

    def __init__(self, *, on_hang_up: Callable[[], None] | None = None, hang_up_ends: bool = False) -> None:
        self.stop = asyncio.Event()
        self._on_hang_up = on_hang_up
        self._hang_up_ends = hang_up_ends
        self._start = current()
        self._nohup = signal.getsignal(signal.SIGHUP) == signal.SIG_IGN
        self._had_terminal = has_terminal() if self._start is None else self._start.had_terminal
        self._before: dict[signal.Signals, Handler] = {}
        self._ending: signal.Signals | None = None  # SIGINT or SIGTERM, where one came

    def __enter__(self) -> Self:
        self._loop = asyncio.get_running_loop()
        self._before = {number: signal.getsignal(number) for number in ALL}
        for number in ALL:  # not by the loop, which would call for those, too, that came before it had a handler
            signal.signal(number, self._came)
            signal.siginterrupt(number, False)  # so that calls of other threads are not cut short
        if self._start is not None:
            for number in self._start.noted():
                self._came(number, None)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._start is not None:
            self._start.over(ending=self._ending)
        restore(self._before)

    def _came(self, number: int, _frame: FrameType | None) -> None:
        self._loop.call_soon_threadsafe(self._heed, signal.Signals(number))

    def _heed(self, number: signal.Signals) -> None:
        if number == signal.SIGHUP:
            self._hang_up()
        else:
            self._end(number)

    def _end(self, number: signal.Signals) -> None:
        # A hang-up before it does not count: who closes a session may send both, and SIGHUP is delivered first
        if self._ending is not None:
            os._exit(128 + number)
        self._ending = number
        self._stop("signal received, stopping", number)

    def _stop(self, why: str, number: signal.Signals) -> None:
        self.stop.set()  # before it is logged, as in _hang_up: where the terminal is gone, stderr may be, too
        log.info(why, signal=number.name)

    def _hang_up(self) -> None:
        if self.stop.is_set():
            log.info("already stopping, signal ignored", signal="SIGHUP")
        elif self._hang_up_ends and not self._nohup:
            self._stop("signal received, stopping", signal.SIGHUP)
        elif self._had_terminal and not self._nohup and not has_terminal():
            self._stop("the terminal is gone, stopping", signal.SIGHUP)
        elif self._on_hang_up is None or self._hang_up_ends:
            log.info("signal ignored", signal="SIGHUP")
        else:
            self._on_hang_up()
            log.info("signal received", signal="SIGHUP")
