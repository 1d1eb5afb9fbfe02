"""A Certificate Transparency log in a box: real tree, real signatures, both protocols, scripted faults."""

from __future__ import annotations

from certstream.simulator.entries import LogEntry, RawEntry, entries_of_tile
from certstream.simulator.faults import Fault, FaultKind
from certstream.simulator.log import SimulatedLog
from certstream.simulator.server import SimulatorServer

__all__ = ["Fault", "FaultKind", "LogEntry", "RawEntry", "SimulatedLog", "SimulatorServer", "entries_of_tile"]
