"""kill -9 at random instants, twenty and more; then one clean run holds every index once."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.e2e.crash_support import COMMANDS, Crashes


async def test_each_command_killed_alone_loses_and_doubles_nothing(tmp_path: Path) -> None:
    async with Crashes(tmp_path, seed=1) as crashes:
        await crashes.kill("service")
        while crashes.kills < 8:
            for name in COMMANDS:
                await crashes.kill(name)
        await crashes.settle()


@pytest.mark.parametrize("seed", [2, 3])
async def test_commands_killed_side_by_side_lose_and_double_nothing(tmp_path: Path, seed: int) -> None:
    async with Crashes(tmp_path, seed=seed) as crashes:
        await crashes.kill("service")
        while crashes.kills < 8:
            await crashes.kill("service", "backfill into staging")
            await crashes.kill("service", "merge", "maintain")
            await crashes.kill("backfill", "backfill into staging", "service")
            await crashes.kill("merge", "backfill", "maintain")
        await crashes.settle()
