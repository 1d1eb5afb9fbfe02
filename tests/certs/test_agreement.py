"""The walk, the lenient reader and `cryptography` agree, and no certificate is read outside its bytes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from random import Random

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from certstream.certs.columns import Certificates
from certstream.certs.message import chain_certificates, domain_lists
from certstream.certs.times import NO_TIME
from certstream.simulator.certificates import (
    ATTRIBUTE_OIDS,
    alternative_names,
    attribute,
    basic_constraints,
    key_usage,
    name,
)
from certstream.simulator.der import BMP, IA5, PRINTABLE, T61, UNIVERSAL, UTF8, bits, context, time
from certstream.simulator.shapes import UNPARSEABLE, plain_leaf
from fuzz.agreement import assert_agrees_with_cryptography, assert_spans_inside, assert_walk_agrees_with_lenient
from fuzz.mutation import mutated, mutated_der
from fuzz.seeds import shaped

Decoder = Callable[[Sequence[bytes]], Certificates]


@pytest.mark.parametrize("seed", range(4))
def test_three_readers_agree_on_every_shape(decoded: Decoder, seed: int) -> None:
    shapes = shaped("agree", seed)
    certs = decoded(list(shapes.values()))
    assert_walk_agrees_with_lenient(certs)
    assert_spans_inside(certs)
    compared = dict(zip(shapes, assert_agrees_with_cryptography(certs, list(shapes.values())), strict=True))
    assert sum(count > 0 for count in compared.values()) > 30
    assert not any(compared[name] for name, _ in UNPARSEABLE)


def test_three_readers_agree_on_real_certificates(decoded: Decoder, real_certificates: list[bytes]) -> None:
    certs = decoded(real_certificates)
    assert_walk_agrees_with_lenient(certs)
    assert all(assert_agrees_with_cryptography(certs, real_certificates)[:80])


def test_ordinary_shapes_take_the_walk(decoded: Decoder) -> None:
    shapes = shaped("walk", 1)
    certs = decoded(list(shapes.values()))
    walked = {name for name, took in zip(shapes, certs.fields.walked, strict=True) if took}
    assert {"rsa-leaf", "ecdsa-leaf", "wildcard", "many-names", "idn", "organisation", "authority"} <= walked
    assert not walked & {"version-1", "same-extension-twice", *(name for name, _ in UNPARSEABLE)}


@st.composite
def certificates(draw: st.DrawFn) -> bytes:
    """A certificate of generated fields, most of them as the specification wants them."""
    draft = plain_leaf("generated", Random(draw(st.integers(0, 50))))
    draft.serial = draw(st.one_of(st.binary(min_size=1, max_size=24), st.just(bytes(3) + b"\x7f")))
    kinds = st.sampled_from(sorted(ATTRIBUTE_OIDS))
    tags = st.sampled_from([None, UTF8, PRINTABLE, T61, IA5, BMP, UNIVERSAL])
    attributes = draw(
        st.lists(st.tuples(kinds, st.one_of(st.text(max_size=12), st.binary(max_size=12)), tags), max_size=5)
    )
    draft.subject = name(*(attribute(kind, value, tag) for kind, value, tag in attributes))
    moments = st.datetimes(datetime(1950, 1, 1), datetime(9999, 12, 31)).map(lambda m: m.replace(tzinfo=UTC))  # noqa: DTZ001
    draft.not_before, draft.not_after = time(draw(moments)), time(draw(moments))
    tag_of_name = st.sampled_from([1, 2, 6, 7, 8])
    names = draw(st.lists(st.tuples(tag_of_name, st.binary(max_size=200)), max_size=12))
    assert draft.extensions is not None
    draft.extensions["names"] = alternative_names(*(context(tag, value) for tag, value in names))
    draft.extensions["key_usage"] = key_usage(bits(draw(st.binary(min_size=1, max_size=2)), draw(st.integers(0, 7))))
    draft.extensions["basic_constraints"] = basic_constraints(draw(st.booleans()), draw(st.none() | st.integers(0, 9)))
    shuffled = draw(st.permutations(sorted(draft.extensions)))
    kept = shuffled[: draw(st.integers(0, len(shuffled)))]
    draft.extensions = {key: draft.extensions[key] for key in kept}
    return draft.certificate(draft.tbs())


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(ders=st.lists(certificates(), min_size=1, max_size=4))
def test_three_readers_agree_on_generated_certificates(decoded: Decoder, ders: list[bytes]) -> None:
    certs = decoded(ders)
    assert_spans_inside(certs)
    assert_walk_agrees_with_lenient(certs)
    assert_agrees_with_cryptography(certs, ders)


def texts_of(certs: Certificates) -> list[tuple[bytes, bytes]]:
    return list(zip(chain_certificates(certs), domain_lists(certs), strict=True))


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(seed=st.integers(0, 2**32))
def test_mutations_read_the_same_alone_and_among_others(
    decoded: Decoder, real_certificates: list[bytes], seed: int
) -> None:
    """Neighbours differ, the result does not: nothing outside a certificate is read; and nothing raises."""
    random = Random(seed)
    sources = [*random.sample(real_certificates, 12), *random.sample(list(shaped("mutate", 0).values()), 12)]
    victims = [random.choice((mutated, mutated_der))(der, random) for der in sources]
    together = decoded(victims)
    assert_spans_inside(together)
    assert_walk_agrees_with_lenient(together)
    texts = texts_of(together)
    for row in random.sample(range(len(victims)), 4):
        among = Certificates([b"\xff" * 7, victims[row], b"\xa0" * random.randrange(70)])
        assert texts_of(among)[1] == texts[row]
    assert_agrees_with_cryptography(together, victims)


@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(blobs=st.lists(st.binary(max_size=300), max_size=8))
def test_arbitrary_bytes_give_a_row_each(decoded: Decoder, blobs: list[bytes]) -> None:
    certs = decoded(blobs)
    assert len(texts_of(certs)) == len(blobs)
    assert_spans_inside(certs)


def test_a_value_that_only_one_field_spoils_leaves_the_others(decoded: Decoder) -> None:
    shapes = shaped("spoil", 0)
    certs = decoded([shapes["utctime-nonsense"], shapes["broken-alternative-names"]])
    assert certs.fields.not_before[0] == NO_TIME
    assert certs.serial_number[0]
    assert certs.all_domains[0]
    assert certs.fields.not_before[1] != NO_TIME
    assert certs.common_name[1]
