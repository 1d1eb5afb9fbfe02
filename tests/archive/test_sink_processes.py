"""A sink whose process is killed, or whose disk is full: nothing is lost, and nothing is there twice."""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
from pathlib import Path

import pytest

from tests.archive.archive_support import committed_files, data_files, held, url
from tests.archive.sink_process_support import LENGTH, STARTS
from tests.archive.sink_support import positions

ROOT = Path(__file__).parent.parent.parent


def start(*arguments: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, *arguments],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def stream(table: Path, state: dict[str, int]) -> subprocess.Popen[str]:
    return start("-m", "tests.archive.sink_process_support", str(table), json.dumps(state))


@pytest.mark.parametrize("seed", [1, 2])
def test_a_sink_that_is_killed_again_and_again_leaves_every_index_once(tmp_path: Path, seed: int) -> None:
    chance = random.Random(seed)
    state = dict(STARTS)
    for _ in range(3):
        streamed = state
        streaming = stream(tmp_path, state)
        assert streaming.stdout is not None
        for _ in range(chance.randrange(1, 120)):
            line = streaming.stdout.readline()
            if line.startswith("{"):
                streamed = json.loads(line)
        streaming.kill()
        streaming.communicate()
        if chance.random() < 0.7:  # else it was killed before it saved its state
            state = streamed
    streaming = stream(tmp_path, state)
    output, _ = streaming.communicate(timeout=60)
    assert streaming.returncode == 0, output
    assert held(tmp_path) == {log_url: list(range(first, first + LENGTH)) for log_url, first in STARTS.items()}
    assert positions(tmp_path, url(0), url(1)) == [first + LENGTH for first in STARTS.values()]


_FULL = """
import asyncio, os, resource, sys
from pathlib import Path
from certstream.archive.commit import Committer
from certstream.archive.sink.sink import Sink
from certstream.archive.sink.standing import SinkSettings
from certstream.metrics import Metrics
from tests.archive.archive_support import log_info, packed

LOG = log_info(0)
NO_LIMIT = resource.RLIM_INFINITY

def one(index):
    return packed(LOG, index, index + 1, der=os.urandom(3000))

async def main():
    settings = SinkSettings(flush_interval_s=0.005, buffer_bytes=200_000, retry_initial_s=0.01, retry_max_s=0.02)
    async with Sink(Committer(Path(sys.argv[1])), settings, Metrics().archive) as sink:
        running = asyncio.create_task(sink.run())
        await sink.begin(LOG, 0)
        resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, NO_LIMIT))
        for index in range(100):
            sink.take(one(index))
        while not sink.is_failing:
            await sink.attempted()
        for index in range(100, 150):
            sink.take(one(index))
        assert sink.status().buffered_bytes <= 200_000
        assert len(sink.missing(LOG.base_url)) > 0
        assert sink.archived(LOG.base_url) == 0
        print("failing:", sink.status().last_error)
        resource.setrlimit(resource.RLIMIT_FSIZE, (NO_LIMIT, NO_LIMIT))
        for start, stop in await sink.wait_missing(LOG.base_url):
            for index in range(start, stop):
                await sink.take_again(one(index))
        while sink.archived(LOG.base_url) != 150:
            await sink.attempted()
        running.cancel()

asyncio.run(main())
"""


def test_files_that_cannot_be_completed_are_gone_and_their_rows_are_archived_later(tmp_path: Path) -> None:
    """No file of the process may grow beyond some size for a while, as on a disk that is full."""
    filling = start("-c", _FULL, str(tmp_path))
    output, _ = filling.communicate(timeout=60)
    assert filling.returncode == 0, output
    assert "failing: " in output
    assert "File too large" in output
    assert held(tmp_path) == {url(0): list(range(150))}
    assert positions(tmp_path, url(0)) == [150]
    assert data_files(tmp_path) == committed_files(tmp_path)
