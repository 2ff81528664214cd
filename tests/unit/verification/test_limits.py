"""Fixed windows: exact, aligned to the epoch, all limits or none, and never more than the limit."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from keyledger.clock import SECOND
from keyledger.errors import Refusal
from keyledger.verification.limits import SWEEP_FROM, Demand, FixedWindow

MINUTE = 60 * SECOND
NOW = 1_790_000_000 * SECOND // MINUTE * MINUTE


def demand(limit: int, *, holder: str = "ws", window: int = 60, policy: str = "workspace") -> Demand:
    return Demand(policy, holder, limit, window)


def test_the_limit_is_spent_to_its_last_unit() -> None:
    window = FixedWindow()
    allowed = [window.spend([demand(3)], 1, NOW).allowed for _ in range(5)]
    assert allowed == [True, True, True, False, False]


def test_a_new_cell_begins_at_the_epoch_aligned_minute() -> None:
    window = FixedWindow()
    late = window.spend([demand(1)], 1, NOW + MINUTE - 1)
    assert late.allowed
    assert late.tightest.reset == (NOW + MINUTE) // SECOND
    assert not window.spend([demand(1)], 1, NOW + MINUTE - 1).allowed
    assert window.spend([demand(1)], 1, NOW + MINUTE).allowed


def test_both_limits_are_spent_or_neither() -> None:
    window = FixedWindow()
    both = [demand(10), demand(1, holder="key", policy="key")]
    assert window.spend(both, 1, NOW).allowed
    refused = window.spend(both, 1, NOW)
    assert not refused.allowed
    assert (refused.tightest.policy, refused.tightest.remaining) == ("key", 0)
    assert window.spend([demand(10)], 0, NOW).tightest.remaining == 9


def test_looking_spends_nothing_and_is_always_allowed() -> None:
    window = FixedWindow()
    window.spend([demand(1)], 1, NOW)
    looked = window.spend([demand(1)], 0, NOW)
    assert looked.allowed
    assert looked.tightest.remaining == 0


def test_a_refused_cost_leaves_what_is_left_and_nobody_is_shown_more_than_the_refused_one() -> None:
    window = FixedWindow()
    assert window.spend([demand(5)], 3, NOW).allowed
    refused = window.spend([demand(5)], 3, NOW)
    assert (refused.allowed, refused.tightest.remaining) == (False, 0)
    spent = window.spend([demand(5)], 1, NOW)
    assert (spent.allowed, spent.tightest.remaining) == (True, 0)
    assert window.spend([demand(5)], 1, NOW).allowed
    assert not window.spend([demand(5)], 1, NOW).allowed


def test_a_cost_that_no_cell_could_hold_is_refused_by_name() -> None:
    window = FixedWindow()
    with pytest.raises(Refusal) as refused:
        window.spend([demand(100), demand(5, holder="key")], 6, NOW)
    assert (refused.value.code, refused.value.field) == ("cost_exceeds_limit", "cost")
    assert window.spend([demand(100)], 0, NOW).tightest.remaining == 100


def test_a_lowered_limit_binds_at_once() -> None:
    window = FixedWindow()
    for _ in range(4):
        window.spend([demand(10)], 1, NOW)
    refused = window.spend([demand(4)], 1, NOW)
    assert not refused.allowed
    assert (refused.tightest.limit, refused.tightest.remaining) == (4, 0)


def test_a_raised_limit_binds_from_the_next_cell() -> None:
    window = FixedWindow()
    assert window.spend([demand(1)], 1, NOW).allowed
    assert not window.spend([demand(5)], 1, NOW).allowed
    assert window.spend([demand(5)], 5, NOW + MINUTE).allowed


def test_a_raised_limit_is_not_there_yet_for_who_meets_the_cell_afterwards() -> None:
    raised = Demand("workspace", "ws", 10, 60, before=2, since=NOW + 5 * SECOND)
    window = FixedWindow()
    assert [window.spend([raised], 1, NOW + 6 * SECOND).allowed for _ in range(3)] == [True, True, False]
    assert [window.spend([raised], 1, NOW + MINUTE).allowed for _ in range(11)] == [True] * 10 + [False]


def test_a_raised_quota_binds_in_the_cell_that_runs() -> None:
    window = FixedWindow()
    small = Demand("workspace-quota", "ws", 1, "month")
    assert [window.spend([small], 1, NOW).allowed for _ in range(2)] == [True, False]
    large = Demand("workspace-quota", "ws", 3, "month", since=NOW)
    told = [window.spend([large], 1, NOW) for _ in range(3)]
    assert [(each.allowed, each.tightest.limit) for each in told] == [(True, 3), (True, 3), (False, 3)]


def test_time_that_goes_back_opens_no_old_cell() -> None:
    window = FixedWindow()
    assert window.spend([demand(1)], 1, NOW + MINUTE).allowed
    assert not window.spend([demand(1)], 1, NOW).allowed


def test_cells_that_ended_are_dropped() -> None:
    window = FixedWindow()
    for at in range(10 * SWEEP_FROM):
        window.spend([demand(1, holder=f"ws{at}", window=1)], 1, NOW + at * SECOND)
    assert window.kept <= SWEEP_FROM


steps = st.lists(
    st.tuples(
        st.integers(0, 4),  # cost
        st.integers(1, 12),  # the workspace's limit
        st.one_of(st.none(), st.integers(1, 12)),  # the key's limit
        st.integers(-40, 40),  # seconds that the clock moves
    ),
    max_size=60,
)


@given(steps)
def test_what_is_spent_in_a_cell_never_exceeds_any_limit_it_was_asked_under(
    moves: list[tuple[int, int, int | None, int]],
) -> None:
    window = FixedWindow()
    now, latest = NOW, 0
    spent: dict[tuple[str, int], int] = {}
    for cost, limit, own, moved in moves:
        now += moved * SECOND
        demands = [demand(limit)] + ([demand(own, holder="key", policy="key")] if own else [])
        if any(cost > each.limit for each in demands):
            continue
        latest = max(latest, now)
        before = dict(spent)
        spending = window.spend(demands, cost, now)
        for each in demands:
            name = (each.holder, latest // MINUTE)
            if cost and spending.allowed:
                spent[name] = spent.get(name, 0) + cost
                assert spent[name] <= each.limit
        if not spending.allowed:
            assert spent == before
        assert 0 <= spending.tightest.remaining <= spending.tightest.limit
