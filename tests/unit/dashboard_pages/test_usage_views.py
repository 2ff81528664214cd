"""Periods, series, totals, busiest keys, and the gauge."""

from datetime import UTC, datetime, timedelta

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from keyledger.client.records import GrantedPart, QuotaCell, RateLimitCell, UsagePoint
from keyledger.events import RateLimit
from services.dashboard.pages import usage
from services.dashboard.pages.gauge import gauge
from tests.support.dashboard_backend import EMPTY, made_id

FIRST, LAST = datetime(1990, 1, 1), datetime(2100, 1, 1)  # noqa: DTZ001 (bounds come without a zone)
NOW = datetime(2026, 11, 2, 9, 20, 30, tzinfo=UTC)


@pytest.mark.parametrize("chosen", usage.RANGES, ids=lambda each: each.name)
def test_a_range_ends_with_the_running_bucket(chosen: usage.Range) -> None:
    shown = usage.period(range_=chosen.name, now=NOW)
    size = usage.SIZES[shown.granularity]
    assert shown.granularity == chosen.best
    assert NOW <= shown.end < NOW + size
    assert NOW - chosen.length - size < shown.start <= NOW - chosen.length
    assert shown.query == f"range={chosen.name}&granularity={chosen.best}"


def test_without_a_query_it_is_the_last_day_by_the_hour() -> None:
    shown = usage.period(range_="nonsense", granularity="second", now=NOW)
    assert (shown.name, shown.granularity, shown.allowed) == ("24h", "hour", ("minute", "hour", "day"))


def test_bounds_of_ones_own_win_and_come_back_in_the_query() -> None:
    shown = usage.period(range_="7d", start="2026-11-01T03:10:00Z", end="2026-11-01T08:00:00Z", now=NOW)
    assert (shown.name, shown.granularity, shown.allowed) == ("", "hour", ("minute", "hour"))
    assert (shown.start.hour, shown.start.minute, shown.end.hour) == (3, 0, 8)
    shown = usage.period(
        start="2026-11-01T03:10:00Z", end="2026-11-01T08:00:00Z", granularity="minute", now=NOW
    )
    assert (shown.start.hour, shown.start.minute, shown.end.hour) == (3, 10, 8)
    assert shown.query == "from=2026-11-01T03:10:00Z&to=2026-11-01T08:00:00Z&granularity=minute"


@pytest.mark.parametrize(
    ("length", "granularity"),
    [
        ({"minutes": 20}, "minute"),
        ({"hours": 4}, "minute"),
        ({"hours": 6}, "hour"),
        ({"days": 10}, "hour"),
        ({"days": 30}, "day"),
        ({"days": 3000}, "day"),
    ],
)
def test_a_closer_look_never_falls_to_hairlines(length: dict[str, int], granularity: str) -> None:
    start = NOW - timedelta(**length)
    shown = usage.period(start=start.isoformat(), end=NOW.isoformat(), now=NOW)
    assert shown.granularity == granularity


@pytest.mark.parametrize(
    ("start", "end"),
    [
        ("9999-12-31T23:59:59Z", "9999-12-31T23:59:59.9Z"),
        ("0001-01-01T00:00:00Z", "9999-12-31T23:59:59Z"),
        ("0001-01-01T00:00:00+23:59", "0001-01-01T00:00:01Z"),
        ("9998-12-31T23:59:59Z", "9999-12-31T23:59:59.999999-23:59"),
        ("0001-01-01T00:00:00Z", "1970-01-01T00:00:01Z"),
    ],
)
@pytest.mark.parametrize("granularity", ["minute", "hour", "day", ""])
def test_the_ends_of_time_are_a_period_like_any(start: str, end: str, granularity: str) -> None:
    shown = usage.period(start=start, end=end, granularity=granularity, now=NOW)
    chart = usage.chart([], shown, now=NOW)
    assert 1 <= len(chart.starts) <= usage.MAX_BUCKETS + 2


