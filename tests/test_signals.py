"""Real signals: to this process, and to others where they end it."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Callable, Iterator
from contextlib import ExitStack

import pytest
import uvloop

from certstream.signals import Signals
from certstream.starting import ALL, Start
from tests.signals_support import PATIENCE_S, Child, Started, TerminalChild


def pytest_asyncio_loop_factories() -> dict[str, Callable[[], asyncio.AbstractEventLoop]]:
    return {"uvloop": uvloop.new_event_loop}


@pytest.fixture
def start() -> Iterator[Callable[..., Child]]:
    with ExitStack() as stack:
        yield lambda *words: stack.enter_context(Child(*words))


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
