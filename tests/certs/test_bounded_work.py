"""What a certificate costs, in steps and in memory, grows with its size and not faster, whatever it holds."""

from __future__ import annotations

from collections.abc import Callable
from random import Random
from typing import Any

import pytest

from certstream.certs.batch import decode
from certstream.certs.chain import ChainTable
from certstream.certs.extensions import IS_CA, MEMBERS
from certstream.certs.lenient import MOST_NAMES, MOST_PARTS
from certstream.certs.names import ISSUERS, SUBJECTS
from certstream.certs.precert import expected_tbs
from certstream.ct.rfc6962 import frame_entries
from certstream.simulator.certificates import POISON, alternative_names, attribute, dns_name, extension, name
from certstream.simulator.der import context, integer, oid, sequence, tlv
from certstream.simulator.shapes import plain_leaf
from fuzz.seeds import CLASSIC, framed
from tests.fuzz_support import peak_bytes, steps

KINDS = ("full", "lite", "domains")


def with_extension(listed: bytes) -> bytes:
    draft = plain_leaf("work", Random("work"))
    assert draft.extensions is not None
    draft.extensions["more"] = listed
    return draft.certificate(draft.tbs())


def with_subject(subject: bytes) -> bytes:
    draft = plain_leaf("work", Random("work"))
    draft.subject = subject
    return draft.certificate(draft.tbs())


def nested(count: int) -> bytes:
    found = b""
    for _ in range(count):
        found = sequence(found)
    return found


def long_serial(count: int) -> bytes:
    draft = plain_leaf("work", Random("work"))
    draft.serial = bytes(10 * count) + b"\x01"
    return draft.certificate(draft.tbs())


HOSTILE: dict[str, Callable[[int], bytes]] = {
    "nested sequences": lambda n: with_subject(nested(n)),
    "nested names": lambda n: with_extension(alternative_names(context(4, nested(n), constructed=True))),
    "empty names": lambda n: with_extension(alternative_names(*[dns_name("")] * n)),
    "many names": lambda n: with_extension(alternative_names(*[dns_name(f"{i}.example") for i in range(n)])),
    "the same name": lambda n: with_extension(alternative_names(*[dns_name("a.example")] * n)),
    "names that end in one of no kind": lambda n: with_extension(
        alternative_names(*[dns_name("a.example")] * n, b"\x13\x00")
    ),
    "alternative names again and again": lambda n: with_extension(
        alternative_names(*[dns_name("a.example")] * 3) * n
    ),
    "empty extensions": lambda n: with_extension(b"\x30\x00" * n),
    "unknown extensions": lambda n: with_extension(extension("1.2.3", b"x") * n),
    "poison": lambda n: with_extension(POISON * n),
    "attributes": lambda n: with_subject(name(*[attribute("O", "x")] * n)),
    "attributes in one set": lambda n: with_subject(sequence(tlv(0x31, *[attribute("CN", "x")] * n))),
    "broken attributes": lambda n: with_subject(sequence(*[b"\x31\x00"] * n)),
    "policies": lambda n: with_extension(extension("2.5.29.32", sequence(*[sequence(oid("1.2.3"))] * n))),
    "purposes": lambda n: with_extension(extension("2.5.29.37", sequence(*[oid("1.3.6.1.5.5.7.3.1")] * n))),
    "locations": lambda n: with_extension(
        extension("1.3.6.1.5.5.7.1.1", sequence(*[sequence(oid("1.2.3"), context(6, b"x"))] * n))
    ),
    "a long object identifier": lambda n: with_extension(
        extension("2.5.29.32", sequence(sequence(tlv(0x06, b"\xff" * (8 * n) + b"\x01"))))
    ),
    "integers": lambda n: sequence(sequence(*[integer(1)] * n)),
    "indefinite lengths": lambda n: b"\x30\x80" * n,
    "a long serial number": long_serial,
}  # fmt: skip


def read(der: bytes) -> None:
    """Everything that is made of an entry with that precertificate, nothing of which was seen before."""
    tables: list[dict[bytes, Any]] = [ISSUERS, SUBJECTS, IS_CA, *MEMBERS.values()]
    for table in tables:
        table.clear()
    leaf = bytes(10) + b"\x00\x01" + bytes(32) + framed([der]) + bytes(2)
    certs = decode(frame_entries(CLASSIC, 0, [leaf, framed([der, framed([der])])]), 1.0, ChainTable())
    for kind in KINDS:
        certs.messages(kind)  # type: ignore[arg-type]
    certs.to_arrow()
    certs.failures()
    expected_tbs(der, der)


@pytest.mark.parametrize("what", HOSTILE)
def test_steps_and_memory_grow_with_the_size(what: str) -> None:
    few, many = HOSTILE[what](400), HOSTILE[what](1_600)
    read(few)  # whatever is loaded the first time
    at_few, at_many = steps(lambda: read(few)), steps(lambda: read(many))
    assert at_many <= 8 * at_few  # four times as much, maybe the slow way; what grows with the square is at 16
    assert peak_bytes(lambda: read(many)) < (2 << 20) + 250 * len(many)


def test_beyond_the_bounds_nothing_is_read_at_all() -> None:
    at_most, more = (HOSTILE["attributes in one set"](count * MOST_PARTS) for count in (1, 40))
    assert steps(lambda: read(more)) < 1.5 * steps(lambda: read(at_most))
    names = HOSTILE["empty names"](20 * MOST_NAMES)
    assert peak_bytes(lambda: read(names)) < (8 << 20) + 40 * len(names)
