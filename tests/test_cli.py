"""The command line: what goes to stdout, what to stderr, and with which exit code the process ends."""

from __future__ import annotations

import logging
import os
import subprocess
import sys
import types
from collections.abc import Iterator
from pathlib import Path

import pytest
import structlog
import yaml

from certstream import __version__
from certstream.cli import main
from certstream.config import Config, LoadedConfig, load_config
from certstream.errors import StateError

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


class Service:
    """Stands where certstream.app does, and notes what it was asked to run."""

    def __init__(self) -> None:
        self.calls: list[tuple[LoadedConfig, bool, bool]] = []
        self.error: Exception | None = None

    def run(self, loaded: LoadedConfig, *, dry_run: bool, demo: bool) -> int:
        self.calls.append((loaded, dry_run, demo))
        if self.error:
            raise self.error
        return 7


@pytest.fixture
def service(monkeypatch: pytest.MonkeyPatch) -> Service:
    service = Service()
    module = types.ModuleType("certstream.app")
    module.run = service.run  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "certstream.app", module)
    return service


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
    assert service.calls == [(LoadedConfig(Config(), None, (), ()), dry_run, demo)]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--prot", "1"], "unrecognized arguments: --prot 1"),
        (["--dry"], "unrecognized arguments: --dry"),
        (["serve"], "unrecognized arguments: serve"),
        (["--config"], "argument --config: expected one argument"),
        (["--config", ""], "argument --config: needs the path of a file"),
        (["--demo=yes"], "argument --demo: ignored explicit argument 'yes'"),
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


def test_a_state_error_is_one_line_and_exit_1(service: Service, capsys: pytest.CaptureFixture[str]) -> None:
    service.error = StateError("state.json: in use by process 7 on here")
    assert main([]) == 1
    assert capsys.readouterr().err.splitlines()[-1] == "state.json: in use by process 7 on here"


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
