"""A process that stood still says so in its metrics, by what the alert asks for."""

from __future__ import annotations

import asyncio
import re
import signal
import time

from tests.e2e.e2e_support import PATIENCE_S, Service, StartService

STALL_S = 1.3


async def stalls(service: Service) -> int:
    """Timers of the event loop that were more than a second late."""
    _, text = await service.get("/metrics")
    (late,) = re.findall(r'^certstream_event_loop_lag_seconds_bucket\{le="1\.0"\} (\S+)$', text, re.MULTILINE)
    (every,) = re.findall(r"^certstream_event_loop_lag_seconds_count (\S+)$", text, re.MULTILINE)
    return int(float(every) - float(late))


async def test_a_stall_of_more_than_a_second_is_counted_when_it_ends(start_service: StartService) -> None:
    service = await start_service({}, "--dry-run")
    async with asyncio.timeout(PATIENCE_S):
        while "certstream_event_loop_lag_seconds_count 0.0" in (await service.get("/metrics"))[1]:
            pass
        before = await stalls(service)
        service.send(signal.SIGSTOP)
        time.sleep(STALL_S)  # noqa: ASYNC251 - the stall itself
        service.send(signal.SIGCONT)
        while (after := await stalls(service)) == before:
            pass
    assert after > before
