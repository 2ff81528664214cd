"""What a verifier spends, keeps and gives back."""

from typing import Any

import pytest

from keyledger.errors import Refusal
from keyledger.grants import EXHAUSTED, GRACE, MORE, NOBODY, Grant, Grants, Lease, Recall, Recalled, span
from keyledger.verification.conversation import Conversation, GranterClock
from keyledger.verification.holding import Held
from keyledger.verification.leases import Leases
from keyledger.verification.limits import Demand, Spending

SECOND = 1_000_000
NOON = 1_790_000_040
NOW = NOON * SECOND


def demand(limit: int = 100, policy: str = "workspace", **more: Any) -> Demand:
    return Demand(policy, more.pop("holder", "ws"), limit, 60, **more)


def held(*, leased: int = 0, until: int = NOON + 60) -> Held:
    """With a lease of one part in so many of the cells that start before `until`."""
    leases = Leases()
    if leased:
        assert leases.accept(Lease(NOON - 20, until, leased), NOON - 40)
    return Held(leases)


def grant(amount: int, left: int = 0, state: int = MORE, start: int = NOON) -> Grant:
    return Grant("ws", 60, start, amount, left, state)


def spend(found: Held, *demands: Demand, cost: int = 1, now: int = NOW, patient: bool = False) -> Spending:
    return found.spend(demands or (demand(),), cost, now, patient=patient)


def test_a_slice_is_spent_without_asking_until_little_is_left() -> None:
    found = held(leased=1)
    assert [spend(found).tightest.remaining for _ in range(14)] == list(range(99, 85, -1))
    assert found.wants(quick=True, most=9) == []
    spend(found)
    (want,) = found.wants(quick=True, most=9)
    assert (want.spent, want.held, want.need) == (15, 5, 1)


def test_nothing_is_allowed_beyond_what_is_held_and_the_patient_may_wait() -> None:
    found = held()
    waiting = spend(found, patient=True)
    assert (waiting.allowed, waiting.later) == (False, True)
    refused = spend(found)
    assert (refused.allowed, refused.later, refused.tightest.remaining) == (False, False, 0)
    assert found.wants(quick=True, most=9)[0].need == 2
    found.take([grant(2)])
    assert [spend(found).allowed for _ in range(3)] == [True, True, False]


def test_what_remains_never_grows_within_a_cell() -> None:
    found = held()
    spend(found)
    found.take([grant(50, 50)])
    assert spend(found).tightest.remaining == 0
    later = NOW + 60 * SECOND
    spend(found, now=later, patient=True)
    found.take([grant(10, 30, start=NOON + 60)])
    assert spend(found, now=later).tightest.remaining == 39
    found.take([grant(10, 80, start=NOON + 60)])
    assert spend(found, now=later).tightest.remaining == 39


def test_all_limits_are_spent_or_none() -> None:
    found = held()
    own = demand(100, "key", holder="key")
    spend(found, demand(), own, patient=True)
    found.take([grant(5)])
    assert not spend(found, demand(), own).allowed
    found.take([Grant("key", 60, NOON, 1, 0, MORE)])
    assert spend(found, demand(), own).allowed
    assert not spend(found, demand(), own).allowed
    assert [spend(found).allowed for _ in range(5)] == [True, True, True, True, False]


def test_a_rate_limit_is_told_before_a_quota() -> None:
    found = held()
    quota = Demand("workspace-quota", "ws", 100, "month")
    assert spend(found, demand(), quota).tightest.policy == "workspace"
    found.take([grant(5)])
    assert spend(found, demand(), quota).tightest.policy == "workspace-quota"


def test_a_limit_that_is_known_to_refuse_is_told_before_one_that_may_still_grant() -> None:
    found = held()
    quota = Demand("workspace-quota", "ws", 100, "month")
    spend(found, demand(), quota, patient=True)
    month = found.cells["ws", "month"].start
    found.take([Grant("ws", "month", month, 0, 0, EXHAUSTED)])
    refused = spend(found, demand(), quota, patient=True)
    assert (refused.later, refused.tightest.policy) == (False, "workspace-quota")
    # the one that was not asked is not shown as spent
    found.take([grant(3, 40)])
    assert spend(found).tightest.remaining == 42


