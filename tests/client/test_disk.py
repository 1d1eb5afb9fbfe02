"""Files on a disk that may not answer."""

from __future__ import annotations

import asyncio
import os
import threading
import time
from pathlib import Path

import pytest

from certstream.client.disk import Disk


async def test_work_gives_what_it_returns_and_raises(tmp_path: Path) -> None:
    disk = Disk()
    (tmp_path / "list").write_bytes(b"there")
    assert await disk.run((tmp_path / "list").read_bytes) == b"there"
    with pytest.raises(FileNotFoundError):
        await disk.run((tmp_path / "none").read_bytes)
    assert await disk.run((tmp_path / "list").read_bytes) == b"there"


async def test_a_disk_that_hangs_is_waited_for_once_and_taken_again_when_it_answers(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "list")  # opening it hangs until somebody writes
    disk = Disk(patience_s=0.05)
    with pytest.raises(TimeoutError, match="does not answer within"):
        await disk.run((tmp_path / "list").read_bytes)
    began = time.monotonic()
    with pytest.raises(TimeoutError, match="has not answered since"):
        await disk.run((tmp_path / "list").read_bytes)
    assert time.monotonic() - began < 0.04
    hanging = [thread for thread in threading.enumerate() if thread.name == "disk"]
    assert len(hanging) == 1
    assert hanging[0].daemon  # the process ends all the same
    (tmp_path / "list").write_bytes(b"")
    await asyncio.to_thread(hanging[0].join)
    assert await disk.run(lambda: "again") == "again"
