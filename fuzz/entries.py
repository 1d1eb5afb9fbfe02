"""Entries from entries, whose framing holds as a rule: what is changed is the certificate in them."""

from __future__ import annotations

from random import Random

from certstream.certs.precert import expected_tbs
from certstream.ct.tls import Reader
from certstream.ct.types import HASH_BYTES, PRECERT_ENTRY
from certstream.errors import MalformedError
from fuzz.mutation import mutated, mutated_der
from fuzz.seeds import framed, unframed


def mutated_entry(data: bytes, random: Random) -> bytes:
    """Another leaf_input and extra_data, as `framed` writes them."""
    leaf, extra = [*unframed(data, 2), b"", b""][:2]
    match random.randrange(6):
        case 0:
            return mutated(data, random)
        case 1:
            return framed((mutated(leaf, random), extra))
        case 2:
            return framed((leaf, mutated(extra, random)))
        case _:
            return framed(_changed(leaf, extra, random))


def _changed(leaf: bytes, extra: bytes, random: Random) -> tuple[bytes, bytes]:
    """Another certificate, or another precertificate and, mostly, what its leaf holds then."""
    reader, more = Reader(leaf), Reader(extra)
    try:
        head = reader.take(12)
        precert = int.from_bytes(head[10:]) == PRECERT_ENTRY
        key_hash = reader.take(HASH_BYTES if precert else 0)
        held = reader.vector(3)
        extensions = reader.take(reader.left)
        der = mutated_der(more.vector(3) if precert else held, random)
        chain = more.vector(3)
    except MalformedError:
        return mutated(leaf, random), extra
    if not precert:
        return head + framed([der]) + extensions, extra
    issuers = unframed(chain, 4)
    if issuers and random.randrange(3) == 0:
        issuers[0] = mutated_der(issuers[0], random)
    if random.randrange(4):
        held = expected_tbs(der, issuers[0] if issuers else None) or held
    return head + key_hash + framed([held]) + extensions, framed([der, framed(issuers)])


def mutated_tile(data: bytes, random: Random) -> bytes:
    """Another data tile: its leaves in another order, changed or not."""
    at = random.randrange(len(data) + 1)
    return mutated(data[at:] + data[:at] if random.randrange(8) == 0 else data, random)
