"""Any entry, certificate or part of one is read: alone as among others, and as it is read one by one."""

from __future__ import annotations

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from fuzz.targets import TARGETS
from tests.fuzz_support import inputs


@pytest.mark.parametrize("name", ["certificate", "entry"])
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(data=st.data())
def test_some_together_read_as_each_alone(name: str, data: st.DataObject) -> None:
    TARGETS[name].check(data.draw(st.lists(inputs(name), min_size=1, max_size=6)))


@pytest.mark.parametrize("name", ["tile", "name", "value", "time"])
@settings(max_examples=120, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(data=st.data())
def test_a_reader_bears_any_input(name: str, data: st.DataObject) -> None:
    TARGETS[name].check([data.draw(inputs(name))])
