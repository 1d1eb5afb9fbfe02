"""The command line: what goes to stdout, what to stderr, and with which exit code the process ends."""

from __future__ import annotations

import logging
import os
import re
import shlex
import signal
import subprocess
import sys
import types
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import structlog
import yaml

from certstream import __version__
from certstream.cli import main
from certstream.config import Config, LoadedConfig, load_config
from certstream.errors import ConfigError, StateError, StorageError

ROOT = Path(__file__).parent.parent


@pytest.fixture(autouse=True)
def _clean_surroundings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    for name in [name for name in os.environ if name.startswith("CERTSTREAM_") or name == "RUST_LOG"]:
        monkeypatch.delenv(name)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("certstream.config.file.SEARCHED", (Path("config.yaml"), Path("config.yml")))
    root, ours = logging.getLogger(), logging.getLogger("certstream")
    before = root.handlers, root.level, ours.level
    yield
    root.handlers, root.level, ours.level = before
    logging.captureWarnings(capture=False)
    structlog.reset_defaults()


@pytest.fixture
def default_hang_up() -> Iterator[None]:
    """SIGHUP as it is without nohup, also where the tests run under nohup."""
    before = signal.signal(signal.SIGHUP, signal.SIG_DFL)
    yield
    signal.signal(signal.SIGHUP, before)


class Service:
    """Stands where certstream.app and its commands do, and notes what it was asked to run."""

    def __init__(self) -> None:
        self.calls: list[tuple[str, LoadedConfig, dict[str, Any]]] = []
        self.then: Callable[[], object] = lambda: None  # what running it does

    def entry(self, name: str) -> Callable[..., int]:
        def run(loaded: LoadedConfig, **options: Any) -> int:
            self.calls.append((name, loaded, options))
            self.then()
            return 7

        return run

    def fails(self, error: BaseException) -> None:
        def fail() -> None:
            raise error

        self.then = fail


@pytest.fixture
def service(monkeypatch: pytest.MonkeyPatch) -> Service:
    service = Service()
    app, commands = types.ModuleType("certstream.app"), types.ModuleType("certstream.app.commands")
    app.run = service.entry("run")  # type: ignore[attr-defined]
    for name in ("backfill", "merge", "maintain", "coverage", "verify"):
        setattr(commands, name, service.entry(name))
    monkeypatch.setitem(sys.modules, "certstream.app", app)
    monkeypatch.setitem(sys.modules, "certstream.app.commands", commands)
    return service


DEFAULTS = LoadedConfig(Config(), None, (), ())
COMMANDS = [["--backfill"], ["--merge", "--staging-path", "s"], ["--maintain"], ["--coverage"], ["--verify"]]


@pytest.mark.parametrize(
    ("arguments", "dry_run", "demo"),
    [
        ([], False, False),
        (["--dry-run"], True, False),
        (["--demo"], False, True),
        (["--demo", "--dry-run"], True, True),
    ],
)
def test_the_service_runs_as_the_flags_say_and_its_exit_code_is_ours(
    service: Service, arguments: list[str], dry_run: bool, demo: bool
) -> None:
    assert main(arguments) == 7
    assert service.calls == [("run", DEFAULTS, {"dry_run": dry_run, "demo": demo})]


@pytest.mark.parametrize(
    ("arguments", "name", "options"),
    [
        (["--backfill"], "backfill", {"staging_path": None, "start": None, "logs": None, "dry_run": False}),
        (
            ["--backfill", "--staging-path", "./s", "--from", "0", "--logs", "Argon", "--dry-run"],
            "backfill",
            {"staging_path": "./s", "start": 0, "logs": "Argon", "dry_run": True},
        ),
        (
            ["--backfill", "--from", "9223372036854775807"],
            "backfill",
            {"staging_path": None, "start": (1 << 63) - 1, "logs": None, "dry_run": False},
        ),
        (["--merge", "--staging-path", "file:///srv/s"], "merge", {"staging_path": "file:///srv/s"}),
        (["--maintain"], "maintain", {}),
        (["--coverage"], "coverage", {"staging_path": None, "logs": None, "as_json": False}),
        (
            ["--coverage", "--staging-path", "s", "--logs", "Argon", "--json"],
            "coverage",
            {"staging_path": "s", "logs": "Argon", "as_json": True},
        ),
        (["--verify"], "verify", {"logs": None}),
        (["--verify", "--logs", "Argon"], "verify", {"logs": "Argon"}),
    ],
)
def test_a_command_runs_as_its_flags_say_and_its_exit_code_is_ours(
    service: Service, arguments: list[str], name: str, options: dict[str, Any]
) -> None:
    assert main(arguments) == 7
    assert service.calls == [(name, DEFAULTS, options)]


