"""What one commit of the sink makes of the rows that wait."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from certstream.archive.flush import distinct_rows
from certstream.intervals import Intervals
from tests.archive.archive_support import log_info, packed

A = log_info()
SPANS = st.lists(st.tuples(st.integers(0, 30), st.integers(1, 8)).map(lambda span: (span[0], sum(span))), max_size=6)


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
