"""`POST /v1/verify` and its batch, through the application, as the contract says them."""

from __future__ import annotations

from typing import Any

import httpx2
import pytest

from keyledger.clock import SECOND
from keyledger.events import KeyChanged, KeyRevoked, Quota, RateLimit
from keyledger.token import Secret
from tests.support.followed_log import START, WORKSPACE, key_created, key_id, token
from tests.support.verifying import World

KEY = key_id(1)
JSON = {"Content-Type": "application/json"}


async def world_with_key(*, limit: int = 1000, **key: Any) -> World:
    world = World(limit=limit)
    world.add(KEY, key_created(1, **{"scopes": ("read",), **key}))
    return await world.caught_up()


async def verify(world: World, **asked: Any) -> httpx2.Response:
    async with world.client() as client:
        return await client.post("/v1/verify", json={"key": token(1), **asked})


async def send(world: World, body: bytes, **headers: str) -> httpx2.Response:
    async with world.client() as client:
        return await client.post("/v1/verify", content=body, headers={**JSON, **headers})


async def test_a_valid_key_is_told_in_full() -> None:
    world = await world_with_key(name="web", metadata={"plan": "pro"}, expires_at=START + 90 * SECOND)
    answer = await verify(world, scopes=["read"], environment="live", ip="10.0.0.1")
    assert answer.status_code == 200
    assert answer.json() == {
        "valid": True,
        "code": "VALID",
        "key_id": KEY,
        "workspace_id": WORKSPACE,
        "name": "web",
        "environment": "live",
        "scopes": ["read"],
        "expires_at": "2026-09-21T14:14:50Z",
        "metadata": {"plan": "pro"},
        "rate_limit": {"limit": 1000, "remaining": 999, "reset": 1_790_000_040},
        "position": 2,
        "age_ms": 0,
    }
    assert answer.headers["cache-control"] == "no-store"
    assert answer.headers["content-type"] == "application/json"
    assert answer.headers["x-request-id"]


@pytest.mark.parametrize("presented", [token(1, 2), token(9), "cvtk_live_x", "foreign", ""])
async def test_without_the_secret_nothing_is_told(presented: str) -> None:
    world = await world_with_key()
    told = (await verify(world, key=presented)).json()
    assert set(told) == {"valid", "code", "position", "age_ms"}
    assert told["valid"] is False


async def test_a_refusal_of_a_proven_key_is_told_in_full() -> None:
    world = await world_with_key()
    world.add(KEY, KeyRevoked())
    await world.caught_up()
    told = (await verify(world)).json()
    assert (told["code"], told["key_id"], told["expires_at"]) == ("REVOKED", KEY, None)
    assert told["rate_limit"]["remaining"] == 1000


@pytest.mark.parametrize(
    ("asked", "field"),
    [
        ({"colour": "red"}, "colour"),
        ({"key": 5}, "key"),
        ({"key": None}, "key"),
        ({"scopes": "read"}, "scopes"),
        ({"scopes": ["Read"]}, "scopes"),
        ({"scopes": ["read\n"]}, "scopes"),
        ({"scopes": ["a" * 65]}, "scopes"),
        ({"environment": "prod"}, "environment"),
        ({"environment": None}, "environment"),
        ({"ip": "300.1.1.1"}, "ip"),
        ({"cost": -1}, "cost"),
        ({"cost": True}, "cost"),
        ({"cost": 1.5}, "cost"),
        ({"cost": "1"}, "cost"),
        ({"min_position": -1}, "min_position"),
        ({"epoch": 1}, "epoch"),
        ({"max_staleness": -1}, "max_staleness"),
    ],
)
async def test_what_is_not_well_formed_is_named(asked: dict[str, Any], field: str) -> None:
    answer = await verify(await world_with_key(), **asked)
    assert answer.status_code == 400
    told = answer.json()
    assert (told["error"], told["field"]) == ("invalid_request", field)
    assert told["request_id"] == answer.headers["x-request-id"]
    assert token(1) not in answer.text


@pytest.mark.parametrize(("query", "field"), [("colour=red", "colour"), ("key=a", "key"), ("x", "x")])
async def test_a_parameter_is_refused(query: str, field: str) -> None:
    async with (await world_with_key()).client() as client:
        for path in ("/v1/verify", "/v1/verify/batch"):
            answer = await client.post(f"{path}?{query}", json={"key": token(1)})
            told = answer.json()
            assert (answer.status_code, told["error"], told["field"]) == (400, "invalid_request", field)


