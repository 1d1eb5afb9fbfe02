"""What the operating system tells the process: end, end at once, hang-up."""

from __future__ import annotations

import asyncio
import atexit
import os
import signal
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from types import FrameType, TracebackType
from typing import Any, Final, Self, TypeAlias

import structlog

_TERMINAL: Final = "/dev/tty"
_ENDS: Final = (signal.SIGINT, signal.SIGTERM)
_ALL: Final = (*_ENDS, signal.SIGHUP)

_Handler: TypeAlias = Callable[[int, FrameType | None], Any] | int | None

log = structlog.get_logger(__name__)


class Signals:
    """SIGINT and SIGTERM set `stop`, a second one of them leaves at once. A context manager, inside a running loop.

    SIGHUP calls `on_hang_up`, each time; without that it is logged and changes nothing. If the process had a terminal
    and that is gone, SIGHUP sets `stop` instead; under nohup, which ignores SIGHUP, it never does. With
    `hang_up_ends`, SIGHUP sets `stop` wherever it comes from, except under nohup, and `on_hang_up` is not called.

    Leaving it restores what was before. Inside of `interrupting` the work is done then: signals are ignored, only a
    second SIGINT or SIGTERM still leaves at once.
    """

    def __init__(self, *, on_hang_up: Callable[[], None] | None = None, hang_up_ends: bool = False) -> None:
        self.stop = asyncio.Event()
        self._on_hang_up = on_hang_up
        self._hang_up_ends = hang_up_ends
        self._nohup = signal.getsignal(signal.SIGHUP) == signal.SIG_IGN
        self._had_terminal = has_terminal()
        self._before: dict[signal.Signals, _Handler] = {}
        self._ending = False  # SIGINT or SIGTERM came

    def __enter__(self) -> Self:
        loop = asyncio.get_running_loop()
        self._before = {number: signal.getsignal(number) for number in _ALL}
        for number in _ENDS:
            loop.add_signal_handler(number, self._end, number)
        loop.add_signal_handler(signal.SIGHUP, self._hang_up)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, trace: TracebackType | None
    ) -> None:
        loop = asyncio.get_running_loop()
        for number in _ALL:
            loop.remove_signal_handler(number)
        if self._before[signal.SIGTERM] is _interrupt:
            self._before = {
                signal.SIGINT: self._end_late,
                signal.SIGTERM: self._end_late,
                signal.SIGHUP: signal.SIG_IGN,
            }
        _restore(self._before)

    def _end(self, number: signal.Signals) -> None:
        # A hang-up before it does not count: who closes a session may send both, and SIGHUP is delivered first
        if self._ending:
            os._exit(128 + number)
        self._ending = True
        self._stop("signal received, stopping", number)

    def _stop(self, why: str, number: signal.Signals) -> None:
        self.stop.set()  # before it is logged, as in _hang_up: where the terminal is gone, stderr may be, too
        log.info(why, signal=number.name)

    def _end_late(self, number: int, _frame: FrameType | None) -> None:
        if self._ending:
            os._exit(128 + number)
        self._ending = True

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


@contextmanager
def interrupting() -> Iterator[None]:
    """Make every end of a command one of two, from the main thread: KeyboardInterrupt before its `Signals` is entered.

    SIGTERM and SIGHUP raise it as SIGINT does; under nohup SIGHUP stays ignored. Once `Signals` is left the outcome
    stands: no signal changes the exit code, not even while the interpreter ends. Restores what was before.
    """
    before = {number: signal.getsignal(number) for number in _ALL}
    for number in (signal.SIGTERM, signal.SIGHUP):
        if before[number] != signal.SIG_IGN:
            signal.signal(number, _interrupt)
    try:
        yield
    finally:
        _restore(before)
        atexit.register(_ignore)  # the interpreter drops handlers early in its end, but not this


def _restore(handlers: Mapping[signal.Signals, _Handler]) -> None:
    for number, handler in handlers.items():
        if handler is not None:  # None: not Python's own, and it cannot be set from here
            signal.signal(number, handler)


def _interrupt(_number: int, _frame: FrameType | None) -> None:
    raise KeyboardInterrupt


def _ignore() -> None:
    for number in _ALL:
        signal.signal(number, signal.SIG_IGN)


def has_terminal() -> bool:
    """Whether the process has a controlling terminal that is still there."""
    try:
        fd = os.open(_TERMINAL, os.O_RDONLY | os.O_NOCTTY)
    except OSError:
        return False
    os.close(fd)
    return True
