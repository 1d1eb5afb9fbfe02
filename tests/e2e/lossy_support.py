"""Two logs that grow by the clock and fail at random as real ones do, one service that follows them, and one client."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any, Final

from websockets.asyncio.client import ClientConnection

from certstream.ct.types import LogKind
from certstream.simulator.faults import Fault, FaultKind
from certstream.simulator.log import SimulatedLog
from certstream.simulator.server import SimulatorServer
from tests.e2e.e2e_support import Listener, Service
from tests.e2e.faults_support import KINDS, options_of

RATE: Final = 200.0  # entries/s of each log
IN_TIME_S: Final = 10.0  # from an entry's timestamp until a client has it
# Of all requests, whatever they ask for; another server for this stream delivered a third of an RFC 6962 log under them
SHARES: Final[Mapping[FaultKind, float]] = {
    FaultKind.RATE_LIMITED: 0.05,
    FaultKind.UNAVAILABLE: 0.02,
    FaultKind.RESET: 0.01,
    FaultKind.TRUNCATED: 0.01,
    FaultKind.GARBAGE: 0.01,
    FaultKind.SMALLER_TREE: 0.01,
}
_BEHIND: Final = 500  # entries that a head which shrinks is smaller
_INITIAL: Final = 100


@dataclass(frozen=True, slots=True)
class Delivered:
    """What a client got of one log from its first entry on."""

    name: str
    expected: int  # entries up to the last one that came
    came: int
    doubled: int
    missing: int
    in_order: bool
    late: int  # later than IN_TIME_S
    worst_lag_s: float
    struck: int  # requests that failed, or gave a head too small

    @property
    def is_whole(self) -> bool:
        """Whether every entry came, once, in order and in time."""
        return self.in_order and self.came == self.expected and not (self.doubled or self.missing or self.late)


class _Timed(Listener):
    """Notes how old each entry is when it comes."""

    def __init__(self, connection: ClientConnection) -> None:
        self.lags_s: dict[str, list[tuple[int, float]]] = {}
        super().__init__(connection)

    async def _take(self, message: dict[str, Any]) -> None:
        if message["message_type"] == "certificate_update":
            data = message["data"]
            lag_s = time.time() - data["submission_timestamp"]
            self.lags_s.setdefault(data["source"]["name"], []).append((data["cert_index"], lag_s))
        await super()._take(message)


async def deliver(directory: Path, count: int, mode: str, seed: int = 1) -> list[Delivered]:
    """Follow both logs until a client has had `count` entries of each that were logged while it listened."""
    logs = {kind: SimulatedLog(f"lossy-{kind}", kinds={kind}, initial=_INITIAL, rate=RATE, seed=seed) for kind in KINDS}
    outages = [log.faults.add(Fault(FaultKind.UNAVAILABLE)) for log in logs.values()]
    async with (
        SimulatorServer(list(logs.values())) as server,
        _service(directory, server, mode) as service,
        service.listen(listener=_Timed) as client,
    ):
        assert isinstance(client, _Timed)
        begun = {kind: log.tree_size for kind, log in logs.items()}
        for log, outage in zip(logs.values(), outages, strict=True):
            for fault, share in SHARES.items():
                log.faults.add(Fault(fault, probability=share, entries=_BEHIND))
            log.faults.remove(outage)
        for kind in KINDS:
            await client.until_index(f"lossy-{kind} {kind}", begun[kind] + count, patience_s=count / RATE + 60)
        return [_delivered(client, kind, logs[kind], begun[kind]) for kind in KINDS]


def _service(directory: Path, server: SimulatorServer, mode: str) -> Service:
    """With all of its defaults but the start."""
    options = options_of(server, mode)
    options["ct_log"] = {"verification": mode}
    for log in (*options["custom_logs"], *options["static_logs"]):
        log["start"] = _INITIAL
    return Service(directory, options, ())


def _delivered(client: _Timed, kind: LogKind, log: SimulatedLog, begun: int) -> Delivered:
    name = f"lossy-{kind} {kind}"
    indices = client.indices(name)
    # What was logged before the client listened is older than it may be by no fault of the log
    lags_s = [lag_s for index, lag_s in client.lags_s[name] if index >= begun + RATE]
    return Delivered(
        name,
        expected=max(indices) + 1 - _INITIAL,
        came=len(indices),
        doubled=len(indices) - len(set(indices)),
        missing=len(set(range(_INITIAL, max(indices) + 1)) - set(indices)),
        in_order=_ascends(indices),
        late=sum(lag_s > IN_TIME_S for lag_s in lags_s),
        worst_lag_s=max(lags_s),
        struck=log.faults.struck.total(),
    )


def _ascends(indices: Sequence[int]) -> bool:
    return all(before < after for before, after in pairwise(indices))
