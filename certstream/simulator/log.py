"""One simulated log: its entries, its tree, the head it publishes, and how it grows."""

from __future__ import annotations

import asyncio
import re
import time
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import replace
from hashlib import sha256

import numpy as np
from cryptography.hazmat.primitives.asymmetric import ec

from certstream.ct.merkle import MerkleTree
from certstream.ct.signatures import PrivateKey, log_id, sign_tree_head, spki_of
from certstream.ct.types import Int64Array, LogInfo, LogKind, TreeHead
from certstream.simulator import generator
from certstream.simulator.entries import LogEntry, RawEntry, Records, framed, given_records, tile_leaf_of
from certstream.simulator.faults import Fault, FaultKind, Faults, Request

OPERATOR = "Simulator"
BOTH: frozenset[LogKind] = frozenset({"rfc6962", "static"})

_NAME = re.compile(r"[a-z0-9][a-z0-9._-]*")
_CURVE_ORDER = 0xFFFFFFFF00000000FFFFFFFFFFFFFFFFBCE6FAADA7179E84F3B9CAC2FC632551  # of P-256, SEC 2 §2.4.2
_APPEND_ENTRIES = 2048  # made and hashed at a time; memory against calls
_HISTORY_STEP_MAX_MS = 100.0  # between entries older than the log's start, so that no one predates 1970
_COUNTED_PATHS = 100_000


