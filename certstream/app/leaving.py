"""The end of a process that something may hold up."""

from __future__ import annotations

import os
import threading

import structlog

log = structlog.get_logger(__name__)


def leave_in_time(after_s: float) -> None:
    """End the process after that time, whatever it does then: a thread that waits for a dead disk cannot be ended."""

    def leave() -> None:
        log.warning(
            "not everything ended in time, leaving; what is not saved or archived is read again", after_s=after_s
        )
        os._exit(0)

    timer = threading.Timer(after_s, leave)
    timer.daemon = True
    timer.start()
