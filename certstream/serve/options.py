"""What is served, and where."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Final

from certstream.serve.arrivals import Bounds
from certstream.serve.listener import Address
from certstream.serve.tls import POLL_S, TlsFiles
from certstream.stream.hub import KINDS, StreamKind

WEBSOCKET_PATHS: Final[dict[StreamKind, str]] = {"lite": "/", "full": "/full-stream", "domains": "/domains-only"}
EXAMPLE_PATHS: Final[dict[StreamKind, str]] = {
    "lite": "/example.json",
    "full": "/full-stream/example.json",
    "domains": "/domains-only/example.json",
}


@dataclass(frozen=True, slots=True)
class ServeOptions:
    """Everything is on where nothing is said."""

    streams: frozenset[StreamKind] = frozenset(KINDS)
    websocket: bool = True
    sse: bool = True
    example_json: bool = True
    health: bool = True
    metrics: bool = True
    coverage: bool = False  # there is an archive to tell of, where `health` is on
    heartbeat_s: float = 30.0  # between heartbeat messages, each with a WebSocket ping
    max_message_bytes: int = 64 << 10  # of one message from a client; it is ignored anyway
    bounds: Bounds = field(default_factory=Bounds)  # of each connection
    tls: TlsFiles | None = None
    tls_poll_s: float = POLL_S  # between looks at these files
    monitoring: Address | None = None  # where health and metrics are then, and no more on the first address
    monitoring_tls: bool = False  # the same `tls` there

    def endpoints(self) -> list[str]:
        """Return one line for each thing that the first address serves: scheme or method, path, what it is."""
        kinds = [kind for kind in ("lite", "full", "domains") if kind in self.streams]
        scheme = "wss://" if self.tls else "ws://"
        lines = [f"{scheme:<8}{WEBSOCKET_PATHS[kind]:<28}{kind} stream" for kind in kinds if self.websocket]
        lines += [
            f"GET     {'/sse?stream=' + kind:<28}{kind} stream as server-sent events" for kind in kinds if self.sse
        ]
        lines += [f"GET     {EXAMPLE_PATHS[kind]:<28}newest {kind} message" for kind in kinds if self.example_json]
        if self.monitoring is None:
            lines += self._monitoring_endpoints()
        return lines

    def _monitoring_endpoints(self) -> list[str]:
        lines: list[str] = []
        if self.health:
            lines += [
                f"GET     {'/health':<28}is the process alive",
                f"GET     {'/health/ready':<28}does it keep up with the logs",
                f"GET     {'/health/deep':<28}state of each log",
            ]
            if self.coverage:
                lines.append(f"GET     {'/coverage':<28}what is archived, verified and missing of each log")
        if self.metrics:
            lines.append(f"GET     {'/metrics':<28}Prometheus metrics")
        return lines
