"""What the granter answers, message by message."""

import pytest

from keyledger.grants import (
    EXHAUSTED,
    GRACE,
    MORE,
    NOBODY,
    SLOT,
    Ask,
    Grant,
    Grants,
    Lease,
    Recall,
    Want,
    span,
)
from services.usage.domain.granting import Granter, Range
from services.usage.domain.pool import PATIENCE
from services.usage.domain.shares import Right

SECOND = 1_000_000
NOON = 1_790_000_040
NOW = NOON * SECOND
DAY = NOON - NOON % 86_400


def granter(term: int = 5, *, start: int = 0) -> Granter:
    made = Granter(term)
    made.claim(Range(start, NOW + 600 * SECOND))
    return made


def want(need: int = 1, *, spent: int = 0, held: int = 0, limit: int = 1000, start: int = NOON) -> Want:
    return Want("ws", 60, start, limit, spent, held, need)


def ask(made: Granter, verifier: str, seq: int, *wants: Want, now: int = NOW, **more: object) -> Grant:
    """The grant that answers the only want."""
    found = made.answer(Ask(verifier, made.term, seq, wants, **more), now)  # type: ignore[arg-type]
    assert found is not None
    return found[0].grants[0]


def recall_of(made: Granter, verifier: str, seq: int, *wants: Want, now: int = NOW) -> Recall | None:
    found = made.answer(Ask(verifier, made.term, seq, wants), now)
    assert found is not None
    return found[1]


def test_what_is_granted_is_charged_before_it_is_told_and_a_repeat_has_the_same_answer() -> None:
    made = granter()
    first = ask(made, "v1", 1, want())
    assert (first.amount, first.left, first.state) == (500, 500, MORE)
    assert ask(made, "v1", 1, want()) == first
    assert ask(made, "v1", 2, want(spent=500)).amount == 250


def test_what_was_said_before_is_not_heeded_after_what_was_said_later() -> None:
    made = granter()
    ask(made, "v1", 1, want(800))
    ask(made, "v1", 2, want(1000, spent=800))
    assert made.answer(Ask("v1", made.term, 1, (want(0),)), NOW) is None
    assert ask(made, "v2", 1, want()).amount == 0


def test_what_was_said_long_ago_by_who_is_gone_is_not_heeded_either() -> None:
    made = granter()
    ask(made, "v1", 1, want())
    ask(made, "v1", 2, want(1000, spent=500))
    made.shares.plan(NOON + 50)
    made.tidy(NOW + 50 * SECOND)
    assert made.answer(Ask("v1", made.term, 1, (want(0),)), NOW + 51 * SECOND) is None
    assert made.answer(Ask("v1", made.term, 2, (want(0),)), NOW + 51 * SECOND) is None


def test_a_lost_grant_comes_back_with_the_next_message() -> None:
    made = granter()
    assert ask(made, "v1", 1, want(900)).amount == 900
    # the answer never arrived
    assert ask(made, "v1", 2, want(900)).amount == 900


def test_another_term_is_told_the_term_and_nothing_of_it_is_heeded() -> None:
    made = granter(term=5)
    ask(made, "v1", 1, want(1000))
    found = made.answer(Ask("v1", 4, 9, (want(0),)), NOW)
    assert found is not None
    assert (found[0].term, found[0].grants) == (5, ())
    assert ask(made, "v2", 1, want()).amount == 0


@pytest.mark.parametrize(("start", "state"), [(NOON - 60, NOBODY), (NOON + 60, MORE), (NOON + 1, MORE)])
def test_only_the_cell_that_runs_is_granted(start: int, state: int) -> None:
    grant = ask(granter(), "v1", 1, want(start=start))
    assert (grant.amount, grant.state) == (0, state)


def test_a_cell_that_ended_is_not_begun_again() -> None:
    made = granter()
    ask(made, "v1", 1, want(1000))
    made.tidy(NOW + 60 * SECOND)
    # its clock is behind
    late = ask(made, "v2", 1, want(), now=NOW + 60 * SECOND)
    assert (late.amount, late.state) == (0, NOBODY)


def test_a_cell_that_began_before_the_claim_has_no_granter() -> None:
    grant = ask(granter(start=NOW + 1), "v1", 1, want())
    assert (grant.amount, grant.state) == (0, NOBODY)


