"""Bounded tables of values that are worth keeping because their keys come again."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final, Generic, TypeVar

T = TypeVar("T")

_OVERHEAD_BYTES: Final = 256  # of a key and a value, beside their bytes
_LARGEST_SHARE: Final = 64  # a value above this part of the bound is not kept


class Table(dict[bytes, T], Generic[T]):
    """Values by key, kept by `keep`.

    Bounded by `most_bytes` of keys and values: at the bound the table starts again empty; what alone is above a
    64th of it is not kept. May be used from several threads: a lookup never relies on an earlier one.
    """

    def __init__(self, most_bytes: int) -> None:
        super().__init__()
        self._most_bytes = most_bytes
        self._bytes = 0

    def keep(self, key: bytes, value: T, size_bytes: int) -> None:
        """Keep a value; `size_bytes` is what it takes itself."""
        size = len(key) + size_bytes + _OVERHEAD_BYTES
        if size * _LARGEST_SHARE > self._most_bytes:
            return
        if self._bytes + size > self._most_bytes:
            self.clear()
            self._bytes = 0
        self._bytes += size
        self[key] = value


class Memo(Table[T]):
    """`memo[key]` is `parse(key)`, kept. `size` gives the bytes of a value; `parse` must not raise.

    Issuer names, extension values and chains repeat: a few hundred distinct ones cover millions of entries.
    """

    def __init__(self, parse: Callable[[bytes], T], size: Callable[[T], int], *, most_bytes: int) -> None:
        super().__init__(most_bytes)
        self._parse = parse
        self._size = size

    def __missing__(self, key: bytes) -> T:
        value = self._parse(key)
        self.keep(key, value, self._size(value))
        return value
