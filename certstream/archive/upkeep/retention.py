"""What goes from a table: partitions that are too old, on purpose and recorded; and files that no version needs."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from datetime import date, timedelta
from pathlib import Path
from typing import Final

import structlog

from certstream.archive import storage
from certstream.archive.commit import Committer
from certstream.archive.coverage import grouped
from certstream.archive.datafile import DENSE, MIXED
from certstream.archive.schema import PARTITION
from certstream.archive.table import Snapshot, TableFile
from certstream.archive.upkeep.compaction_plan import is_day
from certstream.errors import StorageError
from certstream.ledger import Ledger, ledger_beside

# Application transactions: what of `delta.deletedFileRetentionDuration` is this program's, and what it was before
_SET: Final = "certstream.retention:set"
_OWN: Final = "certstream.retention:own"
_WEEK_HOURS: Final = 168  # also the least that a log knows removed files where a table does not say (Delta protocol)
_OURS: Final = re.compile(rf"{PARTITION}=[^/]+/(?:{DENSE}|{MIXED})-[^/]+")

log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class DroppedRows:
    """What was removed on purpose."""

    partitions: int = 0
    rows: int = 0


def drop_old(committer: Committer, today: date, days: int) -> DroppedRows:
    """Remove the partitions of more than so many days before today, as `first_kept` says, and with them their rows.

    Their indices are recorded before: they are no gap, and are not fetched again. Raises StorageError.
    """
    rows = 0

    def choose(snapshot: Snapshot) -> Sequence[TableFile]:
        nonlocal rows
        dated = [file for file in snapshot.files() if is_day(file.date)]
        first = first_kept({date.fromisoformat(file.date) for file in dated}, today, days)
        old = [file for file in dated if date.fromisoformat(file.date) < first]
        # Of this very snapshot, which the commit follows: rows that came since the last attempt are recorded as well
        rows = _record(committer, old)
        return old

    removed = committer.remove(choose)
    dates = sorted({file.date for file in removed})
    if dates:
        log.info("old partitions dropped", partitions=len(dates), first=dates[0], last=dates[-1], rows=rows)
    _forget_dropped(committer)
    return DroppedRows(len(dates), rows if dates else 0)


def first_kept(held: Collection[date], today: date, days: int) -> date:
    """The first day that is kept of those that a table holds.

    That is so many days before today. But where that would leave no day, or the next one that stays lies more than so
    many days behind the newest one that would go, the clock may be wrong, and what it says cannot be undone: days are
    then counted back from that newest one. After a true pause this lasts until the days behind it are old themselves.
    """
    first = _back(today, days)
    newest = max((day for day in held if day < first), default=None)
    if newest is None:
        return first
    following = min((day for day in held if day >= first), default=today)
    if (following - newest).days <= days:
        return first
    log.warning(
        "old partitions are kept: nothing was archived for longer than days are kept, is the clock right?",
        newest=str(newest), following=str(following), today=str(today), keep_days=days,
    )  # fmt: skip
    return _back(newest, days)


def _back(day: date, days: int) -> date:
    try:
        return day - timedelta(days=days)
    except OverflowError:
        return date.min


def _record(committer: Committer, files: Iterable[TableFile]) -> int:
    """Record durably what files hold; how many rows that are."""
    held = [committer.coverage.file(file.path) for file in files]
    covers = grouped(cover.covers for cover in held)
    if covers:
        committer.dropped.add(covers)
    return sum(cover.rows for cover in held)


def _forget_dropped(committer: Committer) -> None:
    """Rows that come again some day are not those of which something is known; a pass before may have been killed."""
    dropped = committer.dropped
    try:
        committer.look()
        gone = {url: dropped.of(url) - committer.coverage.of(url) for url in dropped.logs()}
        Ledger(ledger_beside(committer.root)).forget(gone)
    except StorageError as exc:
        log.warning("what was verified of dropped rows cannot be forgotten", error=str(exc))


def retention(committer: Committer, hours: int) -> int:
    """After how many hours removed files are deleted: so many, or later where the table itself says so.

    The log is made to know them for a week longer, by a commit where the table says less: any checkpoint forgets what
    is older than that, and nobody would ever delete it. Raises StorageError.
    """
    snapshot = committer.look()
    known = snapshot.remembers_hours()
    ours = known is not None and known == snapshot.transaction(_SET)
    own = (snapshot.transaction(_OWN) if ours else known) or 0
    keep = max(hours, own)
    wanted = keep + _WEEK_HOURS
    if (_WEEK_HOURS if known is None else known) < wanted:
        snapshot.remember_removed(wanted, {_SET: wanted, _OWN: own})
    return keep


def vacuum(root: Path, snapshot: Snapshot, retention_hours: int) -> int:
    """Delete the files that commits removed longer ago than that; how many there were.

    `retention` goes before it, and says how long. Raises StorageError.
    """
    return _delete(root, snapshot.removed_files(retention_hours))


def sweep(root: Path, snapshot: Snapshot, retention_hours: int) -> int:
    """Delete what writers that crashed left behind; how many files. Raises StorageError.

    Only files with a name of ours that was given longer ago than that: one that a writer has not committed yet, or
    that a version within retention needs, stays, and so does whatever others put there.
    """
    return _delete(root, [path for path in snapshot.unknown_files(retention_hours) if _is_old(path, retention_hours)])


def _is_old(path: str, hours: int) -> bool:
    age_s = storage.age_s(path)
    return _OURS.fullmatch(path) is not None and age_s is not None and age_s >= hours * 3600


def _delete(root: Path, paths: Iterable[str]) -> int:
    there = [path for path in paths if (root / path).is_file()]
    for path in there:
        storage.remove(root / path)
    return len(there)