def test_the_last_tokens_are_asked_back_from_everybody_once_before_the_cell_is_spent() -> None:
    made = granter()
    ask(made, "v1", 1, want(600))
    ask(made, "v2", 1, want(400))
    recall = recall_of(made, "v1", 2, want(spent=600))
    assert recall is not None
    assert [(each.holder, each.start, each.limit) for each in recall.cells] == [("ws", NOON, 1000)]
    assert ask(made, "v1", 3, want(spent=600)).state == MORE
    # v2 has spent a hundred, and gives back the rest
    assert ask(made, "v2", 2, want(0, spent=100)).amount == 0
    assert ask(made, "v1", 4, want(300, spent=600)).amount == 300
    assert recall_of(made, "v1", 5, want(spent=900)) is None
    assert ask(made, "v1", 6, want(spent=900)).state == EXHAUSTED


def test_nobody_waits_long_for_who_does_not_answer_a_recall() -> None:
    made = granter()
    ask(made, "v1", 1, want(600))
    ask(made, "v2", 1, want(400))
    ask(made, "v1", 2, want(spent=600))
    assert ask(made, "v1", 3, want(spent=600), now=NOW + PATIENCE - 1).state == MORE
    assert ask(made, "v1", 4, want(spent=600), now=NOW + PATIENCE).state == EXHAUSTED


def test_a_lowered_limit_is_asked_back_at_once_and_never_raised_within_its_cell() -> None:
    made = granter()
    ask(made, "v1", 1, want(500))
    ask(made, "v2", 1, want(300))
    recall = recall_of(made, "v1", 2, want(0, spent=450, limit=600))
    assert recall is not None
    assert recall.cells[0].limit == 600
    # 450 are spent and v2 may still hold 300
    assert ask(made, "v1", 3, want(spent=450, limit=600)).amount == 0
    ask(made, "v2", 2, want(0, spent=100, limit=600))
    assert ask(made, "v1", 4, want(80, spent=450, limit=1000)).amount == 50


def leased(*verifiers: str) -> Granter:
    """A granter whose verifiers have accepted leases that begin at NOON."""
    made, before = granter(), NOON - 2 * SLOT
    for verifier in verifiers:
        made.answer(Ask(verifier, made.term, 1), before * SECOND)
    planned, _ = made.shares.plan(before)
    made.offer(planned)
    for verifier in verifiers:
        made.answer(Ask(verifier, made.term, 2, lease=NOON), (NOON - 1) * SECOND)
    return made


def leased_on(*verifiers: str) -> Granter:
    """As `leased`, with the next slot's leases accepted too."""
    made, then = leased(*verifiers), NOON - SLOT
    made.offer(made.shares.plan(then)[0])
    for verifier in verifiers:
        made.answer(Ask(verifier, made.term, 3, lease=NOON + SLOT), then * SECOND)
    return made


def test_what_is_leased_is_never_granted() -> None:
    made = leased("v1", "v2")
    assert ask(made, "v1", 3, want(1000, held=100)).amount == 800


def test_who_has_accepted_a_lease_has_no_static_share_of_an_older_one() -> None:
    made = leased("v1", "v2")
    now = NOON - SLOT
    for slot in range(4):
        planned, _ = made.shares.plan(now + slot * SLOT)
        made.offer(planned)
        for verifier, lease in planned.items():
            made.answer(Ask(verifier, made.term, 10 + slot, lease=lease.start), (now + slot * SLOT) * SECOND)
    assert made.shares.unasked(1000, NOON + 60) == {"v1": 100, "v2": 100}


def test_a_cell_that_ended_for_one_granter_is_ended_for_the_next() -> None:
    made = granter()
    ask(made, "v1", 1, want(1000))
    made.tidy(NOW + 60 * SECOND)
    after = Granter(6, made.legacy())
    # the clock of the next one is a moment behind
    assert ask(after, "v2", 1, want(), now=NOW + 59 * SECOND).amount == 0


