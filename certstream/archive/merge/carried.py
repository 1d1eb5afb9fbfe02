"""What is known of staged rows, carried to the main table's ledger with the rows that a merge inserts.

Not with those that it skips: these are main's own, read by somebody else. It is noted after the commit of the rows, so
between the two lies a moment in which a crash would lose it. Therefore the files of a commit are written down before:

    _certstream/merging.json of staging: {"version": 1, "files": {"<path>": {"<source_url>": [[start, stop], …]}}}

The next merge finds by their names which of them main has.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Final

import orjson
import structlog

from certstream.archive import storage
from certstream.archive.coverage import Covers, grouped
from certstream.archive.datafile import DataFile
from certstream.archive.table import Snapshot
from certstream.errors import StorageError
from certstream.intervals import Intervals
from certstream.ledger import Ledger, Trust, ledger_beside

_VERSION: Final = 1

log = structlog.get_logger(__name__)


class CarriedTrust:
    """The ledgers of both tables of one merge; belongs to the merging thread.

    Where neither ledger says anything it does nothing.
    """

    def __init__(self, main: Path, staging: Path) -> None:
        self._main = Ledger(ledger_beside(main))
        self._staged = Ledger(ledger_beside(staging))
        self._begun = staging / storage.SIDE / "merging.json"

    def resume(self, main: Snapshot) -> None:
        """Carry what an earlier merge committed and came not to carry. Raises StorageError."""
        covers = self._left()
        inserted = grouped(covers[path] for path in main.paths & covers.keys())
        # Fresh here too: what was known at these indices was of rows that are gone, and what is lost is only unverified
        self._main.note(self._of(inserted), fresh=inserted)
        storage.remove(self._begun)

    def before(self, files: Sequence[DataFile]) -> None:
        """These files are going to be committed. Where that cannot be written down, it is done all the same."""
        # Also for main's alone: what that says of rows that are gone is not of those that come, crash or not
        if not self._staged.read() and not self._main.read():
            return
        spans = {file.path: {url: list(map(list, known)) for url, known in file.covers.items()} for file in files}
        try:
            storage.make_directory(self._begun.parent)
            storage.replace_file(self._begun, orjson.dumps({"version": _VERSION, "files": spans}))
        except StorageError as exc:  # of a full disk, say, that a merge is to make room on
            log.info("files are merged without a note of it", error=str(exc))

    def inserted(self, covers: Covers) -> None:
        """These rows were committed. Raises StorageError; the next merge carries it then."""
        self._main.note(self._of(covers), fresh=covers)
        storage.remove(self._begun)  # what is found of them from now on is main's own

    def _of(self, covers: Covers) -> dict[str, Trust]:
        staged = self._staged.read()
        return {url: staged[url].within(rows) for url, rows in covers.items() if url in staged}

    def _left(self) -> dict[str, Covers]:
        try:
            document = orjson.loads(self._begun.read_bytes())
            if document["version"] != _VERSION:
                raise ValueError(f"version {document['version']!r}, {_VERSION} is known here")
            return {
                path: {
                    url: Intervals.of(*((int(start), int(stop)) for start, stop in spans)) for url, spans in of.items()
                }
                for path, of in document["files"].items()
            }
        except FileNotFoundError:
            return {}
        except OSError as exc:
            raise storage.storage_error(self._begun, exc) from exc
        except (ValueError, TypeError, AttributeError, KeyError) as exc:
            log.warning(
                "what an interrupted merge verified is not known any more, it shows as unverified",
                file=str(self._begun),
                error=str(exc),
            )
            return {}