def test_the_staging_path_of_the_configuration_is_the_services_alone(
    service: Service, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("CERTSTREAM_BACKFILL_STAGING_PATH", "./s")
    assert main(["--merge"]) == 1
    assert capsys.readouterr().err == "Error: --merge requires --staging-path <PATH>\n"
    assert main(["--backfill"]) == 7
    assert service.calls[0][2]["staging_path"] is None


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--prot", "1"], "unrecognized arguments: --prot 1"),
        (["--dry"], "unrecognized arguments: --dry"),
        (["serve"], "unrecognized arguments: serve"),
        (["--config"], "argument --config: expected one argument"),
        (["--config", ""], "argument --config: needs the path of a file"),
        (["--demo=yes"], "argument --demo: ignored explicit argument 'yes'"),
        (["--backfill", "--merge", "--staging-path", "s"], "--backfill and --merge do not go together"),
        (["--backfill", "--merge"], "--backfill and --merge do not go together"),
        (["--backfill", "--maintain"], "--backfill and --maintain do not go together"),
        (["--merge", "--demo"], "--merge and --demo do not go together"),
        (["--maintain", "--validate-config"], "--maintain and --validate-config do not go together"),
        (["--demo", "--validate-config"], "--demo and --validate-config do not go together"),
        (["--from", "0"], "--from needs --backfill"),
        (["--merge", "--staging-path", "s", "--from", "0"], "--from needs --backfill"),
        (["--logs", "argon"], "--logs needs --backfill or --coverage or --verify"),
        (["--maintain", "--logs", "argon"], "--logs needs --backfill or --coverage or --verify"),
        (["--staging-path", "s"], "--staging-path needs --backfill or --merge or --coverage"),
        (["--maintain", "--staging-path", "s"], "--staging-path needs --backfill or --merge or --coverage"),
        (["--merge", "--staging-path", "s", "--dry-run"], "--dry-run does not go with --merge"),
        (["--maintain", "--dry-run"], "--dry-run does not go with --maintain"),
        (["--coverage", "--dry-run"], "--dry-run does not go with --coverage"),
        (["--verify", "--dry-run"], "--dry-run does not go with --verify"),
        (["--coverage", "--merge", "--staging-path", "s"], "--merge and --coverage do not go together"),
        (["--json"], "--json needs --coverage or --list-logs"),
        (["--backfill", "--logs", ""], "argument --logs: must be a part of a log's name or URL"),
        (["--backfill", "--logs", " "], "argument --logs: must be a part of a log's name or URL"),
        (["--backfill", "--staging-path", ""], "argument --staging-path: must be a path or a file:// URL"),
        (
            ["--merge", "--staging-path", "s3://bucket/s"],
            "argument --staging-path: must be a path or a file:// URL: tables are local in this version",
        ),
        (["--merge", "--staging-path"], "argument --staging-path: expected one argument"),
    ],
)
def test_a_mistake_in_the_flags_is_exit_1_and_one_line(
    service: Service, capsys: pytest.CaptureFixture[str], arguments: list[str], said: str
) -> None:
    assert main(arguments) == 1
    captured = capsys.readouterr()
    assert captured.err == f"certstream: {said} (see certstream --help)\n"
    assert captured.out == ""
    assert service.calls == []


@pytest.mark.parametrize(
    "text", ["-1", "+1", "1_0", "01", "", " 1", "1.0", "1e3", "0x10", "٣", "9223372036854775808", "1" * 30]
)
def test_the_first_index_is_read_strictly(service: Service, capsys: pytest.CaptureFixture[str], text: str) -> None:
    assert main(["--backfill", f"--from={text}"]) == 1
    said = "argument --from: must be an integer from 0 to 9223372036854775807"
    assert capsys.readouterr().err == f"certstream: {said} (see certstream --help)\n"
    assert service.calls == []


def test_ac4_5_cli_validation_merge_without_staging_path(service: Service, capsys: pytest.CaptureFixture[str]) -> None:
    Path("config.yaml").write_text("port: 99999\n")  # flags are looked at before that
    assert main(["--merge"]) == 1
    captured = capsys.readouterr()
    assert captured.err == "Error: --merge requires --staging-path <PATH>\n"
    assert captured.out == ""
    assert service.calls == []


@pytest.mark.parametrize(
    ("arguments", "said"),
    [(["--version"], f"certstream-server {__version__}\n"), (["--help"], "--validate-config")],
)
def test_version_and_help_are_results(
    service: Service, capsys: pytest.CaptureFixture[str], arguments: list[str], said: str
) -> None:
    assert main(arguments) == 0
    captured = capsys.readouterr()
    assert said in captured.out
    assert captured.err == ""
    assert service.calls == []


