"""The 20 archive columns as one Arrow record batch, built from byte buffers without an object per value.

The only module of `certs` that loads pyarrow; reach it through CertificateBatch.to_arrow.
"""

from __future__ import annotations

from collections.abc import Sequence, Sized
from datetime import UTC, datetime
from itertools import chain as flatten
from typing import TYPE_CHECKING, Final

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from certstream.certs.hexadecimal import colon_hex
from certstream.certs.times import NO_TIME
from certstream.ct.types import Int64Array

if TYPE_CHECKING:
    from certstream.certs.batch import CertificateBatch
    from certstream.certs.columns import Certificates

SCHEMA: Final = pa.schema(
    [
        ("cert_index", pa.int64()),
        ("update_type", pa.string()),
        ("seen", pa.timestamp("us", tz="UTC")),
        ("seen_date", pa.string()),  # YYYY-MM-DD UTC, the partition
        ("source_name", pa.string()),
        ("source_url", pa.string()),  # without trailing slash
        ("cert_link", pa.string()),
        ("serial_number", pa.string()),
        ("fingerprint", pa.string()),
        ("sha256", pa.string()),
        ("sha1", pa.string()),
        ("not_before", pa.int64()),  # Unix s
        ("not_after", pa.int64()),
        ("is_ca", pa.bool_()),
        ("signature_algorithm", pa.string()),
        ("subject_aggregated", pa.string()),
        ("issuer_aggregated", pa.string()),
        ("all_domains", pa.list_(pa.string())),
        ("as_der", pa.binary()),  # as submitted; of an unknown entry its leaf_input
        ("chain", pa.list_(pa.string())),  # one JSON object per certificate
    ]
)

_SHARED: Final = SCHEMA.set(
    SCHEMA.get_field_index("chain"), pa.field("chain", pa.list_(pa.dictionary(pa.int32(), pa.string())))
)


def record_batch(batch: CertificateBatch, *, shared_chains: bool = False) -> pa.RecordBatch:
    """One row per entry; null is what could not be read.

    With `shared_chains` the certificates in `chain` are dictionary-encoded: each distinct one once, not once per row.
    """
    certs, log = batch.certs, batch.log
    n = len(batch)
    seen = datetime.fromtimestamp(batch.seen_s, UTC)
    sha1 = _fixed(colon_hex(certs.sha1), 59, n)
    named = certs.fields.readable
    columns = [
        pa.array(np.arange(batch.start, batch.stop, dtype=np.int64)),
        _strings(batch.update_types),
        pa.array(np.full(n, round(batch.seen_s * 1_000_000), np.int64)).cast(pa.timestamp("us", tz="UTC")),
        _constant(seen.strftime("%Y-%m-%d").encode(), n),
        _constant(log.name.encode(), n),
        _constant(log.base_url.encode(), n),
        _strings(batch.cert_links),
        _optional_strings(certs.serial_number),
        sha1,
        _fixed(colon_hex(certs.sha256), 95, n),
        sha1,
        _times(certs.not_before),
        _times(certs.not_after),
        pa.array(np.array(certs.is_ca, np.bool_), mask=~named),
        _optional_strings(certs.signature_algorithm),
        _nullable(certs.subject_aggregated, certs.fields.subject.start >= 0),
        _nullable([issuer.aggregated for issuer in certs.issuer], certs.fields.issuer.start >= 0),
        _lists(certs.all_domains),
        _der(certs),
        _shared_chains(batch) if shared_chains else _chains(batch),
    ]
    return pa.RecordBatch.from_arrays(columns, schema=_SHARED if shared_chains else SCHEMA)


def _offsets(values: Sequence[Sized]) -> NDArray[np.int32]:
    """Where each value begins when they lie one after the other, and where the last one ends."""
    offsets = np.zeros(len(values) + 1, np.int64)
    np.cumsum(np.fromiter(map(len, values), np.int64, len(values)), out=offsets[1:])
    return _int32(offsets)


def _int32(offsets: Int64Array) -> NDArray[np.int32]:
    """Raises OverflowError where the last one is too large for a column."""
    if offsets[-1] > np.iinfo(np.int32).max:
        raise OverflowError("a column of one batch has more than 2 GiB")
    return offsets.astype(np.int32)


def _validity(present: NDArray[np.bool_]) -> pa.Buffer | None:
    return None if present.all() else pa.py_buffer(np.packbits(present, bitorder="little"))


def _variable(kind: pa.DataType, values: Sequence[bytes], validity: pa.Buffer | None = None) -> pa.Array:
    """Strings or binaries from one joined buffer."""
    offsets = _offsets(values)
    buffers = [validity, pa.py_buffer(offsets), pa.py_buffer(b"".join(values))]
    return pa.Array.from_buffers(kind, len(values), buffers)


def _strings(values: Sequence[bytes]) -> pa.Array:
    return _variable(pa.string(), values)


def _der(certs: Certificates) -> pa.Array:
    """The certificates as they lie in memory, without a copy."""
    offsets = _int32(np.concatenate([np.zeros(1, np.int64), certs.cert.stop]))
    return pa.Array.from_buffers(pa.binary(), len(certs), [None, pa.py_buffer(offsets), pa.py_buffer(certs.data)])


def _nullable(values: Sequence[bytes], present: NDArray[np.bool_]) -> pa.Array:
    return _variable(pa.string(), values, _validity(present))


def _optional_strings(values: Sequence[bytes | None]) -> pa.Array:
    present = np.array([value is not None for value in values], np.bool_)
    return _nullable([value or b"" for value in values], present)


def _fixed(text: bytes, width: int, n: int) -> pa.Array:
    """n strings of `width` bytes each, back to back in `text`."""
    offsets = np.arange(n + 1, dtype=np.int32) * width
    return pa.Array.from_buffers(pa.string(), n, [None, pa.py_buffer(offsets), pa.py_buffer(text)])


def _constant(value: bytes, n: int) -> pa.Array:
    return _fixed(value * n, len(value), n)


def _times(column: Int64Array) -> pa.Array:
    return pa.array(column, mask=column == NO_TIME)


def _lists(rows: Sequence[Sequence[bytes]]) -> pa.Array:
    offsets = pa.array(_offsets(rows))
    return pa.ListArray.from_arrays(offsets, _strings(list(flatten.from_iterable(rows))))


def _chains(batch: CertificateBatch) -> pa.Array:
    """Each distinct chain once, then taken by row."""
    distinct = {id(chain): chain for chain in batch.chain}
    place = {key: i for i, key in enumerate(distinct)}
    table = _lists([chain.texts for chain in distinct.values()])
    return table.take(pa.array([place[id(chain)] for chain in batch.chain], pa.int32()))


def _shared_chains(batch: CertificateBatch) -> pa.Array:
    """The same, each distinct certificate once: what is taken by row are its numbers."""
    chains = {id(chain): chain for chain in batch.chain}
    texts = {text: i for i, text in enumerate({text for chain in chains.values() for text in chain.texts})}
    numbers = {key: [texts[text] for text in chain.texts] for key, chain in chains.items()}
    rows = [numbers[id(chain)] for chain in batch.chain]
    values = pa.DictionaryArray.from_arrays(
        pa.array(list(flatten.from_iterable(rows)), pa.int32()), _strings(list(texts))
    )
    return pa.ListArray.from_arrays(pa.array(_offsets(rows)), values)
