"""Where a backfill's rows go, as the backfill sees it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from certstream.ledger import Trust

if TYPE_CHECKING:
    import pyarrow as pa


@dataclass(frozen=True, slots=True)
class Written:
    """What one commit did; together all rows since the last one."""

    inserted: int  # rows that are in the table now and were not before
    skipped: int  # rows whose index had been archived meanwhile
    verified: int = 0  # of those inserted: proven to stand in a tree that their log has signed
    tainted: int = 0  # likewise: it was tried, and cannot be proven

    def __add__(self, other: Written) -> Written:
        return Written(
            self.inserted + other.inserted,
            self.skipped + other.skipped,
            self.verified + other.verified,
            self.tainted + other.tainted,
        )


class Destination(Protocol):
    """Takes rows. All calls come from one thread, one at a time, and none from the event loop."""

    def write(self, rows: pa.RecordBatch, trust: Trust) -> None:
        """Take rows of one log, ascending, which nobody sees yet: CertificateBatch.to_arrow, chains shared.

        Their indices mostly follow each other, and those before them; there may be holes, and rows may begin anywhere,
        but no index comes twice. `trust` is what is known of them, to be kept once they are committed.
        Raises StorageError.
        """

    def commit(self) -> Written:
        """Make everything written since the last commit visible, at once. Raises StorageError: none of it is, then."""

    def abandon(self) -> None:
        """Remove what was written and not committed. Raises StorageError."""