def test_what_a_dead_verifier_may_have_taken_of_the_cell_stays_charged_and_of_the_next_it_takes_nothing() -> (
    None
):
    made = leased("v1", "v2")
    made.answer(Ask("v3", made.term, 1, replaces="v2"), NOW)
    assert ask(made, "v1", 3, want(1000, held=100)).amount == 800
    later = NOON + 60
    grant = ask(made, "v1", 4, want(1000, start=later), now=later * SECOND)
    assert grant.amount == 1000


def test_a_static_share_is_kept_for_who_did_not_accept_a_lease_until_it_has_lapsed() -> None:
    made = leased("v1", "v2")
    for at, amount in (
        (NOON + 60, 500),
        (NOON + SLOT + GRACE - (SLOT + GRACE) % 60, 500),
        (NOON + 180, 1000),
    ):
        fresh = Granter(6)
        fresh.claim(Range(0, NOW * 2))
        fresh.shares.inherit([Right("v1", 2, NOON + SLOT + GRACE), Right("v2", 2, NOON + SLOT + GRACE)])
        assert ask(fresh, "v1", 1, want(1000, start=at), now=at * SECOND).amount == amount
    # the same, told by a granter that has leased them itself
    at = NOON + 60
    assert ask(made, "v1", 3, want(1000, start=at), now=at * SECOND).amount == 500


