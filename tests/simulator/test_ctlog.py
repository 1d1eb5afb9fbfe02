from __future__ import annotations

import json
import signal
import socket
import subprocess
import sys
import urllib.request
from http.client import IncompleteRead

import pytest

from certstream.simulator import cli

COMMAND = [sys.executable, "-m", "certstream.simulator.cli"]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_it_prints_its_logs_serves_them_and_ends_with_0_on_a_signal(number: signal.Signals) -> None:
    flags = ["--port", "0", "--log", "one=both", "--initial", "50", "--rate", "0", "--fault", "one:html,on=get-roots"]
    flags += ["--fault", "reset,on=tile/data/*", "--fault", "truncated,on=hash-tile"]
    with subprocess.Popen([*COMMAND, *flags], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        described = json.loads(process.stdout.readline())
        classic, static = described["logs"]
        with urllib.request.urlopen(classic["url"] + "ct/v1/get-sth") as answer:
            assert json.load(answer)["tree_size"] == 50
        with urllib.request.urlopen(classic["url"] + "ct/v1/get-roots") as answer:
            assert answer.read().startswith(b"<!DOCTYPE html>")
        with urllib.request.urlopen(static["url"] + "checkpoint") as answer:
            assert answer.read().startswith(static["origin"].encode() + b"\n50\n")
        with pytest.raises(ConnectionResetError):
            urllib.request.urlopen(static["url"] + "tile/data/000.p/50")
        with pytest.raises(IncompleteRead), urllib.request.urlopen(static["url"] + "tile/0/000.p/50") as answer:
            answer.read()
        with urllib.request.urlopen(described["log_list"]) as answer:
            assert json.load(answer)["operators"][0]["logs"][0]["key"] == classic["key"]
        process.send_signal(number)
        rest, logged = process.communicate(timeout=10)
    assert (process.returncode, rest) == (0, "")
    assert "Traceback" not in logged


@pytest.mark.parametrize(
    ("flags", "mistake"),
    [
        (["--rate", "x"], "--rate: 'x' is not a number"),
        (["--rate", "-1"], "--rate: -1 is not from 0"),
        (["--port", "70000"], "--port: 70000 is not from 0 to 65535"),
        (["--unparseable", "2"], "--unparseable: 2 is not from 0 to 1"),
        (["--bogus"], "unrecognized arguments: --bogus"),
        (["--log", "a=grpc"], "a=grpc: the kind is one of"),
        (["--log", "A!=both"], "does not fit into a URL"),
        (["--log", "a=both", "--log", "a=static"], "same name"),
        (["--shapes", "blob"], "unknown shapes: blob"),
        (["--fault", "tsunami"], "unknown fault 'tsunami'"),
        (["--fault", "b:reset"], "no log is called 'b'"),
        (["--gzip", "maybe"], "--gzip: invalid choice"),
    ],
)
def test_a_mistake_in_the_flags_is_one_line_and_exit_1(
    capsys: pytest.CaptureFixture[str], flags: list[str], mistake: str
) -> None:
    assert cli.main(["--initial", "0", *flags]) == 1
    out, err = capsys.readouterr()
    assert out == ""
    assert err.count("\n") == 1
    assert mistake in err


def test_an_address_in_use_is_one_line_and_exit_1() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        command = [*COMMAND, "--initial", "0", "--port", port]
        done = subprocess.run(command, capture_output=True, text=True, timeout=20, check=False)
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (1, "", 1)
    assert f"cannot listen on 127.0.0.1:{port}" in done.stderr


def test_help_shows_every_fault_and_shape(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        cli.main(["--help"])
    assert ended.value.code == 0
    shown = "".join(capsys.readouterr().out.split())
    assert all(word in shown for word in ("wrong-signature", "missing-issuer", "many-names", "--page-boundary"))
