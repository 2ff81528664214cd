"""Without faults nearly everything that a limit allows is admitted, for few messages."""

import random

import pytest

from keyledger.verification.limits import Demand
from tests.support.grant_load import leased, play

MINUTE = 60_000


def spread(count: int, within: int, weights: list[int], seed: int = 7) -> list[tuple[int, int]]:
    """So many requests at random moments, to verifiers in these proportions."""
    chance = random.Random(seed)
    return [(chance.randrange(within), chance.choices(range(len(weights)), weights)[0]) for _ in range(count)]


@pytest.mark.parametrize("verifiers", [1, 2, 4, 16])
@pytest.mark.parametrize("limit", [10, 200, 1000])
def test_a_steady_load_of_five_times_the_limit_gets_all_of_it(verifiers: int, limit: int) -> None:
    world = leased(verifiers)
    got = play(world, Demand("workspace", "ws", limit, 60), spread(5 * limit, MINUTE, [1] * verifiers))
    print(verifiers, limit, got)
    assert 0.95 * limit <= got.admitted <= limit


@pytest.mark.parametrize("verifiers", [1, 2, 4])
def test_a_limit_is_admitted_when_everything_comes_in_50_ms(verifiers: int) -> None:
    world = leased(verifiers)
    got = play(world, Demand("workspace", "ws", 200, 60), spread(1000, 50, [1] * verifiers))
    print(verifiers, got)
    assert 190 <= got.admitted <= 200


@pytest.mark.parametrize("weights", [[100, 0], [90, 10], [100, 0, 0, 0], [85, 5, 5, 5]])
def test_a_client_that_sticks_to_one_verifier_gets_the_whole_limit(weights: list[int]) -> None:
    world = leased(len(weights))
    got = play(world, Demand("workspace", "ws", 1000, 60), spread(3000, MINUTE, weights))
    print(weights, got)
    assert 990 <= got.admitted <= 1000
    assert got.early <= 100


def test_four_verifiers_need_at_most_a_hundred_messages_for_a_cell_of_a_thousand() -> None:
    world = leased(4)
    got = play(world, Demand("workspace", "ws", 1000, 60), spread(5000, MINUTE, [1] * 4))
    assert got.messages <= 100


def test_a_quiet_holder_costs_no_message_of_its_own() -> None:
    world = leased(4)
    quiet = [play(world, Demand("workspace", f"ws{at}", 1000, 60), [(at, at % 4)]) for at in range(4)]
    assert sum(each.messages for each in quiet) <= 8


@pytest.mark.parametrize("verifiers", [1, 2, 4])
@pytest.mark.parametrize("highest", [10, 40])
def test_requests_of_many_costs_get_nearly_all_of_it(verifiers: int, highest: int) -> None:
    chance = random.Random(11)
    world = leased(verifiers)
    what, arrivals = Demand("workspace", "ws", 200, 60), spread(300, MINUTE, [1] * verifiers)
    got = play(world, what, arrivals, costs=lambda: chance.randint(1, highest))
    print(verifiers, highest, got)
    assert 195 <= got.admitted <= 200


def test_who_is_refused_for_its_cost_keeps_nothing_from_the_others() -> None:
    world = leased(2)
    costs = iter([30, 30, 60, *[1] * 45])
    arrivals = [(0, 0), (100, 1), (200, 0), *[(300 + at, 1) for at in range(45)]]
    got = play(world, Demand("workspace", "ws", 100, 60), arrivals, costs=lambda: next(costs))
    assert (got.admitted, got.refused) == (100, 6)
    assert got.messages <= 40