def test_all_that_may_be_taken_unasked_is_at_most_the_limit_and_recorded() -> None:
    made, shares = granter(), {}
    for second in range(0, 400, 5):
        now = NOON + second
        for verifier in [f"v{number}" for number in range(1 + second // 60)]:
            holder = made.shares.holders.get(verifier)
            offers = [] if holder is None else holder.offers
            # every third never accepts
            accepted = offers[-1].lease.start if offers and verifier not in ("v2", "v5") else 0
            made.answer(Ask(verifier, made.term, second + 1, lease=accepted), now * SECOND)
        planned, rights = made.shares.plan(now)
        made.offer(planned)
        shares |= {right.verifier: right.parts for right in rights}
        for start in range(now, now + 300, 7):
            assert sum(made.shares.unasked(840, start).values()) <= 840
        for right in rights:
            for start in range(now, right.lapses, 7):
                # who grants next knows of everything that may be taken
                assert made.shares.unasked(840, start).get(right.verifier, 0) <= 840 // right.parts
    assert len(shares) > 3


def test_a_newcomer_begins_in_the_cells_that_run_with_what_the_others_leave_of_them() -> None:
    made = leased_on("v1", "v2")
    now = NOW + SECOND
    for holder, need in (("busy", 300), ("spent", 5000)):
        made.answer(Ask("v1", made.term, 10 + need, (Want(holder, 60, NOON, 1000, 0, 100, need),)), now)
    made.answer(Ask("v3", made.term, 1), now)
    assert made.shares.newcomers
    planned, rights = made.plan(now)
    assert planned["v3"] == Lease(NOON - 59, NOON + 2 * SLOT, 3, static=False, made=NOON + 1)
    assert Right("v3", 6, NOON + 2 * SLOT) in rights
    made.offer(planned)
    found = made.answer(Ask("v3", made.term, 2), now)
    assert found is not None
    assert found[0].lease == planned["v3"]
    assert [each.holder for each in found[0].but] == ["spent"]
    # 1000 / (5 * 3), rounded up, of what was granted from before, and of what nobody has asked about yet
    (busy,) = made.of_holder("busy", now)
    assert busy.holdings["v3"].charged == 67
    assert made.shares.unasked(1000, NOON) == {"v1": 100, "v2": 100, "v3": 67}
    # and no static share afterwards
    assert made.shares.unasked(1000, NOON + 2 * SLOT).get("v3", 0) == 0


def test_a_newcomer_waits_when_nothing_is_left_for_it() -> None:
    made, begun = leased_on("v1"), list[Lease]()
    for number in range(2, 10):
        made.answer(Ask(f"v{number}", made.term, 1), NOW)
        planned, _ = made.plan(NOW)
        made.offer(planned)
        begun += [lease for lease in planned.values() if lease.start < NOON]
    assert 1 < len(begun) < 8
    assert sum(made.shares.unasked(8400, NOON).values()) <= 8400


def test_a_newcomer_begins_with_no_cell_that_this_granter_has_not_claimed() -> None:
    made = granter(start=NOW + 5_500_000)
    made.answer(Ask("v1", made.term, 1), NOW + 10 * SECOND)
    planned, _ = made.plan(NOW + 10 * SECOND)
    assert planned["v1"].start == NOON + 6


def test_many_that_are_gone_are_kept_as_one_and_stay_charged() -> None:
    made = granter()
    day = Want("ws", "day", DAY, 1000, 1, 1, 0)
    for number in range(100):
        assert made.answer(Ask(f"v{number}", made.term, 1, (day,)), NOW, quick=False)
    made.shares.plan(NOON + 120)
    made.tidy(NOW + 120 * SECOND)
    (pool,) = made.of_holder("ws", NOW + 120 * SECOND)
    assert (len(pool.holdings), pool.charged, pool.spent) == (1, 200, 100)


def test_a_committed_cell_is_known_before_it_is_granted_and_forgotten_when_it_could_not_be_written() -> None:
    made = granter()
    day = Want("ws", "day", DAY, 1000, 0, 0, 1)
    message = Ask("v1", made.term, 1, (day,))
    assert made.missing(message, NOW) == [day]
    found = made.answer(message, NOW, quick=False)
    assert found is not None
    assert found[0].grants[0].amount == 5
    made.drop(message)
    assert made.missing(message, NOW) == [day]
    again = made.answer(message, NOW, quick=False)
    assert again is not None
    assert again[0].grants[0].amount == 5


def test_what_one_leaves_the_next_goes_on_with() -> None:
    made = leased("v1", "v2")
    ask(made, "v1", 3, want(300, held=100))
    after = Granter(6, made.legacy())
    assert ask(after, "v2", 1, want(1000, held=100)).amount == 400


def test_who_spoke_before_it_heard_the_recall_is_still_waited_for() -> None:
    made = granter()
    ask(made, "v1", 1, want(400))
    ask(made, "v2", 1, want(400))
    assert recall_of(made, "v1", 2, want(500, spent=500)) is not None
    # v2 holds everything that it was granted, and wants more
    early = ask(made, "v2", 2, want(900, held=500))
    assert (early.amount, early.state) == (0, MORE)
    assert ask(made, "v1", 3, want(500, spent=500)).state == MORE
    # now it has heard: what it gave back is there to be granted
    again = ask(made, "v2", 3, want(500))
    assert (again.amount, again.state) == (500, MORE)


def test_a_raised_quota_is_granted_of_at_once_and_who_knows_the_old_one_lowers_nothing() -> None:
    made, start = granter(), span("month", NOON)[0]

    def want(verifier: str, seq: int, limit: int, spent: int, since: int) -> Grants:
        asked = Want("ws", "month", start, limit, spent, 0, 1, since)
        found = made.answer(Ask(verifier, made.term, seq, (asked,)), NOW, quick=False)
        assert found is not None
        return found[0]

    assert want("v1", 1, 1, 0, 0).grants[0].amount == 1
    assert want("v1", 2, 1, 1, 0).grants[0].state == EXHAUSTED
    assert want("v1", 3, 1000, 1, 7).grants[0].amount == 5
    assert want("v2", 1, 1, 0, 0).grants[0].amount == 5
    (cell,) = made.of_holder("ws", NOW)
    assert (cell.limit, cell.since) == (1000, 7)
    # the later word counts, also when it is less
    want("v2", 2, 20, 5, 8)
    assert made.of_holder("ws", NOW)[0].limit == 20


def test_a_cell_from_before_the_claim_is_shown_as_verifiers_tell_it() -> None:
    made = granter(start=NOW + 60 * SECOND)
    for verifier, spent, held in (("v1", 200, 40), ("v2", 50, 0)):
        found = made.answer(Ask(verifier, made.term, 1, (Want("ws", 60, NOON, 1000, spent, held, 9),)), NOW)
        assert found is not None
        assert (found[0].grants[0].amount, found[0].grants[0].state) == (0, NOBODY)
    (cell,) = made.of_holder("ws", NOW)
    assert (cell.limit, cell.spent, cell.charged) == (1000, 250, 290)
    assert made.legacy().pools == []
    made.tidy(NOW + 60 * SECOND)
    assert made.of_holder("ws", NOW) == []