def test_an_exhausted_cell_is_refused_at_once_until_it_ends() -> None:
    found = held()
    spend(found, patient=True)
    found.wants(quick=True, most=9)
    found.take([grant(0, 0, EXHAUSTED)])
    assert spend(found, patient=True) == spend(found)
    assert found.wants(quick=True, most=9) == []
    assert spend(found, now=NOW + 60 * SECOND, patient=True).later


@pytest.mark.parametrize(
    ("outage", "share"), [("static", 50), ("closed", 0), ("open", 100)], ids=["static", "closed", "open"]
)
def test_without_a_lease_and_a_granter_the_policy_says_what_holds(outage: str, share: int) -> None:
    found = held(leased=2, until=NOON)
    found.away = [True, True]
    what = demand(on_outage=outage)
    assert sum(spend(found, what, patient=True).allowed for _ in range(100)) == share


@pytest.mark.parametrize("window", [60, 3600, "day"])
def test_who_is_refused_for_want_of_a_granter_has_it_asked_again_in_the_next_cell(window: int | str) -> None:
    found, what = held(), Demand("workspace", "ws", 100, window)
    quick = window == 60
    found.away[quick] = True
    for now in (NOW, NOW + 86_400 * SECOND):
        assert not spend(found, what, now=now, patient=True).later
        [want] = found.wants(quick=quick, most=9)
        assert (want.start <= now // SECOND, want.need) == (True, 1)
        found.unheard([want])
    found.away[quick] = False
    assert spend(found, what, now=NOW + 86_400 * SECOND, patient=True).later


def test_a_static_share_is_taken_of_the_next_cells_and_then_of_none() -> None:
    found = held(leased=2, until=NOON)
    found.away = [True, True]
    taken = [
        sum(spend(found, now=NOW + at * 60 * SECOND).allowed for _ in range(100))
        for at in range(GRACE // 60 + 2)
    ]
    assert taken == [50] * (GRACE // 60) + [0, 0]


def test_a_cell_that_nobody_grants_is_spent_up_and_then_open_only_where_that_is_wanted() -> None:
    for outage, allowed in (("static", [True, False]), ("open", [True, True])):
        found, what = held(), demand(on_outage=outage)
        spend(found, what, patient=True)
        found.take([grant(1)])
        found.take([grant(0, 0, NOBODY)])
        assert [spend(found, what, patient=True).allowed for _ in range(2)] == allowed


def test_what_is_recalled_is_gone_before_it_is_told_also_what_was_not_taken_up_yet() -> None:
    found = held(leased=1)
    assert spend(found).allowed
    found.give_back([Recalled("ws", 60, NOON, 100), Recalled("other", 60, NOON, 100)], NOW)
    assert not spend(found, patient=True).allowed
    assert not spend(found, demand(holder="other"), patient=True).allowed
    told = {want.holder: (want.spent, want.held) for want in found.wants(quick=True, most=9)}
    assert told == {"ws": (1, 0), "other": (0, 0)}


def test_a_lowered_limit_gives_up_what_was_granted_for_the_larger_one() -> None:
    found = held(leased=1)
    assert all(spend(found).allowed for _ in range(5))
    assert not spend(found, demand(10), patient=True).allowed
    (want,) = found.wants(quick=True, most=9)
    assert (want.limit, want.spent, want.held) == (10, 5, 0)
    found.take([grant(5)])
    # it stays low until the cell ends, whatever comes
    assert [spend(found, demand(100)).allowed for _ in range(6)] == [True] * 5 + [False]


def test_nothing_more_is_let_in_once_more_than_the_lowered_limit_is_spent() -> None:
    found = held(leased=1)
    assert all(spend(found).allowed for _ in range(20))
    refused = spend(found, demand(10), patient=True)
    assert (refused.allowed, refused.later) == (False, False)


def test_nobody_waits_for_more_than_the_limit_can_have_left() -> None:
    found = held(leased=1)
    assert all(spend(found).allowed for _ in range(20))
    assert not spend(found, cost=81, patient=True).later
    assert spend(found, cost=80, patient=True).later


def test_a_cost_that_no_cell_can_hold_is_refused_by_name() -> None:
    with pytest.raises(Refusal, match="cost_exceeds_limit"):
        spend(held(leased=1), cost=101)


def test_a_look_spends_nothing_and_is_always_allowed() -> None:
    found = held()
    assert spend(found, cost=0).allowed
    assert not spend(found).allowed


def talk(found: Held, term: int = 5) -> Conversation:
    made = Conversation("v1", found)
    made.next(quick=True, anyway=True)
    assert made.answered(Grants(term, 1, NOW), NOON, quick=True)
    return made


def test_only_the_answer_to_the_message_in_flight_is_heeded() -> None:
    found = held()
    made = talk(found)
    spend(found, patient=True)
    assert made.next(quick=True) is not None
    made.unanswered(quick=True)
    again = made.next(quick=True)
    assert again is not None
    assert not made.answered(Grants(5, again.seq - 1, NOW, (grant(50),)), NOON, quick=True)
    assert not made.answered(Grants(4, again.seq, NOW, (grant(50),)), NOON, quick=True)
    assert made.answered(Grants(5, again.seq, NOW, (grant(1),)), NOON, quick=True)
    assert [spend(found).allowed for _ in range(2)] == [True, False]


def test_a_new_term_is_taken_up_and_everything_said_once_more() -> None:
    found = held()
    made = talk(found)
    spend(found, patient=True)
    asked = made.next(quick=True)
    assert asked is not None
    assert made.answered(Grants(6, asked.seq, NOW, (grant(50),)), NOON, quick=True)
    assert not spend(found).allowed
    again = made.next(quick=True)
    assert again is not None
    assert (again.term, again.wants[0].holder) == (6, "ws")
    assert not made.recalled(Recall(5, NOW, (Recalled("ws", 60, NOON, 100),)), NOW)


def test_what_was_granted_for_another_cell_is_lost() -> None:
    found = held()
    spend(found, patient=True)
    found.take([grant(5, start=NOON - 60)])
    assert not spend(found).allowed


def test_a_lease_whose_slot_has_begun_is_not_accepted() -> None:
    leases = Leases()
    assert leases.accept(Lease(NOON, NOON + 20, 1), NOON - 1)
    assert leases.unasked(NOON, NOON + 60, 100, static=True) == 20
    assert not leases.accept(Lease(NOON + 20, NOON + 40, 5), NOON + 20)
    assert leases.unasked(NOON + 20, NOON + 20 + 60, 100, static=True) == 100


def test_a_newcomer_takes_its_part_of_running_cells_but_of_those_that_are_spent() -> None:
    found = held()
    made = Conversation("v1", found)
    made.term = 6
    asked = made.next(quick=True, anyway=True)
    assert asked is not None
    lease = Lease(NOON - 50, NOON + 20, 5, static=False, made=NOON)
    but = (Recalled("spent", 60, NOON, 100),)
    assert made.answered(Grants(6, asked.seq, NOW, (), lease, but), NOON + 5, quick=True)
    assert [spend(found).allowed for _ in range(5)] == [True] * 4 + [False]
    assert not found.spend((Demand("workspace", "spent", 100, 60),), 1, NOW).allowed
    # of what had ended when it was made, it has nothing, and no static share afterwards
    assert found.leases.unasked(NOON - 50, NOON, 100, static=True) == 0
    assert found.leases.unasked(NOON + 20, NOON + 20 + 60, 100, static=True) == 0


def test_the_granters_clock_never_goes_back_and_is_not_slowed_by_a_slow_answer() -> None:
    clock = GranterClock()
    clock.told(NOW, 100.0)
    assert clock.now(101.0) == NOW + SECOND
    clock.told(NOW + SECOND, 101.1)
    assert clock.now(101.1) == NOW + 1_100_000
    clock.told(NOW - 10 * SECOND, 102.0)
    assert clock.now(102.0) == NOW + 1_100_000
    clock.told(NOW + 20 * SECOND, 103.0)
    assert clock.now(103.0) == NOW + 20 * SECOND


def test_what_has_come_is_not_asked_for_once_more() -> None:
    found = held()
    for _ in range(10):
        spend(found, patient=True)
    assert found.wants(quick=True, most=9)[0].need == 10
    for _ in range(12):
        spend(found, patient=True)
    found.take([grant(8, 50)])
    assert found.wants(quick=True, most=9)[0].need == 4


def test_what_was_spent_is_told_after_some_silence_and_once() -> None:
    found = held(leased=1)
    spend(found)
    found.look()
    assert found.wants(quick=True, most=9) == []
    found.look()
    (want,) = found.wants(quick=True, most=9)
    assert (want.spent, want.held, want.need) == (1, 19, 0)
    for _ in range(4):
        found.look()
    assert found.wants(quick=True, most=9) == []


def test_a_raised_limit_gives_nothing_more_in_a_cell_that_began_before() -> None:
    found = held(leased=1)
    what = Demand("workspace", "ws", 10_000, 60, before=100, since=NOW + 30 * SECOND)
    first = spend(found, what, now=NOW + 31 * SECOND)
    assert (first.allowed, first.tightest.limit, first.tightest.remaining) == (True, 100, 99)
    assert sum(spend(found, what, now=NOW + 31 * SECOND).allowed for _ in range(100)) == 19
    [want] = found.wants(quick=True, most=9)
    assert (want.limit, want.spent) == (100, 20)
    later = spend(found, what, now=NOW + 60 * SECOND)
    assert (later.tightest.limit, later.tightest.remaining) == (10_000, 9_999)


def test_a_raised_quota_is_there_at_once_and_says_so() -> None:
    found, rate = held(leased=1), demand(10_000)
    small = Demand("workspace-quota", "ws", 1, "month", "closed")
    spend(found, rate, small, patient=True)
    found.wants(quick=False, most=9)
    found.take([Grant("ws", "month", span("month", NOON)[0], 0, 0, EXHAUSTED)])
    assert not spend(found, rate, small, patient=True).later
    large = Demand("workspace-quota", "ws", 1000, "month", "closed", since=NOW)
    answered = spend(found, rate, large, patient=True)
    assert (answered.later, answered.tightest.limit) == (True, 1000)
    [want] = found.wants(quick=False, most=9)
    assert (want.limit, want.since, want.need) == (1000, NOW, 1)
    found.take([Grant("ws", "month", want.start, 5, 994, MORE)])
    assert spend(found, rate, large).tightest.remaining == 998
    # a lowered one binds as ever
    spend(found, rate, Demand("workspace-quota", "ws", 500, "month", "closed", since=NOW + 1))
    assert found.wants(quick=False, most=9)[0].limit == 500


@pytest.mark.parametrize(
    ("away", "state", "outage"), [(True, MORE, True), (False, NOBODY, True), (True, EXHAUSTED, False)]
)
def test_who_is_refused_for_want_of_a_granter_is_told_apart(away: bool, state: int, outage: bool) -> None:
    found = held()
    spend(found, patient=True)
    found.wants(quick=True, most=9)
    found.take([grant(0, 0, state)])
    found.away[True] = away
    assert spend(found).tightest.outage is outage


@pytest.mark.parametrize(("limit", "ahead"), [(99, 0), (100, 1)])
def test_of_a_small_committed_cell_no_token_is_fetched_before_somebody_waits(limit: int, ahead: int) -> None:
    found, what = held(), Demand("workspace", "ws", limit, 3600)
    assert spend(found, what, patient=True).later
    found.wants(quick=False, most=9)
    found.take([Grant("ws", 3600, span(3600, NOON)[0], 1, limit - 1, MORE)])
    assert spend(found, what).allowed
    assert len([want for want in found.wants(quick=False, most=9) if want.need]) == ahead
    assert spend(found, what, patient=True).later
    assert found.wants(quick=False, most=9)[0].need == 1


def test_what_was_spent_of_a_holders_cells_is_told_when_it_is_asked_for() -> None:
    found = held(leased=1)
    for holder in ("ws", "other"):
        assert spend(found, demand(holder=holder)).allowed
    found.tell("ws")
    assert [(want.holder, want.spent) for want in found.wants(quick=True, most=9)] == [("ws", 1)]
    found.tell("ws")
    found.tell("nobody")
    assert found.wants(quick=True, most=9) == []
