"""Chains: the issuing certificates of an entry as JSON objects, each distinct one decoded once."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import numpy as np

from certstream.certs.columns import Certificates
from certstream.certs.message import chain_certificates
from certstream.ct.static_ct import HASH_BYTES
from certstream.ct.types import PADDING, EntryBatch, Spans

_MOST_CERTIFICATES = 4096  # about 2 KB of DER and JSON each
_MOST_CHAINS = 1024  # about 8 KB each


@dataclass(frozen=True, slots=True)
class Chain:
    """One distinct chain."""

    texts: tuple[bytes, ...]  # one JSON object per certificate, the issuer first
    json: bytes  # the same as a JSON array
    unresolved: int  # certificates of which only the SHA-256 is known


class ChainTable:
    """Chains by their bytes, chain certificates by theirs; both bounded, empty again at the bound.

    May be used from several threads: a lookup never relies on an earlier one.
    """

    def __init__(self) -> None:
        self._certificates: dict[bytes, bytes] = {}
        self._chains: dict[bytes, Chain] = {}

    def of(self, batch: EntryBatch) -> list[Chain]:
        """The chain of each entry."""
        data, static = batch.data, batch.log.kind == "static"
        keys = [data[a:b] for a, b in zip(batch.chain.start.tolist(), batch.chain.stop.tolist(), strict=True)]
        known = {key: self._chains.get(key) for key in set(keys)}
        fresh = [key for key, chain in known.items() if chain is None]
        if fresh:
            built = self._of_fingerprints(fresh, batch.issuers) if static else self._of_certificates(fresh)
            self._remember(built)
            known |= built
        return [known[key] for key in keys]  # type: ignore[misc]

    def _remember(self, built: Mapping[bytes, Chain]) -> None:
        if len(self._chains) + len(built) > _MOST_CHAINS:
            self._chains.clear()
        kept = list(built.items())[:_MOST_CHAINS]
        self._chains.update({key: chain for key, chain in kept if not chain.unresolved})

    def _of_certificates(self, keys: Iterable[bytes]) -> dict[bytes, Chain]:
        split = {key: split_chain(key) for key in keys}
        texts = self._decode({der for ders in split.values() for der in ders})
        return {key: _chain([texts[der] for der in ders], 0) for key, ders in split.items()}

    def _of_fingerprints(self, keys: Iterable[bytes], issuers: Mapping[bytes, bytes]) -> dict[bytes, Chain]:
        split = {key: [key[i : i + HASH_BYTES] for i in range(0, len(key), HASH_BYTES)] for key in keys}
        texts = self._decode({issuers[print_] for prints in split.values() for print_ in prints if print_ in issuers})
        return {
            key: _chain(
                [texts[issuers[p]] if p in issuers else unresolved_certificate(p) for p in prints],
                sum(p not in issuers for p in prints),
            )
            for key, prints in split.items()
        }

    def _decode(self, ders: set[bytes]) -> dict[bytes, bytes]:
        """DER → JSON object of each certificate; all new ones are decoded as one batch."""
        texts = {der: text for der in ders if (text := self._certificates.get(der)) is not None}
        new = [der for der in ders if der not in texts]
        if new:
            stop = np.cumsum([len(der) for der in new])
            start = np.concatenate([[0], stop[:-1]])
            decoded = chain_certificates(Certificates(b"".join([*new, PADDING]), Spans(start, stop)))
            fresh = dict(zip(new, decoded, strict=True))
            if len(self._certificates) + len(fresh) > _MOST_CERTIFICATES:
                self._certificates.clear()
            self._certificates.update(list(fresh.items())[:_MOST_CERTIFICATES])
            texts.update(fresh)
        return texts


def split_chain(chain: bytes) -> list[bytes]:
    """The certificates of `(u24 length || DER)*` (RFC 6962 §4.6), up to where the framing breaks."""
    found, pos = [], 0
    while pos + 3 <= len(chain):
        start = pos + 3
        pos = start + int.from_bytes(chain[pos:start])
        if pos > len(chain):
            break
        found.append(chain[start:pos])
    return found


def unresolved_certificate(fingerprint: bytes) -> bytes:
    """The chain element of a certificate of which the log gave nothing but its SHA-256."""
    return b'{"sha256":"%b"}' % fingerprint.hex(":").upper().encode()


def _chain(texts: list[bytes], unresolved: int) -> Chain:
    return Chain(tuple(texts), b"[%b]" % b",".join(texts), unresolved)
