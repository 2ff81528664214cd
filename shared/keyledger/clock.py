"""The only place that reads the time.

Wall time is UTC microseconds since the Unix epoch (`int`), the unit of the log. Durations are measured
on clocks that no one can set; freshness on the one that also counts while the machine is suspended.
"""

from __future__ import annotations

import re
import time
from datetime import UTC, datetime, timedelta
from typing import Protocol

SECOND = 1_000_000
stopwatch = time.perf_counter
"""Seconds from any beginning, for the length of a moment: the cheapest clock there is."""
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_FIRST, _LAST = -62_135_596_800_000_000, 253_402_300_799_999_999
_RFC3339 = re.compile(r"\d{4}-\d\d-\d\d[Tt]\d\d:\d\d:\d\d(?:\.\d{1,9})?(?:[Zz]|[+-]\d\d:\d\d)", re.ASCII)
_SUSPEND_COUNTING = getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC)


class Clock(Protocol):
    """What the services know of time."""

    def now(self) -> int:
        """Wall time in µs since the Unix epoch."""
        ...

    def steady(self) -> float:
        """Seconds on a clock that never goes back and counts while the machine is suspended."""
        ...


class SystemClock:
    """The machine's clocks."""

    def now(self) -> int:
        return time.time_ns() // 1000

    def steady(self) -> float:
        return time.clock_gettime(_SUSPEND_COUNTING)


def rfc3339(micros: int) -> str:
    """`micros` as RFC 3339 UTC with `Z`; the fraction is there only when it is not zero."""
    text = (_EPOCH + timedelta(microseconds=micros)).strftime("%Y-%m-%dT%H:%M:%S")
    fraction = micros % SECOND
    # strftime does not pad years below 1000 on every libc
    return f"{text.rjust(19, '0')}.{fraction:06d}Z" if fraction else f"{text.rjust(19, '0')}Z"


def parse_rfc3339(text: str) -> int:
    """Microseconds of an RFC 3339 time; digits beyond the microsecond are cut off.

    Raises `ValueError` for anything else, a time without an offset included.
    """
    if _RFC3339.fullmatch(text) is None:
        raise ValueError("not an RFC 3339 time with an offset")
    cut = re.sub(r"(\.\d{6})\d+", r"\1", text.upper().replace("Z", "+00:00"))
    micros = (datetime.fromisoformat(cut) - _EPOCH) // timedelta(microseconds=1)
    if not _FIRST <= micros <= _LAST:
        # an offset can lead out of what UTC can write
        raise ValueError("outside the years 1 to 9999")
    return micros
