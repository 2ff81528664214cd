"""What is answered alike takes as long; `tests/e2e/test_timing.py` asks the running service."""

from __future__ import annotations

import pytest

from keyledger.clock import stopwatch
from keyledger.events import KeyChanged, KeyRevoked
from keyledger.verification.verdict import Needs
from services.verifier.handlers.tally import Tally
from services.verifier.handlers.verify import EVEN, Checks
from tests.support.followed_log import START, key_created, key_id, token
from tests.support.verifying import World

KINDS = {
    "REVOKED": token(2),
    "DISABLED": token(3),
    "EXPIRED": token(4),
    "NOT_FOUND": token(9),
    "NOT_FOUND, a wrong secret": token(1, 2),
    "NOT_FOUND, not ours": "sk_live_nothing_of_ours",
    "MALFORMED": token(1)[:-1] + ("0" if token(1)[-1] != "0" else "1"),
}


def world() -> World:
    made = World(limit=10**9)
    for number in (2, 3):
        made.add(key_id(number), key_created(number))
    made.add(key_id(2), KeyRevoked())
    made.add(key_id(3), KeyChanged(enabled=False))
    made.add(key_id(4), key_created(4, expires_at=START))
    return made


@pytest.mark.parametrize("kind", KINDS)
async def test_what_is_answered_alike_takes_as_long_as_most_checks(kind: str) -> None:
    """In this process a refusal without it takes a fifth of that: the shortest of many shows it."""
    made = await world().caught_up()
    checks = Checks(made.verifier, Tally(made.verifier))
    shortest = 1.0
    for _ in range(50):
        began = stopwatch()
        assert checks.judge(KINDS[kind], Needs()).code == kind.partition(",")[0]
        shortest = min(shortest, stopwatch() - began)
    assert shortest >= EVEN
