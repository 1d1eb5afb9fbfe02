"""Real signals: to this process, and to others where they end it."""

from __future__ import annotations

import asyncio
import os
import pty
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from threading import Timer
from typing import Self

import pytest
import uvloop

from certstream.signals import Signals
from certstream.starting import Start

ROOT = Path(__file__).parent.parent
ALL = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
PATIENCE_S = 30.0

# Waits for `stop`, unless told otherwise. What it prints, in this order: noting, noted, early, before, ready, hang-up,
# stopped, again, left, ending, interrupted
CHILD = """
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


def pytest_asyncio_loop_factories() -> dict[str, Callable[[], asyncio.AbstractEventLoop]]:
    return {"uvloop": uvloop.new_event_loop}


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


@pytest.fixture
def start() -> Iterator[Callable[..., Child]]:
    with ExitStack() as stack:
        yield lambda *words: stack.enter_context(Child(*words))


Started = Callable[..., Child]


@pytest.fixture
def default_hang_up() -> Iterator[None]:
    """SIGHUP as it is without nohup, also where the tests run under nohup."""
    before = signal.signal(signal.SIGHUP, signal.SIG_DFL)
    yield
    signal.signal(signal.SIGHUP, before)


async def stopped(signals: Signals) -> None:
    await asyncio.wait_for(signals.stop.wait(), PATIENCE_S)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
async def test_the_first_end_signal_sets_stop(number: signal.Signals) -> None:
    with Signals() as signals:
        assert not signals.stop.is_set()
        os.kill(os.getpid(), number)
        await stopped(signals)


@pytest.mark.parametrize("first", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("second", [signal.SIGINT, signal.SIGTERM])
def test_a_second_end_signal_leaves_at_once(start: Started, first: signal.Signals, second: signal.Signals) -> None:
    child = start("stays")
    child.says("ready")
    child.send(first)
    child.says("stopped")
    child.send(second)
    assert child.end() == (128 + second, "")


@pytest.mark.usefixtures("default_hang_up")
async def test_each_hang_up_calls_back_and_stops_nothing() -> None:
    calls: asyncio.Queue[None] = asyncio.Queue()
    with Signals(on_hang_up=lambda: calls.put_nowait(None)) as signals:
        for _ in range(2):
            os.kill(os.getpid(), signal.SIGHUP)
            await asyncio.wait_for(calls.get(), PATIENCE_S)
        assert not signals.stop.is_set()


@pytest.mark.usefixtures("default_hang_up")
async def test_a_hang_up_without_anything_to_call_is_logged_and_ignored(capsys: pytest.CaptureFixture[str]) -> None:
    with Signals() as signals:
        os.kill(os.getpid(), signal.SIGHUP)
        logged = ""
        async with asyncio.timeout(PATIENCE_S):
            while "SIGHUP" not in logged:
                await asyncio.sleep(0)
                logged += capsys.readouterr().out
        assert "signal ignored" in logged
        assert not signals.stop.is_set()


@pytest.mark.usefixtures("default_hang_up")
async def test_a_hang_up_while_it_stops_calls_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    calls: list[None] = []
    with Signals(on_hang_up=lambda: calls.append(None)) as signals:
        signals.stop.set()
        os.kill(os.getpid(), signal.SIGHUP)
        logged = ""
        async with asyncio.timeout(PATIENCE_S):
            while "already stopping" not in logged:
                await asyncio.sleep(0)
                logged += capsys.readouterr().out
    assert calls == []


@pytest.mark.usefixtures("default_hang_up")
async def test_a_hang_up_ends_a_command() -> None:
    calls: list[None] = []
    with Signals(on_hang_up=lambda: calls.append(None), hang_up_ends=True) as signals:
        os.kill(os.getpid(), signal.SIGHUP)
        await stopped(signals)
    assert calls == []


def test_hang_ups_before_the_first_end_signal_do_not_count_as_one(start: Started) -> None:
    child = start("ends", "stays")
    child.says("ready")
    child.send(signal.SIGHUP)
    child.says("stopped")
    child.send(signal.SIGHUP)
    child.send(signal.SIGTERM)  # who closes a session may send both
    child.says("again")
    child.send(signal.SIGINT)
    assert child.end() == (128 + signal.SIGINT, "")


@pytest.mark.parametrize("words", [("nohup", "ends"), ("nohup",)])
def test_under_nohup_a_hang_up_ends_nothing(start: Started, words: tuple[str, ...]) -> None:
    child = start(*words)
    child.says("ready")
    child.send(signal.SIGHUP)
    child.send(signal.SIGTERM)
    assert child.end() == (0, "stopped\nleft\n")


def test_under_nohup_a_hang_up_calls_back(start: Started) -> None:
    child = start("nohup", "callback")
    child.says("ready")
    child.send(signal.SIGHUP)
    child.says("hang-up")
    child.send(signal.SIGTERM)
    assert child.end() == (0, "stopped\nleft\n")


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


def test_a_hang_up_while_the_terminal_is_there_calls_back() -> None:
    with TerminalChild("callback") as child:
        assert child.said.readline() == "ready\n"
        os.kill(child.pid, signal.SIGHUP)
        assert child.said.readline() == "hang-up\n"
        os.kill(child.pid, signal.SIGTERM)
        assert child.end() == (0, "stopped\nleft\n")


def test_a_hang_up_because_the_terminal_is_gone_ends_it() -> None:
    with TerminalChild("callback") as child:
        assert child.said.readline() == "ready\n"
        child.hang_up()
        assert child.end() == (0, "stopped\nleft\n")


def test_a_terminal_that_goes_ends_nothing_under_nohup() -> None:
    with TerminalChild("callback", "nohup") as child:
        assert child.said.readline() == "ready\n"
        child.hang_up()
        assert child.said.readline() == "hang-up\n"
        os.kill(child.pid, signal.SIGTERM)
        assert child.end() == (0, "stopped\nleft\n")


async def test_leaving_restores_what_was_before() -> None:
    before = [signal.getsignal(number) for number in ALL]
    with Signals():
        pass
    assert [signal.getsignal(number) for number in ALL] == before
    with Start() as start, start.interrupting():
        pass
    assert [signal.getsignal(number) for number in ALL] == before


@pytest.mark.parametrize("number", ALL)
@pytest.mark.parametrize("when", ["early", "before"])
def test_a_signal_before_a_commands_work_is_an_interrupt(start: Started, number: signal.Signals, when: str) -> None:
    child = start("command", when)
    child.says(when)
    child.send(number)
    child.says("interrupted")
    assert child.end() == (3, "")


def test_under_nohup_a_hang_up_before_a_commands_work_is_ignored(start: Started) -> None:
    child = start("command", "noting", "early", "nohup", "done")
    child.says("noting")
    child.send(signal.SIGHUP)
    child.goes_on()
    child.says("noted")
    child.says("early")
    child.send(signal.SIGHUP)
    assert child.end() == (0, "ready\nleft\n")


@pytest.mark.parametrize("number", ALL)
def test_a_signal_while_a_command_loads_is_an_interrupt_afterwards(start: Started, number: signal.Signals) -> None:
    child = start("command", "noting")
    child.says("noting")
    child.send(number)
    assert child.end() == (3, "noted\ninterrupted\n")


@pytest.mark.parametrize("numbers", [[signal.SIGINT], [signal.SIGTERM], [signal.SIGHUP, signal.SIGTERM]])
def test_a_signal_while_the_service_loads_ends_it_afterwards(start: Started, numbers: list[signal.Signals]) -> None:
    child = start("start", "noting")
    child.says("noting")
    for number in numbers:
        child.send(number)
    assert child.end() == (0, "noted\nready\nstopped\nleft\n")


def test_a_second_signal_while_it_loads_leaves_at_once(start: Started) -> None:
    child = start("start", "noting")
    child.says("noting")
    child.send(signal.SIGINT)
    child.send(signal.SIGTERM)
    assert child.process.wait() == 128 + signal.SIGTERM


def test_a_second_signal_after_one_that_came_while_it_loaded_leaves_at_once(start: Started) -> None:
    child = start("start", "noting", "stays")
    child.says("noting")
    child.send(signal.SIGINT)
    child.goes_on()
    for word in ("noted", "ready", "stopped"):
        child.says(word)
    child.send(signal.SIGTERM)
    assert child.process.wait() == 128 + signal.SIGTERM


def test_a_hang_up_while_the_service_loads_calls_back_afterwards(start: Started) -> None:
    child = start("start", "noting", "callback")
    child.says("noting")
    child.send(signal.SIGHUP)
    child.goes_on()
    for word in ("noted", "ready", "hang-up"):
        child.says(word)
    child.send(signal.SIGTERM)
    assert child.end() == (0, "stopped\nleft\n")


def test_a_terminal_that_goes_while_the_service_loads_ends_it() -> None:
    with TerminalChild("start", "noting", "callback") as child:
        assert child.said.readline() == "noting\n"
        child.hang_up()
        assert child.end() == (0, "noted\nready\nstopped\nleft\n")


@pytest.mark.parametrize("number", ALL)
def test_a_signal_after_the_services_work_does_not_change_its_outcome(start: Started, number: signal.Signals) -> None:
    child = start("start", "done", "late")
    child.says("ready")
    child.says("left")
    child.send(number)
    assert child.end() == (0, "")


@pytest.mark.parametrize("number", ALL)
def test_a_signal_after_a_commands_work_does_not_change_its_outcome(start: Started, number: signal.Signals) -> None:
    child = start("command", "done", "late")
    child.says("ready")
    child.says("left")
    child.send(number)
    assert child.end() == (0, "")


@pytest.mark.parametrize("number", ALL)
def test_a_signal_while_a_commands_interpreter_ends_does_not_either(start: Started, number: signal.Signals) -> None:
    child = start("command", "done", "end")
    for word in ("ready", "left", "ending"):
        child.says(word)
    child.send(number)
    assert child.end() == (0, "")


def test_a_second_signal_after_a_commands_work_still_leaves_at_once(start: Started) -> None:
    child = start("command", "late", "ends")
    child.says("ready")
    child.send(signal.SIGTERM)
    child.says("stopped")
    child.says("left")
    child.send(signal.SIGTERM)
    assert child.process.wait() == 128 + signal.SIGTERM