class SimulatedLog:
    """A log that serves itself through a SimulatorServer, by either protocol or both.

    The first entries are `entries`, where given; all others follow from `seed`. `initial` is how many
    the first published tree has, by default those given. With a `rate` (entries/s) it grows by `clock`
    (Unix seconds) from the start of its server on, and publishes every `publish_interval_s`; without, by `grow`.
    Certificates are the same for the same seed; timestamps, and with them leaves and heads, for the
    same `epoch_ms` (default: the clock's now), `initial` and `rate` too.

    `max_page` and `page_boundary` (0: none) limit a get-entries page in length and at multiples.
    `keep_partials` serves partial tiles also once the full tile exists. `gzip` is for data tiles:
    "accepted" where the client takes it, "always", or "never".

    `requests` counts by path and query below the prefix, at most 100,000 different ones; `endpoints`
    counts all by endpoint.
    """

    def __init__(
        self,
        name: str,
        *,
        kinds: Collection[LogKind] = BOTH,
        seed: int = 0,
        rate: float = 0.0,
        initial: int | None = None,
        entries: Sequence[RawEntry] = (),
        issuers: Iterable[bytes] = (),
        unparseable: float = 0.0,
        shapes: Collection[str] | None = None,
        epoch_ms: int | None = None,
        clock: Callable[[], float] = time.time,
        key: PrivateKey | None = None,
        origin: str | None = None,
        publish_interval_s: float = 1.0,
        max_page: int = 1000,
        page_boundary: int = 0,
        keep_partials: bool = False,
        gzip: str = "accepted",
        cache_bytes: int = 64 << 20,
    ) -> None:
        _check_settings(name, kinds, rate, gzip)
        self.name, self.kinds, self.rate = name, frozenset(kinds), rate
        self.max_page, self.page_boundary = max_page, page_boundary
        self.keep_partials, self.gzip, self.cache_bytes = keep_partials, gzip, cache_bytes
        self.origin = origin or f"ctlog.example/{name}"
        self.key = key or _derived_key(name, seed)
        self.spki = spki_of(self.key)
        self.log_id = log_id(self.spki)
        self.clock, self.publish_interval_s = clock, publish_interval_s
        self.epoch_ms = int(clock() * 1000) if epoch_ms is None else epoch_ms
        self.requests: Counter[str] = Counter()
        self.endpoints: Counter[str] = Counter()
        self.base_url = ""  # set by the server; without trailing slash
        self.tree = MerkleTree()
        self.forks: dict[int, MerkleTree] = {}  # other trees, by the leaf that differs; what a fault shows of them
        self._initial = len(entries) if initial is None else initial
        self._given = tuple(entries)
        self._generator = generator.Generator(
            seed, self._timestamps, leaf_index="static" in kinds, unparseable=unparseable, shapes=shapes
        )
        self.issuers = {**generator.issuers(), **_issuers_of(entries, issuers)}
        self._waiting: list[asyncio.Future[None]] = []
        self.faults = Faults(seed, self._notify)
        self._started_s: float | None = None
        self._published_s = 0.0
        self._append(self._initial)
        self.head = self._signed_head()

    # what the log is

    @property
    def tree_size(self) -> int:
        """Entries under the published head."""
        return self.head.tree_size

    def url(self, kind: LogKind) -> str:
        """Where the log serves this protocol, with trailing slash; for a static log the monitoring prefix."""
        if not self.base_url:
            raise RuntimeError(f"log {self.name} is not being served")
        if kind not in self.kinds:
            raise ValueError(f"log {self.name} does not serve {kind}")
        return f"{self.base_url}/{kind}/"

    def info(self, kind: LogKind) -> LogInfo:
        """The log as a reader's configuration names it, with its key."""
        origin = self.origin if kind == "static" else None
        return LogInfo(self.name, self.url(kind), kind, OPERATOR, self.spki, self.log_id, origin)

    def entry(self, index: int) -> LogEntry:
        """An entry and the truth about it, also of one that is not in the tree yet."""
        if index >= len(self._given):
            return self._generator.entry(index)
        raw = self._given[index]
        entry_type, der, chain = framed(raw)
        timestamp_ms = int.from_bytes(raw.leaf_input[2:10])
        tile_leaf = raw.tile_leaf or tile_leaf_of(raw)
        return LogEntry(index, timestamp_ms, entry_type, raw.leaf_input, raw.extra_data, tile_leaf, der, chain, "given")

    def records(self, start: int, stop: int) -> list[Records]:
        """Entries [start, stop) as raw bytes, in one or two runs: given ones and generated ones."""
        middle = min(max(len(self._given), start), stop)
        runs = [given_records(start, self._given[start:middle])] if start < middle else []
        return runs + ([self._generator.records(middle, stop)] if middle < stop else [])

    # how it grows

    def grow(self, count: int, *, publish: bool = True) -> None:
        """Add `count` entries, and unless told otherwise publish a head over them."""
        self._append(count)
        if publish:
            self.publish()
        self._notify()

    def publish(self) -> None:
        """Sign a head over all entries there are."""
        self.head = self._signed_head()
        self._published_s = self.clock()
        self._notify()

    def start(self) -> None:
        """Grow by the clock from now on; the server calls it when it starts."""
        if self._started_s is None:
            self._started_s = self._published_s = self.clock()

    def advance(self) -> None:
        """Add the entries that are due by the clock, and publish if that is due."""
        if self._started_s is None or not self.rate:
            return
        now = self.clock()
        due = self._initial + int((now - self._started_s) * self.rate) - len(self.tree)
        self._append(max(due, 0))
        if now - self._published_s >= self.publish_interval_s and len(self.tree) > self.tree_size:
            self.publish()

    def older_head(self, by: int) -> TreeHead:
        """A signed head that is `by` entries behind the published one."""
        head = self.head
        return self._sign(max(head.tree_size - by, 0), max(head.timestamp_ms - 1, 0))

    def signed(self, head: TreeHead) -> TreeHead:
        """A head of any content, under the log's signature."""
        return replace(head, signature=sign_tree_head(head, self.key))

    def with_wrong_signature(self, head: TreeHead) -> TreeHead:
        """The head with a signature of the right form, over something else."""
        return replace(head, signature=sign_tree_head(replace(head, timestamp_ms=head.timestamp_ms ^ 1), self.key))

    def corrupt_entry(self, index: int) -> Fault:
        """From now on serve another leaf at `index` than the tree has."""
        return self.faults.add(Fault(FaultKind.WRONG_LEAF, index=index))

    # what happens to it

    def count(self, request: Request) -> None:
        """Count a request."""
        self.endpoints[request.endpoint] += 1
        if request.path in self.requests or len(self.requests) < _COUNTED_PATHS:
            self.requests[request.path] += 1
        self._notify()

    async def until(self, predicate: Callable[[], bool]) -> None:
        """Wait until `predicate` holds; it is asked again after each request and each growth."""
        while not predicate():
            future = asyncio.get_running_loop().create_future()
            self._waiting.append(future)
            await future

    def _notify(self) -> None:
        waiting, self._waiting = self._waiting, []
        for future in waiting:
            if not future.done():
                future.set_result(None)

    def _append(self, count: int) -> None:
        start = len(self.tree)
        for first in range(start, start + count, _APPEND_ENTRIES):
            for run in self.records(first, min(first + _APPEND_ENTRIES, start + count)):
                self.tree.append(run.leaf_hashes())

    def _signed_head(self) -> TreeHead:
        size = len(self.tree)
        newest = self.entry(size - 1).timestamp_ms if size else self.epoch_ms
        return self._sign(size, max(int(self.clock() * 1000), newest, self.epoch_ms))

    def _sign(self, size: int, timestamp_ms: int) -> TreeHead:
        return self.signed(TreeHead(size, timestamp_ms, self.tree.root(size), b""))

    def _timestamps(self, index: Int64Array) -> Int64Array:
        step_ms = 1000 / self.rate if self.rate else 1.0
        since = index - self._initial
        after = np.floor(np.maximum(since, 0) * step_ms).astype(np.int64)
        before = np.floor(np.minimum(since, 0) * min(step_ms, _HISTORY_STEP_MAX_MS)).astype(np.int64)
        timestamps: Int64Array = np.maximum(self.epoch_ms + after + before, 0)
        return timestamps


def _check_settings(name: str, kinds: Collection[LogKind], rate: float, gzip: str) -> None:
    if not _NAME.fullmatch(name):
        raise ValueError(f"log name {name!r} does not fit into a URL: a-z, 0-9, '.', '_' and '-' do")
    if not kinds or set(kinds) - BOTH:
        raise ValueError(f"log {name}: kinds are rfc6962 and static")
    if rate < 0 or gzip not in ("accepted", "always", "never"):
        raise ValueError(f"log {name}: rate is at least 0; gzip is accepted, always or never")


def _derived_key(name: str, seed: int) -> ec.EllipticCurvePrivateKey:
    digest = sha256(f"certstream simulator {name} {seed}".encode()).digest()
    return ec.derive_private_key(int.from_bytes(digest) % (_CURVE_ORDER - 1) + 1, ec.SECP256R1())


def _issuers_of(entries: Sequence[RawEntry], issuers: Iterable[bytes]) -> dict[bytes, bytes]:
    known = list(issuers) + [der for entry in entries for der in framed(entry)[2]]
    return {sha256(der).digest(): der for der in known}
