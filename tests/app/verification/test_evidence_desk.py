"""Cases about logs are written and counted, and nobody waits for the disk."""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from structlog.testing import capture_logs

from certstream.app.verification.evidence_desk import EvidenceDesk
from certstream.ct.types import LogInfo, TreeHead
from certstream.evidence import Case

LOG = LogInfo("log", "https://log.example/a/", "static", "example", b"key", b"id" * 16)
CASE = Case("wrong_leaf", LOG, "entry 7 is another", [TreeHead(9, 1, bytes(32), b"")], 7, 8)


class Counts:
    """What the desk said last, and a wait for what it will say."""

    def __init__(self) -> None:
        self.last: Mapping[str, int] | None = None
        self._told = asyncio.Event()

    def take(self, counts: Mapping[str, int]) -> None:
        self.last = counts
        self._told.set()

    async def until(self, counts: Mapping[str, int]) -> None:
        async with asyncio.timeout(10):
            while self.last != counts:
                self._told.clear()
                await self._told.wait()


async def test_a_case_is_written_and_counts_until_its_file_is_removed(tmp_path: Path) -> None:
    counts = Counts()
    async with EvidenceDesk(tmp_path / "evidence", counts.take, look_s=0.01) as desk:
        desk.watch([LOG])
        await counts.until({})
        desk.bring(CASE)
        await counts.until({LOG.base_url: 1})
        desk.bring(replace(CASE, error="in other words"))
        desk.bring(replace(CASE, start=8, stop=9))
        await counts.until({LOG.base_url: 2})
        for path in (tmp_path / "evidence").iterdir():
            path.unlink()
        await counts.until({})


async def test_what_was_brought_last_is_written_at_the_end(tmp_path: Path) -> None:
    async with EvidenceDesk(tmp_path / "evidence", lambda _: None) as desk:
        for index in range(20):
            desk.bring(replace(CASE, start=index, stop=index + 1))
    ranges = sorted(json.loads(path.read_text())["range"] for path in (tmp_path / "evidence").iterdir())
    assert ranges == [[index, index + 1] for index in range(20)]


async def test_without_a_place_for_files_cases_are_remembered() -> None:
    counts = Counts()
    with capture_logs() as lines:
        async with EvidenceDesk(None, counts.take) as desk:
            desk.bring(CASE)
            desk.bring(replace(CASE, error="in other words"))
            assert counts.last == {LOG.base_url: 1}
            desk.bring(replace(CASE, kind="altered_precert"))
            assert counts.last == {LOG.base_url: 1}
    assert [line["event"] for line in lines].count("evidence about a log is not kept, there is no state file") == 2


async def test_a_log_that_repeats_one_contradiction_leaves_room_in_memory_for_other_logs() -> None:
    counts, other = Counts(), replace(LOG, url="https://other.example/")
    async with EvidenceDesk(None, counts.take) as desk:
        with capture_logs() as lines:
            for index in range(1_100):
                desk.bring(replace(CASE, start=index, stop=index + 1))
        assert len(lines) == 20
        desk.bring(replace(CASE, kind="two_roots"))
        desk.bring(replace(CASE, log=other))
        assert counts.last == {LOG.base_url: 21, other.base_url: 1}


async def test_what_is_remembered_of_many_logs_is_bounded_in_all() -> None:
    counts = Counts()
    async with EvidenceDesk(None, counts.take) as desk:
        for number in range(1_100):
            desk.bring(replace(CASE, log=replace(LOG, url=f"https://{number}.example/")))
    assert counts.last is not None
    assert len(counts.last) == 1_000


async def test_a_disk_that_hangs_holds_nobody_up(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo")

    class Hanging(type(tmp_path)):  # type: ignore[misc]
        def iterdir(self) -> object:
            (tmp_path / "fifo").read_text()  # until somebody writes to it
            return iter(())

    with capture_logs() as lines:
        async with asyncio.timeout(10), EvidenceDesk(Hanging(tmp_path), lambda _: None) as desk:
            for index in range(1_001):
                desk.bring(replace(CASE, start=index, stop=index + 1))
    assert [line["event"] for line in lines] == ["evidence cannot be written in time"]
    with (tmp_path / "fifo").open("w"):
        pass


async def test_a_directory_that_cannot_be_read_is_said_once(tmp_path: Path) -> None:
    (tmp_path / "evidence").write_text("a file where the directory should be")
    counts = Counts()
    with capture_logs() as lines:
        async with EvidenceDesk(tmp_path / "evidence", counts.take, look_s=0.01) as desk:
            desk.watch([LOG])
            desk.bring(CASE)
            async with asyncio.timeout(10):
                while len(lines) < 2:  # noqa: ASYNC110 - a thread tells nobody
                    await asyncio.sleep(0.01)
            (tmp_path / "evidence").unlink()
            await counts.until({})
    assert [line["event"] for line in lines] == ["evidence cannot be looked at", "evidence cannot be written"]