def test_validating_prints_a_configuration_that_loads_to_the_same(
    service: Service, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    file = tmp_path / "mine.yaml"
    file.write_text("port: 9090\nstatic_logs: [{name: a, url: 'https://mon.example.com/a/', start: 5}]\n")
    assert main(["--config", str(file), "--validate-config"]) == 0
    printed = tmp_path / "printed.yaml"
    printed.write_text(capsys.readouterr().out)
    assert load_config(printed, {}).config == load_config(file, {}).config
    assert yaml.safe_load(printed.read_text())["port"] == 9090
    assert service.calls == []


def test_validating_masks_secrets(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CERTSTREAM_AUTH_TOKENS", "hunter2,hunter3")
    assert main(["--validate-config"]) == 0
    captured = capsys.readouterr()
    assert yaml.safe_load(captured.out)["auth"]["tokens"] == ["***", "***"]
    assert "hunter" not in captured.out + captured.err


def test_every_mistake_of_the_configuration_is_a_line_and_nothing_starts(
    service: Service, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    Path("config.yaml").write_text("port: 99999\nhots: x\n")
    monkeypatch.setenv("CERTSTREAM_PROT", "1")
    assert main([]) == 1
    captured = capsys.readouterr()
    assert captured.err.splitlines() == [
        'hots: unknown option, set to "x"; the nearest known is host [config.yaml]',
        'CERTSTREAM_PROT: unknown environment variable, set to "1"; the nearest known is CERTSTREAM_PORT',
        "port: 99999 is not allowed, must be an integer from 0 to 65535 [config.yaml]",
    ]
    assert captured.out == ""
    assert service.calls == []


@pytest.mark.parametrize("arguments", [[], *COMMANDS])
@pytest.mark.parametrize(
    ("error", "line"),
    [
        (StateError("state.json: in use by process 7 on here"), "state.json: in use by process 7 on here"),
        (StorageError("/srv/t: cannot be read:\n  No files"), "/srv/t: cannot be read: No files"),
        (ConfigError("no log is called argon"), "no log is called argon"),
    ],
)
def test_what_the_operator_must_act_on_is_one_line_and_exit_1(
    service: Service, capsys: pytest.CaptureFixture[str], arguments: list[str], error: Exception, line: str
) -> None:
    service.fails(error)
    assert main(arguments) == 1
    captured = capsys.readouterr()
    assert captured.err.splitlines()[1:] == [line]
    assert captured.out == ""


SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


@pytest.mark.usefixtures("default_hang_up")
@pytest.mark.parametrize("number", SIGNALS)
@pytest.mark.parametrize(("arguments", "code"), [*zip(COMMANDS, (0, 1, 1, 1, 1), strict=True)])
def test_a_signal_before_a_commands_work_began_is_its_exit_code_for_being_interrupted(
    service: Service, capsys: pytest.CaptureFixture[str], number: signal.Signals, arguments: list[str], code: int
) -> None:
    before = [signal.getsignal(each) for each in SIGNALS]
    service.then = lambda: signal.raise_signal(number)
    assert main(arguments) == code
    assert capsys.readouterr().err.splitlines()[1:] == [f"certstream: {arguments[0][2:]} interrupted"]
    assert [signal.getsignal(each) for each in SIGNALS] == before


def test_every_example_of_the_help_is_a_command_line_that_runs(
    service: Service, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["--help"]) == 0
    printed = capsys.readouterr().out
    examples = re.findall(r"^  (certstream(?: .*)?)$", printed, re.MULTILINE)
    assert len(examples) == 9
    assert [main(shlex.split(example)[1:]) for example in examples] == [7] * 9
    called = [name for name, _, _ in service.calls]
    assert called == ["run", "run", "backfill", "backfill", "merge", "backfill", "maintain", "coverage", "verify"]
    assert max(map(len, printed.partition("examples:")[2].splitlines())) < 80


def test_what_has_no_meaning_here_is_one_log_line(
    service: Service, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    Path("config.yaml").write_text("buffer_size: 500\nlog_format: json\nct_log: {start_overlap_leaves: 256}\n")
    monkeypatch.setenv("CERTSTREAM_SERVICE_HOST", "10.0.0.1")
    monkeypatch.setenv("CERTSTREAM_PORT", "tcp://10.0.0.1:8080")
    assert main([]) == 7
    lines = capsys.readouterr().err.splitlines()
    assert len([line for line in lines if "buffer_size" in line]) == 1
    assert len([line for line in lines if "buffer_size, ct_log.start_overlap_leaves" in line]) == 1
    assert len([line for line in lines if "CERTSTREAM_SERVICE_HOST" in line]) == 1
    assert len([line for line in lines if "CERTSTREAM_PORT, CERTSTREAM_SERVICE_HOST" in line]) == 1


def test_python_m_certstream_is_the_command_line() -> None:
    command = [sys.executable, "-m", "certstream", "--prot"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False, timeout=60)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == "certstream: unrecognized arguments: --prot (see certstream --help)\n"
