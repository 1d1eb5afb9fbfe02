"""How many clients there are, and how often an address asks. Both cost the same however many there are."""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Callable
from typing import Final, Literal, TypeAlias

from certstream.serve.access import ConnectionLimits, RateLimits, Tier

MOST_ADDRESSES: Final = 65_536
LONGEST_WAIT_S: Final = 86_400
_FORGOTTEN_AT_ONCE: Final = 2  # with each new address, so that the table shrinks however few come

Full: TypeAlias = Literal["connections", "address_connections"]


class ConnectionCounter:
    """Counts clients or connections, in all and by address. It counts without limits too: they may be set later."""

    def __init__(self) -> None:
        self._total = 0
        self._of_address: dict[bytes, int] = {}

    def __len__(self) -> int:
        """Addresses that have clients; of others nothing is kept."""
        return len(self._of_address)

    def refusal(self, address: bytes, limits: ConnectionLimits) -> Full | None:
        """Why one more client of that address is not let in, None where it is."""
        if limits.total is not None and self._total >= limits.total:
            return "connections"
        if limits.per_address is not None and self._of_address.get(address, 0) >= limits.per_address:
            return "address_connections"
        return None

    def enter(self, address: bytes) -> None:
        """Count a client."""
        self._total += 1
        self._of_address[address] = self._of_address.get(address, 0) + 1

    def leave(self, address: bytes) -> None:
        """Count it no more."""
        self._total -= 1
        left = self._of_address[address] - 1
        if left:
            self._of_address[address] = left
        else:
            del self._of_address[address]


class _Usage:
    """What one address used of the limits of one tier."""

    __slots__ = ("at_s", "burst_ends_s", "burst_used", "earlier", "now", "tokens", "window")

    def __init__(self, at_s: float, tokens: float) -> None:
        self.at_s = at_s
        self.tokens = tokens
        self.burst_used = 0.0
        self.burst_ends_s = -math.inf
        self.window = 0  # number of the fixed window that `now` counts
        self.now = 0
        self.earlier = 0  # requests in the fixed window before it


class RateLimiter:
    """A token bucket, a burst and a sliding window for each address and tier, as in certstream-server-rust.

    There the limits of another token begin with a full bucket; here each tier of an address has its own, so that
    changing tokens brings nothing. A request that is refused uses up nothing.

    Bounded: at MOST_ADDRESSES the address that has not asked for longest is forgotten, and begins anew when it asks
    again; one that is forgotten because its limits are full again notices nothing.
    """

    def __init__(self, clock: Callable[[], float], most_addresses: int = MOST_ADDRESSES) -> None:
        self._clock = clock
        self._most = most_addresses
        self._usages: OrderedDict[tuple[bytes, Tier], _Usage] = OrderedDict()  # asked longest ago first

    def __len__(self) -> int:
        return len(self._usages)

    def wait_s(self, address: bytes, tier: Tier, limits: RateLimits) -> int:
        """Count a request and return 0, or return after how many seconds it may go through."""
        now_s = self._clock()
        usage = self._usage((address, tier), now_s, limits)
        _refill(usage, now_s, limits, tier)
        wait_s = _window_wait_s(usage, now_s, limits) or _bucket_wait_s(usage, now_s, limits, tier)
        if wait_s <= 0:
            usage.now += 1
            return 0
        return max(1, math.ceil(min(wait_s, LONGEST_WAIT_S)))

    def _usage(self, key: tuple[bytes, Tier], now_s: float, limits: RateLimits) -> _Usage:
        usage = self._usages.get(key)
        if usage is not None:
            self._usages.move_to_end(key)
            return usage
        self._forget(now_s - _memory_s(limits))
        usage = self._usages[key] = _Usage(now_s, limits.buckets[key[1]].capacity)
        return usage

    def _forget(self, unseen_since_s: float) -> None:
        while len(self._usages) >= self._most:
            self._usages.popitem(last=False)
        for _ in range(_FORGOTTEN_AT_ONCE):
            key = next(iter(self._usages), None)
            if key is None or self._usages[key].at_s > unseen_since_s:
                return
            del self._usages[key]


def _memory_s(limits: RateLimits) -> float:
    """How long an address must be silent until its limits are as if it had never asked."""
    slowest = max(
        bucket.capacity / bucket.refill_per_s if bucket.refill_per_s else math.inf for bucket in limits.buckets.values()
    )
    return max(slowest, 2 * limits.window_s, limits.burst_window_s)


def _refill(usage: _Usage, now_s: float, limits: RateLimits, tier: Tier) -> None:
    bucket = limits.buckets[tier]
    usage.tokens = min(bucket.capacity, usage.tokens + (now_s - usage.at_s) * bucket.refill_per_s)
    usage.at_s = now_s
    window = math.floor(now_s / limits.window_s)
    if window != usage.window:
        usage.earlier = usage.now if window == usage.window + 1 else 0
        usage.now = 0
        usage.window = window


def _window_wait_s(usage: _Usage, now_s: float, limits: RateLimits) -> float:
    """0 where the sliding window has room; it is the present fixed window, and of the one before it the share that
    still lies in it.
    """
    passed_s = now_s - usage.window * limits.window_s
    room = limits.window_requests - 1 - usage.now
    left_s = limits.window_s - passed_s
    if usage.earlier * left_s / limits.window_s <= room:
        return 0.0
    if room < 0:  # not before the next window, in which these requests are the earlier ones
        return left_s + limits.window_s * (1 - (limits.window_requests - 1) / usage.now)
    return left_s - limits.window_s * room / usage.earlier


def _bucket_wait_s(usage: _Usage, now_s: float, limits: RateLimits, tier: Tier) -> float:
    """Take one from the bucket or the burst and return 0, or return when either has one again."""
    bucket = limits.buckets[tier]
    if usage.tokens >= 1:
        usage.tokens -= 1
        return 0.0
    if now_s >= usage.burst_ends_s:
        usage.burst_used = 0.0
        usage.burst_ends_s = now_s + limits.burst_window_s
    if usage.burst_used + 1 <= bucket.burst:
        usage.burst_used += 1
        return 0.0
    refilled_s = (1 - usage.tokens) / bucket.refill_per_s if bucket.refill_per_s and bucket.capacity >= 1 else math.inf
    burst_s = usage.burst_ends_s - now_s if bucket.burst >= 1 else math.inf
    return min(refilled_s, burst_s)