@pytest.mark.parametrize("scope", ["Read", "read\n", "", "a" * 65, "rea d"])
async def test_what_a_scope_is_is_told_in_words(scope: str) -> None:
    world = await world_with_key()
    told = (await verify(world, scopes=["read", scope])).json()
    assert told["message"] == "A scope is * or [a-z0-9][a-z0-9:._-]{0,63}."
    told = (await batch(world, [{"key": token(1)}, {"key": token(1), "scopes": [scope]}])).json()
    assert told["field"] == "requests.scopes"
    assert told["message"].startswith("Request 1: A scope is")


@pytest.mark.parametrize(
    "body", [b"", b"{", b"[]", b"nonsense", b'{"key":"\xff"}', b'{"key":"a"} trailing', b'{"key":"\\ud800"}']
)
async def test_broken_json_is_refused(body: bytes) -> None:
    answer = await send(await world_with_key(), body)
    assert (answer.status_code, answer.json()["error"]) == (400, "invalid_request")


async def test_a_missing_key_is_named() -> None:
    assert (await send(await world_with_key(), b"{}")).json()["field"] == "key"


async def test_json_that_is_too_deep_is_refused_and_brackets_in_text_are_not() -> None:
    world = await world_with_key()
    deep = b'{"key":"a","x":' + b"[" * 40 + b"]" * 40 + b"}"
    assert (await send(world, deep)).status_code == 400
    assert (await send(world, b'{"key":"' + b"[" * 200 + b'"}')).status_code == 200
    assert (await send(world, b"[" * 60_000)).status_code == 400


async def test_a_body_that_is_too_large_is_refused_before_it_is_read() -> None:
    answer = await send(await world_with_key(), b'{"key":"' + b"a" * 65_536 + b'"}')
    assert (answer.status_code, answer.json()["error"]) == (413, "payload_too_large")


async def test_another_content_type_is_refused() -> None:
    answer = await send(await world_with_key(), b"{}", **{"Content-Type": "text/plain"})
    assert (answer.status_code, answer.json()["error"]) == (415, "unsupported_media_type")


@pytest.mark.parametrize("method", ["GET", "PUT", "PATCH", "DELETE", "OPTIONS"])
@pytest.mark.parametrize("path", ["/v1/verify", "/v1/verify/batch"])
async def test_another_method_is_told_which_one(path: str, method: str) -> None:
    async with (await world_with_key()).client() as client:
        answer = await client.request(method, path)
    assert (answer.status_code, answer.headers["allow"]) == (405, "POST")
    assert answer.json()["error"] == "method_not_allowed"


async def test_a_problem_is_told_as_one_when_asked_for() -> None:
    answer = await send(await world_with_key(), b"{}", Accept="application/problem+json")
    assert answer.headers["content-type"] == "application/problem+json"
    assert answer.json()["error"] == "invalid_request"
    assert answer.json()["status"] == 400


@pytest.mark.parametrize(("given", "echoed"), [("abc-123", True), ("x" * 129, False), ("with space", False)])
async def test_a_request_id_is_echoed_or_made(given: str, echoed: bool) -> None:
    answer = await send(await world_with_key(), b"{}", **{"X-Request-Id": given})
    assert (answer.headers["x-request-id"] == given) is echoed
    assert answer.json()["request_id"] == answer.headers["x-request-id"]


async def test_costs() -> None:
    world = await world_with_key(limit=10)
    assert (await verify(world, cost=8)).json()["rate_limit"]["remaining"] == 2
    assert (await verify(world, cost=3)).json()["code"] == "RATE_LIMITED"
    assert (await verify(world, cost=2)).json()["valid"]
    looked = (await verify(world, cost=0)).json()
    assert (looked["code"], looked["rate_limit"]["remaining"]) == ("VALID", 0)
    refused = await verify(world, cost=11)
    assert refused.status_code == 400
    assert (refused.json()["error"], refused.json()["field"]) == ("cost_exceeds_limit", "cost")


async def test_a_key_with_a_limit_of_its_own_spends_both() -> None:
    world = await world_with_key(limit=10, rate_limit=RateLimit(2, 60))
    assert [(await verify(world)).json()["code"] for _ in range(3)] == ["VALID", "VALID", "RATE_LIMITED"]
    world.add(KEY, KeyChanged(rate_limit=None))
    await world.caught_up()
    assert (await verify(world, cost=0)).json()["rate_limit"] == {
        "limit": 10,
        "remaining": 8,
        "reset": 1_790_000_040,
    }


async def test_freshness_and_positions() -> None:
    world = await world_with_key()
    world.clock.advance(20)
    stale = await verify(world, max_staleness=10)
    assert (stale.status_code, stale.json()["error"]) == (503, "stale")
    assert stale.headers["retry-after"] == "1"
    assert (await verify(world, max_staleness=30)).json()["age_ms"] == 20_000
    epoch = world.log.epoch.text
    assert (await verify(world, min_position=2, epoch=epoch)).status_code == 200
    for asked in ({"min_position": 3}, {"epoch": "9-0000000000000000"}):
        answer = await verify(world, **asked)
        assert (answer.status_code, answer.json()["error"]) == (503, "position_not_reached")


