"""What the operating system tells the process: end, end at once, hang-up."""

from __future__ import annotations

import asyncio
import os
import signal
from types import TracebackType
from typing import Final, Self

import structlog

_TERMINAL: Final = "/dev/tty"

log = structlog.get_logger(__name__)


class Signals:
    """SIGINT and SIGTERM set `stop`, a second one leaves at once.

    SIGHUP is logged and changes nothing, unless the process had a terminal and that is gone: then it ends the
    process like SIGTERM. Under nohup, which ignores SIGHUP, it never does. A context manager, inside a running loop.
    """

    def __init__(self) -> None:
        self.stop = asyncio.Event()
        self._ends_with_terminal = signal.getsignal(signal.SIGHUP) != signal.SIG_IGN and has_terminal()

    def __enter__(self) -> Self:
        loop = asyncio.get_running_loop()
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.add_signal_handler(number, self._end, number)
        loop.add_signal_handler(signal.SIGHUP, self._hang_up)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, trace: TracebackType | None
    ) -> None:
        loop = asyncio.get_running_loop()
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            loop.remove_signal_handler(number)

    def _end(self, number: signal.Signals) -> None:
        if self.stop.is_set():
            os._exit(128 + number)
        log.info("signal received, stopping", signal=number.name)
        self.stop.set()

    def _hang_up(self) -> None:
        if self._ends_with_terminal and not has_terminal():
            log.info("the terminal is gone, stopping", signal="SIGHUP")
            self.stop.set()
        else:
            log.info("nothing to do for this signal in this version", signal="SIGHUP")


def has_terminal() -> bool:
    """Whether the process has a controlling terminal that is still there."""
    try:
        fd = os.open(_TERMINAL, os.O_RDONLY | os.O_NOCTTY)
    except OSError:
        return False
    os.close(fd)
    return True
