"""Every fault of the simulator as a case of each protocol: what goes wrong, at which requests, and in which log."""

from __future__ import annotations

import asyncio
import base64
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import pyarrow as pa
from deltalake import DeltaTable

from certstream.ct.types import LogKind
from certstream.simulator.faults import Fault, FaultKind
from certstream.simulator.generator import shape_names
from certstream.simulator.log import SimulatedLog
from certstream.simulator.server import SimulatorServer
from tests.e2e.command_support import archive_options
from tests.e2e.e2e_support import PATIENCE_S

KINDS: Final[Sequence[LogKind]] = ("rfc6962", "static")
INITIAL: Final = 200  # entries of a log when it is first read
RECOVERY_S: Final = 60.0  # from the end of a fault until the log is read to its end again

# What is said of each fault; those of the transport strike heads, entries and proofs one after the other.
_SETTINGS: Final[Mapping[FaultKind, Mapping[str, Any]]] = {
    FaultKind.RATE_LIMITED: {"retry_after_s": 1},
    FaultKind.STATUS: {"status": 403},
    FaultKind.DRIP: {"seconds": 0.05},
    FaultKind.SHORT_PAGE: {"entries": 7},
    FaultKind.MORE_ENTRIES: {"entries": 3},
    FaultKind.LAGGING: {"entries": 70},
    FaultKind.SMALLER_TREE: {"entries": 90},
    FaultKind.FORK: {"index": 3},  # below what was read before: another tree than the one that is known
}
_OF_ONE: Final[Mapping[FaultKind, LogKind]] = {
    FaultKind.SHORT_PAGE: "rfc6962",
    FaultKind.MISSING_PARTIAL: "static",
    FaultKind.MISSING_ISSUER: "static",
}
_OF_TREES: Final = frozenset(
    {
        FaultKind.SHORT_PAGE,
        FaultKind.MORE_ENTRIES,
        FaultKind.SHIFTED,
        FaultKind.NO_ENTRIES,
        FaultKind.LAGGING,
        FaultKind.SMALLER_TREE,
        FaultKind.OTHER_ROOT,
        FaultKind.FORK,
        FaultKind.FUTURE_HEAD,
        FaultKind.OLD_HEAD,
        FaultKind.WRONG_LEAF,
        FaultKind.UNKNOWN_TYPE,
        FaultKind.WRONG_HASH,
        FaultKind.WRONG_SIGNATURE,
        FaultKind.MISSING_PARTIAL,
        FaultKind.MISSING_ISSUER,
    }
)  # all others are of the transport
_OF_ENTRIES: Final = frozenset({FaultKind.WRONG_LEAF, FaultKind.UNKNOWN_TYPE})
_HEADS: Final[Mapping[LogKind, str]] = {"rfc6962": "get-sth", "static": "checkpoint"}
_PAGES: Final[Mapping[LogKind, str]] = {"rfc6962": "get-entries", "static": "data-tile"}
_PROOFS: Final[Mapping[LogKind, str]] = {"rfc6962": "get-*-*", "static": "hash-tile"}
_OWN_ISSUER: Final = "organisation"  # the one shape whose issuer no other has
EARLY: Final = frozenset({FaultKind.MISSING_ISSUER})  # begin before the log is read: an issuer is asked for once
_WIDE: Final = frozenset({FaultKind.WRONG_HASH})  # need more entries than may be read without a proof

# Heads and entries that contradict what is proven: not read under any mode but `off` without being noticed
WRONG: Final = frozenset(
    {
        FaultKind.WRONG_LEAF,
        FaultKind.SHIFTED,
        FaultKind.UNKNOWN_TYPE,
        FaultKind.OTHER_ROOT,
        FaultKind.FORK,
        FaultKind.WRONG_SIGNATURE,
        FaultKind.WRONG_HASH,
    }
)


@dataclass
class Struck:
    """One case: a log of one protocol, and what it suffers."""

    fault: FaultKind | None  # None: the log that is well
    kind: LogKind
    log: SimulatedLog
    faults: list[Fault] = field(default_factory=list)

    @property
    def name(self) -> str:
        """As the service calls it."""
        return f"{self.log.name} {self.kind}"

    @property
    def url(self) -> str:
        """As the archive calls it."""
        return self.log.url(self.kind).rstrip("/")

    @property
    def has_struck(self) -> bool:
        """Whether the entries, or what else it is about, were struck: those of heads and proofs come along."""
        return all(self.log.faults.struck[each] > 0 for each in self.faults[:2])

    def begin(self, index: int) -> None:
        """Let it happen from now on; where one entry is altered, to that at `index`."""
        if self.fault is not None and not self.faults:
            self.faults = [self.log.faults.add(each) for each in faults_of(self.fault, self.kind, index)]

    def grow(self, count: int) -> None:
        self.log.grow(count * 8 if self.fault in _WIDE else count)


