"""The clients of benchmarks/hostile.py, each role in a process of its own: honest readers, attacks, mere work.

An attack is bounded in connections, in what it opens a second, and in time; it knows no address but the loopback's.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import resource
import select
import socket
import sys
import time
from array import array
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

_SEEN: Final = b'"seen":'
_BUFFER_BYTES: Final = 1 << 18
_HANDSHAKE: Final = (
    b"GET %s HTTP/1.1\r\nHost: localhost\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n"
)
_MASK: Final = bytes(4)
_PINGS: Final = (b"\x89\x80" + _MASK) * 10_000
_FRAGMENTS: Final = b"\x02\x80" + _MASK + (b"\x00\x80" + _MASK) * 10_000
_MESSAGES: Final = (b"\x82\xfe\xff\x00" + _MASK + bytes(0xFF00)) * 10
_LARGE_FRAME: Final = b"\x82\xff" + (1 << 30).to_bytes(8) + _MASK + bytes(1 << 20)
_LARGE_HEAD: Final = b"GET / HTTP/1.1\r\n" + (b"X-Header: " + b"x" * 8000 + b"\r\n") * 30
_REQUESTS: Final = b"GET /full-stream/example.json HTTP/1.1\r\nHost: localhost\r\n\r\n" * 100


@dataclass(frozen=True)
class Attack:
    """What one kind of hostile client does."""

    says: bytes = b""  # at once, and again as long as the server takes it where `floods`
    path: bytes | None = None  # of the stream it reads first; None: no handshake
    connections: int = 100  # at the same time
    opened_per_s: float = 100.0
    floods: bool = False
    trickles: bool = False  # a byte every now and then
    reads: bool = True  # so that it learns when it was closed; else it is opened and left alone
    leaves: bool = False  # as soon as it is connected


ATTACKS: Final[dict[str, Attack]] = {
    "silent": Attack(connections=2000, opened_per_s=1000, reads=False),
    "trickle": Attack(b"GET / HTTP/1.1\r\nX: ", connections=500, opened_per_s=500, trickles=True),
    "headers": Attack(_LARGE_HEAD, connections=100, opened_per_s=200),
    "frames": Attack(_LARGE_FRAME, b"/", opened_per_s=100, floods=True),
    "messages": Attack(_MESSAGES, b"/", opened_per_s=100, floods=True),
    "pings": Attack(_PINGS, b"/", opened_per_s=100, floods=True, reads=False),
    "fragments": Attack(_FRAGMENTS, b"/", opened_per_s=100, floods=True),
    "churn": Attack(connections=1000, opened_per_s=1000, leaves=True),
    "handshakes": Attack(path=b"/", connections=1000, opened_per_s=250, leaves=True),
    "requests": Attack(_REQUESTS, connections=20, opened_per_s=20, floods=True),
    "stopped": Attack(path=b"/full-stream", connections=300, opened_per_s=100, reads=False),
}


def open_socket(port: int, path: bytes | None) -> socket.socket:
    """Connect, with a handshake where there is a path."""
    sock = socket.create_connection(("127.0.0.1", port), timeout=5)
    if path is not None:
        sock.sendall(_HANDSHAKE % path)
        answer = b""
        while not answer.endswith(b"\r\n\r\n"):
            answer += sock.recv(1)  # nothing behind the handshake may be taken
            if not answer:
                raise ConnectionError("closed")
    sock.setblocking(False)
    return sock


def read_honestly(port: int, count: int, samples: Path) -> list[int]:
    """Read until all is closed or quiet for 5 s; write (arrival, latency) of each read; return each client's bytes.

    The latency of a read is that of the first message that begins in it: of all in it the largest.
    """
    poll, sockets = select.epoll(), dict[int, socket.socket]()
    received: dict[int, int] = {}
    for _ in range(count):
        sock = open_socket(port, b"/")
        sockets[sock.fileno()] = sock
        received[sock.fileno()] = 0
        poll.register(sock, select.EPOLLIN)
    print("connected", flush=True)
    found = array("d")
    while ready := poll.poll(60 if not found else 5):
        for fd, _ in ready:
            data = sockets[fd].recv(_BUFFER_BYTES)
            now = time.time()
            received[fd] += len(data)
            if not data:
                poll.unregister(fd)
            at = data.find(_SEEN) + len(_SEEN)
            stop = data.find(b",", at)
            if at >= len(_SEEN) and stop > 0:
                found.extend((now, now - float(data[at:stop])))
    samples.write_bytes(found.tobytes())
    return list(received.values())


@dataclass
class Assault:
    """One attack going on."""

    attack: Attack
    port: int
    opened: int = 0
    closed: int = 0  # by the server
    sent_bytes: int = 0

    def run(self, seconds: float) -> None:
        """Attack for so long."""
        started, last, alive = time.monotonic(), 0.0, list[socket.socket]()
        while (now := time.monotonic() - started) < seconds:
            allowed = int(now * self.attack.opened_per_s) + 1
            while len(alive) < self.attack.connections and self.opened < allowed:
                alive += self._open()
            if self.attack.trickles and now - last < 0.1:
                time.sleep(0.005)
                continue
            last = now
            alive = [sock for sock in alive if self._go_on(sock)]
            time.sleep(0.001 if self.attack.floods else 0.005)
        for sock in alive:
            sock.close()

    def _open(self) -> Iterator[socket.socket]:
        self.opened += 1
        with contextlib.suppress(OSError):
            sock = open_socket(self.port, self.attack.path)
            if self.attack.leaves:
                sock.close()
                return
            self._say(sock, self.attack.says)
            yield sock

    def _go_on(self, sock: socket.socket) -> bool:
        """Whether the connection is still there."""
        try:
            if self.attack.reads and not sock.recv(_BUFFER_BYTES):
                raise ConnectionError
        except BlockingIOError:
            pass
        except OSError:
            return self._was_closed(sock)
        if self.attack.trickles or self.attack.floods:
            return self._say(sock, b"x" if self.attack.trickles else self.attack.says)
        return True

    def _say(self, sock: socket.socket, what: bytes) -> bool:
        try:
            self.sent_bytes += sock.send(what) if what else 0
        except BlockingIOError:
            return True
        except OSError:
            return self._was_closed(sock)
        return True

    def _was_closed(self, sock: socket.socket) -> bool:
        self.closed += 1
        sock.close()
        return False


def attack(name: str, port: int, seconds: float) -> dict[str, float]:
    """Run an attack; what it did, and the CPU time it took."""
    assault = Assault(ATTACKS[name], port)
    assault.run(seconds)
    return {"opened": assault.opened, "closed": assault.closed, "sent_mb": assault.sent_bytes / 1e6, **_cpu()}


def work(share: float, seconds: float) -> dict[str, float]:
    """Use so much of a core, and nothing else: what an attack takes from the machine without touching the server."""
    stop = time.monotonic() + seconds
    while (now := time.monotonic()) < stop:
        while time.monotonic() - now < 0.005 * share:
            pass
        time.sleep(0.005 * (1 - share))
    return _cpu()


def _cpu() -> dict[str, float]:
    used = resource.getrusage(resource.RUSAGE_SELF)
    return {"cpu_s": used.ru_utime + used.ru_stime}


def main() -> None:
    """Be what the arguments say, and print one JSON object."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("role", choices=("honest", "attack", "work"))
    parser.add_argument("what", help="count of honest clients, name of an attack, share of a core")
    parser.add_argument("port", type=int)
    parser.add_argument("seconds", type=float)
    parser.add_argument("--samples", type=Path)
    args = parser.parse_args()
    resource.setrlimit(resource.RLIMIT_NOFILE, (resource.getrlimit(resource.RLIMIT_NOFILE)[1],) * 2)
    roles: dict[str, Callable[[], object]] = {
        "honest": lambda: read_honestly(args.port, int(args.what), args.samples),
        "attack": lambda: attack(args.what, args.port, args.seconds),
        "work": lambda: work(min(1.0, float(args.what)), args.seconds),
    }
    json.dump(roles[args.role](), sys.stdout)


if __name__ == "__main__":
    main()