def test_days_are_told_by_the_calendar_that_they_are_counted_by() -> None:
    shown = usage.period(start="2026-11-01T00:00:00Z", end="2026-11-03T00:00:00Z", granularity="day", now=NOW)
    assert shown.days == ("1 Nov 2026", "2 Nov 2026")
    daily = UsagePoint(start=datetime(2026, 11, 2, tzinfo=UTC), count=3, cost=3, outcome="VALID")
    (row,) = usage.table(usage.chart([daily], shown, now=NOW))
    assert (row.day, row.running) == ("2 Nov 2026", True)


def test_the_bucket_that_still_fills_is_marked() -> None:
    hours = usage.period(range_="24h", now=NOW)
    now = usage.chart([point(9, 1), point(8, 1)], hours, now=NOW)
    assert now.running
    assert [row.running for row in usage.table(now)] == [True, False]
    assert not usage.chart(POINTS, SHOWN, now=NOW).running


@given(
    start=st.datetimes(timezones=st.just(UTC), min_value=FIRST, max_value=LAST),
    length=st.timedeltas(min_value=timedelta(seconds=1), max_value=timedelta(days=20_000)),
    granularity=st.sampled_from(["minute", "hour", "day", ""]),
)
def test_no_period_has_more_buckets_than_a_chart_can_show(
    start: datetime, length: timedelta, granularity: str
) -> None:
    shown = usage.period(
        start=start.isoformat(), end=(start + length).isoformat(), granularity=granularity, now=NOW
    )
    size = usage.SIZES[shown.granularity]
    assert 1 <= (shown.end - shown.start) / size <= usage.MAX_BUCKETS + 2
    assert shown.granularity in shown.allowed
    assert (shown.end - shown.start) % size == timedelta(0)


def point(hours: int, count: int, outcome: str = "VALID", key: str | None = None) -> UsagePoint:
    start = datetime(2026, 11, 2, hours, tzinfo=UTC)
    return UsagePoint(start=start, count=count, cost=count, outcome=outcome, key=key)


SHOWN = usage.period(start="2026-11-02T05:00:00Z", end="2026-11-02T09:00:00Z", granularity="hour", now=NOW)
POINTS = [point(5, 3), point(7, 2, "REVOKED"), point(7, 4), point(8, 1, "RATE_LIMITED"), point(2, 99)]


def test_a_series_has_a_number_for_every_bucket() -> None:
    chart = usage.chart(POINTS, SHOWN, now=NOW)
    assert len(chart.starts) == 4
    assert {line.code: line.counts for line in chart.lines} == {
        "VALID": (3, 0, 4, 0), "RATE_LIMITED": (0, 0, 0, 1), "REVOKED": (0, 0, 2, 0),
    }  # fmt: skip
    # what was allowed is at the bottom of the stack
    assert [line.code for line in chart.lines] == ["VALID", "RATE_LIMITED", "REVOKED"]
    assert [line.tone for line in chart.lines] == ["good", "limit", "ended"]


def test_the_table_tells_the_same_newest_first_without_empty_buckets() -> None:
    rows = usage.table(usage.chart(POINTS, SHOWN, now=NOW))
    assert [(row.at.iso[11:13], row.counts, row.sum) for row in rows] == [
        ("08", ("0", "1", "0"), "1"), ("07", ("4", "0", "2"), "6"), ("05", ("3", "0", "0"), "3"),
    ]  # fmt: skip


def test_totals_are_by_outcome_and_in_all() -> None:
    whole, totals = usage.totals(POINTS[:4])
    assert whole == "10"
    assert [(each.label, each.count, each.percent) for each in totals] == [
        ("Allowed", "7", "70 %"), ("Over the rate limit", "1", "10 %"), ("Revoked", "2", "20 %"),
    ]  # fmt: skip
    assert usage.totals([]) == ("0", ())


