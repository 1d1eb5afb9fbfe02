"""The systemd units agree with the program and with each other.

What systemd makes of them, deploy/check-systemd.sh shows.
"""

from __future__ import annotations

import re
import shlex
from collections import defaultdict
from pathlib import Path

import pytest

from certstream.app import service
from certstream.config import Config
from certstream.flags import parse_flags

DEPLOY = Path(__file__).parents[2] / "deploy"
SERVICE, BACKFILL, MERGE = "certstream.service", "certstream-backfill@.service", "certstream-merge@.service"
SANDBOX = re.compile(
    r"NoNew|Capab|Protect|Private|Restrict|Lock|MemoryDeny|RemoveIPC|SystemCall|ProcSubset|UMask|User|Group"
)


def unit(name: str) -> dict[str, list[str]]:
    """The settings of a unit, each with all its values."""
    settings = defaultdict(list)
    for line in (DEPLOY / name).read_text().splitlines():
        if line and not line.startswith(("#", "[")):
            key, _, value = line.partition("=")
            settings[key].append(value)
    return dict(settings)


def seconds(text: str) -> float:
    assert text.endswith("s")
    return float(text[:-1])


@pytest.mark.parametrize("name", [BACKFILL, MERGE])
def test_commands_run_in_the_sandbox_of_the_service_as_the_same_user(name: str) -> None:
    def sandbox(settings: dict[str, list[str]]) -> dict[str, list[str]]:
        return {key: values for key, values in settings.items() if SANDBOX.match(key)}

    assert sandbox(unit(name)) == sandbox(unit(SERVICE))
    assert len(sandbox(unit(SERVICE))) > 20
    for key in ("StateDirectory", "WorkingDirectory"):
        assert unit(name)[key] == unit(SERVICE)[key]


@pytest.mark.parametrize(("name", "command"), [(SERVICE, None), (BACKFILL, "backfill"), (MERGE, "merge")])
def test_units_start_the_program_with_flags_that_it_has(name: str, command: str | None) -> None:
    program, *flags = shlex.split(unit(name)["ExecStart"][0].replace("$FLAGS", "--from 0 --logs argon"))
    parsed = parse_flags(flags)
    assert program == "/opt/certstream/bin/certstream"
    assert (parsed.command, parsed.config) == (command, Path("/etc/certstream/config.yaml"))


def test_what_backfill_fills_is_what_merge_takes_over() -> None:
    paths = [re.findall(r"--staging-path (\S+)", unit(name)["ExecStart"][0]) for name in (BACKFILL, MERGE)]
    assert paths[0] == paths[1] == ["%S/certstream/staging-%i"]


def test_stopping_has_the_time_that_it_may_take() -> None:
    assert seconds(unit(SERVICE)["TimeoutStopSec"][0]) > 2 * service._LEAVE_S


def test_files_may_be_opened_for_all_clients_that_are_let_in() -> None:
    assert int(unit(SERVICE)["LimitNOFILE"][0]) > 2 * Config().connection_limit.max_connections


def test_the_user_of_the_units_is_the_one_that_is_made() -> None:
    (line,) = [line for line in (DEPLOY / "sysusers.conf").read_text().splitlines() if not line.startswith("#")]
    kind, name, _, _, home = shlex.split(line)
    assert (kind, [name], home) == ("u", unit(SERVICE)["User"], "/var/lib/certstream")
