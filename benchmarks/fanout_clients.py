"""WebSocket clients for benchmarks/fanout.py and feed.py, in a process of their own.

`load` clients count bytes and let the kernel throw them away (MSG_TRUNC), so that they cost as little as
a client can; `probe` clients read every frame, check the order and take the time from publication to
arrival. All end when nothing came for a while, and print one JSON object.
"""

from __future__ import annotations

import argparse
import json
import re
import resource
import select
import socket
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

_QUIET_S = 1.5
_BUFFER_BYTES = 1 << 20
_REQUEST = (
    b"GET %s HTTP/1.1\r\nHost: localhost\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n"
)
_PUBLISHED = re.compile(rb'"cert_index":([0-9]+),.*"seen":([0-9.]+).*"source":(.*)', re.DOTALL)


def connect(port: int, path: str) -> socket.socket:
    """Open one stream; returns a socket from which nothing but frames comes."""
    sock = socket.create_connection(("127.0.0.1", port))
    sock.sendall(_REQUEST % path.encode())
    answer = b""
    while not answer.endswith(b"\r\n\r\n"):
        answer += sock.recv(1)  # nothing behind the handshake may be taken
    if b" 101 " not in answer.split(b"\r\n", 1)[0]:
        raise SystemExit(f"handshake failed: {answer!r}")
    sock.setblocking(False)
    return sock


@dataclass
class Load:
    """Counts bytes."""

    sock: socket.socket
    received: int = 0  # bytes
    closed: bool = False

    def read(self, buffer: bytearray) -> None:
        """Take what is there."""
        size = self.sock.recv_into(buffer, len(buffer), socket.MSG_TRUNC)
        self.received += size
        self.closed = not size


@dataclass
class Probe:
    """Reads every frame. `clock` is the one that `seen` was taken from; indices rise in all, or `by_source`."""

    sock: socket.socket
    clock: Callable[[], float]
    by_source: bool
    received: int = 0  # bytes
    closed: bool = False
    messages: int = 0
    out_of_order: int = 0
    latencies_s: list[float] = field(default_factory=list)
    _rest: bytes = b""
    _last: dict[bytes, int] = field(default_factory=dict)  # index by source

    def read(self, _buffer: bytearray) -> None:
        """Take what is there, frame by frame."""
        data = self.sock.recv(_BUFFER_BYTES)
        now = self.clock()
        self.received += len(data)
        self.closed = not data
        self._rest += data
        pos = 0
        while (frame := self._frame(pos)) is not None:
            pos = frame[1]
            self._message(self._rest[frame[0] : pos], now)
        self._rest = self._rest[pos:]

    def _frame(self, pos: int) -> tuple[int, int] | None:
        """Return start and stop of the payload at `pos`, None while the frame is not whole."""
        data = self._rest
        if len(data) < pos + 10:
            return None
        size, start = data[pos + 1], pos + 2
        if size == 126:
            size, start = int.from_bytes(data[pos + 2 : pos + 4]), pos + 4
        elif size == 127:
            size, start = int.from_bytes(data[pos + 2 : pos + 10]), pos + 10
        if data[pos] != 0x81:
            raise SystemExit(f"frame begins with {data[pos]:#x}")
        return (start, start + size) if start + size <= len(data) else None

    def _message(self, message: bytes, now: float) -> None:
        self.messages += 1
        published = _PUBLISHED.search(message)
        if published is None:
            raise SystemExit(f"not a message of the benchmark: {message[:100]!r}")
        index, stamp_s, source = int(published[1]), float(published[2]), published[3] if self.by_source else b""
        self.latencies_s.append(now - stamp_s)
        self.out_of_order += index != self._last.get(source, index - 1) + 1
        self._last[source] = index


def read_all(clients: Sequence[Load | Probe]) -> tuple[float, float]:
    """Read until all is quiet; returns when the first and when the last bytes came."""
    poll = select.epoll()
    by_fd = {client.sock.fileno(): client for client in clients}
    for fd in by_fd:
        poll.register(fd, select.EPOLLIN)
    buffer = bytearray(_BUFFER_BYTES)
    first = last = 0.0
    while True:
        ready = poll.poll(_QUIET_S if first else 60)
        if not ready:
            return first, last
        last = time.monotonic()
        first = first or last
        for fd, _event in ready:
            by_fd[fd].read(buffer)
            if by_fd[fd].closed:
                poll.unregister(fd)


def main() -> None:
    """Connect, say so, read, report."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("role", choices=("load", "probe"))
    parser.add_argument("port", type=int)
    parser.add_argument("count", type=int)
    parser.add_argument("--path", default="/")
    parser.add_argument("--clock", choices=("monotonic", "wall"), default="monotonic")
    parser.add_argument("--by-source", action="store_true")
    args = parser.parse_args()
    resource.setrlimit(resource.RLIMIT_NOFILE, (resource.getrlimit(resource.RLIMIT_NOFILE)[1],) * 2)
    sockets = [connect(args.port, args.path) for _ in range(args.count)]
    clock = time.time if args.clock == "wall" else time.monotonic
    report: dict[str, object]
    if args.role == "load":
        loads = [Load(sock) for sock in sockets]
        first, last = read_all(loads)
        report = {"bytes": [client.received for client in loads]}
    else:
        probes = [Probe(sock, clock, args.by_source) for sock in sockets]
        first, last = read_all(probes)
        report = {
            "messages": [probe.messages for probe in probes],
            "out_of_order": sum(probe.out_of_order for probe in probes),
            "latencies_s": sorted(latency for probe in probes for latency in probe.latencies_s),
        }
    json.dump({**report, "first": first, "last": last}, sys.stdout)


if __name__ == "__main__":
    main()
