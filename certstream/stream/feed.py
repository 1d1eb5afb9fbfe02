"""The bytes of one stream kind in one framing, and every client that reads them."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass

from prometheus_client import Gauge

from certstream.metrics import DropReason, StreamMetrics
from certstream.stream.framing import Framing


@dataclass(slots=True)
class Chunk:
    """What one flush sends: whole frames."""

    data: bytes
    messages: int
    start: int  # offset of its first byte in the feed
    waiting: int = 0  # clients behind that need it next


class Subscription:
    """One client of one feed."""

    __slots__ = ("feed", "on_drop", "seq", "transport")

    def __init__(self, feed: Feed, transport: asyncio.Transport, on_drop: Callable[[DropReason], None]) -> None:
        self.feed = feed
        self.transport = transport
        self.on_drop = on_drop
        self.seq = 0  # of the chunk it needs next, while it is behind


class Feed:
    """Sends chunks to clients, and holds for those behind what their transports do not take yet.

    A transport gets more only while at most `high_water_bytes` wait in it; what comes after stays in
    one ring of chunks that all clients share, each with its own position. Transports of uvloop refer to
    the chunks and copy nothing, so whatever the number of slow clients, the memory they hold together
    is what the slowest is behind: at most `limit_bytes` and one flush. At the bound the client is
    dropped, judged before the flush that comes on top: whoever has read everything is never dropped
    for the size of one flush.
    """

    def __init__(
        self, framing: Framing, metrics: StreamMetrics, clients: Gauge, limit_bytes: int, high_water_bytes: int
    ) -> None:
        self.framing = framing
        self._metrics = metrics
        self._clients = clients
        self._limit_bytes = limit_bytes
        self._high_water_bytes = min(high_water_bytes, limit_bytes // 4)
        self._current: set[Subscription] = set()
        self._behind: set[Subscription] = set()
        self._ring: list[Chunk] = []  # every chunk that a client behind still needs
        self._ring_seq = 0  # of the first chunk in the ring
        self._offset = 0  # bytes sent through this feed

    def __len__(self) -> int:
        return len(self._current) + len(self._behind)

    @property
    def any_behind(self) -> bool:
        """Whether a client waits for its transport."""
        return bool(self._behind)

    @property
    def held_bytes(self) -> int:
        """Bytes in the ring."""
        return self._offset - self._ring[0].start if self._ring else 0

    def backlog_bytes(self) -> int:
        """Bytes that wait for each client, summed; they share the memory, see `held_bytes`."""
        current = sum(subscription.transport.get_write_buffer_size() for subscription in self._current)
        return current + sum(map(self._backlog, self._behind))

    def attach(self, transport: asyncio.Transport, on_drop: Callable[[DropReason], None]) -> Subscription:
        """Let a client read from the next chunk on."""
        subscription = Subscription(self, transport, on_drop)
        self._current.add(subscription)
        self._clients.inc()
        return subscription

    def detach(self, subscription: Subscription) -> None:
        """Forget a client and what is held for it; nothing happens if that was done before."""
        if subscription in self._current:
            self._current.remove(subscription)
        elif subscription in self._behind:
            self._behind.remove(subscription)
            self._next(subscription).waiting -= 1
            self._trim()
        else:
            return
        self._clients.dec()

    def drop(self, subscription: Subscription, reason: DropReason) -> None:
        """Detach a client and tell its connection why."""
        self.detach(subscription)
        if reason != "shutdown":
            self._metrics.dropped(reason)
        subscription.on_drop(reason)

    def drop_all(self, reason: DropReason) -> None:
        """Drop every client."""
        for subscription in [*self._current, *self._behind]:
            self.drop(subscription, reason)

    def drop_furthest(self, keep_bytes: int, reason: DropReason) -> None:
        """Drop the clients that are furthest behind: whoever needs more than the newest `keep_bytes` of the ring."""
        oldest = self._offset - keep_bytes
        for subscription in [s for s in self._behind if self._next(s).start < oldest]:
            self.drop(subscription, reason)

    def send(self, data: bytes, messages: int) -> None:
        """Send whole frames to all clients; never waits, drops who is over the bound."""
        for subscription in [s for s in self._behind if self._backlog(s) > self._limit_bytes]:
            self.drop(subscription, "backlog")
        self._ring.append(Chunk(data, messages, self._offset))
        self._offset += len(data)
        self._send_to_current(data, messages)
        self.top_up()

    def top_up(self) -> None:
        """Give the clients behind what their transports take now."""
        for subscription in list(self._behind):
            if subscription.transport.is_closing():
                self.detach(subscription)
            else:
                self._catch_up(subscription)
        self._trim()

    def _send_to_current(self, data: bytes, messages: int) -> None:
        slow: list[Subscription] = []
        sent = 0
        high_water_bytes = self._high_water_bytes
        for subscription in self._current:
            transport = subscription.transport
            if transport.is_closing():  # its connection detaches it
                continue
            if transport.get_write_buffer_size() > high_water_bytes:
                slow.append(subscription)
            else:
                transport.write(data)
                sent += 1
        for subscription in slow:
            subscription.seq = self._ring_seq + len(self._ring) - 1
        self._ring[-1].waiting += len(slow)
        self._current.difference_update(slow)
        self._behind.update(slow)
        self._count(sent * messages, sent * len(data))

    def _catch_up(self, subscription: Subscription) -> None:
        transport, index = subscription.transport, subscription.seq - self._ring_seq
        self._ring[index].waiting -= 1
        while index < len(self._ring) and transport.get_write_buffer_size() <= self._high_water_bytes:
            chunks = self._next_chunks(index)
            transport.writelines([chunk.data for chunk in chunks])
            index += len(chunks)
            self._count(sum(chunk.messages for chunk in chunks), sum(len(chunk.data) for chunk in chunks))
        if index < len(self._ring):
            self._ring[index].waiting += 1
            subscription.seq = self._ring_seq + index
        else:
            self._behind.remove(subscription)
            self._current.add(subscription)

    def _next_chunks(self, first: int) -> list[Chunk]:
        """Return what a client takes at once, from that index of the ring on: about `high_water_bytes` at most."""
        last, size = first, 0
        while last < len(self._ring) and size < self._high_water_bytes:
            size += len(self._ring[last].data)
            last += 1
        return self._ring[first:last]

    def _next(self, behind: Subscription) -> Chunk:
        return self._ring[behind.seq - self._ring_seq]

    def _backlog(self, behind: Subscription) -> int:
        return self._offset - self._next(behind).start + behind.transport.get_write_buffer_size()

    def _trim(self) -> None:
        """Free the chunks that no client behind needs; costs no more than what it frees, however many are behind."""
        first = next((index for index, chunk in enumerate(self._ring) if chunk.waiting), len(self._ring))
        del self._ring[:first]
        self._ring_seq += first

    def _count(self, messages: int, size: int) -> None:
        self._metrics.messages_sent.inc(messages)
        self._metrics.bytes_sent.inc(size)
