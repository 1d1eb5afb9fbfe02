"""A process that archives two logs as the service does: `python sink_process_support.py TABLE STATE`.

It streams both logs from the positions in STATE (JSON) to STOP, says after each step on a line of its standard output
how far it streamed, reads again what is missing, and ends once everything is archived.
"""

from __future__ import annotations

import asyncio
import json
import sys
from pathlib import Path
from typing import Final

from certstream.archive.commit import Committer
from certstream.archive.sink.sink import Sink
from certstream.archive.sink.standing import SinkSettings
from certstream.ct.types import LogInfo
from certstream.metrics import Metrics
from tests.archive.archive_support import log_info, packed

LOGS: Final = (log_info(0), log_info(1))
STARTS: Final = {LOGS[0].base_url: 0, LOGS[1].base_url: 100_000}
LENGTH: Final = 1500
STEP: Final = 7


async def stream(sink: Sink, log: LogInfo, state: dict[str, int]) -> None:
    stop = STARTS[log.base_url] + LENGTH
    await sink.begin(log, state[log.base_url])
    while (index := state[log.base_url]) < stop:
        sink.take(packed(log, index, min(stop, index + STEP)))
        state[log.base_url] = min(stop, index + STEP)
        print(json.dumps(state), flush=True)
        await asyncio.sleep(0)


async def read_again(sink: Sink, log: LogInfo) -> None:
    while True:
        for start, stop in await sink.wait_missing(log.base_url):
            for index in range(start, stop, STEP):
                await sink.take_again(packed(log, index, min(stop, index + STEP)))


async def archive(table: Path, state: dict[str, int]) -> None:
    settings = SinkSettings(flush_interval_s=0.005, batch_rows=100)
    async with Sink(Committer(table), settings, Metrics().archive) as sink:
        endless = [asyncio.create_task(sink.run())]
        endless += [asyncio.create_task(read_again(sink, log)) for log in LOGS]
        await asyncio.gather(*(stream(sink, log, state) for log in LOGS))
        while any(sink.archived(url) != start + LENGTH for url, start in STARTS.items()):
            await sink.attempted()
        for task in endless:
            task.cancel()
        await asyncio.gather(*endless, return_exceptions=True)


if __name__ == "__main__":
    asyncio.run(archive(Path(sys.argv[1]), json.loads(sys.argv[2])))
