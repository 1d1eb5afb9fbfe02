"""Where cases about logs are brought: written, counted, and looked at again, without holding anybody up.

The directory may lie on a disk that hangs: it is touched by one thread alone, which nobody waits for but a moment at
the end.
"""

from __future__ import annotations

import asyncio
import queue
import threading
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Final, Self

import structlog

from certstream.ct.types import LogInfo
from certstream.evidence import MARKS_AN_ENTRY, MOST_OF_A_KIND, Case, CaseKind, EvidenceStore

_LOOK_S: Final = 5.0  # between looks at the directory: whether the operator has removed files
_MOST_WAITING: Final = 1_000  # cases that are not written yet
_MOST_REMEMBERED: Final = 1_000  # cases that are kept in memory alone, where there is no directory
_END_S: Final = 1.0  # that the last cases have to be written

logger: structlog.stdlib.BoundLogger = structlog.get_logger(__name__)


class EvidenceDesk:
    """Takes cases, and says of each log how many lie there about it; `async with` opens and closes it.

    Without a directory cases are remembered until the end of the process, at most MOST_OF_A_KIND of a kind about a log
    and _MOST_REMEMBERED in all; further ones are let go of. What comes while _MOST_WAITING cases wait for the disk is
    logged and let go of: it is met again.
    """

    def __init__(
        self, directory: Path | None, counted: Callable[[Mapping[str, int]], None], *, look_s: float = _LOOK_S
    ) -> None:
        """`counted` is told in the event loop how many cases there are, by base_url; logs without are not in it."""
        self._directory = directory
        self._counted = counted
        self._look_s = look_s
        self._logs: tuple[LogInfo, ...] = ()
        self._cases: queue.Queue[Case | None] = queue.Queue(_MOST_WAITING)
        self._remembered: dict[str, tuple[str, CaseKind]] = {}  # base_url and kind, by the case's key
        self._cannot_look = False
        self._thread: threading.Thread | None = None

    async def __aenter__(self) -> Self:
        self._loop = asyncio.get_running_loop()
        if self._directory is not None:
            work = (EvidenceStore(self._directory),)
            self._thread = threading.Thread(target=self._run, args=work, name="evidence", daemon=True)
            self._thread.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        if self._thread is not None:
            self._put(None)
            await asyncio.to_thread(self._thread.join, _END_S)

    def watch(self, logs: Sequence[LogInfo]) -> None:
        """Count the cases about these logs from now on."""
        self._logs = tuple(logs)

    def bring(self, case: Case) -> None:
        """Keep a case, unless it is there already. Never raises."""
        if self._thread is not None:
            self._put(case)
        elif self._directory is None:
            self._remember(case)

    def _put(self, case: Case | None) -> None:
        try:
            self._cases.put_nowait(case)
        except queue.Full:
            if case is not None:
                logger.warning("evidence cannot be written in time", log=case.log.name, error=case.error)

    def _remember(self, case: Case) -> None:
        key, place = case.key(), (case.log.base_url, case.kind)
        if key in self._remembered or len(self._remembered) >= _MOST_REMEMBERED:
            return
        if list(self._remembered.values()).count(place) >= MOST_OF_A_KIND:
            return  # what a log does again and again leaves room for what others do
        logger.warning(
            "evidence about a log is not kept, there is no state file",
            log=case.log.name,
            case=case.kind,
            error=case.error,
        )
        if case.kind not in MARKS_AN_ENTRY:
            self._remembered[key] = place
            self._counted(Counter(url for url, _ in self._remembered.values()))

    # In the thread

    def _run(self, store: EvidenceStore) -> None:
        while True:
            if not self._look(store):
                return
            try:
                case = self._cases.get(timeout=self._look_s)
            except queue.Empty:
                continue
            if case is None:
                return
            store.record(case, time.time())

    def _look(self, store: EvidenceStore) -> bool:
        """Say what lies there; False where the event loop is closed."""
        try:
            counts = store.suspects(self._logs)
        except OSError as exc:
            if not self._cannot_look:
                logger.warning("evidence cannot be looked at", directory=str(self._directory), error=exc.strerror)
            self._cannot_look = True
            return True
        self._cannot_look = False
        try:
            self._loop.call_soon_threadsafe(self._counted, counts)
        except RuntimeError:
            return False
        return True
