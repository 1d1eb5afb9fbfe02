"""Rows become rows of a table's own types, whatever types its writers put into the files."""

from __future__ import annotations

import pyarrow as pa
import pytest

from certstream.archive.schema import NATIVE, TableFormat
from certstream.errors import TableError
from tests.archive.archive_support import reference_schema, rows, url

REFERENCE = TableFormat(reference_schema())
FORMATS = pytest.mark.parametrize("form", [NATIVE, REFERENCE], ids=["native", "reference"])
VIEWS = {pa.string(): pa.string_view(), pa.binary(): pa.binary_view()}
LARGE = {pa.string(): pa.large_string(), pa.binary(): pa.large_binary()}
ROWS = rows(url(), range(20))


def retyped(table: pa.Table, kinds: dict[pa.DataType, pa.DataType]) -> pa.Table:
    """The same values in other types of text and bytes, also in lists."""

    def retype(field: pa.Field) -> pa.Field:
        if pa.types.is_list(field.type):
            return field.with_type(pa.list_(kinds[field.type.value_type]))
        return field.with_type(kinds.get(field.type, field.type))

    columns = [column.cast(retype(field).type) for column, field in zip(table.columns, table.schema, strict=True)]
    return pa.Table.from_arrays(columns, names=table.column_names)


@FORMATS
@pytest.mark.parametrize("kinds", [VIEWS, LARGE], ids=["views", "large"])
def test_rows_of_a_file_in_other_types_are_the_same_rows(
    form: TableFormat, kinds: dict[pa.DataType, pa.DataType]
) -> None:
    wanted = form.conform(ROWS)
    declared = form.declared(retyped(wanted, kinds))
    assert declared.schema.types == form.file_schema.types
    assert form.conform(declared).equals(wanted)


@FORMATS
@pytest.mark.parametrize("kinds", [VIEWS, LARGE], ids=["views", "large"])
def test_base64_is_told_from_bytes_by_the_kind_of_type(
    form: TableFormat, kinds: dict[pa.DataType, pa.DataType]
) -> None:
    wanted = form.conform(ROWS).column("as_der")
    for other in (NATIVE, REFERENCE):
        ders = retyped(other.conform(ROWS).select(["as_der"]), kinds)
        given = ROWS.set_column(ROWS.schema.get_field_index("as_der"), "as_der", ders.column(0))
        assert form.conform(given).column("as_der").equals(wanted)


@FORMATS
def test_what_a_file_lacks_is_null_and_what_is_no_column_goes(form: TableFormat) -> None:
    given = form.conform(ROWS).drop_columns(["issuer_aggregated"]).append_column("other", pa.nulls(20))
    declared = form.declared(given)
    assert declared.column_names == form.file_schema.names
    assert declared.column("issuer_aggregated").null_count == 20


def test_a_file_that_holds_something_else_is_refused() -> None:
    place = ROWS.schema.get_field_index("cert_index")
    with pytest.raises(pa.ArrowInvalid):
        NATIVE.declared(ROWS.set_column(place, "cert_index", pa.array(["x"] * 20)))
    with pytest.raises(TableError, match="not base64"):
        NATIVE.conform(ROWS.set_column(ROWS.schema.get_field_index("as_der"), "as_der", pa.array(["?"] * 20)))
