"""A decoded batch: raw entries of one log → stream messages and archive columns."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Final, Literal, TypeAlias

import numpy as np
import pybase64
from numpy.typing import NDArray

from certstream.certs.chain import Chain, ChainTable
from certstream.certs.columns import Certificates
from certstream.certs.lazy import lazy
from certstream.certs.message import domain_lists, extension_objects, json_numbers, leaf_heads
from certstream.certs.precert import altered_precertificates
from certstream.certs.strings import json_string
from certstream.ct.rfc6962 import split_chain
from certstream.ct.static_ct import data_tile_path, split_fingerprints
from certstream.ct.types import (
    PRECERT_ENTRY,
    TILE_WIDTH,
    UNKNOWN_ENTRY,
    X509_ENTRY,
    EntryBatch,
    check_consecutive,
)  # fmt: skip

if TYPE_CHECKING:
    import pyarrow as pa

StreamKind: TypeAlias = Literal["full", "lite", "domains"]

UPDATE_TYPES: Final = {X509_ENTRY: b"X509LogEntry", PRECERT_ENTRY: b"PrecertLogEntry", UNKNOWN_ENTRY: b"Unknown"}
_CHAINS = ChainTable()
_JOIN = b"".join


def decode(batch: EntryBatch, seen_s: float, chains: ChainTable = _CHAINS) -> CertificateBatch:
    """Decode every certificate of a batch; never raises for what an entry holds.

    `seen_s` is when this server saw the entries, Unix seconds.
    """
    return CertificateBatch([batch], seen_s, chains)


def decode_together(batches: Sequence[EntryBatch], seen_s: float, chains: ChainTable = _CHAINS) -> CertificateBatch:
    """Likewise consecutive batches of one log, at least one, as one; each batch has a cost of its own."""
    check_consecutive(batches)
    return CertificateBatch(batches, seen_s, chains)


class CertificateBatch:
    """n decoded entries of one log, in order; rows are 0 to n - 1."""

    def __init__(self, batches: Sequence[EntryBatch], seen_s: float, chains: ChainTable) -> None:
        self.log = batches[0].log
        self.start = batches[0].start  # index of the first entry
        self.stop = batches[-1].stop
        self.timestamp_ms = np.concatenate([batch.timestamp_ms for batch in batches])
        self.entry_type = np.concatenate([batch.entry_type for batch in batches])
        self.seen_s = seen_s
        self.certs = Certificates([der for batch in batches for der in batch.cert.slices(batch.data)])
        self._batches = batches
        self._chain_table = chains

    def __len__(self) -> int:
        return self.stop - self.start

    @property
    def sha256(self) -> NDArray[np.uint8]:
        """(n, 32): SHA-256 of each certificate as submitted."""
        return self.certs.sha256

    def failures(self) -> Counter[str]:
        """Values that could not be read, see Certificates.failures; `chain`: chain certificates not resolved.

        Chains are counted once a message or a row has asked for them.
        """
        failures = self.certs.failures()
        if "chain" in self.__dict__:
            failures["chain"] += sum(chain.unresolved for chain in self.chain)
        return +failures

    def altered_precertificates(self) -> list[int]:
        """Rows whose precertificate is not the one that its log's hash covers, see certs.precert."""
        return altered_precertificates(self._batches, self.certs, self.issuer_der)

    def issuer_der(self, row: int) -> bytes | None:
        """The first certificate of a row's chain, None where there is none or only its SHA-256 is known."""
        batch = next(each for each in self._batches if self.start + row < each.stop)
        at = self.start + row - batch.start
        chain = batch.data[batch.chain.start[at] : batch.chain.stop[at]]
        if batch.log.kind == "static":
            return next((batch.issuers.get(each) for each in split_fingerprints(chain)), None)
        return next(iter(split_chain(chain)), None)

    def leaf(self, row: int) -> bytes:
        """What the hash of a row's leaf is that of."""
        batch = next(each for each in self._batches if self.start + row < each.stop)
        at = self.start + row - batch.start
        return batch.leaf_prefix + batch.data[batch.leaf.start[at] : batch.leaf.stop[at]]

    def messages(self, kind: StreamKind, rows: Iterable[int] | None = None) -> list[bytes]:
        """The messages of a stream as JSON, of all rows or of `rows`; the domains stream has none for a row without."""
        chosen = range(len(self)) if rows is None else rows
        if kind == "lite":
            heads, objects, tails = self._heads, self._extensions, self._tails
            return [_JOIN((heads[i], b',"extensions":', objects[i], b"}", tails[i])) for i in chosen]
        if kind == "full":
            return self._full_messages(chosen)
        domains = self._domains
        return [b'{"message_type":"dns_entries","data":%b}' % domains[i] for i in chosen if domains[i] != b"[]"]

    def _full_messages(self, rows: Iterable[int]) -> list[bytes]:
        heads, objects, tails, chain = self._heads, self._extensions, self._tails, self.chain
        ders, encode = self.certs.ders, pybase64.b64encode
        return [
            _JOIN(
                (heads[i], b',"as_der":"', encode(ders[i]), b'","extensions":', objects[i],
                 b'},"chain":', chain[i].json, tails[i])
            )
            for i in rows
        ]  # fmt: skip

    @lazy
    def chain(self) -> list[Chain]:
        """The chain of each entry."""
        return [chain for batch in self._batches for chain in self._chain_table.of(batch)]

    @lazy
    def update_types(self) -> list[bytes]:
        """`X509LogEntry`, `PrecertLogEntry` or `Unknown`."""
        return [UPDATE_TYPES[kind] for kind in self.entry_type.tolist()]

    @lazy
    def cert_links(self) -> list[bytes]:
        """Where the log serves each entry; of a static log always the full data tile."""
        base, start, stop = self.log.base_url.encode(), self.start, self.stop
        if self.log.kind == "rfc6962":
            head = base + b"/ct/v1/get-entries?start="
            return [b"%b%d&end=%d" % (head, i, i) for i in range(start, stop)]
        first = start // TILE_WIDTH
        tiles = range(first, -(-stop // TILE_WIDTH))
        links = [base + b"/" + data_tile_path(tile).encode() for tile in tiles]
        return [links[i // TILE_WIDTH - first] for i in range(start, stop)]

    @lazy
    def _domains(self) -> list[bytes]:
        return domain_lists(self.certs)

    @lazy
    def _extensions(self) -> list[bytes]:
        return extension_objects(self.certs, (self.entry_type == PRECERT_ENTRY).tolist())

    @lazy
    def _heads(self) -> list[bytes]:
        """From the beginning of the message to all_domains."""
        return [
            _JOIN((b'{"message_type":"certificate_update","data":{"update_type":"', kind,
                   b'","leaf_cert":', head, b',"all_domains":', domains))
            for kind, head, domains in zip(self.update_types, leaf_heads(self.certs), self._domains, strict=True)
        ]  # fmt: skip

    @lazy
    def _tails(self) -> list[bytes]:
        """From cert_index to the end of the message."""
        log = self.log
        submitted = json_numbers((self.timestamp_ms / 1000).tolist())
        seen = b'","seen":%b,"submission_timestamp":' % json_numbers([self.seen_s])[0]
        source = b',"source":{"name":%b,"url":%b}}}' % (json_string(log.name), json_string(log.url))
        links = self.cert_links
        if not log.base_url.isascii() or '"' in log.base_url or "\\" in log.base_url:
            links = [json_string(link.decode())[1:-1] for link in links]
        return [
            _JOIN((b',"cert_index":%d,"cert_link":"' % index, link, seen, stamp, source))
            for index, link, stamp in zip(range(self.start, self.stop), links, submitted, strict=True)
        ]

    def to_arrow(self, *, shared_chains: bool = False) -> pa.RecordBatch:
        """The 20 archive columns of all rows (certs.arrow.SCHEMA).

        With `shared_chains` the certificates in `chain` are dictionary-encoded, which is half the bytes.
        """
        from certstream.certs.arrow import record_batch  # streaming alone loads no pyarrow

        return record_batch(self, shared_chains=shared_chains)
