"""Rows of many logs, each log's in order, into dense files that a commit makes visible together."""

from __future__ import annotations

import pyarrow as pa

from certstream.archive.commit import Committed, Committer
from certstream.archive.datafile import DataFile, FileWriter
from certstream.archive.schema import PARTITION


class DenseWriter:
    """Writes consecutive rows into dense files: one open file per log, a new one where a log's rows do not continue.

    Nothing is visible before `commit`. Holds the rows of one `write` at most; belongs to one thread at a time.
    """

    def __init__(self, committer: Committer) -> None:
        self._committer = committer
        self._open: dict[str, FileWriter] = {}
        self._closed: list[DataFile] = []

    def write(self, rows: pa.RecordBatch) -> None:
        """Append consecutive indices of one log. Raises StorageError."""
        if not len(rows):
            return
        url, date = rows.column("source_url")[0].as_py(), rows.column(PARTITION)[0].as_py()
        writer = self._open.get(url)
        if writer is not None and (writer.next_index != rows.column("cert_index")[0].as_py() or writer.date != date):
            self._closed.append(self._open.pop(url).close())
            writer = None
        if writer is None:
            committer = self._committer
            form = committer.form()
            writer = self._open[url] = FileWriter(committer.root, form, date, committer.settings, dense=True)
        writer.write(pa.Table.from_batches([rows]))

    def commit(self) -> Committed:
        """Make everything written visible, but for what the table holds already.

        Raises StorageError; then nothing of it is visible, and what was written is gone.
        """
        try:
            while self._open:
                self._closed.append(self._open.popitem()[1].close())
        except BaseException:
            self.abandon()
            raise
        files, self._closed = self._closed, []
        return self._committer.add(files)

    def abandon(self) -> None:
        """Remove what was written and not committed."""
        while self._open:
            self._open.popitem()[1].abandon()
        files, self._closed = self._closed, []
        self._committer.discard(files)
