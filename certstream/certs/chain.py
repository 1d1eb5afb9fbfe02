"""Chains: the issuing certificates of an entry as JSON objects, each distinct one decoded once."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Final

from certstream.certs.columns import Certificates
from certstream.certs.memo import Table
from certstream.certs.message import chain_certificates
from certstream.ct.rfc6962 import split_chain
from certstream.ct.static_ct import split_fingerprints
from certstream.ct.types import EntryBatch

_TABLE_BYTES: Final = 16 << 20  # of each table; a few hundred issuers of 4 KB serve almost all entries
_LONGEST_CERTIFICATE: Final = 64 << 10  # bytes of DER; a longer chain certificate is named by its SHA-256 only


@dataclass(frozen=True, slots=True)
class Chain:
    """One distinct chain."""

    texts: tuple[bytes, ...]  # one JSON object per certificate, the issuer first
    json: bytes  # the same as a JSON array
    unresolved: int  # certificates of which only the SHA-256 is shown


class ChainTable:
    """Chains by their bytes, chain certificates by theirs; both bounded. May be used from several threads."""

    def __init__(self) -> None:
        self._certificates: Table[bytes] = Table(_TABLE_BYTES)
        self._of_der: Table[Chain] = Table(_TABLE_BYTES)  # rfc6962: by the certificates themselves
        self._of_hashes: Table[Chain] = Table(_TABLE_BYTES)  # static: by their fingerprints

    def of(self, batch: EntryBatch) -> list[Chain]:
        """The chain of each entry: of its first MAX_CHAIN certificates."""
        static = batch.log.kind == "static"
        keys = batch.chain.slices(batch.data)
        table = self._of_hashes if static else self._of_der
        distinct = dict.fromkeys(keys)
        found = {key: chain for key in distinct if (chain := table.get(key)) is not None}
        fresh = [key for key in distinct if key not in found]
        if fresh:
            built = self._of_fingerprints(fresh, batch.issuers) if static else self._of_certificates(fresh)
            found |= built
            for key, chain in built.items():
                if not chain.unresolved:
                    table.keep(key, chain, 2 * len(chain.json))
        return list(map(found.__getitem__, keys))

    def _of_certificates(self, keys: Iterable[bytes]) -> dict[bytes, Chain]:
        split = {key: split_chain(key) for key in keys}
        texts = self._decode({der for ders in split.values() for der in ders})
        return {
            key: _chain([texts.get(der) or unresolved_certificate(hashlib.sha256(der).digest()) for der in ders])
            for key, ders in split.items()
        }

    def _of_fingerprints(self, keys: Iterable[bytes], issuers: Mapping[bytes, bytes]) -> dict[bytes, Chain]:
        split = {key: split_fingerprints(key) for key in keys}
        wanted = {print_ for prints in split.values() for print_ in prints}
        texts = self._decode({issuers[print_] for print_ in wanted if print_ in issuers})
        shown = {p: (texts.get(issuers[p]) if p in issuers else None) or unresolved_certificate(p) for p in wanted}
        return {key: _chain([shown[print_] for print_ in prints]) for key, prints in split.items()}

    def _decode(self, ders: set[bytes]) -> dict[bytes, bytes]:
        """DER → JSON object of each certificate that is not too long; all new ones are decoded as one batch."""
        known = self._certificates
        texts = {der: text for der in ders if (text := known.get(der)) is not None}
        new = [der for der in ders if der not in texts and len(der) <= _LONGEST_CERTIFICATE]
        if new:
            decoded = chain_certificates(Certificates(new))
            for der, text in zip(new, decoded, strict=True):
                texts[der] = text
                known.keep(der, text, len(text))
        return texts


_UNRESOLVED: Final = b'{"sha256":"'


def unresolved_certificate(fingerprint: bytes) -> bytes:
    """The chain element of a certificate of which nothing but its SHA-256 is known or shown."""
    return b'%b%b"}' % (_UNRESOLVED, fingerprint.hex(":").upper().encode())


def _chain(texts: list[bytes]) -> Chain:
    unresolved = sum(text.startswith(_UNRESOLVED) for text in texts)
    return Chain(tuple(texts), b"[%b]" % b",".join(texts), unresolved)
