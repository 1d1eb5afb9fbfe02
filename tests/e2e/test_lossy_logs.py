"""Logs that fail one request in nine: all is delivered, in order and in time."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.e2e.lossy_support import deliver


@pytest.mark.parametrize("mode", ["enforce"])
async def test_every_entry_of_logs_that_fail_at_random_comes_once_in_order_and_in_time(
    tmp_path: Path, mode: str
) -> None:
    for delivered in await deliver(tmp_path, 3_000, mode):
        assert delivered.struck > 0
        assert delivered.is_whole, delivered
