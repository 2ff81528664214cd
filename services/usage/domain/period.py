"""Periods of time cut into buckets; a bucket is a UTC minute, hour or day, named by its start in µs."""

from __future__ import annotations

from typing import Literal, TypeAlias

from msgspec import Struct

from keyledger.errors import invalid_request

Granularity: TypeAlias = Literal["minute", "hour", "day"]

MINUTE = 60_000_000
SIZES: dict[Granularity, int] = {"minute": MINUTE, "hour": 60 * MINUTE, "day": 1440 * MINUTE}
"""The length of each bucket in µs. UTC has no daylight saving, so every day is as long as the next."""
DEFAULT_LENGTH = SIZES["day"]


class Period(Struct, frozen=True):
    """The buckets whose start lies in `start` (inclusive) to `end` (exclusive), both in µs.

    `start` is the start of a bucket; `end` need not be one.
    """

    start: int
    end: int
    granularity: Granularity

    @property
    def buckets(self) -> int:
        """How many buckets the period has, used or not."""
        size = SIZES[self.granularity]
        return -((self.start - self.end) // size)


def bucket_of(at: int, granularity: Granularity) -> int:
    """The start of the bucket that `at` lies in, both in µs."""
    return at - at % SIZES[granularity]


def period_of(start: int | None, end: int | None, granularity: Granularity, *, now: int) -> Period:
    """The period a caller asked for; by default the 24 hours before its end, the current bucket included.

    A start inside a bucket means that whole bucket. `Refusal` when nothing can lie between the two.
    """
    last = bucket_of(now, granularity) + SIZES[granularity] if end is None else end
    # without an end the 24 hours are counted from now, and the bucket that is still filling comes besides
    first = (now if end is None else last) - DEFAULT_LENGTH if start is None else start
    if first >= last:
        field = "from" if end is None else "to"
        raise invalid_request("The period's end must be later than its start.", field=field)
    return Period(bucket_of(first, granularity), last, granularity)
