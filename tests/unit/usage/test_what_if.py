"""A replay's bounds hold for every order that a minute's uses may have had."""

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from keyledger.errors import Refusal
from services.usage.domain.period import MINUTE
from services.usage.domain.what_if import (
    EXPIRED,
    INSUFFICIENT,
    LIMITED,
    SECOND,
    Limit,
    Policy,
    Sum,
    limit_of,
    replay,
)

START = 20_000 * 1440 * MINUTE
A, B = "key_a", "key_b"


def sums_of(uses: list[tuple[int, str]]) -> list[Sum]:
    """What is recorded of uses at these seconds, each costing 1."""
    counted = Counter((START + second * SECOND // MINUTE * MINUTE, key) for second, key in uses)
    return [Sum(minute, key, "VALID", n, n) for (minute, key), n in sorted(counted.items())]


def valid(minute: int, key: str, count: int, *, cost: int | None = None, outcome: str = "VALID") -> Sum:
    return Sum(START + minute * MINUTE, key, outcome, count, count if cost is None else cost)


_TRACES = st.lists(st.tuples(st.integers(0, 599), st.sampled_from([A, B])), max_size=120)
_WINDOWS = st.sampled_from([1, 10, 30, 45, 60, 90, 120, 300])


@given(trace=_TRACES, window=_WINDOWS, limit=st.integers(1, 12), each_key=st.booleans())
def test_what_really_would_have_happened_lies_within_the_bounds(
    trace: list[tuple[int, str]], window: int, limit: int, each_key: bool
) -> None:
    """The trace is refused use by use, as it came; the replay has only its minutes."""
    ordered = sorted(trace, key=lambda use: use[0])
    spent, refused = Counter[tuple[str, int]](), Counter[str]()
    for second, key in ordered:
        cell = (key if each_key else "", second // window)
        if spent[cell] == limit:
            refused[key] += 1
        else:
            spent[cell] += 1
    seen = replay(sums_of(ordered), Policy(Limit(limit, window), each_key=each_key))
    for key in (A, B):
        bounds = seen.would.get((key, LIMITED))
        assert (bounds.at_least if bounds else 0) <= refused[key] <= (bounds.at_most if bounds else 0)
    total = seen.totals.get(LIMITED)
    assert (total.at_least if total else 0) <= refused.total() <= (total.at_most if total else 0)
    if window % 60 == 0 and total is not None:
        assert total.at_least == total.at_most == refused.total(), "whole minutes fill whole cells"
    assert seen.asked == len(trace)


def test_a_key_with_a_limit_of_its_own_is_told_exactly() -> None:
    seen = replay([valid(0, A, 7), valid(0, B, 4), valid(1, A, 9)], Policy(Limit(5, 60), each_key=True))
    bounds = seen.would[A, LIMITED]
    assert (bounds.at_least, bounds.at_most, bounds.stretches) == (6, 6, 2)
    assert (bounds.first, bounds.last) == (START, START + MINUTE)
    assert (B, LIMITED) not in seen.would


def test_before_the_limit_nobody_is_refused_and_after_it_everybody() -> None:
    sums = [valid(0, A, 3), valid(1, A, 4), valid(1, B, 4), valid(2, B, 2)]
    seen = replay(sums, Policy(Limit(5, 300)))
    assert seen.totals[LIMITED].at_least == seen.totals[LIMITED].at_most == 8
    assert (seen.would[A, LIMITED].at_least, seen.would[A, LIMITED].at_most) == (2, 4)
    assert (seen.would[B, LIMITED].at_least, seen.would[B, LIMITED].at_most) == (4, 6)


def test_refused_demand_is_asked_again_and_other_refusals_stay() -> None:
    sums = [
        valid(0, A, 3),
        valid(0, A, 4, cost=0, outcome="RATE_LIMITED"),
        valid(0, A, 50, cost=0, outcome="REVOKED"),
    ]
    seen = replay(sums, Policy(Limit(6, 60)))
    assert (seen.asked, seen.was_refused, seen.totals[LIMITED].at_most) == (7, 4, 1)


def test_units_are_shared_out_among_the_uses_that_cost_them() -> None:
    seen = replay([valid(0, A, 10, cost=50)], Policy(Limit(30, 60)))
    assert (seen.would[A, LIMITED].at_least, seen.would[A, LIMITED].at_most) == (4, 4)


def test_the_minute_in_which_a_key_expires_is_in_doubt() -> None:
    ends = {A: START + MINUTE + 1}
    seen = replay([valid(minute, A, 5) for minute in range(3)], Policy(ends=ends))
    bounds = seen.would[A, EXPIRED]
    assert (bounds.at_least, bounds.at_most, bounds.first) == (5, 10, START + MINUTE)


def test_a_key_without_the_scope_is_refused_throughout_and_spends_nothing() -> None:
    seen = replay([valid(0, A, 5), valid(0, B, 5)], Policy(Limit(5, 60), lacking=frozenset({A})))
    assert seen.would[A, INSUFFICIENT].at_least == 5
    assert LIMITED not in seen.totals


@pytest.mark.parametrize("text", ["", "5", "5/", "/60", "5/7", "0/60", "-1/60", "5/0", "5/60/60", "٣/60"])
def test_a_limit_that_is_none_is_refused_by_name(text: str) -> None:
    with pytest.raises(Refusal) as caught:
        limit_of(text)
    assert caught.value.field == "limit"


def test_a_limit_is_read_as_it_is_written() -> None:
    assert limit_of("500/60") == Limit(500, 60)
