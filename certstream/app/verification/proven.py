"""What verification found of the entries that are read, on its way to where it is durable."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Awaitable, Callable, Mapping, Sequence
from pathlib import Path
from typing import Final, Literal, TypeAlias

import structlog

from certstream.archive.storage import local_path
from certstream.config import Config
from certstream.ct.types import LogInfo
from certstream.errors import StorageError
from certstream.intervals import Intervals
from certstream.ledger import FILE_NAME, Ledger, Trust, bounded, ledger_beside

WRITE_INTERVAL_S: Final = 1.0  # at least so often is written what was found behind the commit of its rows

_MOST: Final = 10_000  # intervals that wait in memory
_UNFOLDED: Final = 1_000  # findings

Covers: TypeAlias = Mapping[str, Intervals]
_Kind: TypeAlias = Literal["verified", "tainted", "altered"]

logger: structlog.stdlib.BoundLogger = structlog.get_logger(__name__)


def proven_rows(config: Config) -> ProvenRows:
    """Those of the service: beside the archive's table, or beside the state file where nothing is archived.

    Raises ConfigError where a table may not lie where it is configured.
    """
    if config.delta_sink.enabled:
        return ProvenRows(Ledger(ledger_beside(local_path(config.delta_sink.table_path, "delta_sink.table_path"))))
    state_file = config.ct_log.state_file
    if state_file is None:
        return ProvenRows(None, archived=False)
    state = Path(state_file)
    return ProvenRows(Ledger(state.with_name(f"{state.name}.{FILE_NAME}")), archived=False)


class ProvenRows:
    """Takes what is found in the event loop, and notes it in a ledger once its rows are committed.

    Only rows that this process committed count, and those that the ledger has as tainted: a row that somebody else
    read is not what was proven here. Where nothing is archived, nothing of what is verified is kept, and what is
    tainted is noted at once. Without a ledger all stays in memory.

    What waits for the commit of its rows is at most _MOST intervals in all, and gets less exact past that, as a
    ledger does. A ledger that cannot be written is logged once and tried again.
    """

    def __init__(self, ledger: Ledger | None, *, archived: bool = True) -> None:
        self._ledger = ledger
        self._archived = archived
        self._lock = threading.Lock()  # of all that follows, for microseconds
        self._found: list[tuple[str, _Kind, int, int]] = []  # in their order
        self._waiting: dict[str, Trust] = {}  # the same, folded
        self._committed: dict[str, Intervals] = {}  # rows of this process of which nothing is noted yet
        self._fresh: dict[str, Intervals] = {}  # the same, where the ledger may know something of rows before them
        self._known: dict[str, Trust] = {}  # what is durable, as last read
        self._writing = threading.Lock()  # one at a time
        self._failed = False

    def hurry(self) -> None:
        """The process is to end: it waits only for a moment where another one holds the ledger."""
        if self._ledger is not None:
            self._ledger.hurry()

    # What is found: in the event loop

    def proven(self, log: LogInfo, start: int, stop: int) -> None:
        """The entries [start, stop) that were read stand in a tree that the log has signed."""
        self._find(log, "verified", start, stop)

    def tainted(self, log: LogInfo, start: int, stop: int) -> None:
        """The entries [start, stop) went out, and it cannot be proven that they stand there."""
        self._find(log, "tainted", start, stop)

    def altered(self, log: LogInfo, indices: Sequence[int]) -> None:
        """These entries are precertificates whose certificate is not that of their leaf."""
        for index in indices:
            self._find(log, "altered", index, index + 1)

    def read_again(self, log: LogInfo, start: int, stop: int) -> None:
        """Rows of [start, stop) will come from another reading than what was found of them: that counts no more."""
        with self._lock:
            self._fold()
            known = self._waiting.get(log.base_url)
            if known is not None:
                self._waiting[log.base_url] = known.without(Intervals.of((start, stop)))

    def tainted_of(self, log: LogInfo) -> Intervals:
        """What is tainted of a log, durable or not."""
        url = log.base_url
        with self._lock:
            self._fold()
            waiting, known = self._waiting.get(url, Trust()), self._known.get(url, Trust())
        return (known.tainted - waiting.verified) | waiting.tainted

    def _find(self, log: LogInfo, kind: _Kind, start: int, stop: int) -> None:
        if start >= stop:
            return
        url, found = log.base_url, self._found
        with self._lock:
            if found and found[-1][:2] == (url, kind) and found[-1][3] == start:
                start = found.pop()[2]
            found.append((url, kind, start, stop))
            if len(found) >= _UNFOLDED:
                self._fold()

    def _fold(self) -> None:
        """Let what was found be intervals; the lock is held."""
        if not self._found:
            return
        found, self._found[:] = self._found[:], []
        spans: dict[tuple[str, _Kind], list[tuple[int, int]]] = {}
        for url, kind, start, stop in found:
            of_log = spans.setdefault((url, kind), [])
            # What is found later goes before, so that both are folded in their order
            other: _Kind = "tainted" if kind == "verified" else "verified"
            if kind != "altered" and (url, other) in spans:
                self._fold_in(url, other, spans.pop((url, other)))
            of_log.append((start, stop))
        for (url, kind), of_log in spans.items():
            self._fold_in(url, kind, of_log)
        if not self._archived:
            known = self._known
            self._waiting = {
                url: Trust(trust.verified & known.get(url, Trust()).tainted, trust.tainted, trust.altered)
                for url, trust in self._waiting.items()
            }
        self._waiting = bounded(self._waiting, _MOST)

    def _fold_in(self, url: str, kind: _Kind, spans: list[tuple[int, int]]) -> None:
        later = Trust(**{kind: Intervals.of(*spans)})
        self._waiting[url] = self._waiting.get(url, Trust()).and_then(later)

    # What becomes durable: in any thread but the event loop's

    def committed(self, inserted: Covers, skipped: Covers) -> None:
        """Rows were committed by this process, or are in the table from somebody else; note what was found of them.

        Raises nothing.
        """
        with self._lock:
            self._fold()
            for url, indices in inserted.items():
                self._committed[url] = self._committed.get(url, Intervals()) | indices
                self._fresh[url] = self._fresh.get(url, Intervals()) | indices
            for url, indices in skipped.items():
                if url in self._waiting:
                    self._waiting[url] = self._waiting[url].without(indices)
            self._bound_committed()
        # One that holds the ledger for long, stopped or on a disk that hangs, does not hold up the next commit
        if not self._failed and not self._writing.locked():
            self.write()

    def write(self) -> None:
        """Note what was found of committed rows, and see what others noted. Raises nothing; logs a failure once."""
        try:
            self._write()
        except Exception:
            logger.exception("what is verified could not be noted")

    def _write(self) -> None:
        if self._ledger is None:
            return
        with self._writing:
            try:
                with self._lock:
                    self._fold()
                    due, fresh = self._due(), dict(self._fresh)
                self._ledger.note(due, fresh=fresh)
                known = self._ledger.read()
            except StorageError as exc:
                if not self._failed:
                    logger.warning("what is verified cannot be noted, it is kept and tried again", error=str(exc))
                self._failed = True
                return
            if self._failed:
                logger.info("what is verified is noted again")
            self._failed = False
            with self._lock:
                self._known = known
                for url, rows in fresh.items():
                    self._fresh[url] -= rows
                for url, noted in due.items():
                    self._settle(url, noted)

    def _due(self) -> dict[str, Trust]:
        """What may be noted now; the lock is held."""
        due: dict[str, Trust] = {}
        for url, found in self._waiting.items():
            known, ours = self._known.get(url, Trust()), self._committed.get(url, Intervals())
            mine = ours | known.tainted
            if self._archived:
                due[url] = Trust(found.verified & mine, found.tainted & mine, found.altered & (mine | known.verified))
            else:
                due[url] = Trust(found.verified & known.tainted, found.tainted, found.altered)
        return {url: trust for url, trust in due.items() if trust}

    def _settle(self, url: str, noted: Trust) -> None:
        """It is durable; what was found since then stays. The lock is held."""
        found = self._waiting.get(url, Trust())
        left = Trust(found.verified - noted.verified, found.tainted - noted.tainted, found.altered - noted.altered)
        if left:
            self._waiting[url] = left
        else:
            self._waiting.pop(url, None)
        if url in self._committed:
            self._committed[url] -= noted.verified | noted.tainted

    def _bound_committed(self) -> None:
        for url, indices in self._committed.items():
            if len(indices) > _MOST:  # the newest ones are those that will be proven
                self._committed[url] = Intervals(indices.start[-_MOST:], indices.stop[-_MOST:])

    async def run(self, sleep: Callable[[float], Awaitable[object]] = asyncio.sleep) -> None:
        """Write now and then what was found after its rows were committed, until cancelled."""
        while True:
            await asyncio.to_thread(self.write)
            await sleep(WRITE_INTERVAL_S)
