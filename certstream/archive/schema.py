"""The columns of a table: those this program creates, and those of a table that is already there.

A new table has the 20 columns of certs.arrow.SCHEMA, nullable where something may be unreadable. A table that
certstream-server-rust wrote has the same columns, none of them nullable, and `as_der` as base64 in a string; it goes
on in its own types.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Final

import pyarrow as pa
import pyarrow.compute as pc
import pybase64

from certstream.certs.arrow import SCHEMA
from certstream.errors import TableError

PARTITION: Final = "seen_date"
KEY: Final = ("source_url", "cert_index")

_CHAIN: Final = "chain"
_DER: Final = "as_der"
# What stands for an unreadable value in a column that takes no null
_FILLS: Final = {pa.string(): "", pa.binary(): b"", pa.int64(): 0, pa.bool_(): False}


class TableFormat:
    """The columns of one table, and how rows become rows of it."""

    def __init__(self, schema: pa.Schema, partition_by: Sequence[str] = (PARTITION,)) -> None:
        """Take a table's schema. Raises TableError, naming each column that is not as it must be."""
        mistakes = list(_differences(schema))
        if tuple(partition_by) != (PARTITION,):
            mistakes.append(f"partitioned by {', '.join(partition_by) or 'nothing'}, must be by {PARTITION}")
        if mistakes:
            raise TableError("columns are not those of an archive: " + "; ".join(mistakes))
        self.schema = schema
        self.file_schema = pa.schema([field for field in schema if field.name != PARTITION])
        self.write_schema = pa.schema([_shared_field(field) for field in self.file_schema])

    def __eq__(self, other: object) -> bool:
        """Whether both have the same columns of the same types, in whatever order."""
        if not isinstance(other, TableFormat):
            return NotImplemented
        return {f.name: f for f in self.schema} == {f.name: f for f in other.schema}

    __hash__ = None  # type: ignore[assignment]

    def declared(self, rows: pa.Table) -> pa.Table:
        """Rows of a file of this table in the types that the table declares, without the partition's column.

        Files of others may say the same in other types, `string_view` say, or be older than a column, which is null
        then. Raises ArrowException where a file holds something else.
        """
        columns = [
            rows.column(field.name).cast(field.type)
            if field.name in rows.column_names
            else pa.nulls(len(rows), field.type)
            for field in self.file_schema
        ]
        return pa.Table.from_arrays(columns, names=self.file_schema.names)

    def conform(self, rows: pa.Table) -> pa.Table:
        """The rows as data files of this table hold them: without the partition's column, which the path says."""
        columns = [_conformed(rows.column(field.name), field) for field in self.file_schema]
        return pa.Table.from_arrays(columns, schema=self.file_schema)

    def conform_some(self, rows: pa.Table, names: Sequence[str]) -> pa.Table:
        """Some columns of the rows, likewise."""
        columns = [_conformed(rows.column(name), self.file_schema.field(name)) for name in names]
        return pa.Table.from_arrays(columns, names=list(names))

    def conform_to_write(self, rows: pa.Table) -> pa.Table:
        """The same with each distinct chain certificate once: `write_schema`, which becomes the same Parquet file.

        A certificate stands in the chains of thousands of rows, and is most of their bytes.
        """
        columns = [
            _shared(rows.column(field.name), self.write_schema.field(field.name))
            if field.name == _CHAIN
            else _conformed(rows.column(field.name), field)
            for field in self.file_schema
        ]
        return pa.Table.from_arrays(columns, schema=self.write_schema)


def _differences(schema: pa.Schema) -> Iterator[str]:
    for field in SCHEMA:
        places = schema.get_all_field_indices(field.name)
        if not places:
            yield f"{field.name} is missing"
        elif not any(_same(schema.field(places[0]).type, kind) for kind in _kinds(field)):
            kinds = " or ".join(str(kind) for kind in _kinds(field))
            yield f"{field.name} is {schema.field(places[0]).type}, must be {kinds}"
    for name in schema.names:
        if name not in SCHEMA.names:
            yield f"{name} is unknown"


def _kinds(field: pa.Field) -> tuple[pa.DataType, ...]:
    return (field.type, pa.string()) if field.name == _DER else (field.type,)


def _same(kind: pa.DataType, wanted: pa.DataType) -> bool:
    """Equal but for what the elements of a list are called and whether they may be null."""
    if pa.types.is_list(wanted):
        return pa.types.is_list(kind) and bool(kind.value_type == wanted.value_type)
    return bool(kind == wanted)


def _shared_field(field: pa.Field) -> pa.Field:
    if field.name != _CHAIN:
        return field
    element = field.type.value_field
    return field.with_type(pa.list_(element.with_type(pa.dictionary(pa.int32(), element.type))))


def _shared(column: pa.ChunkedArray, field: pa.Field) -> pa.Array:
    """A list column with its values as one dictionary: of several, the Parquet writer would use none."""
    if column.null_count and not field.nullable:
        column = _without_nulls(column)
    lists = column.combine_chunks()
    first, last = (lists.offsets[at].as_py() for at in (0, -1))  # of a slice, only what it holds
    values = lists.values.slice(first, last - first)
    if not pa.types.is_dictionary(values.type):
        values = values.dictionary_encode()
    mask = lists.is_null() if lists.null_count else None
    return pa.ListArray.from_arrays(pc.subtract(lists.offsets, first), values, type=field.type, mask=mask)


def _conformed(column: pa.ChunkedArray, field: pa.Field) -> pa.ChunkedArray:
    if field.name == _DER and _is_text(column.type) != _is_text(field.type):
        convert = _to_base64 if _is_text(field.type) else _from_base64
        column = pa.chunked_array([convert(chunk) for chunk in column.chunks], field.type)
    if not field.nullable and column.null_count:
        column = _without_nulls(column)
    return column if column.type == field.type else column.cast(field.type)


def _is_text(kind: pa.DataType) -> bool:
    return bool(pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind))


def _without_nulls(column: pa.ChunkedArray) -> pa.ChunkedArray:
    if pa.types.is_list(column.type):
        return pc.if_else(column.is_valid(), column, pa.scalar([], column.type))
    return pc.fill_null(column, pa.scalar(_FILLS.get(column.type, 0), column.type))


def _to_base64(column: pa.Array) -> pa.Array:
    return pa.array([None if der is None else pybase64.b64encode(der).decode() for der in column.to_pylist()])


def _from_base64(column: pa.Array) -> pa.Array:
    """Raises TableError for text that is not base64."""
    try:
        ders = [None if text is None else pybase64.b64decode(text, validate=True) for text in column.to_pylist()]
    except ValueError as exc:
        raise TableError(f"{_DER} of a row is not base64: {exc}") from exc
    return pa.array(ders, pa.binary())


NATIVE: Final = TableFormat(SCHEMA)  # of the tables that this program creates
