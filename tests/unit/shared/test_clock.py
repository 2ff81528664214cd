"""Times: RFC 3339 in UTC, there and back; the clocks go on and never back."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from keyledger.clock import SystemClock, parse_rfc3339, rfc3339
from tests.support.clock import ManualClock

FIRST, LAST = "0001-01-01T00:00:00Z", "9999-12-31T23:59:59.999999Z"
moments = st.integers(parse_rfc3339(FIRST), parse_rfc3339(LAST))


@settings(deadline=None)
@given(moments)
def test_a_moment_is_written_and_read_back(micros: int) -> None:
    assert parse_rfc3339(rfc3339(micros)) == micros


@settings(deadline=None)
@given(moments, moments)
def test_whole_seconds_sort_as_text(one: int, other: int) -> None:
    one, other = one - one % 1_000_000, other - other % 1_000_000
    assert (rfc3339(one) < rfc3339(other)) is (one < other)


@pytest.mark.parametrize(
    ("text", "micros"),
    [
        ("1970-01-01T00:00:00Z", 0),
        ("1970-01-01t00:00:01z", 1_000_000),
        ("1970-01-01T00:00:00.5Z", 500_000),
        ("1970-01-01T00:00:00.000001Z", 1),
        ("1970-01-01T00:00:00.0000019Z", 1),
        ("1970-01-01T00:00:00.123456789Z", 123_456),
        ("1970-01-01T01:00:00+01:00", 0),
        ("1969-12-31T23:30:00-00:30", 0),
        ("1970-01-01T00:00:00-00:00", 0),
        ("1969-12-31T23:59:59.999999Z", -1),
        ("2024-02-29T00:00:00Z", 1_709_164_800_000_000),
    ],
)
def test_what_rfc_3339_allows_is_read(text: str, micros: int) -> None:
    assert parse_rfc3339(text) == micros


@pytest.mark.parametrize(
    "text",
    [
        "",
        "2026-01-02",
        "2026-01-02T03:04:05",
        "2026-01-02 03:04:05Z",
        "2026-01-02T03:04Z",
        "2026-01-02T03:04:05+0100",
        "2026-01-02T03:04:05+01",
        "2026-01-02T03:04:05.Z",
        "2026-01-02T03:04:05.1234567890Z",
        "2026-01-02T03:04:05,5Z",
        "2026-02-29T00:00:00Z",
        "2026-13-01T00:00:00Z",
        "2026-01-02T24:00:01Z",
        "2026-01-02T03:04:60Z",
        "2026-01-02T03:04:05+24:00",
        "0000-01-01T00:00:00Z",
        "20260102T030405Z",
        "2026-01-02T03:04:05Z ",
        "2026-01-02T03:04:05Z\n",
        "٢٠٢٦-01-02T03:04:05Z",
        "1767323045",
        "now",
    ],
)
def test_anything_else_is_refused(text: str) -> None:
    with pytest.raises(ValueError):
        parse_rfc3339(text)


@pytest.mark.parametrize("text", ["9999-12-31T23:59:59-00:01", "0001-01-01T00:00:00+00:01"])
def test_an_offset_does_not_lead_out_of_the_years_that_can_be_written(text: str) -> None:
    with pytest.raises(ValueError, match="years"):
        parse_rfc3339(text)


def test_the_fraction_is_there_only_when_it_is_not_zero() -> None:
    assert rfc3339(0) == "1970-01-01T00:00:00Z"
    assert rfc3339(1) == "1970-01-01T00:00:00.000001Z"
    assert rfc3339(-1) == "1969-12-31T23:59:59.999999Z"
    assert rfc3339(parse_rfc3339(FIRST)) == FIRST
    assert rfc3339(parse_rfc3339(LAST)) == LAST


def test_the_machines_clock_counts_microseconds_and_never_goes_back() -> None:
    clock = SystemClock()
    steady = [clock.steady() for _ in range(100)]
    assert steady == sorted(steady)
    assert parse_rfc3339("2025-01-01T00:00:00Z") < clock.now() < parse_rfc3339("2100-01-01T00:00:00Z")


def test_a_manual_clock_moves_when_it_is_told_to() -> None:
    clock = ManualClock(5)
    clock.advance(1.5)
    assert (clock.now(), clock.steady()) == (1_500_005, 1_001.5)
    clock.set_wall(1)
    assert (clock.now(), clock.steady()) == (1, 1_001.5)