def faults_of(kind: FaultKind, protocol: LogKind, index: int) -> list[Fault]:
    """What is put into the log: of the transport's first a head."""
    settings = {"index": index} if kind in _OF_ENTRIES else _SETTINGS.get(kind, {})
    if kind in _OF_TREES:
        return [Fault(kind, **settings)]
    if kind == FaultKind.RATE_LIMITED:  # each in a row makes the next pause longer
        return [Fault(kind, on=on, times=1, **settings) for on in (_HEADS[protocol], _PAGES[protocol])]
    return [
        Fault(kind, on=_HEADS[protocol], **{**settings, "times": 1}),
        Fault(kind, on=_PAGES[protocol], **settings),
        Fault(kind, on=_PROOFS[protocol], **settings),
    ]


def cells() -> list[tuple[FaultKind, LogKind]]:
    """Every fault with each protocol that it can strike."""
    return [(fault, kind) for fault in FaultKind for kind in KINDS if _OF_ONE.get(fault, kind) == kind]


def cases(mode: str, initial: int = INITIAL) -> list[Struck]:
    """A log for each of the cells, and one of each protocol that is well.

    `warn` has those of the tree alone: the transport's strike before anything is verified, in each mode the same.
    """
    wanted: list[tuple[FaultKind | None, LogKind]] = [*cells(), *((None, kind) for kind in KINDS)]
    if mode == "warn":
        wanted = [(fault, kind) for fault, kind in wanted if fault is None or fault in _OF_TREES]
    return [Struck(fault, kind, _log(fault, kind, seed, initial)) for seed, (fault, kind) in enumerate(wanted)]


def _log(fault: FaultKind | None, kind: LogKind, seed: int, initial: int) -> SimulatedLog:
    own = fault == FaultKind.MISSING_ISSUER
    return SimulatedLog(
        f"{fault or 'well'}-{kind}",
        kinds={kind},
        initial=initial,
        seed=seed,
        max_page=100,
        shapes={_OWN_ISSUER} if own else set(shape_names()) - {_OWN_ISSUER},
    )


def options_of(server: SimulatorServer, mode: str, **sections: Mapping[str, Any]) -> dict[str, Any]:
    """A configuration with the key of each log, the archive, and each certificate streamed as often as it stands."""
    infos = server.infos()
    quick = {"poll_interval_ms": 200, "request_timeout_secs": 4, "verification": mode}
    options = archive_options(
        infos,
        dedup={"enabled": False},
        **{**sections, "ct_log": {**quick, "verification_max_unproven_entries": 256, **sections.get("ct_log", {})}},
    )
    keys = {info.url: info.key for info in infos}
    for log in (*options["custom_logs"], *options["static_logs"]):
        key = keys[log["url"]]
        assert key is not None
        log["key"] = base64.b64encode(key).decode()
    return options


async def until_all_struck(struck: Sequence[Struck]) -> None:
    """Wait until each fault has struck."""
    try:
        async with asyncio.timeout(PATIENCE_S):
            for each in struck:
                await each.log.until(lambda each=each: each.has_struck)  # type: ignore[misc]
    except TimeoutError:
        raise AssertionError(f"never struck: {[each.name for each in struck if not each.has_struck]}") from None


def archived(root: Path) -> dict[str, list[tuple[int, str]]]:
    """Index and SHA-256 of each row by log, sorted; doubled ones as often as they stand there."""
    table = pa.table(DeltaTable(root).to_pyarrow_table(columns=["source_url", "cert_index", "sha256"]))
    found: dict[str, list[tuple[int, str]]] = {}
    for url, index, digest in zip(*(table.column(name).to_pylist() for name in table.column_names), strict=True):
        found.setdefault(url, []).append((index, digest))
    return {url: sorted(rows) for url, rows in found.items()}


def rss_bytes(pid: int, line: str = "VmRSS") -> int:
    """Memory of a process now, or with VmHWM the most since it began or `forget_peak`."""
    status = Path(f"/proc/{pid}/status").read_text().splitlines()
    return next(int(each.split()[1]) * 1024 for each in status if each.startswith(f"{line}:"))


def forget_peak(pid: int) -> None:
    """Let VmHWM count from now on (proc(5), clear_refs)."""
    Path(f"/proc/{pid}/clear_refs").write_text("5")
