"""Periods of time cut into buckets; a bucket is a UTC minute, hour or day, named by its start in µs.

Or one that is not cut: the total of all its minutes is put together from the days and hours that it holds
whole and from the minutes at its edges.
"""

from __future__ import annotations

from typing import Literal, TypeAlias

from msgspec import Struct

from keyledger.errors import invalid_request

Granularity: TypeAlias = Literal["minute", "hour", "day"]
"""What is counted."""
Resolution: TypeAlias = Literal["minute", "hour", "day", "total"]
"""What can be asked for."""

MINUTE = 60_000_000
SIZES: dict[Granularity, int] = {"minute": MINUTE, "hour": 60 * MINUTE, "day": 1440 * MINUTE}
"""The length of each bucket in µs. UTC has no daylight saving, so every day is as long as the next."""
STEPS: dict[Resolution, int] = {**SIZES, "total": MINUTE}
"""What a period's start is a multiple of, in µs."""
DEFAULT_LENGTH = SIZES["day"]


class Period(Struct, frozen=True):
    """The buckets whose start lies in `start` (inclusive) to `end` (exclusive), both in µs.

    `start` is the start of a bucket; `end` need not be one. A total is of the minutes, told at `start`.
    """

    start: int
    end: int
    granularity: Resolution

    @property
    def buckets(self) -> int:
        """How many buckets the period has, used or not."""
        if self.granularity == "total":
            return 1
        size = SIZES[self.granularity]
        return -((self.start - self.end) // size)

    @property
    def cuts(self) -> tuple[int, int, int, int, int, int]:
        """Where a total's minutes, hours, days, hours and minutes begin, in this order, and its end."""
        end = _up(self.end, MINUTE)
        hours, last_hour = _up(self.start, SIZES["hour"]), bucket_of(end, "hour")
        if hours > last_hour:
            return self.start, end, end, end, end, end
        days, last_day = _up(self.start, SIZES["day"]), bucket_of(end, "day")
        if days > last_day:
            days = last_day = last_hour
        return self.start, hours, days, last_day, last_hour, end

    @property
    def pieces(self) -> tuple[tuple[Granularity, int, int], ...]:
        """The counters that are summed: of which granularity, from where, to where (exclusive)."""
        if self.granularity != "total":
            return ((self.granularity, self.start, self.end),)
        cuts = self.cuts
        return tuple(
            (size, first, last)
            for size, first, last in zip(PIECES, cuts[:-1], cuts[1:], strict=True)
            if first < last
        )


PIECES: tuple[Granularity, ...] = ("minute", "hour", "day", "hour", "minute")
"""Of which granularity the counters of a total are, cut by cut."""


def bucket_of(at: int, granularity: Granularity) -> int:
    """The start of the bucket that `at` lies in, both in µs."""
    return at - at % SIZES[granularity]


def period_of(start: int | None, end: int | None, granularity: Resolution, *, now: int) -> Period:
    """The period a caller asked for; by default the 24 hours before its end, the current bucket included.

    A start inside a bucket means that whole bucket. `Refusal` when nothing can lie between the two.
    """
    step = STEPS[granularity]
    last = now - now % step + step if end is None else end
    # without an end the 24 hours are counted from now, and the bucket that is still filling comes besides
    first = (now if end is None else last) - DEFAULT_LENGTH if start is None else start
    if first >= last:
        field = "from" if end is None else "to"
        raise invalid_request("The period's end must be later than its start.", field=field)
    return Period(first - first % step, last, granularity)


def _up(at: int, size: int) -> int:
    return at + -at % size
