"""Where a backfill's rows go, as the backfill sees it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    import pyarrow as pa


@dataclass(frozen=True, slots=True)
class Written:
    """What one commit did; together all rows since the last one."""

    inserted: int  # rows that are in the table now and were not before
    skipped: int  # rows whose index had been archived meanwhile


class Destination(Protocol):
    """Takes rows. All calls come from one thread, one at a time, and none from the event loop."""

    def write(self, rows: pa.RecordBatch) -> None:
        """Take rows of one log, ascending, which nobody sees yet: CertificateBatch.to_arrow, chains shared.

        Their indices mostly follow each other, and those before them; there may be holes, and rows may begin anywhere,
        but no index comes twice.
        Raises StorageError.
        """

    def commit(self) -> Written:
        """Make everything written since the last commit visible, at once. Raises StorageError: none of it is, then."""

    def abandon(self) -> None:
        """Remove what was written and not committed. Raises StorageError."""
