"""What is kept of tokens, and what a look-up costs."""

from __future__ import annotations

import hashlib
import timeit

from hypothesis import given
from hypothesis import strategies as st

from certstream.serve.access import TIERS, Tier, TokenDigests


def of_many(count: int) -> TokenDigests:
    return TokenDigests.of((f"token-{number}", "free") for number in range(count))


def test_a_token_in_several_places_has_its_highest_tier() -> None:
    pairs: list[tuple[str, Tier]] = [("a", "premium"), ("a", "free"), ("b", "standard"), ("b", "free")]
    tokens = TokenDigests.of(pairs)
    assert [tokens.tier(token) for token in ("a", "b", "c")] == ["premium", "standard", None]
    assert tokens == TokenDigests.of(reversed(pairs))
    assert tokens != TokenDigests.of([("a", "premium"), ("b", "free")])


@given(st.dictionaries(st.text(st.characters(codec="ascii"), min_size=1), st.sampled_from(TIERS)), st.text())
def test_a_token_lets_in_only_as_a_whole(tiers: dict[str, Tier], sent: str) -> None:
    tokens = TokenDigests.of(tiers.items())
    assert all(tokens.tier(token) == tier for token, tier in tiers.items())
    assert TokenDigests.of([("token", "free")]).tier(sent) == ("free" if sent == "token" else None)


def test_nothing_that_a_client_could_compute_is_compared() -> None:
    (digest,) = TokenDigests.of([("token", "free")]).tiers
    unkeyed = (hashlib.sha256(b"token"), hashlib.blake2b(b"token", digest_size=32))
    assert digest not in (b"token", *(known.digest() for known in unkeyed))


def test_a_look_up_costs_the_same_however_many_tokens_there_are() -> None:
    def cost_s(tokens: TokenDigests) -> float:
        return min(timeit.repeat(lambda: tokens.tier("guessed"), number=20, repeat=20))

    assert cost_s(of_many(20_000)) < 10 * cost_s(of_many(1))
