"""Signals that come while the program is loaded: real processes, struck in the middle of an import."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
ALL = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
PATIENCE_S = 60.0

# As Python starts it loads this. The signal comes in an `exec` of a string, as dataclasses are made by: there a
# KeyboardInterrupt would end the process by SIGINT, even where it is caught
STRIKE = """
import os, signal, sys

class Strike:
    def find_spec(self, name, path=None, target=None):
        if name == os.environ["STRIKE_AT"]:
            sys.meta_path.remove(self)
            exec("for each in os.environ['STRIKE_WITH'].split(): os.kill(os.getpid(), int(each))")

sys.meta_path.insert(0, Strike())
signal.signal(signal.SIGHUP, signal.SIG_DFL)  # also where the tests run under nohup
"""
MODULE = ["-m", "certstream"]
SCRIPT = ["-c", "import sys; from certstream.cli import main; sys.exit(main())"]  # as installers write it
BACKFILL, MERGE, MAINTAIN = ["--backfill"], ["--merge", "--staging-path", "s"], ["--maintain"]

Process = subprocess.Popen[str]
Struck = Callable[..., Process]


@pytest.fixture
def struck(tmp_path: Path) -> Iterator[Struck]:
    """Start a command line that gets signals as it begins to import a module."""
    (tmp_path / "sitecustomize.py").write_text(STRIKE)
    inherited = {key: value for key, value in os.environ.items() if not key.startswith(("CERTSTREAM_", "RUST_LOG"))}
    with ExitStack() as stack:

        def start(at: str, *numbers: signal.Signals, flags: list[str], how: list[str] = MODULE, **more: str) -> Process:
            environ = {
                **inherited,
                "PYTHONPATH": f"{tmp_path}{os.pathsep}{ROOT}",
                "STRIKE_AT": at,
                "STRIKE_WITH": " ".join(str(int(number)) for number in numbers),
                "CERTSTREAM_PORT": "0",
                "CERTSTREAM_LOG_LISTS_ENABLED": "false",
                **more,
            }
            process = subprocess.Popen(
                [sys.executable, "-W", "ignore", *how, *flags], cwd=tmp_path, env=environ, text=True,
                start_new_session=True, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE,
            )  # fmt: skip
            stack.callback(process.communicate)
            stack.callback(process.kill)
            return process

        yield start


def end(process: Process) -> tuple[int, list[str]]:
    """Exit code, and the lines of stderr."""
    _, said = process.communicate(timeout=PATIENCE_S)
    return process.returncode, said.splitlines()


@pytest.mark.parametrize("number", ALL)
@pytest.mark.parametrize(("flags", "code"), [(BACKFILL, 0), (MERGE, 1), (MAINTAIN, 1)])
def test_a_signal_while_a_command_loads_is_its_exit_code_for_being_interrupted(
    struck: Struck, number: signal.Signals, flags: list[str], code: int
) -> None:
    ended, said = end(struck("structlog", number, flags=flags))
    assert (ended, said[-1]) == (code, f"certstream: {flags[0][2:]} interrupted")
    assert not any("Traceback" in line for line in said)


@pytest.mark.parametrize("how", [MODULE, SCRIPT])
@pytest.mark.parametrize("at", ["certstream.errors", "deltalake"])
def test_it_is_the_same_from_the_first_import_to_the_last_and_for_both_ways_in(
    struck: Struck, at: str, how: list[str]
) -> None:
    ended, said = end(struck(at, signal.SIGINT, flags=BACKFILL, how=how))
    assert (ended, said[-1]) == (0, "certstream: backfill interrupted")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_end_signal_while_the_service_loads_ends_it_as_one_while_it_runs(
    struck: Struck, number: signal.Signals
) -> None:
    ended, said = end(struck("aiohttp", number, flags=[]))
    assert (ended, "nothing is started" in said[-1]) == (0, True)
    assert not any("serving" in line for line in said)


def test_an_end_signal_while_the_service_puts_its_parts_together_ends_it(struck: Struck) -> None:
    on = {"CERTSTREAM_DELTA_SINK_ENABLED": "true", "CERTSTREAM_DELTA_SINK_TABLE_PATH": "main"}
    ended, said = end(struck("deltalake", signal.SIGTERM, flags=[], **on))
    assert (ended, any("signal received, stopping" in line for line in said)) == (0, True)


@pytest.mark.parametrize(("archive", "seen"), [("true", "backfill mode starting"), ("false", "the archive is off")])
def test_a_hang_up_while_the_service_loads_is_seen_once_it_runs(struck: Struck, archive: str, seen: str) -> None:
    on = {"CERTSTREAM_DELTA_SINK_ENABLED": archive, "CERTSTREAM_DELTA_SINK_TABLE_PATH": "main"}
    process = struck("aiohttp", signal.SIGHUP, flags=[], **on)
    assert process.stderr is not None
    wanted = {seen, "serving"}
    for line in process.stderr:
        wanted -= {word for word in wanted if word in line}
        if not wanted:
            break
    assert not wanted
    process.send_signal(signal.SIGTERM)
    assert end(process)[0] == 0


def test_a_second_end_signal_while_it_loads_leaves_at_once(struck: Struck) -> None:
    assert end(struck("structlog", signal.SIGTERM, signal.SIGINT, flags=BACKFILL)) == (128 + signal.SIGINT, [])


def test_next_to_nothing_is_loaded_before_signals_are_noted() -> None:
    loaded = "import sys; before = set(sys.modules); import certstream.cli; print(*(set(sys.modules) - before))"
    done = subprocess.run([sys.executable, "-c", loaded], cwd=ROOT, capture_output=True, text=True, check=True)
    names = done.stdout.split()
    ours = {name for name in names if name.startswith("certstream")}
    assert ours == {"certstream", "certstream.cli", "certstream.starting"}
    assert {"argparse", "asyncio", "structlog", "pydantic", "yaml"}.isdisjoint(names)
