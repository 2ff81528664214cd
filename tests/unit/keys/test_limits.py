"""What a changed limit says of the cells that run."""

import pytest
from msgspec import UNSET

from keyledger.events import Quota, RateLimit
from services.keys.domain.limits import changed, changed_quota

SECOND = 1_000_000
NOON = 1_790_000_040
OLD = RateLimit(100, 60)


def at(second: float) -> int:
    """So many seconds into a minute."""
    return int((NOON + second) * SECOND)


def test_a_raised_limit_says_what_held_before_and_since_when() -> None:
    assert changed(RateLimit(200, 60), OLD, at(7)) == RateLimit(200, 60, before=100, since=at(7))


def test_a_lowered_limit_and_a_first_one_say_nothing_else() -> None:
    assert changed(RateLimit(50, 60), OLD, at(7)) == RateLimit(50, 60)
    assert changed(RateLimit(50, 60), None, at(7)) == RateLimit(50, 60)
    assert changed(None, OLD, at(7)) is None
    assert changed(UNSET, OLD, at(7)) is UNSET


def test_of_several_changes_in_one_cell_the_smallest_holds_until_it_ends() -> None:
    raised = changed(RateLimit(200, 60), OLD, at(7))
    assert isinstance(raised, RateLimit)
    again = changed(RateLimit(300, 60), raised, at(20))
    assert again == RateLimit(300, 60, before=100, since=at(20))
    lowered = changed(RateLimit(30, 60), raised, at(30))
    assert lowered == RateLimit(30, 60)
    after = changed(RateLimit(150, 60), RateLimit(30, 60), at(40))
    assert after == RateLimit(150, 60, before=30, since=at(40))
    # between the two
    assert changed(RateLimit(150, 60), raised, at(30)) == RateLimit(150, 60, before=100, since=at(30))


def test_what_was_raised_in_an_earlier_cell_holds_in_this_one() -> None:
    raised = changed(RateLimit(200, 60), OLD, at(7))
    assert isinstance(raised, RateLimit)
    assert changed(RateLimit(300, 60), raised, at(60)) == RateLimit(300, 60, before=200, since=at(60))
    assert changed(RateLimit(200, 60, "open"), raised, at(60)) == RateLimit(200, 60, "open")


def test_the_same_limit_again_is_no_change_and_another_window_begins_anew() -> None:
    raised = changed(RateLimit(200, 60), OLD, at(7))
    assert isinstance(raised, RateLimit)
    assert changed(RateLimit(200, 60), raised, at(30)) is raised
    assert changed(RateLimit(9000, 3600), raised, at(30)) == RateLimit(9000, 3600)


@pytest.mark.parametrize("limit", [1, 1000])
def test_a_changed_quota_says_since_when_and_the_same_is_no_change(limit: int) -> None:
    old = Quota(100, "month")
    assert changed_quota(Quota(limit, "month"), old, at(7)) == Quota(limit, "month", at(7))
    later = Quota(100, "month", at(3))
    assert changed_quota(Quota(100, "month"), later, at(7)) is later
    assert changed_quota(Quota(limit, "month"), None, at(7)) == Quota(limit, "month")
    assert changed_quota(None, old, at(7)) is None
