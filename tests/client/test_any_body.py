"""Whatever comes over HTTP or stands in a file that is kept, reading it raises what it says and nothing else."""

from __future__ import annotations

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from fuzz.targets import TARGETS
from tests.fuzz_support import inputs

NAMES = ("body", "pages", "retry-after", "kept-list", "state", "ledger")


@pytest.mark.parametrize("name", NAMES)
@settings(max_examples=120, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(data=st.data())
def test_what_is_read_bears_any_input(name: str, data: st.DataObject) -> None:
    TARGETS[name].check([data.draw(inputs(name))])
