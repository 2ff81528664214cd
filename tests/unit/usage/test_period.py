"""Periods and buckets."""

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from keyledger.clock import parse_rfc3339
from keyledger.errors import Refusal
from services.usage.domain.period import MINUTE, SIZES, Granularity, Period, bucket_of, period_of

NOW = parse_rfc3339("2026-03-29T10:17:42.5Z")
DAY = SIZES["day"]
times = st.integers(-(2**55), 2**55)
granularities: st.SearchStrategy[Granularity] = st.sampled_from(("minute", "hour", "day"))


@given(times, granularities)
def test_a_time_lies_in_its_bucket(at: int, granularity: Granularity) -> None:
    start = bucket_of(at, granularity)
    assert start <= at < start + SIZES[granularity]
    assert start % SIZES[granularity] == 0


@pytest.mark.parametrize(
    ("granularity", "start", "end", "buckets"),
    [
        ("minute", "2026-03-28T10:17:00Z", "2026-03-29T10:18:00Z", 1441),
        ("hour", "2026-03-28T10:00:00Z", "2026-03-29T11:00:00Z", 25),
        ("day", "2026-03-28T00:00:00Z", "2026-03-30T00:00:00Z", 2),
    ],
)
def test_the_default_is_the_last_24_hours_with_the_current_bucket(
    granularity: Granularity, start: str, end: str, buckets: int
) -> None:
    period = period_of(None, None, granularity, now=NOW)
    assert (period.start, period.end) == (parse_rfc3339(start), parse_rfc3339(end))
    assert period.buckets == buckets


def test_with_an_end_the_default_is_the_24_hours_before_it() -> None:
    end = parse_rfc3339("2026-01-05T00:00:00Z")
    assert period_of(None, end, "hour", now=NOW) == Period(end - DAY, end, "hour")


def test_a_start_inside_a_bucket_means_the_whole_bucket_and_the_end_stays() -> None:
    start, end = parse_rfc3339("2026-01-05T00:30:01Z"), parse_rfc3339("2026-01-05T02:30:00Z")
    period = period_of(start, end, "hour", now=NOW)
    assert (period.start, period.end) == (parse_rfc3339("2026-01-05T00:00:00Z"), end)
    assert period.buckets == 3


@pytest.mark.parametrize(
    ("start", "end", "field"), [(5, 5, "to"), (6, 5, "to"), (NOW + 2 * DAY, None, "from")]
)
def test_a_period_that_ends_before_it_begins_is_refused(start: int, end: int | None, field: str) -> None:
    with pytest.raises(Refusal) as caught:
        period_of(start, end, "hour", now=NOW)
    assert (caught.value.code, caught.value.field) == ("invalid_request", field)


@given(times, st.integers(1, 2**50), granularities)
def test_the_number_of_buckets_is_that_of_the_starts_in_the_period(
    start: int, length: int, granularity: Granularity
) -> None:
    period = period_of(start, start + length, granularity, now=NOW)
    last = bucket_of(period.end - 1, granularity)
    assert period.buckets == (last - period.start) // SIZES[granularity] + 1


@given(times, st.integers(1, 2**42))
def test_the_pieces_of_a_total_are_its_minutes_without_gap_or_overlap(start: int, length: int) -> None:
    period = period_of(start, start + length, "total", now=NOW)
    pieces = period.pieces
    assert period.buckets == 1
    assert pieces[0][1] == bucket_of(start, "minute")
    assert pieces[-1][2] == bucket_of(period.end - 1, "minute") + MINUTE
    for (_, _, last), (_, first, _) in itertools.pairwise(pieces):
        assert last == first
    for size, first, last in pieces:
        assert first < last
        assert first % SIZES[size] == last % SIZES[size] == 0
    # few rows are read: less than two hours of minutes, less than two days of hours
    assert sum(last - first for size, first, last in pieces if size == "minute") < 2 * SIZES["hour"]
    assert sum(last - first for size, first, last in pieces if size == "hour") < 2 * DAY


def test_a_total_is_by_default_of_the_last_24_hours_to_the_minute() -> None:
    by_minute = period_of(None, None, "minute", now=NOW)
    total = period_of(None, None, "total", now=NOW)
    assert (total.start, total.end) == (by_minute.start, by_minute.end)
