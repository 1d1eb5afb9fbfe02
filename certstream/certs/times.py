"""UTCTime and GeneralizedTime → Unix seconds, for whole columns and for single lenient values.

RFC 5280 §4.1.2.5: `YYMMDDHHMMSSZ` (years 1950 to 2049) and `YYYYMMDDHHMMSSZ`.
"""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta, timezone
from typing import Final

import numpy as np
from numpy.typing import NDArray

NO_TIME: Final = np.iinfo(np.int64).min  # in a column of Unix seconds: there is none, or it cannot be read
UTC_TIME, GENERALIZED_TIME = 0x17, 0x18  # tags
_MONTH_DAYS = np.array([0, 31, 28, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31, 0, 0, 0], np.int64)
_REST = rb"(\d{2})(\d{2})(\d{2})(\d{2})(\d{2})?(?:[.,]\d+)?(?:Z|([+-])(\d{2})(\d{2}))?"
_SHORT_YEAR = re.compile(rb"(\d{2})" + _REST)
_LONG_YEAR = re.compile(rb"(\d{4})" + _REST)


def read_times(
    octets: NDArray[np.uint8], tag: NDArray[np.int64], start: NDArray[np.int64], stop: NDArray[np.int64]
) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
    """Unix seconds of the times at [start, stop), and which rows hold a well-formed one."""
    short = tag == UTC_TIME
    good = np.where(short, stop - start == 13, (tag == GENERALIZED_TIME) & (stop - start == 15))
    at = np.where(short, start - 2, start)  # the digits of both forms then share their places
    text = octets[np.where(good, at, 0)[:, None] + np.arange(15)]
    digits = text[:, :14] - np.uint8(0x30)  # what is no digit is above 9
    digits[short, :2] = 0
    good &= (text[:, 14] == 0x5A) & (digits <= 9).all(axis=1)
    pairs = (digits[:, ::2] * np.uint8(10) + digits[:, 1::2]).T.astype(np.int64)
    century, year, month, day, hour, minute, second = pairs
    year = np.where(short, np.where(year < 50, 2000, 1900), century * 100) + year
    leap = (year % 4 == 0) & ((year % 100 != 0) | (year % 400 == 0))
    last_day = _MONTH_DAYS[month & 15] + (leap & (month == 2))
    good &= (year >= 1) & (month >= 1) & (month <= 12) & (day >= 1) & (day <= last_day)
    good &= (hour < 24) & (minute < 60) & (second < 60)
    seconds = _days_since_epoch(year, month, day) * 86400 + hour * 3600 + minute * 60 + second
    return np.where(good, seconds, NO_TIME), good


def _days_since_epoch(year: NDArray[np.int64], month: NDArray[np.int64], day: NDArray[np.int64]) -> NDArray[np.int64]:
    """Days since 1970-01-01 of proleptic Gregorian dates (Hinnant, "chrono-Compatible Low-Level Date Algorithms")."""
    year = year - (month <= 2)
    era = year // 400
    year_of_era = year - era * 400
    day_of_year = (153 * (month + np.where(month > 2, -3, 9)) + 2) // 5 + day - 1
    days: NDArray[np.int64] = (
        era * 146097 + year_of_era * 365 + year_of_era // 4 - year_of_era // 100 + day_of_year - 719468
    )
    return days


def read_lenient_time(tag: int, text: bytes) -> int | None:
    """Unix seconds of one time, also without zone (taken as UTC) or seconds, or with an offset; None if unreadable."""
    if tag not in (UTC_TIME, GENERALIZED_TIME):
        return None
    text = text.strip(b" \0")
    forms = (_SHORT_YEAR, _LONG_YEAR) if tag == UTC_TIME else (_LONG_YEAR, _SHORT_YEAR)
    matches = (form.fullmatch(text) for form in forms)
    moments = (_moment(match) for match in matches if match is not None)
    return next((moment for moment in moments if moment is not None), None)


def _moment(match: re.Match[bytes]) -> int | None:
    year_text, month, day, hour, minute, second, sign, offset_hours, offset_minutes = match.groups()
    year = int(year_text)
    if len(year_text) == 2:
        year += 2000 if year < 50 else 1900
    try:
        zone = _zone(sign, offset_hours, offset_minutes)
        moment = datetime(year, int(month), int(day), int(hour), int(minute), int(second or 0), tzinfo=zone)
        return int((moment - datetime(1970, 1, 1, tzinfo=UTC)).total_seconds())
    except (ValueError, OverflowError):
        return None


def _zone(sign: bytes | None, hours: bytes, minutes: bytes) -> timezone:
    if sign is None:
        return UTC
    offset = timedelta(hours=int(hours), minutes=int(minutes))
    return timezone(-offset if sign == b"-" else offset)
