"""Times of certificates, by column and one by one."""

from __future__ import annotations

from datetime import UTC, datetime

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from certstream.certs.times import NO_TIME, read_lenient_time, read_times
from certstream.ct.types import PADDING


def by_column(tag: int, text: bytes) -> int:
    octets = np.frombuffer(b"\0\0\0\0" + text + PADDING, np.uint8)
    start = np.array([4], np.int64)
    value, good = read_times(octets, np.array([tag], np.int64), start, start + len(text))
    assert bool(good[0]) == (value[0] != NO_TIME)
    return int(value[0])


@given(st.datetimes(datetime(1, 1, 1), datetime(9999, 12, 31, 23, 59, 59)))  # noqa: DTZ001 - made aware below
def test_every_generalized_time_is_read(moment: datetime) -> None:
    moment = moment.replace(microsecond=0, tzinfo=UTC)
    text = f"{moment.year:04d}{moment:%m%d%H%M%S}Z".encode()
    expected = int((moment - datetime(1970, 1, 1, tzinfo=UTC)).total_seconds())
    assert by_column(0x18, text) == expected
    assert read_lenient_time(0x18, text) == expected


@pytest.mark.parametrize(("year", "century"), [("49", 2000), ("50", 1900), ("99", 1900), ("00", 2000)])
def test_utc_time_years_pivot_at_1950(year: str, century: int) -> None:
    expected = int(datetime(century + int(year), 6, 1, tzinfo=UTC).timestamp())
    assert by_column(0x17, f"{year}0601000000Z".encode()) == expected
    assert read_lenient_time(0x17, f"{year}0601000000Z".encode()) == expected


@pytest.mark.parametrize(
    "text",
    [b"260230000000Z", b"261301000000Z", b"260100000000Z", b"260101240000Z", b"260101006000Z", b"260101000060Z",
     b"26010100000 Z", b"2601010000000", b"260101000000", b"", b"Z", b"20260101000000Z"],
)  # fmt: skip
def test_what_is_no_utc_time_is_not_read_by_the_column(text: bytes) -> None:
    assert by_column(0x17, text) == NO_TIME


@pytest.mark.parametrize(
    "text", [b"260230000000Z", b"26\xd9\xa1\xd9\xa101000000Z", b"nonsense", b"", b"99999999999999Z"]
)
def test_nonsense_is_none(text: bytes) -> None:
    assert read_lenient_time(0x17, text) is None


def test_other_tags_hold_no_time() -> None:
    assert read_lenient_time(0x04, b"260101000000Z") is None
    assert by_column(0x04, b"260101000000Z") == NO_TIME


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (b"260301000000", 1772323200),
        (b"2603010000Z", 1772323200),
        (b"260301010000+0100", 1772323200),
        (b"260228230000-0100", 1772323200),
        (b"20260301000000Z", 1772323200),
        (b"202603010000Z", 1772323200),
    ],
)
def test_lenient_forms(text: bytes, expected: int) -> None:
    assert read_lenient_time(0x17, text) == expected
