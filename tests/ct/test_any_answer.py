"""Whatever a log or a list sends, the parsers of `ct` raise what they say, and prove nothing that does not hold."""

from __future__ import annotations

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from fuzz.targets import TARGETS
from tests.fuzz_support import inputs

NAMES = ("answer", "page", "checkpoint", "proof", "edge", "hash-tiles", "signature", "log-list", "url")


@pytest.mark.parametrize("name", NAMES)
@settings(max_examples=120, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(data=st.data())
def test_a_parser_bears_any_input(name: str, data: st.DataObject) -> None:
    TARGETS[name].check([data.draw(inputs(name))])
