"""What holds for all tests."""

from __future__ import annotations

import signal


def pytest_configure() -> None:
    """Take up the signals that were ignored at the start: every program started here would inherit that.

    nohup ignores SIGHUP, a shell without job control SIGINT of what it starts in the background. Handlers are not
    inherited.
    """
    if signal.getsignal(signal.SIGHUP) == signal.SIG_IGN:
        signal.signal(signal.SIGHUP, lambda *_: None)
    if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)
