from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from certstream.client.clock import Clock


@given(chance=st.floats(0, 1, exclude_max=True), failures=st.integers(1, 10_000))
def test_backoff_doubles_to_its_bound_and_is_shortened_by_half_at_most(chance: float, failures: int) -> None:
    delay_s = Clock(random=lambda: chance).backoff(failures, 1.0, 30.0)
    full_s = [1, 2, 4, 8, 16][failures - 1] if failures <= 5 else 30
    assert full_s / 2 <= delay_s <= full_s


def test_what_failed_together_does_not_come_back_together() -> None:
    clock = Clock()
    assert len({clock.backoff(4, 1.0, 30.0) for _ in range(20)}) > 1
