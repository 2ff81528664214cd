"""However many workers share a limit: together they admit exactly the limit, and each shows the whole."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from keyledger.errors import Refusal
from keyledger.verification.limit_shares import LimitShare
from keyledger.verification.limits import SECOND, Demand

NOW = 1_790_000_000 * SECOND


def demand(limit: int, holder: str = "ws_1", policy: str = "workspace") -> Demand:
    return Demand(policy, holder, limit, 60)


@given(limit=st.integers(1, 40), workers=st.integers(1, 8), holder=st.text(max_size=5))
def test_together_they_admit_the_limit_and_no_more(limit: int, workers: int, holder: str) -> None:
    shares = [LimitShare(index, workers) for index in range(workers)]
    admitted = sum(
        share.spend([demand(limit, holder)], 1, NOW).allowed for _ in range(limit + 1) for share in shares
    )
    assert admitted == limit
    sizes = [share.share(holder, limit) for share in shares]
    assert max(sizes) - min(sizes) <= 1


def test_a_small_limit_is_not_always_the_same_workers() -> None:
    shares = [LimitShare(index, 4) for index in range(4)]
    lucky = {at for n in range(50) for at, share in enumerate(shares) if share.share(f"ws_{n}", 1)}
    assert lucky == {0, 1, 2, 3}


def test_the_answer_shows_the_whole_limit_and_what_is_left_here() -> None:
    share = LimitShare(0, 2)
    state = share.spend([demand(10)], 2, NOW).tightest
    assert (state.limit, state.remaining, state.window) == (10, 3, 60)
    assert state.reset == -(-NOW // SECOND // 60) * 60 or state.reset % 60 == 0
    assert share.spend([demand(10)], 0, NOW).allowed


def test_a_cost_beyond_the_share_is_limited_and_beyond_the_limit_is_refused() -> None:
    share = LimitShare(0, 2)
    spending = share.spend([demand(10)], 6, NOW)
    assert not spending.allowed
    assert (spending.tightest.limit, spending.tightest.remaining) == (10, 5)
    with pytest.raises(Refusal) as refused:
        share.spend([demand(10)], 11, NOW)
    assert refused.value.code == "cost_exceeds_limit"
    assert share.spend([demand(10)], 5, NOW).allowed


def test_all_limits_are_spent_or_none() -> None:
    share = LimitShare(0, 2)
    both = [demand(100), demand(2, "key_1", "key")]
    assert share.spend(both, 1, NOW).allowed
    refused = share.spend(both, 1, NOW)
    assert (refused.allowed, refused.tightest.policy, refused.tightest.remaining) == (False, "key", 0)
    left = share.spend([demand(100)], 0, NOW).tightest.remaining
    assert left == share.share("ws_1", 100) - 1


def test_a_lowered_limit_binds_at_once_and_a_raised_one_with_the_next_cell() -> None:
    share = LimitShare(0, 2)
    assert share.spend([demand(10)], 4, NOW).allowed
    assert not share.spend([demand(6)], 1, NOW).allowed
    assert not share.spend([demand(100)], 1, NOW).allowed
    assert share.spend([demand(100)], 40, NOW + 60 * SECOND).allowed
