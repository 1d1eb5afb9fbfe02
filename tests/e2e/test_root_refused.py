"""Root does not work on the files of another user: it says whose they are and how to run it, and writes nothing.

Only root can give files away, so these tests need it; the rest of the suite does not.
"""

from __future__ import annotations

import os
import pwd
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.command_support import MAIN, STAGING, Command, archive_options, fill, run, snapshot_of, write_state

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="needs root, who alone can give files to another user")

OWNER = pwd.getpwnam("nobody")
NAMELESS = 4_000_000_123  # a uid that no user has
URL = "http://127.0.0.1:1/log"
UNITS = {"backfill": "certstream-backfill@NAME", "merge": "certstream-merge@NAME", "maintain": "certstream"}
STATE = "certstream_state.json"


def options(**delta_sink: Any) -> dict[str, Any]:
    logs = {"custom_logs": [{"name": "log", "url": URL}]}
    return {**archive_options([], delta_sink=delta_sink), **logs}


def give(path: Path, uid: int = OWNER.pw_uid) -> None:
    for each in (path, *path.rglob("*")):
        os.chown(each, uid, -1)


def everything(directory: Path) -> object:
    """What is there, but for the configuration that each command brings."""
    files = {name: stat for name, stat in snapshot_of(directory).items() if name != "config.yaml"}
    return files, sorted(path for path in directory.rglob("*") if path.is_dir())


@pytest.mark.parametrize(
    ("mode", "flags", "foreign"),
    [
        ("backfill", ["--staging-path", STAGING], MAIN),
        ("backfill", ["--dry-run"], STATE),
        ("merge", ["--staging-path", STAGING], STAGING),
        ("maintain", [], MAIN),
    ],
)
async def test_commands_refuse_what_another_user_owns(
    tmp_path: Path, mode: str, flags: list[str], foreign: str
) -> None:
    fill(tmp_path / MAIN, URL, range(3))
    fill(tmp_path / STAGING, URL, range(3, 5))
    write_state(tmp_path, {URL: 9})
    give(tmp_path / foreign)
    before = everything(tmp_path)
    done = await run(tmp_path, options(), f"--{mode}", *flags)
    said = [line["event"] for line in done.lines if "belongs to" in line["event"]]
    assert done.code == 1
    assert said == [
        f"{tmp_path / foreign}: belongs to nobody, who could not change what root writes there; run this as that user: "
        f"sudo -u nobody certstream --{mode} …, or by systemctl start {UNITS[mode]}"
    ]
    assert done.lines[-1]["event"] == said[0]
    assert everything(tmp_path) == before


@pytest.mark.parametrize("foreign", [".", MAIN, STATE])
async def test_the_service_refuses_what_another_user_owns(tmp_path: Path, foreign: str) -> None:
    """Also where only the directory is there in which it would make its files."""
    if foreign != ".":
        fill(tmp_path / MAIN, URL, range(3))
        write_state(tmp_path, {URL: 9})
    give(tmp_path / foreign, NAMELESS)
    before = everything(tmp_path)
    done = await run(tmp_path, options(enabled=True))
    assert done.code == 1
    assert done.lines[-1]["event"] == (
        f"{tmp_path / foreign}: belongs to '#{NAMELESS}', who could not change what root writes there; run this as "
        f"that user: sudo -u '#{NAMELESS}' certstream …, or by systemctl start certstream"
    )
    assert everything(tmp_path) == before


async def test_the_service_without_an_archive_does_not_look_at_the_table(tmp_path: Path) -> None:
    fill(tmp_path / MAIN, URL, range(3))
    give(tmp_path / MAIN)
    async with Command(tmp_path, options(enabled=False), ["--dry-run"]) as service:
        await service.until("serving")


async def test_root_works_on_its_own_files(tmp_path: Path) -> None:
    fill(tmp_path / MAIN, URL, range(3))
    assert (await run(tmp_path, options(), "--maintain")).code == 0
