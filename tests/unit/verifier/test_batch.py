"""A batch is judged in slices: others have their turn, and what changes meanwhile is no failure."""

from __future__ import annotations

import asyncio
from typing import Any

import msgspec

from keyledger.events import RateLimit, WorkspaceChanged
from services.verifier.handlers.tally import Tally
from services.verifier.handlers.verify import SLICE, Checks
from tests.support.followed_log import WORKSPACE, key_created, key_id, token
from tests.support.verifying import World


async def begun(world: World, count: int, **asked: Any) -> asyncio.Task[bytes]:
    """A batch of which the first slice is judged."""
    world.add(key_id(1), key_created(1))
    await world.caught_up()
    checks = Checks(world.verifier, Tally(world.verifier))
    body = msgspec.json.encode({"requests": [{"key": token(1), **asked}] * count})
    task = asyncio.create_task(checks.batch(body, "application/json"))
    await asyncio.sleep(0)
    return task


def codes(body: bytes) -> list[str]:
    return [verdict["code"] for verdict in msgspec.json.decode(body)["verdicts"]]


async def test_others_have_their_turn_between_two_slices() -> None:
    task = await begun(World(), 3 * SLICE)
    turns = 0
    while not task.done():
        await asyncio.sleep(0)
        turns += 1
    assert turns >= 3
    assert codes(await task) == ["VALID"] * (3 * SLICE)


async def test_a_limit_that_falls_below_a_cost_meanwhile_is_a_verdict() -> None:
    world = World(limit=100_000)
    task = await begun(world, 3 * SLICE, cost=5)
    # the costs of the first two slices are looked at, and of the third nothing is judged yet
    for _ in range(3):
        await asyncio.sleep(0)
    assert not task.done()
    world.store.apply(world.log.append(WORKSPACE, WorkspaceChanged(rate_limit=RateLimit(4, 60))))
    told = codes(await task)
    assert set(told) == {"VALID", "RATE_LIMITED"}
    assert told == sorted(told, reverse=True)
