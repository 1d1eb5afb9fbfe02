"""Inputs made from the seeds of a target, and what it costs to read one."""

from __future__ import annotations

import sys
import tracemalloc
from collections.abc import Callable
from functools import cache
from random import Random
from types import FrameType
from typing import Any

from hypothesis import strategies as st

from fuzz.targets import TARGETS


@cache
def _seeds(name: str) -> list[bytes]:
    return list(TARGETS[name].seeds())


def inputs(name: str) -> st.SearchStrategy[bytes]:
    """Any bytes, and the seeds of a target changed here and there."""
    target = TARGETS[name]

    def change(data: bytes, seed: int) -> bytes:
        return target.mutate(data, Random(seed))

    return st.one_of(st.builds(change, st.sampled_from(_seeds(name)), st.integers(0, 2**32)), st.binary(max_size=300))


def steps(call: Callable[[], Any]) -> int:
    """How many lines of this program run in a call, on whatever machine."""
    count = 0

    def trace(frame: FrameType, event: str, arg: Any) -> Any:
        nonlocal count
        count += event == "line"
        return trace

    before = sys.gettrace()
    sys.settrace(trace)
    try:
        call()
    finally:
        sys.settrace(before)
    return count


def peak_bytes(call: Callable[[], Any]) -> int:
    """How much memory a call takes at most."""
    tracemalloc.start()
    try:
        call()
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
