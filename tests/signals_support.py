"""Processes that signals are sent to: one without a terminal, one with its own."""

from __future__ import annotations

import os
import pty
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from threading import Timer
from typing import Final, Self

ROOT: Final = Path(__file__).parent.parent
PATIENCE_S: Final = 30.0

# Waits for `stop`, unless told otherwise. What it prints, in this order: noting, noted, early, before, ready, hang-up,
# stopped, again, left, ending, interrupted
CHILD: Final = """
import asyncio, atexit, contextlib, signal, sys, structlog, uvloop
from certstream.signals import Signals
from certstream.starting import Start
structlog.configure(logger_factory=structlog.PrintLoggerFactory(sys.stderr))
words = set(sys.argv[1:])
if "nohup" in words:
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
else:
    signal.signal(signal.SIGHUP, signal.SIG_DFL)

def say(word):
    print(word, flush=True)

def end():
    say("ending")
    sys.stdin.readline()

if "end" in words:
    atexit.register(end)

async def work():
    if "before" in words:
        say("before")
        await asyncio.Event().wait()
    called = (lambda: say("hang-up")) if "callback" in words else None
    with Signals(on_hang_up=called, hang_up_ends="ends" in words) as signals:
        say("ready")
        if "done" not in words:
            await signals.stop.wait()
            say("stopped")
        if "stays" in words:
            signals.stop.clear()
            await signals.stop.wait()
            say("again")
            await asyncio.Event().wait()
    say("left")
    if "late" in words:
        sys.stdin.readline()

try:
    with contextlib.ExitStack() as stack:
        start = stack.enter_context(Start()) if words & {"start", "command"} else None
        if "noting" in words:
            say("noting")
            with contextlib.suppress(OSError):  # of a terminal that is gone
                sys.stdin.readline()
            say("noted")
        if "command" in words:
            stack.enter_context(start.interrupting())
        if "early" in words:
            say("early")
            sys.stdin.readline()
        asyncio.Runner(loop_factory=uvloop.new_event_loop).run(work())
except KeyboardInterrupt:
    say("interrupted")
    sys.exit(3)
"""


class Child:
    """A process that `CHILD` runs in, in a session of its own: without a terminal."""

    def __init__(self, *words: str) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-W", "ignore", "-c", CHILD, *words], cwd=ROOT, text=True, start_new_session=True,
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
        )  # fmt: skip
        self._patience = Timer(PATIENCE_S, self.process.kill)
        self._patience.start()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._patience.cancel()
        self.process.kill()
        self.process.communicate()

    def says(self, word: str) -> None:
        assert self.process.stdout is not None
        assert self.process.stdout.readline() == f"{word}\n"

    def send(self, number: signal.Signals) -> None:
        self.process.send_signal(number)

    def goes_on(self) -> None:
        """Let it read a line, for which it waits."""
        assert self.process.stdin is not None
        self.process.stdin.write("\n")
        self.process.stdin.flush()

    def end(self) -> tuple[int, str]:
        """Exit code, and what it said until then."""
        said, _ = self.process.communicate("\n")
        return self.process.returncode, said


class TerminalChild:
    """A process that `CHILD` runs in, with a terminal of its own; what it says comes through a pipe."""

    def __init__(self, *words: str) -> None:
        reader, writer = os.pipe()
        self.pid, self.terminal = pty.fork()
        if self.pid == 0:  # pragma: no cover - the child
            os.dup2(writer, 1)
            os.chdir(ROOT)
            os.execv(sys.executable, [sys.executable, "-W", "ignore", "-c", CHILD, *words])
        os.close(writer)
        self.said = os.fdopen(reader)
        self._ended = False
        self._patience = Timer(PATIENCE_S, os.kill, (self.pid, signal.SIGKILL))
        self._patience.start()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._patience.cancel()
        self.said.close()
        self.hang_up()
        if not self._ended:
            os.kill(self.pid, signal.SIGKILL)
            os.waitpid(self.pid, 0)

    def hang_up(self) -> None:
        """Take its terminal away."""
        if self.terminal >= 0:
            os.close(self.terminal)
        self.terminal = -1

    def end(self) -> tuple[int, str]:
        said = self.said.read()
        code = os.waitstatus_to_exitcode(os.waitpid(self.pid, 0)[1])
        self._ended = True
        self._patience.cancel()
        return code, said


Started = Callable[..., Child]
