"""Rows made by hand, real tables to put them into, and what a table holds as deltalake itself reads it."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

import pyarrow as pa
from deltalake import DeltaTable

from certstream.archive.schema import PARTITION
from certstream.archive.sink.buffer import PackedRows
from certstream.certs.arrow import SCHEMA
from certstream.ct.types import LogInfo
from certstream.ledger import Ledger, ledger_beside

DATE: Final = "2026-11-23"


def url(number: int = 0) -> str:
    """The URL of a log, as `source_url` has it."""
    return f"https://log{number}.example/2026h2"


def rows(log_url: str, indices: Iterable[int], *, date: str = DATE, der: bytes = b"der") -> pa.Table:
    """Archive rows of those indices, in that order; every tenth did not parse."""
    seen = datetime.fromisoformat(date).replace(tzinfo=UTC)
    return pa.Table.from_pylist([_row(log_url, index, seen, date, der) for index in indices], schema=SCHEMA)


def many_rows(log_url: str, indices: Sequence[int]) -> pa.Table:
    """Rows of those indices that differ in nothing else: cheap to make."""
    block = rows(log_url, range(1_000))
    count = len(indices)
    table = pa.concat_tables([block] * -(-count // len(block))).slice(0, count).combine_chunks()
    return table.set_column(0, "cert_index", pa.array(indices, pa.int64()))


def _row(log_url: str, index: int, seen: datetime, date: str, der: bytes) -> dict[str, Any]:
    parsed = index % 10 != 9
    return {
        "cert_index": index,
        "update_type": "X509LogEntry",
        "seen": seen,
        PARTITION: date,
        "source_name": "log",
        "source_url": log_url,
        "cert_link": f"{log_url}/{index}",
        "serial_number": f"{index:X}" if parsed else None,
        "fingerprint": f"{index:040X}",
        "sha256": f"{index:064X}",
        "sha1": f"{index:040X}",
        "not_before": 1_700_000_000 + index if parsed else None,
        "not_after": 1_800_000_000 + index if parsed else None,
        "is_ca": False if parsed else None,
        "signature_algorithm": "sha256, ecdsa" if parsed else None,
        "subject_aggregated": f"/CN={index}.example" if parsed else None,
        "issuer_aggregated": "/CN=issuer" if parsed else None,
        "all_domains": [f"{index}.example"] if parsed else [],
        "as_der": der + str(index).encode(),
        "chain": ["{}"],
    }


def held(root: Path) -> dict[str, list[int]]:
    """The indices of each log in a table, sorted, doubled ones as often as they stand there."""
    table = pa.table(DeltaTable(root).to_pyarrow_table(columns=["source_url", "cert_index"]))
    found: dict[str, list[int]] = defaultdict(list)
    for log_url, index in zip(*(table.column(name).to_pylist() for name in table.column_names), strict=True):
        found[log_url].append(index)
    return {log_url: sorted(indices) for log_url, indices in found.items()}


def data_files(root: Path) -> set[str]:
    """Every Parquet file below a table, whether it is committed or not."""
    found = (path.relative_to(root) for path in root.rglob("*.parquet"))
    return {str(path) for path in found if not path.parts[0].startswith("_")}


def committed_files(root: Path) -> set[str]:
    """The files that the newest version of a table names."""
    return set(pa.table(DeltaTable(root).get_add_actions(flatten=True)).column("path").to_pylist())


def reference_schema() -> pa.Schema:
    """The columns of certstream-server-rust: ours in another order, none nullable, DER as base64."""
    fields = []
    for field in SCHEMA:
        kind = field.type
        if field.name == "as_der":
            kind = pa.string()
        elif pa.types.is_list(kind):
            kind = pa.list_(pa.field("element", pa.string(), nullable=False))
        fields.append(pa.field(field.name, kind, nullable=False))
    return pa.schema(fields[10:] + fields[:10])


def make_reference_table(root: Path) -> None:
    """An empty table with those columns."""
    DeltaTable.create(root, reference_schema(), partition_by=[PARTITION])


def log_info(number: int = 0) -> LogInfo:
    """The log of `url(number)`."""
    return LogInfo(f"log{number}", f"{url(number)}/", "static", "operator")


def packed(log: LogInfo, start: int, stop: int, *, date: str = DATE, der: bytes = b"der") -> PackedRows:
    """Rows of [start, stop) as the live sink takes them; every tenth did not parse."""
    (batch,) = rows(log.base_url, range(start, stop), date=date, der=der).to_batches()
    return PackedRows(log, start, stop, batch.serialize())


def ledger(root: Path) -> Ledger:
    """What is known of the rows of the table at `root`."""
    return Ledger(ledger_beside(root))
