"""The Python client against the real verifier: its service, on a log in memory."""

from __future__ import annotations

from collections.abc import AsyncIterator
from datetime import UTC, datetime
from typing import Any

import httpx2
import pytest

from keyledger.client.http import Check, KeyledgerError, VerifierClient
from keyledger.client.records import LimitState, Verdict
from keyledger.clock import SECOND
from keyledger.events import KeyRevoked
from keyledger.token import Secret
from services.verifier.app import Service
from tests.support.followed_log import START, key_created, key_id, token
from tests.support.verifying import World

CALLER = "of-the-callers"


@pytest.fixture
async def world() -> World:
    """Key 1 has the scope `read`, key 2 is revoked; the workspace may spend 10."""
    made = World(limit=10)
    made.add(key_id(1), key_created(1, scopes=("read",), expires_at=START + 3600 * SECOND))
    made.add(key_id(2), key_created(2))
    made.add(key_id(2), KeyRevoked())
    return await made.caught_up()


def client_of(world: World, *, token: str = CALLER) -> VerifierClient:
    served: Any = Service(world.verifier, world.clock, token=Secret(CALLER)).app
    return VerifierClient(
        "http://verifier.test", token=token, transport=httpx2.ASGITransport(served), attempts=1
    )


@pytest.fixture
async def client(world: World) -> AsyncIterator[VerifierClient]:
    async with client_of(world) as made:
        yield made


async def test_one_and_many_are_told_the_same(client: VerifierClient) -> None:
    one = await client.verify(token(1), scopes=["read"], environment="live", cost=0, max_staleness=5)
    assert one.valid
    assert one.expires_at == datetime.fromtimestamp(START // SECOND + 3600, UTC)
    check = Check(key=token(1), scopes=("read",), environment="live", cost=0, max_staleness=5)
    assert await client.verify_many([check]) == [one]


async def test_each_of_many_is_answered_in_its_place(client: VerifierClient, world: World) -> None:
    position, epoch = world.log.position, world.log.epoch.text
    verdicts = await client.verify_many(
        [
            Check(key=token(1), scopes=("read",), cost=3, min_position=position, epoch=epoch),
            Check(key=token(2)),
            Check(key=Secret(token(1, 2))),
            Check(key=token(1), scopes=("write",)),
            Check(key=token(1), ip="192.0.2.1", cost=8),
            Check(key=token(1), environment="test"),
        ]
    )
    assert [verdict.code for verdict in verdicts] == [
        "VALID",
        "REVOKED",
        "NOT_FOUND",
        "INSUFFICIENT_PERMISSIONS",
        "RATE_LIMITED",
        "WRONG_ENVIRONMENT",
    ]
    assert verdicts[0].key_id == key_id(1)
    assert verdicts[0].rate_limit == LimitState(10, 7, START // SECOND // 60 * 60 + 60)
    assert verdicts[2] == Verdict(valid=False, code="NOT_FOUND", position=position, age_ms=verdicts[2].age_ms)


async def test_none_is_answered_when_one_is_wrong(client: VerifierClient) -> None:
    with pytest.raises(KeyledgerError, match="invalid_request") as caught:
        await client.verify_many([Check(key=token(1), cost=5), Check(key=token(1), ip="nowhere")])
    assert (caught.value.status, caught.value.field) == (400, "requests.ip")
    with pytest.raises(KeyledgerError, match="invalid_request"):
        await client.verify_many([Check(key=token(1))] * 1001)
    untouched = await client.verify(token(1), cost=0)
    assert untouched.rate_limit is not None
    assert untouched.rate_limit.remaining == 10


async def test_none_and_the_most_are_answered(client: VerifierClient) -> None:
    assert await client.verify_many([]) == []
    assert len(await client.verify_many([Check(key=token(1), cost=0)] * 1000)) == 1000


async def test_a_caller_without_the_verifier_s_token_is_told_nothing(world: World) -> None:
    async with client_of(world, token="another") as stranger:
        with pytest.raises(KeyledgerError, match="invalid_api_key"):
            await stranger.verify_many([Check(key=token(1))])


def test_a_check_does_not_show_its_token() -> None:
    assert token(1) not in repr(Check(key=token(1)))
