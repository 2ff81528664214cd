"""Where a policy cuts, and which policies there are."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from keyledger.clock import parse_rfc3339
from keyledger.errors import Refusal
from services.usage.domain.derivation import month_of
from services.usage.domain.retention import DAY, MOST_DAYS, Policy, cut

NOW = parse_rfc3339("2026-11-24T13:00:00Z")


def test_whole_days_go_and_the_current_one_is_not_counted() -> None:
    found = cut(Policy(log_days=90, minute_days=30, hour_days=400), NOW)
    assert found.minute == parse_rfc3339("2026-10-25T00:00:00Z")
    assert found.hour == parse_rfc3339("2025-10-20T00:00:00Z")
    assert found.log_day * DAY == parse_rfc3339("2026-08-26T00:00:00Z")
    assert (found.of("minute"), found.of("hour"), found.of("day")) == (found.minute, found.hour, None)


@pytest.mark.parametrize(
    ("policy", "field"),
    [
        (Policy(minute_days=1), "minute_days"),
        (Policy(minute_days=30, log_days=30), "log_days"),
        (Policy(log_days=401), "hour_days"),
        (Policy(hour_days=MOST_DAYS + 1), "hour_days"),
        (Policy(minute_days=-1), "minute_days"),
    ],
)
def test_a_policy_that_could_not_be_derived_again_is_refused_by_name(policy: Policy, field: str) -> None:
    with pytest.raises(Refusal) as caught:
        policy.check()
    assert caught.value.field == field


@given(
    minute=st.integers(2, 100), more=st.integers(1, 100), most=st.integers(0, 100), now=st.integers(0, 2**52)
)
def test_what_is_kept_by_the_minute_is_in_the_log_with_a_day_to_spare(
    minute: int, more: int, most: int, now: int
) -> None:
    """A use is received on its own day or later; a verifier's clock may be a day ahead."""
    policy = Policy(minute + more, minute, minute + more + most)
    policy.check()
    found = cut(policy, now)
    assert found.hour <= found.log_day * DAY <= found.minute - DAY
    assert now - found.minute >= minute * DAY


@pytest.mark.parametrize(
    ("text", "start", "end"),
    [
        ("2026-11", "2026-11-01T00:00:00Z", "2026-12-01T00:00:00Z"),
        ("2026-12", "2026-12-01T00:00:00Z", "2027-01-01T00:00:00Z"),
        ("2028-02", "2028-02-01T00:00:00Z", "2028-03-01T00:00:00Z"),
    ],
)
def test_a_month_is_a_calendar_month(text: str, start: str, end: str) -> None:
    assert month_of(text) == (parse_rfc3339(start), parse_rfc3339(end))


@pytest.mark.parametrize("text", ["", "2026", "2026-13", "2026-11-01", "9999-12", "November"])
def test_what_is_no_month_is_refused_by_name(text: str) -> None:
    with pytest.raises(Refusal) as caught:
        month_of(text)
    assert caught.value.field == "month"