@pytest.mark.parametrize(
    ("part", "whole", "told"),
    [(0, 0, "0 %"), (1, 100_000, "< 1 %"), (99_999, 100_000, "> 99 %"), (5, 5, "100 %")],
)
def test_a_percentage_never_says_none_or_all_when_it_is_not_so(part: int, whole: int, told: str) -> None:
    assert usage.percent(part, whole) == told


def test_the_busiest_keys_come_first() -> None:
    keys = [made_id("key", number) for number in range(12)]
    points = [point(5, number + 1, key=key) for number, key in enumerate(keys)]
    points.append(point(6, 50, "REVOKED", keys[0]))
    top = usage.top(points)
    assert [each.key_id for each in top[:2]] == [keys[0], keys[11]]
    assert (top[0].count, top[0].refused, top[0].bar, top[0].share) == ("51", "50", 100, "40 %")
    assert len(top) == 10
    assert all(0 < each.bar <= 100 for each in top)
    assert usage.top([]) == ()


CELL = RateLimitCell(
    limit=1000, window_seconds=60, admitted=640, granted=800, remaining=360, reset=int(NOW.timestamp()) + 12,
    verifiers=(GrantedPart("a", 500, 440), GrantedPart("b", 300, 200)),
    quota=QuotaCell(period="month", limit=50_000, admitted=1_200, granted=1_300, remaining=1, reset=0),
)  # fmt: skip


def test_a_running_cell_is_a_bar_of_what_each_verifier_let_in_and_holds() -> None:
    shown = gauge(CELL, None, now=NOW)
    assert (shown.admitted, shown.held, shown.left, shown.percent) == ("640", "160", "360", 64)
    assert (shown.seconds, shown.running, shown.state) == (12, True, "calm")
    assert [(bar.begin, bar.spent_length, bar.held_length) for bar in shown.bars] == [
        (0, 440, 60), (500, 200, 100),
    ]  # fmt: skip
    assert shown.quota == "1,200 of 50,000 this month"


def test_a_cell_that_nothing_was_asked_of_shows_the_configured_limit() -> None:
    shown = gauge(EMPTY, RateLimit(10, 3600), now=NOW)
    assert (shown.running, shown.limit, shown.left, shown.percent) == (False, "10 per hour", "10", 0)
    whole = msgspec.structs.replace(CELL, admitted=0, granted=0, verifiers=())
    assert not gauge(whole, None, now=NOW).running


def test_a_key_without_a_limit_of_its_own_has_no_bar_to_fill() -> None:
    assert gauge(EMPTY, None, now=NOW).unlimited
    assert not gauge(CELL, None, now=NOW).unlimited


def test_a_verifier_is_named_so_that_people_can_tell_it_from_others() -> None:
    boot = "0123456789abcdef" * 2
    cell = msgspec.structs.replace(
        CELL, verifiers=(GrantedPart(boot, 5, 1), GrantedPart("verifier-eu", 5, 1))
    )
    bars = gauge(cell, None, now=NOW).bars
    assert [(bar.name, bar.verifier) for bar in bars] == [
        ("Verifier 01234567", boot), ("verifier-eu", "verifier-eu"),
    ]  # fmt: skip


@given(
    limit=st.integers(1, 10**9),
    parts=st.lists(st.tuples(st.integers(0, 10**9), st.integers(0, 10**9)), max_size=8),
)
def test_no_bar_is_longer_than_its_track(limit: int, parts: list[tuple[int, int]]) -> None:
    """Whatever verifiers said: a limit that was lowered may be spent more than once over."""
    told = tuple(GrantedPart(str(place), granted, spent) for place, (granted, spent) in enumerate(parts))
    cell = RateLimitCell(
        limit=limit, window_seconds=60, admitted=sum(each.spent for each in told),
        granted=sum(each.granted for each in told), remaining=0, reset=0, verifiers=told,
    )  # fmt: skip
    shown = gauge(cell, None, now=NOW)
    assert 0 <= shown.percent <= 100
    for bar in shown.bars:
        assert bar.spent_length >= 0
        assert bar.held_length >= 0
        assert bar.begin + bar.spent_length + bar.held_length <= 1000
