"""`GET /v1/projection/digest` of the verifier."""

from __future__ import annotations

import asyncio

import pytest

from keyledger.token import Secret
from keyledger.verification.frozen import BUCKETS, bucket_of
from tests.support.followed_log import WORKSPACE, key_created, key_id
from tests.support.verifying import World

PATH = "/v1/projection/digest"


@pytest.fixture
async def world() -> World:
    world = World()
    for number in range(20):
        world.add(key_id(number), key_created(number))
    return await world.caught_up()


async def test_it_tells_position_epoch_digest_and_buckets(world: World) -> None:
    async with world.client() as client:
        answer = await client.get(PATH)
    assert answer.status_code == 200
    assert answer.headers["cache-control"] == "no-store"
    body = answer.json()
    assert set(body) == {"position", "epoch", "digest", "records", "buckets"}
    assert (body["position"], body["records"]) == (21, 21)
    assert body["epoch"] == world.log.epoch.text
    assert len(body["buckets"]) == BUCKETS


async def test_a_bucket_tells_its_records_by_id_and_nothing_of_them(world: World) -> None:
    async with world.client() as client:
        answer = await client.get(PATH, params={"bucket": bucket_of(WORKSPACE)})
    records = answer.json()["records"]
    assert WORKSPACE in records
    assert all(len(digest) == 64 for digest in records.values())
    assert "Acme" not in answer.text


@pytest.mark.parametrize("query", ["bucket=1024", "bucket=-1", "bucket=x", "bucket=null", "pail=1"])
async def test_a_query_that_makes_no_sense_is_refused(world: World, query: str) -> None:
    async with world.client() as client:
        answer = await client.get(f"{PATH}?{query}")
    assert (answer.status_code, answer.json()["error"]) == (400, "invalid_request")


async def test_beyond_loopback_it_wants_the_token(world: World) -> None:
    async with world.client(token=Secret("secret")) as client:
        missing, wrong, right = [
            await client.get(PATH, headers=headers)
            for headers in ({}, {"X-Verifier-Token": "other"}, {"X-Verifier-Token": "secret"})
        ]
    assert (missing.status_code, missing.json()["error"]) == (401, "missing_api_key")
    assert (wrong.status_code, wrong.json()["error"]) == (401, "invalid_api_key")
    assert right.status_code == 200


async def test_before_the_log_was_heard_of_there_is_nothing_to_tell() -> None:
    async with World().client() as client:
        answer = await client.get(PATH)
    assert (answer.status_code, answer.json()["error"]) == (503, "unavailable")


async def test_one_is_computed_at_a_time(world: World) -> None:
    async with world.client() as client:
        answers = await asyncio.gather(*(client.get(PATH) for _ in range(3)))
    assert sorted(answer.status_code for answer in answers) == [200, 503, 503]
    assert {answer.json().get("error") for answer in answers} == {None, "busy"}