async def test_before_the_log_is_read_it_is_unavailable() -> None:
    answer = await verify(World())
    assert (answer.status_code, answer.json()["error"]) == (503, "unavailable")


async def batch(world: World, requests: list[Any]) -> httpx2.Response:
    async with world.client() as client:
        return await client.post("/v1/verify/batch", json={"requests": requests})


async def test_a_batch_is_answered_in_its_order() -> None:
    world = await world_with_key(limit=2)
    asked = [{"key": token(1)}, {"key": token(2)}, {"key": token(1)}, {"key": token(1), "scopes": ["x"]}]
    verdicts = (await batch(world, [*asked, {"key": token(1)}])).json()["verdicts"]
    codes = [verdict["code"] for verdict in verdicts]
    assert codes == ["VALID", "NOT_FOUND", "VALID", "INSUFFICIENT_PERMISSIONS", "RATE_LIMITED"]
    assert (await batch(world, [])).json() == {"verdicts": []}


async def test_a_batch_of_a_thousand_and_no_more() -> None:
    world = await world_with_key()
    assert len((await batch(world, [{"key": token(1)}] * 1000)).json()["verdicts"]) == 1000
    refused = await batch(world, [{"key": "a"}] * 1001)
    assert (refused.status_code, refused.json()["field"]) == (400, "requests")


@pytest.mark.parametrize(
    ("wrong", "field"),
    [({"ip": "x"}, "requests.ip"), ({"cost": 11}, "requests.cost"), ({"scopes": ["X"]}, "requests.scopes")],
)
async def test_a_batch_with_one_wrong_request_spends_nothing(wrong: dict[str, Any], field: str) -> None:
    world = await world_with_key(limit=10)
    refused = await batch(world, [{"key": token(1)}, {"key": token(1), **wrong}])
    assert (refused.status_code, refused.json()["field"]) == (400, field)
    assert (await verify(world, cost=0)).json()["rate_limit"]["remaining"] == 10


@pytest.mark.parametrize(
    "limited",
    [
        {"rate_limit": RateLimit(50, 60)},
        {"quota": Quota(50, "day")},
        {"rate_limit": RateLimit(90, 60), "quota": Quota(50, "month")},
    ],
)
async def test_each_cost_of_a_batch_is_held_against_every_limit(limited: dict[str, Any]) -> None:
    world = await world_with_key(limit=100, **limited)
    world.add(key_id(2), key_created(2))
    await world.caught_up()
    # the workspace is the tightest then, and not the limit that the cost is beyond
    assert (await verify(world, key=token(2), cost=70)).json()["valid"]
    alone = await verify(world, cost=60)
    assert (alone.status_code, alone.json()["error"]) == (400, "cost_exceeds_limit")
    refused = (await batch(world, [{"key": token(2)}, {"key": token(1), "cost": 60}])).json()
    assert (refused["error"], refused["field"]) == ("cost_exceeds_limit", "requests.cost")
    assert refused["message"] == f"Request 1: {alone.json()['message']}"
    assert (await verify(world, key=token(2), cost=0)).json()["rate_limit"]["remaining"] == 30


async def test_a_batch_of_which_one_is_too_old_spends_nothing() -> None:
    world = await world_with_key(limit=10)
    world.clock.advance(2)
    refused = await batch(world, [{"key": token(1)}, {"key": token(1), "max_staleness": 1}])
    assert (refused.status_code, refused.json()["error"]) == (503, "stale")
    assert (await verify(world, cost=0)).json()["rate_limit"]["remaining"] == 10


async def test_beyond_loopback_callers_show_their_token() -> None:
    world = await world_with_key()
    async with world.client(token=Secret("shared")) as client:
        for path in ("/v1/verify", "/v1/verify/batch", "/v1/gateway"):
            none = await client.post(path, json={"key": token(1)})
            wrong = await client.post(path, json={"key": token(1)}, headers={"X-Verifier-Token": "other"})
            assert (none.status_code, wrong.status_code) == (401, 401)
            assert "www-authenticate" in none.headers
            assert none.json()["field"] == wrong.json()["field"] == "X-Verifier-Token"
        right = await client.post(
            "/v1/verify", json={"key": token(1)}, headers={"X-Verifier-Token": "shared"}
        )
        assert right.json()["valid"]
        assert (await client.get("/healthz")).status_code == 200
