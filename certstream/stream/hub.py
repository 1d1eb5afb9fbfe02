"""Every stream kind, its clients, and when messages go out to them."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence
from typing import Final, Literal, TypeAlias, get_args

from certstream.metrics import DropReason, Metrics
from certstream.stream.feed import Feed, Subscription
from certstream.stream.framing import Framing

StreamKind: TypeAlias = Literal["full", "lite", "domains"]
KINDS: Final[tuple[StreamKind, ...]] = get_args(StreamKind)

CLIENT_BACKLOG_BYTES: Final = 4 << 20
TOTAL_BACKLOG_BYTES: Final = 128 << 20
EXAMPLE_AGE_S: Final = 1.0

_MAX_PAUSE_S: Final = 0.01
_TOP_UP_S: Final = 0.01
_HIGH_WATER_BYTES: Final = 256 << 10
_STEP_BYTES: Final = 8 << 20  # copied for clients before the loop turns: a few milliseconds
_PENDING_BYTES: Final = 32 << 20
_PAUSE_PER_FLUSH: Final = 4  # after a flush of 2 ms messages gather for 8 ms


class Hub:
    """Takes encoded messages from publishers and sends each, framed once, to all clients of its kind.

    Messages of one turn of the event loop go out together, one write per client. A flush is sent in steps
    of about 8 MiB over all clients, between which the loop turns; what is published meanwhile gathers.
    Past 32 MiB of that the rest of the flush is sent at once: it slows publishers then, and nothing is lost.

    A flush that takes long, because clients are many, is followed by a pause in proportion, at most 10 ms: few
    clients get every message at once, many share the cost of a write among more messages. Of the 20 ms that a
    message may wait for its last client the pause is one half; the other is for the timer, which counts
    whole milliseconds, and for the flush itself.

    Bounds: a client may be `client_backlog_bytes` and one flush behind; past that it is dropped. What is
    held in memory for clients behind, shared by those of one kind and framing, may be
    `total_backlog_bytes`; past that the ones furthest behind are dropped. Publishers never wait. The bound
    for all is for services that raise that of a client: it may then be generous to a few, and memory stays
    bounded. With the defaults clients reach theirs first: three kinds in two framings hold six times 4 MiB
    and a flush at most.

    All methods belong to the event loop's thread.
    """

    def __init__(
        self,
        metrics: Metrics,
        *,
        client_backlog_bytes: int = CLIENT_BACKLOG_BYTES,
        total_backlog_bytes: int = TOTAL_BACKLOG_BYTES,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._metrics = metrics
        self._client_backlog_bytes = client_backlog_bytes
        self._total_backlog_bytes = total_backlog_bytes
        self._clock = clock
        self._feeds: dict[StreamKind, dict[str, Feed]] = {kind: {} for kind in KINDS}
        self._pending: dict[StreamKind, list[bytes]] = {kind: [] for kind in KINDS}
        self._examples: dict[StreamKind, tuple[bytes, float]] = {}
        self._pending_bytes = 0
        self._started = 0.0  # when the flush began, by the clock
        self._step_handle: asyncio.Handle | None = None
        self._not_before = 0.0  # when the next flush may start, by the clock
        self._flush_handle: asyncio.Handle | None = None
        self._top_up_handle: asyncio.Handle | None = None
        self._closed = False
        metrics.watch_backlog(self.backlog_bytes, self.held_bytes)

    def wants(self, kind: StreamKind) -> bool:
        """Whether messages of that kind have a client; nobody needs to encode them otherwise."""
        return any(map(len, self._feeds[kind].values()))

    def publish(self, kind: StreamKind, messages: Sequence[bytes]) -> None:
        """Send one encoded JSON message per certificate to all clients of that kind, in this order."""
        if not messages:
            return
        self.set_example(kind, messages[-1])
        if self.wants(kind):
            self._pending[kind].extend(messages)
            self._pending_bytes += sum(map(len, messages))
            if self._pending_bytes > _PENDING_BYTES and self._busy:
                self._send_all()
            self._schedule_flush()

    def wants_example(self, kind: StreamKind) -> bool:
        """Whether the example of that kind is older than a second.

        A publisher that does not publish the kind, because nobody wants it, then encodes one message
        and gives it to `set_example`.
        """
        example = self._examples.get(kind)
        return example is None or self._clock() - example[1] >= EXAMPLE_AGE_S

    def set_example(self, kind: StreamKind, message: bytes) -> None:
        """Keep an encoded message as the newest of its kind, without sending it."""
        self._examples[kind] = (message, self._clock())

    def latest(self, kind: StreamKind) -> bytes | None:
        """Return the newest message of that kind, at most about a second behind the logs; None before the first."""
        example = self._examples.get(kind)
        return example[0] if example else None

    def heartbeat(self, message: bytes) -> None:
        """Send a message to all clients of all kinds, with what keeps their transport alive."""
        self._begin()
        for feed in self._all_feeds():
            if len(feed):
                feed.begin_control(feed.framing.frame([message]) + feed.framing.keepalive)
        self._go_on()

    def attach(
        self,
        kind: StreamKind,
        framing: Framing,
        transport: asyncio.Transport,
        on_drop: Callable[[DropReason], None],
    ) -> Subscription:
        """Let a client read from the next flush on.

        `on_drop` is called when the hub gives the client up, at once if the hub is closed; nothing more is
        written to the transport then, and what was written ends with a whole frame.
        """
        subscription = self._feed(kind, framing).attach(transport, on_drop)
        if self._closed:
            subscription.feed.drop(subscription, "shutdown")
        return subscription

    def detach(self, subscription: Subscription) -> None:
        """Forget a client; its memory is free at once. Harmless when the hub dropped it before."""
        subscription.feed.detach(subscription)

    def drop(self, subscription: Subscription, reason: DropReason) -> None:
        """Give up a client that sends too much; harmless when it was given up before."""
        subscription.feed.drop(subscription, reason)

    def clients(self, kind: StreamKind | None = None) -> int:
        """Number of clients of one kind, or of all."""
        feeds = self._all_feeds() if kind is None else list(self._feeds[kind].values())
        return sum(map(len, feeds))

    def backlog_bytes(self) -> int:
        """Bytes that wait for each client, summed over all clients."""
        return sum(feed.backlog_bytes() for feed in self._all_feeds())

    def held_bytes(self) -> int:
        """Bytes held in memory for clients that are behind; clients of one kind and framing share them."""
        return sum(feed.held_bytes for feed in self._all_feeds())

    def flush(self) -> None:
        """Send what was published since the last flush, beginning now."""
        self._begin()
        self._go_on()

    async def drain(self, within_s: float) -> None:
        """Send what was published, and give clients behind what they take, until none is behind or the time is over."""
        self.flush()
        late = self._clock() + within_s
        while (self._busy or any(each.any_behind for each in self._all_feeds())) and self._clock() < late:  # noqa: ASYNC110
            await asyncio.sleep(_TOP_UP_S)

    def close(self) -> None:
        """Send what was published, then drop every client, and each that attaches later."""
        self._closed = True
        self._begin()
        self._send_all()
        for feed in self._all_feeds():
            feed.drop_all("shutdown")
        if self._top_up_handle is not None:
            self._top_up_handle.cancel()
            self._top_up_handle = None

    @property
    def _busy(self) -> bool:
        return any(feed.busy for feed in self._all_feeds())

    def _begin(self) -> None:
        """Give the feeds what was published."""
        _cancel(self._flush_handle)
        self._flush_handle = None
        self._started = self._clock() if not self._busy else self._started
        for kind, messages in self._pending.items():
            if messages:
                self._pending[kind] = []
                for feed in self._feeds[kind].values():
                    if len(feed):
                        feed.begin(messages)
        self._pending_bytes = 0

    def _go_on(self) -> None:
        """Send one step of what was begun; the next one after a turn of the loop."""
        _cancel(self._step_handle)
        self._step_handle = None
        budget = _STEP_BYTES
        for feed in self._all_feeds():
            budget = feed.step(budget) if feed.busy else budget
            if budget <= 0:
                break
        self._give_to_those_behind(budget)
        self._after_sending()
        if self._busy:
            self._step_handle = asyncio.get_running_loop().call_soon(self._go_on)
        else:
            self._sent()

    def _send_all(self) -> None:
        """Send what was begun without letting the loop turn."""
        _cancel(self._step_handle)
        self._step_handle = None
        for feed in self._all_feeds():
            while feed.busy:
                feed.step(_STEP_BYTES)
                self._after_sending()
        self._sent()

    def _sent(self) -> None:
        ended = self._clock()
        self._not_before = ended + min(_MAX_PAUSE_S, _PAUSE_PER_FLUSH * (ended - self._started))
        if any(self._pending.values()):
            self._schedule_flush()

    def _after_sending(self) -> None:
        while (excess := self.held_bytes() - self._total_backlog_bytes) > 0:
            fullest = max(self._all_feeds(), key=lambda feed: feed.held_bytes)
            fullest.drop_furthest(fullest.held_bytes - excess, "total_backlog")
        self._schedule_top_up(_TOP_UP_S)

    def _schedule_flush(self) -> None:
        if self._flush_handle is not None or self._busy:
            return
        loop = asyncio.get_running_loop()
        pause_s = self._not_before - self._clock()
        self._flush_handle = loop.call_later(pause_s, self.flush) if pause_s > 0 else loop.call_soon(self.flush)

    def _schedule_top_up(self, delay_s: float) -> None:
        if self._top_up_handle is None and any(feed.any_behind for feed in self._all_feeds()):
            self._top_up_handle = asyncio.get_running_loop().call_later(delay_s, self._top_up)

    def _top_up(self) -> None:
        """Give clients behind what they take now; soon again where a step was too short for all, or they took all."""
        self._top_up_handle = None
        more = self._give_to_those_behind(_STEP_BYTES)
        self._schedule_top_up(0 if more else _TOP_UP_S)

    def _give_to_those_behind(self, budget: int) -> bool:
        """Top up as many as the budget allows; whether some take more, or could not be looked at."""
        again = False
        for feed in self._all_feeds():
            if feed.any_behind:
                budget, more = feed.top_up(budget)
                again = again or more or feed.in_round
        return again

    def _feed(self, kind: StreamKind, framing: Framing) -> Feed:
        feeds = self._feeds[kind]
        if framing.name not in feeds:
            metrics = self._metrics.stream(kind)
            clients = metrics.clients(framing.name)
            feeds[framing.name] = Feed(framing, metrics, clients, self._client_backlog_bytes, _HIGH_WATER_BYTES)
        return feeds[framing.name]

    def _all_feeds(self) -> list[Feed]:
        return [feed for feeds in self._feeds.values() for feed in feeds.values()]


def _cancel(handle: asyncio.Handle | None) -> None:
    if handle is not None:
        handle.cancel()
