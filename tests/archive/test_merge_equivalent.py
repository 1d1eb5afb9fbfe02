"""A merge is MERGE INTO main USING staging … WHEN NOT MATCHED THEN INSERT *, as deltalake itself does it."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any, TypeAlias

import pyarrow as pa
import pytest
from deltalake import DeltaTable
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from certstream.archive.datafile import WriteSettings
from certstream.archive.merge import takeover
from certstream.archive.merge import tasks as merge_tasks
from certstream.archive.merge.merge import MergeResult
from certstream.archive.schema import KEY
from tests.archive.archive_support import committed_files, data_files, rows, url
from tests.archive.merge_support import fill, merge

Keys: TypeAlias = Sequence[tuple[int, int]]  # number of the log, index

INDICES = st.integers(0, 24)
SPAN = st.tuples(st.integers(0, 2), INDICES, st.integers(1, 12)).map(
    lambda span: [(span[0], index) for index in range(span[1], span[1] + span[2])]
)
SCATTERED = st.lists(st.tuples(st.integers(0, 2), INDICES), min_size=1, max_size=12)
FILE = st.one_of(SPAN, SCATTERED)


def table_of(keys: Keys, der: bytes, date: str) -> pa.Table:
    return pa.concat_tables([rows(url(log), [index], der=der, date=date) for log, index in keys])


def content(root: Path) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = DeltaTable(root).to_pyarrow_table().to_pylist()
    return sorted(found, key=lambda row: (row["source_url"], row["cert_index"]))


def merged_by_deltalake(main: Path, staging: Path) -> dict[str, Any]:
    """What its own merge makes of it; a key that stands in the source twice it would insert twice."""
    whole = DeltaTable(staging).to_pyarrow_table()
    first: dict[tuple[Any, ...], int] = {}
    for row, key in enumerate(zip(*(whole.column(name).to_pylist() for name in KEY), strict=True)):
        first.setdefault(key, row)
    merger = DeltaTable(main).merge(
        whole.take(pa.array(first.values(), pa.int64())),
        " AND ".join(f"target.{name} = source.{name}" for name in KEY),
        source_alias="source",
        target_alias="target",
    )
    return merger.when_not_matched_insert_all().execute()


@pytest.mark.parametrize("task_rows", [8, 51_200])
@settings(max_examples=20, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    held=st.lists(st.lists(st.tuples(st.integers(0, 2), INDICES), unique=True, min_size=1, max_size=25), max_size=2),
    staged=st.lists(st.tuples(FILE, st.sampled_from(["2026-11-22", "2026-11-23"])), min_size=1, max_size=5),
)
def test_any_two_tables_are_merged_as_deltalake_does(
    tmp_path_factory: pytest.TempPathFactory,
    monkeypatch: pytest.MonkeyPatch,
    task_rows: int,
    held: list[Keys],
    staged: list[tuple[Keys, str]],
) -> None:
    monkeypatch.setattr(merge_tasks, "_TASK_ROWS", task_rows)
    monkeypatch.setattr(takeover, "_RUN_ROWS", 4)
    directory = tmp_path_factory.mktemp("tables")
    main, staging, other = directory / "main", directory / "staging", directory / "other"
    seen: set[tuple[int, int]] = set()
    for keys in held:
        fresh = [key for key in keys if key not in seen]
        seen.update(fresh)
        if fresh:
            fill(main, table_of(fresh, b"main", "2026-11-23"))
    fill(main)
    fill(staging, *(table_of(keys, b"staged", date) for keys, date in staged), settings=WriteSettings(row_group_rows=3))
    shutil.copytree(main, other)
    expected = merged_by_deltalake(other, staging)
    total = sum(len(keys) for keys, _ in staged)
    inserted = int(expected["num_target_rows_inserted"])
    assert merge(main, staging, batch_rows=10) == MergeResult(inserted, total - inserted, total)
    assert without_date(content(main)) == without_date(content(other))
    assert data_files(main) == committed_files(main)


def without_date(found: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Which of two equal keys of different days is taken is open."""
    return [{name: value for name, value in row.items() if name not in ("seen", "seen_date")} for row in found]
