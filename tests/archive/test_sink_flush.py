"""What one commit of the sink makes of the rows that wait."""

from __future__ import annotations

from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st
from structlog.testing import capture_logs

from certstream.archive.commit import Committer
from certstream.archive.sink.flush import Flusher, distinct_rows
from certstream.intervals import Intervals
from tests.archive.archive_support import log_info, packed

A = log_info()
SPANS = st.lists(st.tuples(st.integers(0, 30), st.integers(1, 8)).map(lambda span: (span[0], sum(span))), max_size=6)


class _Unmanageable(Committer):
    """A table about which nothing can be asked, by errors that nobody expects."""

    @property
    def root(self) -> Path:
        raise PermissionError(13, "Permission denied")


def test_no_error_gets_out_of_what_is_done_beside_the_commits(tmp_path: Path) -> None:
    committer = _Unmanageable(tmp_path)
    flusher = Flusher(committer)
    assert flusher.free_bytes() is None
    del committer.coverage
    with capture_logs() as lines:
        flusher.save_coverage()
    (line,) = lines
    assert line["event"] == "coverage cannot be remembered, it will be read again"
    assert "AttributeError" in str(line["error"])


@given(SPANS, SPANS)
def test_rows_that_are_not_held_come_ascending_and_once(
    parts: list[tuple[int, int]], held: list[tuple[int, int]]
) -> None:
    batches = list(distinct_rows([packed(A, start, stop) for start, stop in parts], Intervals.of(*held)))
    found = [index for batch in batches for index in batch.column("cert_index").to_pylist()]
    assert all(len(batch) for batch in batches)
    assert found == sorted(
        {i for start, stop in parts for i in range(start, stop)} - {i for a, z in held for i in range(a, z)}
    )
    links = [link for batch in batches for link in batch.column("cert_link").to_pylist()]
    assert links == [f"{A.base_url}/{index}" for index in found]
