"""How old the state may be: proven by the question, not by the answer."""

from __future__ import annotations

from keyledger.verification.freshness import NEVER, Freshness


def fresh_at(asked_at: float) -> Freshness:
    freshness = Freshness(held_seconds=900)
    freshness.answered(5, asked_at=asked_at, applied=5, writable=True)
    return freshness


def test_it_is_never_fresh_before_the_first_answer() -> None:
    assert Freshness(held_seconds=900).age(10) == NEVER


def test_it_is_as_old_as_the_question() -> None:
    assert fresh_at(100).age(107) == 7


def test_an_answer_ahead_counts_once_its_position_is_applied() -> None:
    freshness = fresh_at(100)
    freshness.answered(9, asked_at=110, applied=5, writable=True)
    assert freshness.age(111) == 11
    freshness.applied(8)
    assert freshness.age(111) == 11
    freshness.applied(9)
    assert freshness.age(111) == 1
    assert freshness.head == 9


def test_a_late_answer_makes_nothing_older() -> None:
    freshness = fresh_at(100)
    freshness.answered(5, asked_at=90, applied=5, writable=True)
    assert freshness.age(100) == 0


def test_while_nothing_can_be_committed_it_stays_fresh_for_a_bounded_time() -> None:
    freshness = fresh_at(0)
    freshness.answered(5, asked_at=899, applied=5, writable=False)
    assert freshness.held
    assert freshness.age(900) == 1
    freshness.answered(5, asked_at=901, applied=5, writable=False)
    assert freshness.age(901) == 901


def test_held_says_nothing_about_a_store_that_is_behind() -> None:
    freshness = fresh_at(0)
    freshness.answered(6, asked_at=50, applied=5, writable=False)
    assert not freshness.held
    assert freshness.age(50) == 50


def test_held_proves_nothing_from_the_start() -> None:
    freshness = Freshness(held_seconds=900)
    freshness.answered(0, asked_at=0, applied=0, writable=False)
    assert freshness.age(0) == NEVER


def test_another_history_is_never_fresh() -> None:
    freshness = fresh_at(100)
    freshness.lost()
    assert freshness.age(100) == NEVER
