"""Real signals before a process has begun its work, and after it has done it."""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator
from contextlib import ExitStack

import pytest

from certstream.starting import ALL
from tests.signals_support import Child, Started, TerminalChild


@pytest.fixture
def start() -> Iterator[Callable[..., Child]]:
    with ExitStack() as stack:
        yield lambda *words: stack.enter_context(Child(*words))


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
