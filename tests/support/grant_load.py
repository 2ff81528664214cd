"""A load on granted limits, in steps of a millisecond: who is let in, who waits, who is refused too early."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from keyledger.verification.limits import Demand
from tests.support.grant_world import SECOND, GrantWorld, PlayedVerifier

STEP = 1000
PATIENCE = 20
"""Milliseconds for which a request waits for a grant."""


@dataclass
class Outcome:
    """What became of one cell's load."""

    admitted: int = 0
    refused: int = 0
    early: int = 0
    """Refused before the last one that was admitted: these need not have been."""
    messages: int = 0


def leased(verifiers: int) -> GrantWorld:
    """A granter and verifiers that have leases, just before a minute begins."""
    world = GrantWorld(1)
    world.granters[0].tick(world.now)
    for _ in range(verifiers):
        world.ask(world.add(), anyway=True)
    world.settle()
    for _ in range(2 * 60):
        world.second()
    while world.now // SECOND % 60 != 59:
        world.second()
    return world


def play(
    world: GrantWorld,
    demand: Demand,
    arrivals: Sequence[tuple[int, int]],
    *,
    latency: int = 1,
    costs: Callable[[], int] = lambda: 1,
) -> Outcome:
    """Play requests (millisecond of the cell, verifier) from the next minute on, at the next of `costs`."""
    world.now += SECOND
    outcome, verifiers = Outcome(), list(world.verifiers.values())
    begin, sent = world.now, world.sent
    queue = sorted(arrivals, reverse=True)
    waiting: list[tuple[int, PlayedVerifier, int]] = []
    under_way: list[tuple[int, object]] = []
    refused_at: list[int] = []
    last_admitted = 0
    millisecond = 0
    while queue or waiting or under_way or world.letters:
        world.now = begin + millisecond * STEP
        if millisecond % 2000 == 0:
            world.granters[0].tick(world.now)
            for verifier in verifiers:
                if verifier.talk.renews(verifier.clock.now(world.steady()) // SECOND):
                    world.ask(verifier, anyway=True)
        under_way += [(millisecond + latency, letter) for letter in world.letters]
        world.letters = []
        due = [letter for at, letter in under_way if at <= millisecond]
        under_way = [each for each in under_way if each[0] > millisecond]
        for letter in due:
            world.letters.insert(0, letter)  # type: ignore[arg-type]
            world.deliver(0)
        asking, waiting = waiting, []
        while queue and queue[-1][0] <= millisecond:
            asking.append((millisecond, verifiers[queue.pop()[1]], costs()))
        for since, verifier, cost in asking:
            waits = since < millisecond and millisecond - since < PATIENCE
            if waits and not verifier.held.has((demand,), cost):
                waiting.append((since, verifier, cost))
                continue
            spending = world.spend(verifier, demand, cost)
            assert spending is not None
            if spending.allowed:
                outcome.admitted += cost
                last_admitted = millisecond
            elif spending.later and millisecond - since < PATIENCE:
                waiting.append((since, verifier, cost))
            else:
                refused_at.append(millisecond)
        for verifier in verifiers:
            world.ask(verifier)
        millisecond += 1
    outcome.refused = len(refused_at)
    outcome.early = sum(at < last_admitted for at in refused_at)
    outcome.messages = world.sent - sent
    return outcome
