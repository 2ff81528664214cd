"""The verifier as a library: fresh or silent, every use counted under its outcome."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest

from keyledger.errors import Refusal
from keyledger.events import KeyRevoked
from keyledger.verification.spool import Spool
from keyledger.verification.uses import Uses
from tests.support.followed_log import key_created, key_id, token
from tests.support.verifying import World

KEY = key_id(1)


async def world_with_key() -> World:
    world = World()
    world.add(KEY, key_created(1, scopes=("read",)))
    return await world.caught_up()


def refused(world: World, **asked: object) -> str:
    with pytest.raises(Refusal) as refusal:
        world.verifier.check(token(1), **asked)  # pyright: ignore[reportArgumentType]
    return refusal.value.code


async def test_a_verdict_says_what_it_rests_on() -> None:
    world = await world_with_key()
    world.clock.advance(1.5)
    verdict = world.verifier.check(token(1), scopes=["read"], environment="live", ip="10.0.0.1")
    assert (verdict.code, verdict.position, verdict.age_ms) == ("VALID", 2, 1500)


async def test_a_revocation_that_is_applied_is_obeyed() -> None:
    world = await world_with_key()
    world.add(KEY, KeyRevoked())
    await world.caught_up()
    assert world.verifier.check(token(1)).code == "REVOKED"


async def test_before_the_log_is_read_nothing_can_be_said() -> None:
    assert refused(World()) == "unavailable"


async def test_beyond_max_staleness_it_refuses_to_answer() -> None:
    world = await world_with_key()
    world.clock.advance(300)
    assert world.verifier.check(token(1)).code == "VALID"
    world.clock.advance(0.001)
    assert refused(world) == "stale"


async def test_a_request_may_ask_for_less_age_and_never_for_more() -> None:
    world = await world_with_key()
    world.clock.advance(10)
    assert refused(world, max_staleness=9) == "stale"
    assert world.verifier.check(token(1), max_staleness=10).valid
    world.clock.advance(291)
    assert refused(world, max_staleness=10_000) == "stale"


@pytest.mark.parametrize(
    ("asked", "field"),
    [
        ({"scopes": ["No"]}, "scopes"),
        ({"scopes": ["read\n"]}, "scopes"),
        ({"environment": "prod"}, "environment"),
        ({"ip": "10.0.0"}, "ip"),
        ({"cost": -1}, "cost"),
        ({"cost": True}, "cost"),
    ],
)
async def test_needs_that_are_not_well_formed_are_refused_by_name(
    asked: dict[str, object], field: str
) -> None:
    world = await world_with_key()
    with pytest.raises(Refusal) as refusal:
        world.verifier.check(token(1), **asked)  # pyright: ignore[reportArgumentType]
    assert (refusal.value.code, refusal.value.field) == ("invalid_request", field)


async def test_uses_are_counted_under_their_outcome(tmp_path: Path) -> None:
    counted: list[tuple[str, str, int]] = []

    class Counting(Uses):
        def count(self, record: object, outcome: str, *, cost: int, now: int) -> None:
            counted.append((getattr(record, "key_id", ""), outcome, cost))

    world = World(limit=2, uses=Counting(Spool(tmp_path), None, boot="b" * 32))
    world.add(KEY, key_created(1, scopes=("read",)))
    await world.caught_up()
    world.verifier.check(token(1), cost=2)
    world.verifier.check(token(1))
    world.verifier.check(token(1), scopes=["write"])
    world.verifier.check(token(1, 2))
    world.verifier.check(token(2))
    world.verifier.check("cvtk_live_broken")
    world.verifier.check(token(1), cost=0)
    assert counted == [
        (KEY, "VALID", 2),
        (KEY, "RATE_LIMITED", 0),
        (KEY, "INSUFFICIENT_PERMISSIONS", 0),
        (KEY, "NOT_FOUND", 0),
    ]


async def test_as_a_context_it_starts_and_stops(tmp_path: Path) -> None:
    world = World(uses=Uses(Spool(tmp_path), None, boot="b" * 32))
    world.add(KEY, key_created(1))
    async with world.verifier as verifier:
        assert await world.follower.reached(2, None, within=5)
        assert verifier.check(token(1)).valid
    # without a bus the use waits in the spool for the next boot
    assert len(list(tmp_path.iterdir())) == 1


async def test_a_position_that_does_not_come_is_refused() -> None:
    world = await world_with_key()
    await world.verifier.reached(2, world.log.epoch.text)
    with pytest.raises(Refusal, match="position_not_reached"):
        await world.verifier.reached(2, "7-0101010101010101")


async def test_needs_that_were_well_formed_before_do_not_hide_those_that_are_not() -> None:
    world = await world_with_key()
    many = ["read"] * 100
    for _ in range(2):
        assert world.verifier.check(token(1), scopes=["read"], ip="192.0.2.1").valid
        assert world.verifier.check(token(1), scopes=many).valid
        assert not world.verifier.check(token(1), scopes=[*many, "write"]).valid
        assert refused(world, scopes=["read"], cost=True) == "invalid_request"
        assert refused(world, scopes=[*many, "X"]) == "invalid_request"
        assert refused(world, scopes=["read"], ip="x") == "invalid_request"


async def test_old_prefixes_stay_accepted_and_others_are_foreign() -> None:
    world = await world_with_key()
    assert world.verifier.check("oldp_live_tooshort").code == "MALFORMED"
    assert world.verifier.check("else_live_tooshort").code == "NOT_FOUND"
    assert world.verifier.check("x" * 513).code == "MALFORMED"
    assert world.verifier.check(token(1)[:-1] + ("0" if token(1)[-1] != "0" else "1")).code == "MALFORMED"


async def test_no_token_reaches_a_log(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    world = await world_with_key()
    world.log.append_raw(KEY, "key_frozen", 1, token(1).encode())
    await world.caught_up()
    world.verifier.check(token(1))
    assert caplog.text
    assert token(1) not in caplog.text
