"""What holds for all tests."""

from __future__ import annotations

import signal


def pytest_configure() -> None:
    """Under nohup SIGHUP is ignored, and every program started here would inherit that; a handler is not inherited."""
    if signal.getsignal(signal.SIGHUP) == signal.SIG_IGN:
        signal.signal(signal.SIGHUP, lambda *_: None)
