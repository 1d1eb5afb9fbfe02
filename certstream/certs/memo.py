"""A bounded table of values parsed once per distinct byte string."""

from __future__ import annotations

from collections.abc import Callable
from typing import Generic, TypeVar

T = TypeVar("T")


class Memo(dict[bytes, T], Generic[T]):
    """`memo[key]` is `parse(key)`, remembered.

    Issuer names, extension values and chains repeat: a few hundred distinct ones cover millions of
    entries. Bounded by `most` keys of at most `longest` bytes; at the bound the table starts again
    empty, longer keys are parsed anew each time. `parse` must not raise.
    """

    def __init__(self, parse: Callable[[bytes], T], *, most: int, longest: int = 16_384) -> None:
        super().__init__()
        self._parse = parse
        self._most = most
        self._longest = longest

    def __missing__(self, key: bytes) -> T:
        value = self._parse(key)
        if len(key) <= self._longest:
            if len(self) >= self._most:
                self.clear()
            self[key] = value
        return value
