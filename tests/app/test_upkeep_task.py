"""The service's passes of upkeep: when they come, and that a failing one is followed by the next."""

from __future__ import annotations

from pathlib import Path

import pytest

from certstream.app.upkeep import UpkeepTask
from certstream.config import Config, MaintenanceConfig
from certstream.metrics import Metrics
from tests.archive.archive_support import committed_files
from tests.archive.upkeep_support import fill_mixed

MINUTE_S = 60


class EndedError(Exception):
    """Enough pauses."""


@pytest.mark.parametrize(
    ("interval_s", "first_s"), [(60 * MINUTE_S, 5 * MINUTE_S), (5 * MINUTE_S, 5 * MINUTE_S), (MINUTE_S, MINUTE_S)]
)
async def test_the_first_pass_comes_soon_after_the_start(tmp_path: Path, interval_s: int, first_s: int) -> None:
    fill_mixed(tmp_path, files=4, logs=2, rows_each=5)
    before, broken, seen = committed_files(tmp_path), tmp_path / "_delta_log" / f"{2:020}.json", list[float]()
    config = Config(maintenance=MaintenanceConfig(interval_secs=interval_s, quiet_secs=0))
    broken.write_text("no json")

    async def sleep(seconds: float) -> None:
        states.append(task.health().state)
        if len(seen) == 2:
            raise EndedError
        if seen:
            broken.unlink()
        seen.append(seconds)

    states: list[str] = []
    task = UpkeepTask(tmp_path, config, Metrics().archive, sleep=sleep)
    with pytest.raises(EndedError):
        await task.run()
    assert seen == [first_s, interval_s]
    assert states[1:] == ["failed", "succeeded"]
    assert len(committed_files(tmp_path)) == 2
    assert not before & committed_files(tmp_path)


async def test_without_maintenance_no_pass_comes(tmp_path: Path) -> None:
    async def sleep(_seconds: float) -> None:
        raise EndedError

    config = Config(maintenance=MaintenanceConfig(enabled=False))
    task = UpkeepTask(tmp_path, config, Metrics().archive, sleep=sleep)
    await task.run()
    assert task.health().started_s is None
