"""The bytes of one stream kind in one framing, and every client that reads them."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Final

from prometheus_client import Gauge

from certstream.metrics import DropReason, StreamMetrics
from certstream.stream.framing import Framing

# Of one write; a message that is larger is one alone. With 128 KiB, 2,000 clients at 4,000 entries/s got a third less.
CHUNK_BYTES: Final = 1 << 20
_WRITE_COST: Final = 8 << 10  # bytes that are copied in the time that a write takes beside copying
_LOOK_COST: Final = 512  # the same for a look at a client whose transport is full


@dataclass(slots=True)
class Chunk:
    """What one write sends: whole frames."""

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

    Writing is the costly part: the kernel copies each byte for each client. So a flush is begun, and then
    sent in steps of bounded cost, a chunk to all clients before the next one; between two steps the loop turns.
    Costs are counted in bytes.
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
        self._unsent: deque[Iterator[tuple[bytes, int]]] = deque()  # chunks with their number of messages
        self._sending: Chunk | None = None  # the last of the ring, while clients are due that do not have it yet
        self._due: list[Subscription] = []
        self._due_changed = False  # some of them may have been detached
        self._round: list[Subscription] = []  # clients behind that this round has not looked at yet

    def __len__(self) -> int:
        return len(self._current) + len(self._behind)

    @property
    def any_behind(self) -> bool:
        """Whether a client waits for its transport."""
        return bool(self._behind)

    @property
    def busy(self) -> bool:
        """Whether something was begun that not all clients were sent."""
        return bool(self._unsent or self._sending)

    @property
    def in_round(self) -> bool:
        """Whether a round of topping up has not come to its end."""
        return bool(self._round)

    @property
    def held_bytes(self) -> int:
        """Bytes in the ring that clients behind need."""
        return self._offset - self._ring[0].start if self._ring and self._ring[0].waiting else 0

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
            self._due_changed = True
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

    def begin(self, messages: Sequence[bytes]) -> None:
        """Take messages to send to all clients; drops who is over the bound."""
        if not self.busy:
            for subscription in [s for s in self._behind if self._backlog(s) > self._limit_bytes]:
                self.drop(subscription, "backlog")
        self._unsent.append(self._chunks(messages))

    def begin_control(self, frames: bytes) -> None:
        """Take frames that are no messages to send to all clients, after what was begun before."""
        self._unsent.append(iter([(frames, 0)]))

    def step(self, budget: int) -> int:
        """Go on with what was begun until it is sent or the budget spent; returns what is left of it."""
        while budget > 0 and (self._sending is not None or self._take_chunk()):
            budget = self._send_to_due(budget)
        return budget

    def top_up(self, budget: int) -> tuple[int, bool]:
        """Look at the clients behind, each once in a round, and give them what their transports take now.

        Returns what is left of the budget, and whether a transport would take still more.
        """
        if not self._round:
            self._round = list(self._behind)
        more = False
        while self._round and budget > 0:
            subscription = self._round.pop()
            if subscription not in self._behind:
                continue
            if subscription.transport.is_closing():
                self.detach(subscription)
                continue
            budget -= _LOOK_COST
            if subscription.transport.get_write_buffer_size() <= self._high_water_bytes:
                budget -= _WRITE_COST + self._catch_up(subscription)
                more = more or subscription.transport.get_write_buffer_size() <= self._high_water_bytes
        self._trim()
        return budget, more

    def _chunks(self, messages: Sequence[bytes]) -> Iterator[tuple[bytes, int]]:
        """Yield messages framed and joined, about `CHUNK_BYTES` at a time, and their number."""
        first = size = 0
        for index, message in enumerate(messages):
            if size and size + len(message) > CHUNK_BYTES:
                yield self.framing.frame(messages[first:index]), index - first
                first, size = index, 0
            size += len(message)
        yield self.framing.frame(messages[first:]), len(messages) - first

    def _take_chunk(self) -> bool:
        """Make the next chunk the one that is being sent; whether there was one."""
        while self._unsent:
            taken = next(self._unsent[0], None)
            if taken is None:
                self._unsent.popleft()
                continue
            self._sending = Chunk(*taken, self._offset)
            self._ring.append(self._sending)
            self._offset += len(self._sending.data)
            self._due, self._due_changed = list(self._current), False
            return True
        return False

    def _send_to_due(self, budget: int) -> int:
        """Send the chunk to as many of those who do not have it as the budget allows."""
        chunk = self._sending
        assert chunk is not None
        if self._due_changed:
            self._due, self._due_changed = [s for s in self._due if s in self._current], False
        cost = _WRITE_COST + len(chunk.data)
        count = max(1, budget // cost)
        self._write_to(self._due[-count:], chunk)
        budget -= cost * min(count, len(self._due))
        del self._due[-count:]
        if not self._due:
            self._sending = None
            self._trim()
        return budget

    def _write_to(self, subscriptions: list[Subscription], chunk: Chunk) -> None:
        slow: list[Subscription] = []
        sent = 0
        high_water_bytes, data = self._high_water_bytes, chunk.data
        for subscription in subscriptions:
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
        chunk.waiting += len(slow)
        self._current.difference_update(slow)
        self._behind.update(slow)
        self._count(sent * chunk.messages, sent * len(data))

    def _catch_up(self, subscription: Subscription) -> int:
        """Give a client behind its next chunks; returns their bytes."""
        index = subscription.seq - self._ring_seq
        self._ring[index].waiting -= 1
        chunks = self._next_chunks(index)
        subscription.transport.writelines([chunk.data for chunk in chunks])
        index += len(chunks)
        size = sum(len(chunk.data) for chunk in chunks)
        self._count(sum(chunk.messages for chunk in chunks), size)
        if index < len(self._ring):
            self._ring[index].waiting += 1
            subscription.seq = self._ring_seq + index
        else:
            self._behind.remove(subscription)
            self._current.add(subscription)
        return size

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
        end = len(self._ring) - (self._sending is not None)
        first = next((index for index in range(end) if self._ring[index].waiting), end)
        del self._ring[:first]
        self._ring_seq += first

    def _count(self, messages: int, size: int) -> None:
        self._metrics.messages_sent.inc(messages)
        self._metrics.bytes_sent.inc(size)
