"""Signals while the process starts: noted until there is something that they can end.

Loading the program takes about a second, and a signal that came then would end the process as its default action does.
So this module is loaded first, and loads next to nothing itself.
"""

from __future__ import annotations

import atexit
import os
import signal
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from types import FrameType, TracebackType
from typing import Any, Final, Self, TypeAlias

ENDS: Final = (signal.SIGINT, signal.SIGTERM)
ALL: Final = (*ENDS, signal.SIGHUP)

_TERMINAL: Final = "/dev/tty"

Handler: TypeAlias = Callable[[int, FrameType | None], Any] | int | None

_current: Start | None = None


class InterruptedStartError(KeyboardInterrupt):
    """A signal came before the work began.

    Never KeyboardInterrupt itself: where that passes through an `exec` of a string, as of the one that makes a
    dataclass, CPython ends the process by SIGINT, whoever catches it (`run_eval_code_obj` in pythonrun.c).
    """


class Start:
    """Notes signals from entering it on, in the main thread; a second SIGINT or SIGTERM leaves at once.

    What came before a `Signals` is entered that one sees; once it is left the outcome stands, and what comes then is
    noted to no effect, not even while the interpreter ends. Signals that are ignored stay so, as SIGHUP under nohup.
    Leaving it restores what was before.
    """

    def __init__(self) -> None:
        self.had_terminal = has_terminal()
        self.ending: signal.Signals | None = None  # the first of SIGINT and SIGTERM that came
        self._hung_up = False  # SIGHUP came
        self._raises = False
        self._before: dict[signal.Signals, Handler] = {}

    def __enter__(self) -> Self:
        global _current
        self._before = {number: signal.getsignal(number) for number in ALL}
        _current = self
        for number, handler in self._before.items():
            if handler != signal.SIG_IGN:
                signal.signal(number, self._came)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, trace: TracebackType | None
    ) -> None:
        global _current
        _current = None
        restore(self._before)
        atexit.register(_ignore)  # the interpreter drops handlers early in its end, but not this

    def noted(self) -> list[signal.Signals]:
        """Which signals came; of SIGINT and SIGTERM the first."""
        hang_ups = [signal.SIGHUP] if self._hung_up else []
        return hang_ups if self.ending is None else [*hang_ups, self.ending]

    def check(self) -> None:
        """Raise InterruptedStartError if a signal came."""
        if self.noted():
            raise InterruptedStartError

    @contextmanager
    def interrupting(self) -> Iterator[None]:
        """Raise InterruptedStartError at the first signal, also if it came before; until a `Signals` is entered."""
        self._raises = True
        try:
            self.check()
            yield
        finally:
            self._raises = False

    def over(self, *, ending: signal.Signals | None) -> None:
        """The outcome stands; `ending` is the SIGINT or SIGTERM that came, so that a further one leaves at once."""
        self._raises = False
        self.ending = ending

    def _came(self, number: int, _frame: FrameType | None) -> None:
        if number == signal.SIGHUP:
            self._hung_up = True
        elif self.ending is not None:
            os._exit(128 + number)
        else:
            self.ending = signal.Signals(number)
        if self._raises:
            self._raises = False
            raise InterruptedStartError


def current() -> Start | None:
    """The start that is entered."""
    return _current


def restore(handlers: Mapping[signal.Signals, Handler]) -> None:
    """Set handlers as `signal.getsignal` gave them."""
    for number, handler in handlers.items():
        if handler is not None:  # None: not Python's own, and it cannot be set from here
            signal.signal(number, handler)


def _ignore() -> None:
    for number in ALL:
        signal.signal(number, signal.SIG_IGN)


def has_terminal() -> bool:
    """Whether the process has a controlling terminal that is still there."""
    try:
        fd = os.open(_TERMINAL, os.O_RDONLY | os.O_NOCTTY)
    except OSError:
        return False
    os.close(fd)
    return True
