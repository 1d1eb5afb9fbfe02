"""A log with full and partial hash tiles of all levels, costly to make: tests change only its faults."""

from __future__ import annotations

from typing import Final

from certstream.ct.types import LogKind
from certstream.simulator.log import SimulatedLog

SIZE: Final = 70_000  # level 1 has a full tile and a partial one, level 2 a partial one
KINDS: Final[tuple[LogKind, ...]] = ("rfc6962", "static")
LOG: Final = SimulatedLog("log", seed=4, initial=SIZE)
